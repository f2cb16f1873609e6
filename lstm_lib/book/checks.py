"""页面上的对照：一行断言，不成立时说差了多少、去哪里看。"""

import numpy as np


def check(got, bound, where):
    """断言 ``got`` 里每个数的绝对值都不超过 ``bound``。

    Args:
        got: 差，或差的数组（任意形状；NumPy 数组、PyTorch 张量、数），通常是「我们的结果减去 torch 的」。
        bound: 允许的最大绝对值，一个非负的有限数。
        where: 不成立时去哪里找原因，一句话。

    Raises:
        AssertionError: 有一个超过了，或者不是数（NaN）；消息里有最大的差、界与 ``where``。
        ValueError: ``bound`` 不是非负的有限数，或 ``got`` 里一个数也没有：那样什么也没有查到。
    """
    if not (np.isfinite(bound) and bound >= 0):
        raise ValueError(f"bound 要是非负的有限数，得到 {bound}")
    values = np.abs(np.asarray(getattr(got, "detach", lambda: got)()))
    if not values.size:
        raise ValueError("got 是空的：没有可比的数，这样的断言永远成立")
    worst = float(values.max())
    assert not np.isnan(worst), f"结果里有 NaN（不是数）。{where}"
    assert worst <= bound, f"最大差 {worst:.2g}，超过了 {bound:.2g}。{where}"
