"""本书的 C 内核编译成 WebAssembly，由 wasmtime 运行：与网页里跑的是同一个模块。"""

from functools import partial

import numpy as np

from lstm_lib.engines.base import Engine, Network, Offer, State
from lstm_lib.engines.native_engine import encode
from lstm_lib.formats import network_file
from lstm_lib.native.wasm import WasmEnhancer, WasmNetwork

LEVEL = "wasm_relaxed"


class WasmEngine(Engine):
    def __init__(self, network: Network, dtype: str):
        config = network.lstm.config
        outputs = config.hidden_size if network.weight is None else len(network.weight)
        super().__init__(config.input_size, (config.num_layers, config.hidden_size))
        sizes = config.num_layers, config.input_size, config.hidden_size, outputs
        self._module = WasmNetwork(encode(network), *sizes, dtype, LEVEL)

    def sequence(self, x: np.ndarray) -> np.ndarray:
        return self._module.run(self.frames(x), *self._zeros())[0]

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        y, h, c = self._module.run(self.frame(x)[None], *(state or self._zeros()))
        return y[0], (h, c)

    def _zeros(self) -> State:
        return (np.zeros(self.state_shape, np.float32),) * 2


def make(network: Network, dtype: str) -> WasmEngine:
    return WasmEngine(network, dtype)


def chain(network: Network, stft: network_file.STFT, dtype: str) -> WasmEnhancer:
    return WasmEnhancer(encode(network, stft), dtype, LEVEL)


def offer(name: str, title: str, dtype: str) -> Offer:
    parts = partial(make, dtype=dtype), dtype, ("wasmtime", "ziglang", "filelock", "platformdirs")
    return Offer(name, title, *parts, ours=True, chain=partial(chain, dtype=dtype))


OFFERS = [
    offer("wasm", "本书 C，WebAssembly", "float32"),
    offer("wasm-int8", "本书 C int8，WebAssembly", "int8"),
]
