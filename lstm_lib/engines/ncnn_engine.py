"""ncnn：float32，或逐行量化的 int8（8=2）。单线程，fp16 全关。"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from lstm_lib.engines.base import Engine, Network, Offer, State
from lstm_lib.formats import ncnn_param, ncnn_run, writers


class NcnnEngine(Engine):
    """状态是 (h, c)，各 (层数, H)。模型的输入是 in0（、in1、in2），输出是 out0（、out1、out2），同 pnnx。"""

    def __init__(self, param_path: str | Path, bin_path: str | Path):
        runner = ncnn_run.NcnnRunner(param_path, bin_path, num_threads=self.threads)
        self.inputs, self.outputs = tuple(runner.inputs), tuple(runner.outputs)
        size, state_shape = _sizes(param_path, self.inputs, self.outputs, runner.shapes)
        super().__init__(size, state_shape)
        import ncnn

        self._net, self._mat = runner.net, ncnn.Mat
        self._zeros = np.zeros(state_shape, np.float32)

    def _run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        # arrays 要活到算完：Mat 只借用它们的内存
        with self._net.create_extractor() as extractor:
            for name, array in zip(self.inputs, arrays, strict=True):
                extractor.input(name, self._mat(array))
            results = []
            for name in self.outputs:
                code, mat = extractor.extract(name)
                if code:
                    raise RuntimeError(f"ncnn 算不出 {name}（返回码 {code}）")
                results.append(np.array(mat))  # 复制一份，不借用 ncnn 的内存
        return results

    def sequence(self, x: np.ndarray) -> np.ndarray:
        state = (self._zeros, self._zeros) if len(self.inputs) == 3 else ()
        x = self.frames(x)
        return self._run(x, *state)[0].reshape(len(x), -1)

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        if len(self.inputs) != 3:
            raise ValueError("这个模型没有把状态 h、c 做成输入输出，不能逐帧算；请用 sequence 算整段")
        h, c = (self._zeros, self._zeros) if state is None else state
        y, h, c = self._run(self.frame(x).reshape(1, -1), h, c)
        return y.reshape(-1), (h.reshape(self.state_shape), c.reshape(self.state_shape))


def _sizes(
    path: str | Path, inputs: tuple[str, ...], outputs: tuple[str, ...], shapes: dict
) -> tuple[int, tuple[int, int]]:
    """一帧几个数、状态的形状；模型不像 in0[, in1, in2] → out0[, out1, out2] 就抛 ``ValueError``。"""
    if (len(inputs), len(outputs)) not in ((1, 1), (3, 3)):
        raise ValueError(
            f"{path}：模型应有 x 一个输入、一个输出，或 x、h、c 三个输入、三个输出；"
            f"这个有 {len(inputs)} 个输入（{'、'.join(inputs)}）、{len(outputs)} 个输出（{'、'.join(outputs)}）"
        )
    if inputs[0] not in shapes:
        raise ValueError(f"{path}：第一个输入 {inputs[0]} 应直接送进 LSTM，这个模型不是")
    layers = [layer for layer in ncnn_param.read_param(path).layers if layer.type == "LSTM"]
    if any(layer.params.get(2) for layer in layers):
        raise ValueError(f"{path}：引擎只跑单向的 LSTM，这个模型里有反向或双向的")
    hidden = {(layer.params[0], layer.params.get(3, layer.params[0])) for layer in layers}
    if len(hidden) != 1 or len(set(*hidden)) != 1:
        raise ValueError(f"{path}：各 LSTM 层的宽度应相同、没有投影，这个是 {sorted(hidden)}（输出, 单元）")
    return shapes[inputs[0]][1], (len(layers), hidden.pop()[0])


def _make(network: Network, int8: bool) -> NcnnEngine:
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "network.param"), Path(folder, "network.bin")
        writers.ncnn_files(network.lstm, *paths, network.weight, network.bias, network.sigmoid, int8)
        return NcnnEngine(*paths)


OFFERS = [
    Offer(
        "ncnn", "ncnn", partial(_make, int8=False),
        packages=("ncnn",), load=NcnnEngine, suffixes=(".param", ".bin"),
    ),
    Offer("ncnn-int8", "ncnn int8", partial(_make, int8=True), "int8", ("ncnn",)),
]  # fmt: skip
