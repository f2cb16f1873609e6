"""门顺序与权重布局。

一个 LSTM 的四个门叠在同一个矩阵里，先后次序各家不同。本模块把次序写成一张表（``GATE_ORDERS``），
其余函数都照表办事。把权重存成文件见 ``weight_file``。
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

GATE_ORDERS = {
    "torch": "ifgo",  # PyTorch、cuDNN、Keras（Keras 把 g 写作 c）
    "onnx": "iofg",  # ONNX 标准写作 i o f c，其 c 就是候选值 g
    "ncnn": "ifog",  # ncnn 写作 I F O G
}
GATE_NAMES = {"i": "输入门", "f": "遗忘门", "g": "候选值", "o": "输出门"}
Shapes = dict[str, tuple[int, ...]]  # 参数名 → 形状


# ---------------------------------------------------------------- 门顺序


def gate_order(name: str) -> str:
    """把 ``"torch"``、``"onnx"``、``"ncnn"`` 或任意一个 i f g o 的排列，变成四个字母的门顺序。"""
    order = GATE_ORDERS.get(name, name)
    if not isinstance(order, str) or sorted(order) != sorted("ifgo"):
        raise ValueError(
            f"不认识的门顺序 {name!r}：请用 {'、'.join(GATE_ORDERS)}，或 i f g o 四个字母的一个排列"
        )
    return order


def split_gates(array: ArrayLike, order: str = "torch", axis: int = 0) -> dict[str, np.ndarray]:
    """把四个门叠在一起的数组切成四块：``{"i": …, "f": …, "g": …, "o": …}``，每块是原数组的视图。"""
    order, array = gate_order(order), np.asarray(array)
    if array.shape[axis] % 4:
        raise ValueError(f"第 {axis} 维长 {array.shape[axis]}，不是 4 的倍数，切不成四个门")
    blocks = dict(zip(order, np.split(array, 4, axis=axis), strict=True))
    return {gate: blocks[gate] for gate in "ifgo"}


def join_gates(blocks: Mapping[str, np.ndarray], order: str = "torch", axis: int = 0) -> np.ndarray:
    """``split_gates`` 的逆：按 ``order`` 把四块叠成一个数组。"""
    return np.concatenate([blocks[gate] for gate in gate_order(order)], axis=axis)


def reorder(array: ArrayLike, source: str, target: str, axis: int = 0) -> np.ndarray:
    """换门顺序，返回新数组。

    参数:
        array: 四个门叠在一起的权重或偏置
        source: 原来的次序：torch、onnx、ncnn，或 i f g o 四个字母的一个排列
        target: 要的次序，写法同上
        axis: 四个门叠放的那一维，长 4H
    抛出:
        ValueError: 次序不认识，或那一维不是 4 的倍数
    """
    return join_gates(split_gates(array, source, axis), target, axis)


# ---------------------------------------------------------------- 偏置


def merge_bias(bias_ih: ArrayLike, bias_hh: ArrayLike) -> np.ndarray:
    """两个偏置 (4H,) 合成一个：它们在公式里只以和的形式出现，所以导出时相加。

    抛出:
        ValueError: 两个的形状不同
    """
    bias_ih, bias_hh = np.asarray(bias_ih), np.asarray(bias_hh)
    if bias_ih.shape != bias_hh.shape:
        raise ValueError(f"两个偏置的形状不同：{bias_ih.shape} 与 {bias_hh.shape}")
    return bias_ih + bias_hh


def split_bias(bias: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """一个偏置拆回两个，供只认两个偏置的格式使用：全放进 bias_ih，bias_hh 填零（拆法不唯一）。"""
    bias = np.array(bias)
    return bias, np.zeros_like(bias)


# ---------------------------------------------------------------- 形状


@dataclass(frozen=True)
class LSTMConfig:
    """一个 LSTM 的全部尺寸。

    参数:
        input_size: 输入的宽 I
        hidden_size: 隐藏单元数 H
        num_layers: 层数 L
        direction: forward、reverse 或 bidirectional
        bias: 有没有偏置
        batch_first: 序列是 (B, T, I) 还是 (T, B, I)
        proj_size: 投影的宽 P，0 是没有投影
        dtype: float32 或 float64
    抛出:
        ValueError: 不是整数、越界，或不认识的名字
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    direction: str = "forward"
    bias: bool = True
    batch_first: bool = False
    proj_size: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, least in (("input_size", 1), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} 应为整数，得到 {value!r}")
            if not least <= value < 2**32:
                raise ValueError(f"{name} 应在 {least} 与 2³²−1 之间，得到 {value}")
            object.__setattr__(self, name, int(value))
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise ValueError(f"direction 应为 forward、reverse 或 bidirectional，得到 {self.direction!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype 应为 float32 或 float64，得到 {self.dtype!r}")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """每个方向的参数名后缀，与 PyTorch 相同：正向没有，反向是 ``_reverse``。"""
        return {"forward": ("",), "reverse": ("_reverse",), "bidirectional": ("", "_reverse")}[self.direction]

    @property
    def num_directions(self) -> int:
        return len(self.suffixes)

    @property
    def output_size(self) -> int:
        """一个方向上 h 的维数 P：有投影时是 proj_size，否则是 hidden_size。"""
        return self.proj_size or self.hidden_size

    def layer_input_size(self, layer: int) -> int:
        """第 ``layer`` 层吃进的维数：第 0 层是 input_size，往上是下一层各方向输出之和。"""
        return self.num_directions * self.output_size if layer else self.input_size

    def shapes(self, biases: Sequence[str] = ("bias",)) -> Shapes:
        """参数名到形状，次序即权重文件里的存放次序。``biases`` 是每组偏置的名字，缺省合成一个。"""
        gates = 4 * self.hidden_size
        shapes: Shapes = {}
        for layer in range(self.num_layers):
            for suffix in self.suffixes:
                end = f"_l{layer}{suffix}"
                shapes["weight_ih" + end] = (gates, self.layer_input_size(layer))
                shapes["weight_hh" + end] = (gates, self.output_size)
                shapes |= {name + end: (gates,) for name in biases if self.bias}
                if self.proj_size:
                    shapes["weight_hr" + end] = (self.proj_size, self.hidden_size)
        return shapes


