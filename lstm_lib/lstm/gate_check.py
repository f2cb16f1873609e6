"""会说话的检查：对不上的时候，说出是哪个数组、哪个门、像是哪一种写错。

随机权重的一个最大差只说明错了。这里给每个门一个不同的常数，读到的常数是谁的，那个位置放的就是谁。
"""

from collections.abc import Callable
from itertools import permutations

import numpy as np

from lstm_lib.lstm import LSTM, layouts, sigmoid, step
from lstm_lib.lstm.conventions import Array, State
from lstm_lib.lstm.layouts import GATE_NAMES

GATE_VALUES = {"i": 0.9, "f": 0.7, "g": -0.5, "o": 0.6}  # 四个门应当恒等于的常数，彼此隔得开
# 预激活值：σ 与 tanh 的反函数
GATE_INPUTS = {k: np.arctanh(v) if k == "g" else np.log(v / (1 - v)) for k, v in GATE_VALUES.items()}
ARRAYS = ("bias_l0", "weight_ih_l0", "weight_hh_l0")
TOLERANCE = 1e-3  # 容得下 fp16 存的权重；四个常数之间至少差 0.1


def constant_gates(name: str, hidden: int = 4) -> LSTM:
    """一个 float64 的单层 LSTM，输入维数是 1：``name`` 那个数组放各门的常数，其余两个数组全零。

    矩阵只用第 0 列，所以输入 x₀ = 1、初态 h₀ = (1, 0, …) 时，四个门恰好是 ``GATE_VALUES``。
    """
    config = layouts.LSTMConfig(1, hidden, dtype="float64")
    parameters = {key: np.zeros(shape) for key, shape in config.shapes().items()}
    rows = np.repeat([GATE_INPUTS[gate] for gate in layouts.GATE_ORDERS["torch"]], hidden)
    parameters[name].reshape(4 * hidden, -1)[:, 0] = rows
    return LSTM(config, parameters)


def check_gate_order(convert: Callable[[LSTM], LSTM], hidden: int = 4) -> None:
    """检查一个转换程序把四个门放对了没有；放错时抛 AssertionError，点名数组、门与那里放的是谁。

    ``convert(lstm)`` 收一个 ``LSTM``（输入 1 维、``hidden`` 个单元、单层单向），返回转换之后的 ``LSTM``，
    例如导出到文件再读回来。bias、weight_ih、weight_hh 轮流放常数，各查一遍，哪一个忘了换都逃不掉。
    """
    first = np.eye(1, hidden)  # h₀ = (1, 0, …)
    for name in ARRAYS:
        lstm = convert(constant_gates(name, hidden))
        _, _, (gates,) = lstm(np.ones((1, 1)), (first, np.zeros((1, hidden))), return_gates=True)
        for gate, value in GATE_VALUES.items():
            seen = getattr(gates, gate)[0].astype(float)
            if not np.allclose(seen, value, rtol=0, atol=TOLERANCE):
                reason = _explain(name, gate, seen)
                raise AssertionError(f"{GATE_NAMES[gate]} {gate} 错了（{name}）：应读到 {value}，{reason}")


def _explain(name: str, gate: str, seen: Array) -> str:
    """由数组 ``name`` 放常数时一个门各单元读到的数 ``seen`` (H,) 推断那里放的是什么。"""
    if np.ptp(seen) > TOLERANCE:
        return (
            f"各单元读到的却不一样（{seen.min():.3f} 到 {seen.max():.3f}）："
            "不是门的次序，是矩阵转置了，或四个门按单元交错存放"
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # 门饱和到 0 或 1 时
        z = np.arctanh(seen[0]) if gate == "g" else np.log(seen[0] / (1 - seen[0]))
    owners = [k for k in GATE_INPUTS if k != gate and abs(GATE_INPUTS[k] - z) < 5 * TOLERANCE]
    if not owners:
        hint = "偏置加了两遍，或漏了一份？" if "bias" in name else "没有抄进来，或乘了倍数？"
        return f"读到 {seen[0]:.3f}；这个数不属于任何一个门：不是次序，是数值变了（{hint}）"
    return (
        f"读到 {seen[0]:.3f}；那里放的是{GATE_NAMES[owners[0]]} {owners[0]} 的权重。"
        "请核对门顺序表 layouts.GATE_ORDERS"
    )


def culprit(
    pair: State,
    x: Array,
    h: Array,
    c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array,
    bias_hh: Array,
) -> str:
    """手写的一步 ``pair = (h, c)`` 与 PyTorch 不同时，把常见的错法逐一试过，说出是哪一种恰好得出它。

    x (I,)、h (H,)、c (H,) 是这一步的输入与旧状态；权重同 ``torch.nn.LSTMCell``，门顺序 i f g o。
    都是 float64。对得上时返回「没有写错」；一种也不像时，请读者逐行对照公式。
    """
    arrays = (weight_ih, weight_hh, bias_ih + bias_hh)
    z_i, z_f, z_g, z_o = np.split(weight_ih @ x + weight_hh @ h + arrays[2], 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    new, soft = f * c + i * g, f * c + i * sigmoid(z_g)
    right = o * np.tanh(new), new
    tries = {
        "没有写错": right,
        "返回的 h 与 c 对调了": right[::-1],
        "传进来的 h 与 c 对调了": step(x, c, h, *arrays),
        "忘了 bias_hh": step(x, h, c, weight_ih, weight_hh, bias_ih),
        "忘了 bias_ih": step(x, h, c, weight_ih, weight_hh, bias_hh),
        "两个偏置都没有加": step(x, h, c, weight_ih, weight_hh),
        "算 h 用的是更新之前的 c": (o * np.tanh(c), new),
        "算 h 漏了 tanh": (o * new, new),
        "候选值用了 σ，应当用 tanh": (o * np.tanh(soft), soft),
    }
    by_unit = [a.reshape(-1, 4, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape) for a in arrays]
    tries["四个门按单元交错着切开了，应是上下四块"] = step(x, h, c, *by_unit)
    for order in map("".join, permutations("ifgo")):
        moved = [layouts.reorder(a, order, "torch") for a in arrays]
        tries[f"门顺序写成了 {' '.join(order)}"] = step(x, h, c, *moved)
    for what, other in tries.items():
        if all(np.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(pair, other, strict=True)):
            return what
    return "不是常见的几种写错，请逐行对照六条公式"
