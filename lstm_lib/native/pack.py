"""权重打包：把 i f g o 叠放的矩阵排成内核一路读下去的样子，并（int8 时）逐行量化。

一块是 V 个隐藏单元：块内一列一列地放，每一列是 I、F、O、G 四段、每段 V 个数，于是连着四次读正好喂饱四个门。
先放乘 x 的列，再放乘 h 的列。V 是向量寄存器装得下的 float32 个数；除不尽的单元用宽 4 的窄块收尾。
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from lstm_lib.lstm import layouts

NARROW = 4


@dataclass(frozen=True)
class Cell:
    """一层一个方向打包好的权重；各数组的含义见 lstm.h 的 ``lstm_cell``。"""

    input_size: int
    hidden_size: int
    output_size: int
    wide: int
    narrow: int
    backward: bool
    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None
    offset: np.ndarray | None
    projection: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """全部数组的字节数。"""
        arrays = (self.weight, self.bias, self.scale, self.offset, self.projection)
        return sum(a.nbytes for a in arrays if a is not None)


def quantize_rows(weight: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """逐行对称量化：(R, K) 浮点 → int8 (R, K) 与步长 (R,)，weight ≈ 步长 × int8。

    步长 = 该行最大绝对值 / 127，所以误差不超过半个步长；全零的行步长为 0。
    """
    weight = np.asarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise ValueError("权重里有 NaN 或无穷大，不能量化成 int8；请检查训练出来的权重")
    scale = np.abs(weight).max(axis=1, initial=0) / np.float32(127)
    safe = np.where(scale > 0, scale, 1)[:, None]
    return np.clip(np.rint(weight / safe), -127, 127).astype(np.int8), scale


def split_units(hidden_size: int, width: int) -> tuple[int, int]:
    """``hidden_size`` 个单元要几个宽块、几个窄块。余数过半块时，宁可多补零、少循环。"""
    wide, rest = divmod(hidden_size, width)
    if rest > width // 2:
        return wide + 1, 0
    return wide, -(-rest // NARROW)


def aligned(shape: int | tuple[int, ...], dtype: DTypeLike, alignment: int = 64) -> np.ndarray:
    """起始地址按缓存行（64 字节）对齐的全零数组。"""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(dtype).reshape(shape)


def pack_rows(rows: np.ndarray, width: int, hidden_size: int, group: int = 1) -> list[np.ndarray]:
    """(4H, K)，门顺序 i f g o → 每块一个 (K/group, 4, V, group) 数组，门顺序 I F O G。

    ``group`` 是一次点积吃掉的列数：float32 为 1，int8 为 4；K 补零到它的倍数，单元补零到整块。
    """
    wide, narrow = split_units(hidden_size, width)
    units, columns = wide * width + narrow * NARROW, -(-rows.shape[1] // group) * group
    gates = layouts.reorder(rows, "torch", "ncnn").reshape(4, hidden_size, -1)
    gates = np.pad(gates, ((0, 0), (0, units - hidden_size), (0, columns - rows.shape[1])))
    edges = [width * k for k in range(wide)] + [wide * width + NARROW * k for k in range(narrow + 1)]
    blocks = []
    for first, end in pairwise(edges):
        block = gates[:, first:end].reshape(4, end - first, columns // group, group)
        blocks.append(np.ascontiguousarray(block.transpose(2, 0, 1, 3)))
    return blocks


def interleave(*parts: Iterable[np.ndarray]) -> np.ndarray:
    """各部分的同一块首尾相接，全部块连成一个对齐的一维数组。"""
    flat = np.concatenate([block.ravel() for blocks in zip(*parts, strict=True) for block in blocks])
    out = aligned(flat.shape, flat.dtype)
    out[:] = flat
    return out


def pack_cell(
    config: layouts.LSTMConfig,
    arrays: Mapping[str, np.ndarray],
    layer: int,
    direction: int,
    width: int,
    quantized: bool,
) -> Cell:
    """一层一个方向的参数（名字见 ``LSTMConfig.shapes``）→ ``Cell``。"""
    end, hidden = f"_l{layer}{config.suffixes[direction]}", config.hidden_size
    parts = [np.asarray(arrays[name + end], np.float32) for name in ("weight_ih", "weight_hh")]
    bias = np.asarray(arrays.get("bias" + end, np.zeros(4 * hidden)), np.float32)
    scale = offset = None
    if quantized:
        parts, steps = zip(*map(quantize_rows, parts), strict=True)
        sums = [-128 * q.sum(axis=1, dtype=np.int32) for q in parts]
        scale = interleave(*(pack_rows(s[:, None], width, hidden) for s in steps))
        offset = interleave(*(pack_rows(s[:, None], width, hidden) for s in sums))
    projection = arrays.get("weight_hr" + end)
    return Cell(
        config.layer_input_size(layer),
        hidden,
        config.output_size,
        *split_units(hidden, width),
        config.suffixes[direction] == "_reverse",
        interleave(*(pack_rows(p, width, hidden, 4 if quantized else 1) for p in parts)),
        interleave(pack_rows(bias[:, None], width, hidden)),
        scale,
        offset,
        None if projection is None else np.ascontiguousarray(projection.T, np.float32),
    )
