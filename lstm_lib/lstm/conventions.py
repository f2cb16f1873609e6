"""输入与状态的约定，NumPy、C 内核与反向传播共用：查形状，在使用者的约定与内部的 (T, B, …) 之间转换。

使用者的约定同 ``torch.nn.LSTM``：x 是 (T, B, I)，batch_first 时 (B, T, I)，不分批时 (T, I)；
状态 h 是 (层数 × 方向数, B, P)，c 是 (层数 × 方向数, B, H)，不分批时没有 B。
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from lstm_lib.lstm.layouts import LSTMConfig

Array = np.ndarray
State = tuple[Array, Array]  # (h, c)


def real(array: Any, label: str, dtype: DTypeLike) -> Array:
    """变成 ``dtype`` 的实数数组；torch 张量之类 NumPy 认得的也行，复数、文字之类抛 ``ValueError``。"""
    array = np.asarray(array)
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{label} 应是实数数组，得到 {array.dtype}")
    return array.astype(dtype, copy=False)


def inward(array: Array, config: LSTMConfig, unbatched: bool) -> Array:
    """使用者的约定 → 内部的 (T, B, …)；不复制。"""
    if unbatched:
        return array[:, None]
    return array.swapaxes(0, 1) if config.batch_first else array


def outward(array: Array, config: LSTMConfig, unbatched: bool) -> Array:
    """``inward`` 的逆。"""
    if unbatched:
        return array[:, 0]
    return array.swapaxes(0, 1) if config.batch_first else array


def sequence(x: ArrayLike, config: LSTMConfig, dtype: DTypeLike) -> tuple[Array, bool]:
    """检查输入 x，返回内部的 (T, B, I) 与“是否不分批”。维数、宽度不对或序列为空都抛 ``ValueError``。"""
    x = real(x, "输入 x", dtype)
    if x.ndim not in (2, 3):
        raise ValueError(f"输入 x 应是 2 维（不分批）或 3 维，得到 {x.ndim} 维 {x.shape}")
    if x.shape[-1] != config.input_size:
        raise ValueError(f"输入 x 的最后一维应为 input_size={config.input_size}，得到 {x.shape[-1]}")
    unbatched = x.ndim == 2
    x = inward(x, config, unbatched)
    if x.shape[0] == 0:
        raise ValueError("序列长度是 0：LSTM 至少要有一个时间步")
    return x, unbatched


def initial_state(
    state: Sequence[ArrayLike] | None, config: LSTMConfig, batch: int, unbatched: bool, dtype: DTypeLike
) -> State:
    """检查初态 (h, c)，返回 (L·D, B, P) 与 (L·D, B, H)，是新的数组；``state`` 为 None 时全零。"""
    rows = config.num_layers * config.num_directions
    sizes = (config.output_size, config.hidden_size)
    if state is None:
        h, c = (np.zeros((rows, batch, size), dtype) for size in sizes)
        return h, c
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError("初态 state 应是 (h, c) 两个数组")
    arrays = []
    for name, value, size in zip("hc", state, sizes, strict=True):
        array = real(value, f"初态 {name}", dtype)
        expected = (rows, size) if unbatched else (rows, batch, size)
        if array.shape != expected:
            raise ValueError(f"初态 {name} 的形状应为 {expected}，得到 {array.shape}")
        arrays.append(np.array(array[:, None] if unbatched else array, order="C"))
    h, c = arrays
    return h, c


def like(name: str, gradient: ArrayLike | None, value: Array) -> Array:
    """梯度要与对应的量 ``value`` 同形；None 表示零。"""
    if gradient is None:
        return np.zeros_like(value)
    gradient = np.asarray(gradient, value.dtype)
    if gradient.shape != value.shape:
        raise ValueError(f"梯度 {name} 的形状应为 {value.shape}，得到 {gradient.shape}")
    return gradient