def torch_shapes(
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    proj_size: int = 0,
) -> Shapes:
    """``torch.nn.LSTM`` 全部参数的名字与形状，次序同 ``named_parameters()``（每个方向两个偏置）。"""
    direction = "bidirectional" if bidirectional else "forward"
    config = LSTMConfig(input_size, hidden_size, num_layers, direction, bias, proj_size=proj_size)
    return config.shapes(biases=("bias_ih", "bias_hh"))


def onnx_shapes(input_size: int, hidden_size: int, bidirectional: bool = False, bias: bool = True) -> Shapes:
    """ONNX 的 LSTM 节点（恒为一层）的 W、R、B 形状；方向在最前一维，B 里两个偏置首尾相接。"""
    directions, gates = 1 + bool(bidirectional), 4 * hidden_size
    shapes: Shapes = {"W": (directions, gates, input_size), "R": (directions, gates, hidden_size)}
    return shapes | ({"B": (directions, 2 * gates)} if bias else {})


def ncnn_shapes(input_size: int, hidden_size: int, bidirectional: bool = False, proj_size: int = 0) -> Shapes:
    """ncnn 的 LSTM 层（恒为一层）在 .bin 里依次存放的数组；偏置永远在，且已合成一个。"""
    directions, gates = 1 + bool(bidirectional), 4 * hidden_size
    shapes: Shapes = {
        "weight_xc": (directions, gates, input_size),
        "bias": (directions, gates),
        "weight_hc": (directions, gates, proj_size or hidden_size),
    }
    return shapes | ({"weight_hr": (directions, proj_size, hidden_size)} if proj_size else {})
