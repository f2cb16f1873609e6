"""LSTM 沿时间的反向传播（BPTT），手写，只用 NumPy。

记号：dX 是损失对 X 的偏导。推导见书中「反向传播」一章；多层、双向、投影、批与不分批都支持，
窥视孔、截幅、长短不一的序列不支持，遇到会报错。
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.lstm import conventions
from lstm_lib.lstm.conventions import Array, State


class Gradients(NamedTuple):
    """``backward`` 的结果，各项与对应的量同形：dx、dh0、dc0，以及参数名到梯度的 ``parameters``。

    ``bias_l…`` 是两个偏置之和的梯度；PyTorch 的 bias_ih 与 bias_hh 各自的梯度都等于它。
    """

    dx: Array
    dh0: Array
    dc0: Array
    parameters: dict[str, Array]


def step_backward(gates: Sequence[Array], c_before: Array, dh: Array, dc: Array) -> tuple[Array, Array]:
    """一个时间步的反向：gates 是 ``Gates``（i f g o c），dh、dc 是这一步输出的梯度（未投影的 h）。

    返回 (dz, dc_before)：dz (…, 4H) 是四个门的预激活值的梯度，门顺序 i f g o。
    """
    i, f, g, o, c = gates
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)  # c 有两个去处：下一步，和这一步的 h
    dz = [
        dc * g * i * (1 - i),  # σ' = σ(1−σ)
        dc * c_before * f * (1 - f),
        dc * i * (1 - g**2),  # tanh' = 1−tanh²
        dh * tanh_c * o * (1 - o),
    ]
    return np.concatenate(dz, axis=-1), dc * f  # 记忆之路：只乘一个 f


def backward(
    lstm: Any,
    x: ArrayLike,
    state: State | None,
    dy: ArrayLike | None,
    dh: ArrayLike | None = None,
    dc: ArrayLike | None = None,
) -> Gradients:
    """给出损失对 y 及末态 (h, c) 的梯度，求对 x、初态与全部参数的梯度（前向会重算一遍）。

    lstm 是 ``LSTM``（类型不写它：``forward`` 导入本模块，写了就绕成圈）。
    x、state 与前向所给的相同；dy 与 y 同形，dh、dc 与末态同形，None 表示零。
    """
    for name, label in (("peepholes", "窥视孔"), ("clip", "截幅"), ("lengths", "长短不一的序列")):
        if getattr(lstm, name) is not None:
            raise ValueError(f"反向传播没有实现 {label}（{name}）")
    y, (h, c), gates = lstm(x, state, return_gates=True)
    dy, dh, dc = (conventions.like(n, a, b) for n, a, b in (("dy", dy, y), ("dh", dh, h), ("dc", dc, c)))
    x = conventions.real(x, "输入 x", y.dtype)
    unbatched = x.ndim == 2
    given = state or lstm._default_state(unbatched, 1 if unbatched else h.shape[1])
    state = given or (np.zeros_like(h), np.zeros_like(c))

    def inner(array: Array) -> Array:
        return conventions.inward(array, lstm.config, unbatched)

    def rows(array: ArrayLike) -> Array:
        """状态 → (层数 × 方向数, B, …)。"""
        array = np.array(conventions.real(array, "状态", y.dtype))
        return array[:, None] if unbatched else array

    (dh, dc), (h0, c0) = map(rows, (dh, dc)), map(rows, state)
    gates = [[inner(a) for a in record] for record in gates]
    count, layers = lstm.config.num_directions, lstm.config.num_layers
    inputs, outputs = [inner(x)], []
    for layer in range(layers):  # 各层的 h 由门和 c 重新拼出来
        both = range(layer * count, (layer + 1) * count)
        outputs += [_hidden(lstm, layer, k - both.start, gates[k]) for k in both]
        inputs.append(np.concatenate([outputs[k] for k in both], axis=-1))
    grads: dict[str, Array] = {}
    flow = inner(dy)  # 流到这一层输出的梯度
    for layer in reversed(range(layers)):
        dx: Any = 0
        for d, dy_d in enumerate(np.split(flow, count, axis=-1)):
            k, end = layer * count + d, f"_l{layer}{lstm.config.suffixes[d]}"
            weights = {n.removesuffix(end): a for n, a in lstm.parameters.items() if n.endswith(end)}
            history = _History(inputs[layer], outputs[k], gates[k], h0[k], c0[k], end.endswith("_reverse"))
            dx_d, dh[k], dc[k], dweights = _direction(weights, history, dy_d, dh[k], dc[k])
            dx = dx + dx_d
            grads |= {name + end: value for name, value in dweights.items()}
        flow = dx
    dh0, dc0 = (dh[:, 0], dc[:, 0]) if unbatched else (dh, dc)
    return Gradients(
        conventions.outward(flow, lstm.config, unbatched),
        dh0,
        dc0,
        {name: grads[name] for name in lstm.parameters},
    )


class _History(NamedTuple):
    """一层一个方向上前向走过的路。"""

    x: Array  # (T, B, I)
    h: Array  # (T, B, P)
    gates: Sequence[Array]  # i f g o c，各 (T, B, H)
    h0: Array
    c0: Array
    reverse: bool


def _direction(
    weights: Mapping[str, Array], history: _History, dy: Array, dh: Array, dc: Array
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """一层一个方向：返回 dx、dh0、dc0 与各权重的梯度。"""
    x, h, gates, h0, c0, reverse = history
    if reverse:  # 倒着走的方向，把时间翻过来就是正着走
        x, h, dy, gates = x[::-1], h[::-1], dy[::-1], [a[::-1] for a in gates]
    h_before, c_before = np.concatenate([h0[None], h[:-1]]), np.concatenate([c0[None], gates[4][:-1]])
    dz = np.empty((*x.shape[:2], len(weights["weight_ih"])), x.dtype)
    dhs = np.empty_like(h)
    for t in reversed(range(len(x))):
        dhs[t] = dh = dy[t] + dh
        if "weight_hr" in weights:
            dh = dh @ weights["weight_hr"]
        dz[t], dc = step_backward([a[t] for a in gates], c_before[t], dh, dc)
        dh = dz[t] @ weights["weight_hh"]
    grads = {"weight_ih": _outer_sum(dz, x), "weight_hh": _outer_sum(dz, h_before)}
    if "bias" in weights:
        grads["bias"] = dz.sum(axis=(0, 1))
    if "weight_hr" in weights:
        grads["weight_hr"] = _outer_sum(dhs, gates[3] * np.tanh(gates[4]))
    dx = dz @ weights["weight_ih"]
    return dx[::-1] if reverse else dx, dh, dc, grads


def _hidden(lstm: Any, layer: int, d: int, gates: Sequence[Array]) -> Array:
    *_, o, c = gates
    h = o * np.tanh(c)
    weight_hr = lstm.parameters.get(f"weight_hr_l{layer}{lstm.config.suffixes[d]}")
    return h if weight_hr is None else h @ weight_hr.T


def _outer_sum(a: Array, b: Array) -> Array:
    """Σ a⊗b，对时间与批求和：一次矩阵乘法。"""
    return a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])
