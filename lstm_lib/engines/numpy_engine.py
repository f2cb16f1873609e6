"""本书手写的 LSTM（``lstm_lib.lstm``），NumPy 来算。"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lstm_lib.engines.base import Engine, Network, Offer, State
from lstm_lib.formats import network_file
from lstm_lib.lstm import LSTM


class NumPyEngine(Engine):
    """状态是 (h, c)，各 (层数, H)。"""

    def __init__(self, network: Network):
        config = network.lstm.config
        super().__init__(config.input_size, (config.num_layers, config.hidden_size))
        # 引擎的形状总是 (T, B, I)，不看 batch_first
        self._lstm = LSTM(replace(config, batch_first=False), network.lstm.parameters)
        self._after = network.after

    @property
    def threads(self) -> int:
        """NumPy 的矩阵乘法此刻用几个线程；用 ``threadpoolctl.threadpool_limits(1)`` 改成一个。"""
        from threadpoolctl import threadpool_info

        pools = threadpool_info()
        return max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=1)

    def sequence(self, x: np.ndarray) -> np.ndarray:
        return self._after(self._lstm(self.frames(x))[0])

    def batch(self, x: np.ndarray) -> np.ndarray:
        return self._after(self._lstm(self.batches(x))[0])

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        y, state = self._lstm(self.frame(x)[None], state)
        return self._after(y[0]), state


def load(path: str | Path) -> NumPyEngine:
    """整个网络的文件（版本 2）；里面是 int8 的，乘回步长再用，是 float16 的展宽。"""
    found = network_file.load(path)
    return NumPyEngine(Network(found.lstm, found.weight, found.bias, found.sigmoid))


OFFERS = [Offer("numpy", "本书 NumPy", NumPyEngine, ours=True, load=load, suffixes=(".lstm",))]
