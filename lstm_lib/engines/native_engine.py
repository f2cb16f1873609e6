"""本书的 C 内核（``lstm_lib.native``）；线性层与 sigmoid 由 NumPy 算。"""

from functools import partial
from typing import NamedTuple

import numpy as np

from lstm_lib.engines.base import Engine, Network, Offer, State
from lstm_lib.native import NativeLSTM, Stream


class NativeState(NamedTuple):
    """一路流此刻的状态：h、c (层数, H) 的副本，以及正停在这里的那一路流（取走了就空）。"""

    h: np.ndarray
    c: np.ndarray
    parked: list[Stream]


class NativeEngine(Engine):
    """``step`` 直接就是 ``Stream.step``（后面没有线性层时），一微秒也不多花。"""

    def __init__(self, network: Network, dtype: str):
        config = network.lstm.config
        super().__init__(config.input_size, (config.num_layers, config.hidden_size))
        self._fast, self._after = NativeLSTM(network.lstm, dtype), network.after
        stream = self._fast.stream()
        inner, after = stream.step, network.after
        self.step = inner if network.plain else lambda x: after(inner(x))  # type: ignore[method-assign]
        self.reset = stream.reset  # type: ignore[method-assign]

    def sequence(self, x: np.ndarray) -> np.ndarray:
        return self._after(self._fast(self.frames(x))[0])

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        if state is None:
            stream = self._fast.stream()
        else:
            try:
                stream = state.parked.pop()  # 通常流就停在这个状态上，接着走
            except IndexError:  # 有人已经从这里走开过：照副本另开一路
                stream = self._fast.stream()
                stream.reset((state.h, state.c))
        y = stream.step(x)
        return self._after(y), NativeState(*stream.state, [stream])

    def to_state(self, h: np.ndarray, c: np.ndarray) -> State:
        h, c = super().to_state(h, c)
        return NativeState(h, c, [])

    def from_state(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        return super().from_state(state[:2])


OFFERS = [
    Offer("c", "本书 C", partial(NativeEngine, dtype="float32"), packages=("cffi",), ours=True),
    Offer("c-int8", "本书 C int8", partial(NativeEngine, dtype="int8"), "int8", ("cffi",), ours=True),
]
