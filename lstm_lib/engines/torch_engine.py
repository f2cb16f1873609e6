"""torch：``torch`` 是 ``nn.LSTM``，``torch-cell`` 是一层一个 ``nn.LSTMCell``，为“一次一步”而设。

线程数是 torch 自己的（``torch.set_num_threads``），整个进程只有一个，这里不改它。
"""

from typing import Any

import numpy as np

from lstm_lib.engines.base import Engine, Network, Offer, State
from lstm_lib.lstm import LSTM


class TorchEngine(Engine):
    """状态是 (h, c) 两个张量，各 (层数, H)。"""

    def __init__(self, network: Network):
        import torch

        config = network.lstm.config
        super().__init__(config.input_size, (config.num_layers, config.hidden_size))
        self._torch, self._lstm = torch, _module(network.lstm)
        self._after, self._plain = _after(network), network.plain

    @property
    def threads(self) -> int:
        """torch 此刻用几个线程。"""
        return self._torch.get_num_threads()

    def sequence(self, x: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._after(self._lstm(self._torch.from_numpy(self.frames(x)))[0]).numpy()

    def batch(self, x: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._after(self._lstm(self._torch.from_numpy(self.batches(x)))[0]).numpy()

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        with self._torch.inference_mode():
            y, state = self._lstm(self._torch.from_numpy(self.frame(x)[None]), state)
            return self._after(y)[0].numpy(), state

    def to_state(self, h: np.ndarray, c: np.ndarray) -> State:
        return tuple(self._torch.from_numpy(a) for a in super().to_state(h, c))

    def from_state(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        h, c = (a.numpy().copy() for a in state)
        return h, c


class TorchCellEngine(TorchEngine):
    """状态是逐层的 ``[(h, c), …]``，各 (1, H)。没有一次算整段的办法。"""

    sequence, batch = Engine.sequence, Engine.batch

    def __init__(self, network: Network):
        super().__init__(network)
        self._cells = _cells(self._lstm)

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        with self._torch.inference_mode():
            y, after = self._torch.from_numpy(self.frame(x)[None]), []
            for cell, before in zip(self._cells, state or [None] * len(self._cells), strict=True):
                y, c = cell(y, before)
                after.append((y, c))
            # 后面什么也没有时，y 就是状态 h 本身：使用者改写输出，不该改到状态
            return (y[0].numpy().copy() if self._plain else self._after(y)[0].numpy()), after

    def to_state(self, h: np.ndarray, c: np.ndarray) -> State:
        return list(zip(*(a.split(1) for a in super().to_state(h, c)), strict=True))

    def from_state(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        h, c = (np.concatenate([a.numpy() for a in arrays]) for arrays in zip(*state, strict=True))
        return h, c


def _module(lstm: LSTM) -> Any:
    """权重相同的 ``torch.nn.LSTM``；合成一个的偏置全放进 bias_ih，bias_hh 填零。"""
    import torch

    config = lstm.config
    module = torch.nn.LSTM(config.input_size, config.hidden_size, config.num_layers, bias=config.bias).eval()
    with torch.no_grad():
        for name, value in lstm.parameters.items():
            getattr(module, name.replace("bias", "bias_ih")).copy_(torch.tensor(value))
        for k in range(config.num_layers if config.bias else 0):
            getattr(module, f"bias_hh_l{k}").zero_()
    return module


def _cells(module: Any) -> list:
    """``nn.LSTM`` 的每一层各变成一个 ``nn.LSTMCell``。"""
    import torch

    cells = []
    for k in range(module.num_layers):
        width = module.hidden_size if k else module.input_size
        cell = torch.nn.LSTMCell(width, module.hidden_size, bias=module.bias).eval()
        end = f"_l{k}"
        weights = module.state_dict().items()
        cell.load_state_dict({name.removesuffix(end): value for name, value in weights if name.endswith(end)})
        cells.append(cell)
    return cells


def _after(network: Network) -> Any:
    """LSTM 之后的部分，torch 模块。"""
    import torch

    parts: list[torch.nn.Module] = []
    if network.weight is not None:
        linear = torch.nn.Linear(*network.weight.shape[::-1], bias=network.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(network.weight))
            if network.bias is not None:
                linear.bias.copy_(torch.tensor(network.bias))
        parts.append(linear)
    if network.sigmoid:
        parts.append(torch.nn.Sigmoid())
    return torch.nn.Sequential(*parts).eval() if len(parts) != 1 else parts[0]


OFFERS = [
    Offer("torch", "torch LSTM", TorchEngine, packages=("torch",)),
    Offer("torch-cell", "torch LSTMCell", TorchCellEngine, packages=("torch",)),
]
