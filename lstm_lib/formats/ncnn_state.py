"""ncnn 的 LSTM 层从哪里拿初态：写死在图里的（MemoryData）算出来，别的要调用者给。

ncnn 的次序是 x、h、c。pnnx 把写死的初态排到 x 前面（h、c、x），那样的文件 ncnn 一跑就崩溃，
但权重与初态都是对的：看哪几个输入是常量，就知道哪个是哪个。
"""

from collections.abc import Callable

import numpy as np

from lstm_lib.formats import ncnn_layers
from lstm_lib.formats.ncnn_param import NcnnLayer, NcnnParam

Value = np.ndarray | None  # None：随输入而变，或本书不会算

Rule = Callable[[NcnnLayer, list[np.ndarray]], list[Value]]


class State:
    """一个 LSTM 层的初态；``data`` 由读 .bin 的一方填：MemoryData 的名字 → 其中的数。"""

    def __init__(self, param: NcnnParam, target: NcnnLayer) -> None:
        self.target = target
        self.data: dict[str, np.ndarray] = {}
        self._producer = {blob: layer for layer in param.layers for blob in layer.tops}
        self._values: dict[str, Value] = {}
        self._wanted: set[str] = set()
        waiting = list(target.bottoms) if len(target.bottoms) == 3 else []
        while waiting:
            layer = self._producer.get(waiting.pop())
            if layer is not None and layer.name not in self._wanted:
                self._wanted.add(layer.name)
                waiting += layer.bottoms

    def wants(self, layer: NcnnLayer) -> bool:
        """算初态要不要这一层存的数。"""
        return layer.type == "MemoryData" and layer.name in self._wanted

    def value(self) -> tuple[np.ndarray, np.ndarray] | str | None:
        """h [D, P] 与 c [D, H]；没有或全零是 None，定不下来的是文字，说明原因；个数不对时报 ``ValueError``。"""
        if len(self.target.bottoms) != 3:
            return None  # ncnn 只在有三个输入时才看初态
        num_output, hidden, _, directions, _ = ncnn_layers.lstm_sizes(self.target)
        state = []
        for title, blob, width in zip("hc", self._roles(), (num_output, hidden), strict=True):
            value = None if blob is None else self._value(blob)
            if value is None:
                return f"{self.target.where} 的初态由图的输入给出，或随输入而变"
            if value.ndim and value.size != directions * width:
                raise ValueError(
                    f"{self.target.where} 的初态 {title} 有 {value.size} 个数，应有 {directions}×{width} 个；"
                    "pnnx 转换多层、带常量初态的 LSTM 时会接错线，请从转换前的模型读"
                )
            state.append(np.broadcast_to(value, (directions, width)) if not value.ndim else value)
        h, c = (
            a.reshape(directions, width).astype(np.float32)
            for a, width in zip(state, (num_output, hidden), strict=True)
        )
        return (h, c) if h.any() or c.any() else None

    def _roles(self) -> tuple[str | None, str | None]:
        """h 与 c 各是哪个输入；pnnx 排错而又分不清时是 None。"""
        first, second, third = self.target.bottoms
        fixed = [self._value(blob) is not None for blob in self.target.bottoms]
        if not fixed[0] or all(fixed):
            return second, third
        return (first, second) if fixed[1] else (None, None)

    def _value(self, blob: str) -> Value:
        # 从里往外一层层算；用栈，不用递归：文件可以有上万层
        stack = [blob]
        while stack:
            layer = self._producer.get(stack[-1])
            missing = [b for b in layer.bottoms if b not in self._values] if layer else []
            if missing:
                stack += missing
                continue
            name = stack.pop()
            if name in self._values:
                continue
            values = self._compute(layer) if layer else [None]
            self._values |= dict(zip(layer.tops if layer else [name], values, strict=True))
        return self._values[blob]

    def _compute(self, layer: NcnnLayer) -> list[Value]:
        """一层的各个输出；单个数（0 维）代表处处相同、形状未知。"""
        unknown: list[Value] = [None] * len(layer.tops)
        if layer.type == "MemoryData":
            data = self.data.get(layer.name)
            return unknown if data is None else [data.reshape(ncnn_layers.memory_shape(layer))]
        inputs = [self._values[blob] for blob in layer.bottoms]
        if layer.type == "BinaryOp" and _multiplies_by_zero(layer):
            return [np.zeros(())]
        rule = _RULES.get(layer.type)
        if rule is None or not inputs or any(value is None for value in inputs):
            return unknown
        try:
            outputs = rule(layer, [value for value in inputs if value is not None])
        except (ValueError, IndexError, TypeError, KeyError):  # 形状对不上的图：不算，让调用者给
            return unknown
        return outputs if len(outputs) == len(layer.tops) else unknown


