"""int8 权重的定义，逐行对称量化：C 里打包时做的（model.c）与这里逐位相同；哪些权重半精度放不下；权重的类型要得对不对。"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.native.build import KINDS

HALF_LIMIT = 65520  # 最大的半精度数 65504 再加半格


def quantize_rows(weight: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """逐行对称量化：weight ≈ 步长 × int8，误差不超过半个步长。步长 = 该行最大绝对值 / 127，全零的行步长为 0。

    参数:
        weight: (R, K)，浮点
    返回:
        int8 (R, K) 与步长 (R,)。
    抛出:
        ValueError: 有 NaN 或无穷大
    """
    weight = np.asarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise ValueError("权重里有 NaN 或无穷大，不能量化成 int8；请检查训练出来的权重")
    scale = np.abs(weight).max(axis=1, initial=0) / np.float32(127)
    safe = np.where(scale > 0, scale, 1)[:, None]
    return np.clip(np.rint(weight / safe), -127, 127).astype(np.int8), scale


def check_half(weights: Mapping[str, ArrayLike]) -> None:
    """查权重存成半精度（IEEE binary16，就近取偶）之后是不是有限数。

    参数:
        weights: ``{名字: 数组}``，浮点
    抛出:
        ValueError: 有一个是 NaN、无穷大，或绝对值不小于 65520（舍入后成了无穷大）；消息里有名字与值
    """
    for name, weight in weights.items():
        weight = np.asarray(weight, np.float32)
        bad = ~(np.abs(weight) < HALF_LIMIT)  # NaN 也算
        if bad.any():
            value, advice = weight[bad][0], "请用 dtype='float32' 或 'int8'"
            if not np.isfinite(value):
                advice = "请检查训练出来的权重"
            raise ValueError(f"权重 {name} 里有 {value:g}，float16 放不下（最大 65504）：{advice}")


def check_dtype(dtype: str | None) -> None:
    """``dtype`` 是不是一种存法的名字，或 None（照文件里存的）；不是就抛 ``ValueError``。"""
    if dtype not in (None, *KINDS):
        raise ValueError(f"dtype 应为 'float32'、'float16'、'int8' 或 None，得到 {dtype!r}")


def check_stored(asked: str | None, found: str, name: str | None) -> None:
    """要的存法与打开后的不是一种：文件 ``name`` 里存得更省，补不回丢掉的位，抛 ``ValueError``。"""
    if asked not in (None, found):
        allowed = "'int8'" if found == "int8" else "'float16'、'int8'"
        raise ValueError(f"{name or '权重数据'}里存的是 {found}，变不回 {asked}；请用 dtype={allowed} 或不写")
