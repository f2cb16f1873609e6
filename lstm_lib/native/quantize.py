"""逐行对称量化：int8 权重的定义。C 里打包时做的（model.c）与这里逐位相同。"""

import numpy as np
from numpy.typing import ArrayLike


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
