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
# 普通的 LSTM 没有、ONNX 节点才有的四样：LSTM 的属性名 → 中文名
OPTIONS = {"peepholes": "窥视孔", "clip": "截幅", "initial_state": "缺省初态", "lengths": "各序列长度"}


def real(value: Any, label: str, dtype: DTypeLike) -> Array:
    """变成 ``dtype`` 的实数数组；torch 张量等 NumPy 认得的也行，读不出数的抛 ``ValueError`` 并说明原因。"""
    array = plain(value, label)
    # bfloat16 之类的小浮点数不在 NumPy 的类型树上，能不能原样变成 float32 却问得出来
    kind = array.dtype.kind
    if kind not in "iuf" and (kind == "b" or not np.can_cast(array.dtype, np.float32)):
        raise ValueError(f"{label} 应是实数数组，得到 {type(value).__name__ if kind == 'O' else array.dtype}")
    return array.astype(dtype, copy=False)


def plain(value: Any, label: str) -> Array:
    """变成 NumPy 数组，数不变：torch 张量离开计算图与设备，稀疏的铺开，bfloat16 放宽；变不成的抛 ``ValueError``。"""
    tensor, name = hasattr(value, "detach"), type(value).__name__
    if hasattr(value, "batch_sizes"):
        raise ValueError(f"{label} 是 {name}：请用 pad_packed_sequence 展开，各序列的长度传给 lengths")
    if isinstance(value, tuple | list) and any(hasattr(item, "detach") for item in value):
        value = [plain(item, label) for item in value]  # 一列张量，个个都可能要求导，或是 bfloat16
    if np.ma.is_masked(value):
        raise ValueError(f"{label} 有遮住的元素：请先用 .filled(…) 填上数")
    try:
        if tensor:
            value = value.detach().cpu()
            value = value.dequantize() if value.is_quantized else value.to_dense()
            value = value.float() if value.is_floating_point() and value.element_size() < 4 else value
            value = value.resolve_conj().resolve_neg()
        return np.asarray(value)
    except Exception as error:  # 各家抛的异常不一样
        why = f"{value.device} 设备的张量，没有数或没有补齐" if tensor else "各行长短不一，或不是数"
        raise ValueError(f"{label} 是 {name}，变不成数组：{why}") from error


def kind(value: Any) -> str:
    """类名与全名，报错里用：``LSTM（torch.nn.modules.rnn.LSTM）``；内置的类只有名字。"""
    name, home = type(value).__name__, type(value).__module__
    return name if home == "builtins" else f"{name}（{home}.{type(value).__qualname__}）"


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


def lengths(given: ArrayLike | None, default: ArrayLike | str | None, steps: int, batch: int) -> Array | None:
    """检查各序列的长度 (B,)；没有给，或都等于 T 时返回 None：走没有分支的快路。

    ``default`` 是 LSTM 自带的：一个数是各序列一样长，文字是必须另给的原因。
    """
    if given is None and isinstance(default, str):
        raise ValueError(f"{default}；调用时请用 lengths 传入各序列的长度")
    title, hint = "lengths", ""
    if given is None and default is not None:
        given = default if np.ndim(default) else np.full(batch, default)
        title, hint = "自带的 lengths（从 ONNX 读来的，是文件里的 sequence_lens）", "；请用 lengths 另给"
    if given is None:
        return None
    array = plain(given, "lengths")
    if array.shape != (batch,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{title} 应是 {batch} 个整数，得到 {array.dtype} {array.shape}{hint}")
    if (array < 1).any() or (array > steps).any():
        raise ValueError(f"{title} 应在 1 与序列长度 {steps} 之间，得到 {array.tolist()}{hint}")
    return None if (array == steps).all() else array


def like(name: str, gradient: ArrayLike | None, value: Array) -> Array:
    """梯度要与对应的量 ``value`` 同形；None 表示零。"""
    if gradient is None:
        return np.zeros_like(value)
    gradient = real(gradient, f"梯度 {name}", value.dtype)
    if gradient.shape != value.shape:
        raise ValueError(f"梯度 {name} 的形状应为 {value.shape}，得到 {gradient.shape}")
    return gradient
