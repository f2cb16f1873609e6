"""跑一张 ONNX 图的引擎（onnxruntime、OpenVINO）的共同部分：看懂图的输入输出，把一帧、一段送进去。"""

from dataclasses import dataclass

import numpy as np
import onnx

from lstm_lib.engines.base import Engine, State
from lstm_lib.formats import onnx_graph


@dataclass(frozen=True)
class Signature:
    """图的面孔：输入（x，可再有 h、c）与输出的名字、一帧几个数、时间是 x 的第几轴、长度是否可变、状态的形状。"""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_size: int
    time_axis: int
    dimensions: int
    any_length: bool
    state_shape: tuple[int, ...] | None

    @classmethod
    def read(cls, model: onnx.ModelProto) -> "Signature":
        """看一张图；不是 x[, h, c] → y[, h', c'] 的样子抛 ``ValueError``，说明哪里不像。"""
        axes = onnx_graph.axes(model)
        inputs, outputs = (tuple(v.name for v in side) for side in (model.graph.input, model.graph.output))
        if (len(inputs), len(outputs)) not in ((1, 1), (3, 3)):
            raise ValueError(
                f"模型应有 x 一个输入、一个输出，或 x、h、c 三个输入、三个输出；"
                f"这个有 {len(inputs)} 个输入（{'、'.join(inputs)}）、{len(outputs)} 个输出（{'、'.join(outputs)}）"
            )
        shape = axes[inputs[0]]
        *lengths, size = shape
        free = [axis for axis, length in enumerate(lengths) if not isinstance(length, int)]
        fixed = [length for length in lengths if isinstance(length, int) and length != 1]
        if not 1 <= len(lengths) <= 2 or not isinstance(size, int) or fixed or len(free) > 1:
            raise ValueError(
                f"输入 {inputs[0]} 的形状应为 (1, T, I)、(T, 1, I) 或 (T, I)，只有 T 可变（或固定为 1）；"
                f"这个是 {tuple(shape)}"
            )
        state = None
        if len(inputs) == 3:
            state = tuple(n if isinstance(n, int) else 1 for n in axes[inputs[1]])
        return cls(inputs, outputs, size, free[0] if free else 0, len(shape), bool(free), state)


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """图的副本：输入输出的批（x、h、c 的第二轴，y 的倒数第二轴）不写死是 1。"""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    y, *states = copy.graph.output
    for value, axis in [*((v, 1) for v in [*copy.graph.input, *states]), (y, -2)]:
        value.type.tensor_type.shape.dim[axis].dim_param = "B"
    return copy


class GraphEngine(Engine):
    """子类给出 ``_run(*arrays) -> [arrays]``：按图的次序给输入，得到输出。状态是 (h, c)，形状同图的输入。"""

    def __init__(self, signature: Signature):
        super().__init__(signature.input_size, signature.state_shape or (0,))
        self.signature = signature
        self._one = (1,) * (signature.dimensions - 1) + (signature.input_size,)
        self._zeros = np.zeros(self.state_shape, np.float32)

    def _run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        raise NotImplementedError

    @property
    def whole(self) -> bool:
        return self.signature.any_length

    def sequence(self, x: np.ndarray) -> np.ndarray:
        if not self.whole:
            return super().sequence(x)
        x = self.frames(x)
        shape = [1] * (self.signature.dimensions - 1)
        shape[self.signature.time_axis] = len(x)
        state = (self._zeros, self._zeros) if self.signature.state_shape else ()
        return self._run(x.reshape(*shape, self.input_size), *state)[0].reshape(len(x), -1)

    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        if self.signature.state_shape is None:
            raise ValueError("这个模型没有把状态 h、c 做成输入输出，不能逐帧算；请用 sequence 算整段")
        h, c = (self._zeros, self._zeros) if state is None else state
        y, h, c = self._run(self.frame(x).reshape(self._one), h, c)
        return y.reshape(-1), (h, c)
