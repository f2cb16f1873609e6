"""本书的 C 内核（``lstm_lib.native``）：LSTM、线性层与 sigmoid 都在 C 里，增强时整条链都在 C 里。"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_lib.engines.base import Engine, Network, Offer, State
from lstm_lib.formats import network_file
from lstm_lib.native import HALF_NAMES, NativeEnhancer, NativeNetwork, Stream
from lstm_lib.native.quantize import check_half


class NativeState(NamedTuple):
    """一路流此刻的状态：h、c (层数, H) 的副本，以及正停在这里的那一路流（取走了就空）。"""

    h: np.ndarray
    c: np.ndarray
    parked: list[Stream]


class NativeEngine(Engine):
    """``step`` 直接就是 ``Stream.step``（后面没有线性层时），一微秒也不多花。"""

    def __init__(self, fast: NativeNetwork):
        config = fast.config
        super().__init__(config.input_size, (config.num_layers, config.hidden_size))
        self._fast, self._after = fast, fast.head
        stream, after = fast.stream(), fast.head
        inner = stream.step
        self.step = inner if fast.plain else lambda x: after(inner(x))  # type: ignore[method-assign]
        self.reset = stream.reset  # type: ignore[method-assign]

    def sequence(self, x: np.ndarray) -> np.ndarray:
        return self._after(self._fast(self.frames(x))[0])

    def batch(self, x: np.ndarray) -> np.ndarray:
        return self._after(self._fast(self.batches(x))[0])

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


def encode(network: Network, stft: network_file.STFT | None = None) -> bytes:
    """网络 → 文件的字节（版本 2，float32），C 从这里读。"""
    return network_file.encode(network.lstm, network.weight, network.bias, network.sigmoid, stft)


def check(network: Network, dtype: str) -> None:
    """float16 放不下的权重，在进 C 之前就连名字与值一起说出来。"""
    if dtype == "float16":
        weights = {k: w for k, w in network.lstm.parameters.items() if k.startswith(HALF_NAMES)}
        check_half(weights if network.weight is None else weights | {"线性层的 weight": network.weight})


def make(network: Network, dtype: str) -> NativeEngine:
    check(network, dtype)
    return NativeEngine(NativeNetwork(encode(network), network.lstm.config, dtype))


def load(path: str | Path, dtype: str) -> NativeEngine:
    """整个网络的文件（版本 2），C 直接读它的字节；里面是 int8 的，只能按 int8 算，是 float16 的不会展宽。"""
    data = Path(path).read_bytes()
    return NativeEngine(NativeNetwork(data, network_file.decode(data, str(path)).lstm.config, dtype))


def chain(network: Network, stft: network_file.STFT, dtype: str) -> NativeEnhancer:
    check(network, dtype)
    return NativeEnhancer(encode(network, stft), dtype)


def offer(name: str, title: str, dtype: str) -> Offer:
    return Offer(
        name,
        title,
        partial(make, dtype=dtype),
        dtype,
        ("cffi",),
        ours=True,
        load=partial(load, dtype=dtype),
        suffixes=(".lstm",),
        chain=partial(chain, dtype=dtype),
    )


OFFERS = [
    offer("c", "本书 C", "float32"),
    offer("c-float16", "本书 C float16", "float16"),
    offer("c-int8", "本书 C int8", "int8"),
]