def _multiplies_by_zero(layer: NcnnLayer) -> bool:
    p = layer.params
    return p.get(0, 0) == 2 and bool(p.get(1, 0)) and p.get(2, 0.0) == 0


def _binary(layer: NcnnLayer, inputs: list[np.ndarray]) -> list[Value]:
    p = layer.params
    a, b = inputs if not p.get(1, 0) else (inputs[0], np.float32(p.get(2, 0.0)))
    if np.ndim(b) and a.ndim != np.ndim(b) and 1 not in (a.size, np.size(b)):
        return [None]  # ncnn 对维数不同的两边另有广播的规矩
    return [np.asarray(_BINARY[p.get(0, 0)](a, b), np.float32)]


def _reshape(layer: NcnnLayer, inputs: list[np.ndarray]) -> list[Value]:
    p, (value,) = layer.params, inputs
    if {6, 12, 13} & set(p) or p.get(3, 0):  # 表达式、批、旧版的换序
        return [None]
    sizes = [p.get(key, -233) for key in (2, 11, 1, 0)]
    shape = [size for size in sizes if size != -233]
    offset = value.ndim - len(shape)
    return [
        value.reshape([value.shape[k + offset] if size == 0 else size for k, size in enumerate(shape)] or -1)
    ]


def _slice(layer: NcnnLayer, inputs: list[np.ndarray]) -> list[Value]:
    (value,), count, axis = inputs, len(layer.tops), layer.params.get(1, 0)
    total, ends, start = value.shape[axis], [], 0
    if 2 in layer.params:
        ends = [end % total for end in layer.params[2][: count - 1]] + [total]
    else:
        for k, size in enumerate(layer.params[0]):
            start += (total - start) // (count - k) if size == -233 else size
            ends.append(start)
    return list(np.split(value, ends[:-1], axis)) if ends[-1] == total else [None] * count


def _shape_only(axes: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]) -> Rule:
    def rule(layer: NcnnLayer, inputs: list[np.ndarray]) -> list[Value]:
        return [axes(inputs[0], tuple(layer.params.get(3, ())))] if set(layer.params) <= {3} else [None]

    return rule


def _unary(layer: NcnnLayer, inputs: list[np.ndarray]) -> list[Value]:
    return [np.asarray(_UNARY[layer.params.get(0, 0)](inputs[0]), np.float32)]


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


# BinaryOp、UnaryOp 的 0= → NumPy 的运算，次序同 ncnn 的 Operation_*
_BINARY: dict[int, Callable] = {
    0: np.add,
    1: np.subtract,
    2: np.multiply,
    3: np.divide,
    4: np.maximum,
    5: np.minimum,
    6: np.power,
    7: lambda a, b: b - a,
    8: lambda a, b: b / a,
}
_UNARY: dict[int, Callable] = {
    0: np.abs,
    1: np.negative,
    4: np.square,
    5: np.sqrt,
    7: np.exp,
    16: np.tanh,
}
_RULES: dict[str, Rule] = {
    "Split": lambda layer, inputs: [inputs[0]] * len(layer.tops),
    "Noop": lambda layer, inputs: list(inputs),
    "Flatten": lambda layer, inputs: [inputs[0].reshape(-1)],
    "Squeeze": _shape_only(lambda a, axes: a.squeeze(axes) if axes else a),
    "ExpandDims": _shape_only(lambda a, axes: np.expand_dims(a, axes) if axes else a),
    "Reshape": _reshape,
    "Slice": _slice,
    "Concat": lambda layer, inputs: [np.concatenate(inputs, layer.params.get(0, 0))],
    "BinaryOp": _binary,
    "UnaryOp": _unary,
    "TanH": lambda layer, inputs: [np.tanh(inputs[0])],
    "Sigmoid": lambda layer, inputs: [_sigmoid(inputs[0])],
    "ReLU": lambda layer, inputs: [np.maximum(inputs[0], 0)] if not layer.params.get(0) else [None],
}
