"""线程怎样等待别的线程：空转还是睡下。

OpenMP 的线程等别的线程时原地空转一会儿，机器空闲时最快；别的程序一占核，空转的与干活的抢同一个核，一步要慢好几倍，
这时睡下才快。睡下再叫醒又要时间，所以空闲的机器上不该睡。两样都不改变算出的数，实测见 bench/training_step.py。
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

# NumPy 的 OpenBLAS 也空转，缺省一转就是几十毫秒；另一个核被占着时，一次小小的内积都要等它
GENTLE = {"OPENBLAS_THREAD_TIMEOUT": "4"}
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # 立刻睡下
EAGER = {"GOMP_SPINCOUNT": "5000"}  # 先转一会儿，几十微秒
QUIET = 0.75  # 核有这么大一部分空着，就算空闲
LOOK = 0.4  # 看多久，秒


def waiting() -> dict[str, str]:
    """看一眼机器忙不忙，返回训练进程该用的环境变量；要赶在 torch 载入 OpenMP 之前设好。

    使用者自己设过 ``OMP_WAIT_POLICY`` 或 ``GOMP_SPINCOUNT`` 的，或者看不出忙闲的系统，返回空字典：一样也不改。
    """
    if os.environ.keys() & {*PATIENT, *EAGER}:
        return {}
    share = idle_share()
    if share is None:
        return {}
    return GENTLE | (EAGER if share > QUIET else PATIENT)


def idle_share(seconds: float = LOOK) -> float | None:
    """这一小会儿里，全部的核空着的份额（0 到 1）；系统不说（没有 /proc/stat）就是 None。"""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def crowded(share: float | None) -> str | None:
    """空着的份额太小时，给计时的表添的一句提醒；够空闲，或系统不说，就是 None。"""
    if share is None or share >= QUIET:
        return None
    return f"这台机器的核只有 {share:.0%} 空着，别的程序在抢：微秒数偏大，跑得久的更吃亏，倍数也就偏大；请在空闲时再跑一次。"


def workers(function: Callable[[], object]) -> int | None:
    """function() 跑一遍，本进程有几个线程真的在算：占到最忙的那个的一成才算；系统不说（没有 /proc）就是 None。

    引擎说自己用一个线程不算数，这里看的是各线程用掉的处理器时间。
    """
    before = _used()
    function()
    after = _used()
    if not after:
        return None
    spent = [used - before.get(thread, 0) for thread, used in after.items()]
    return max(1, sum(one > 0.1 * max(spent) for one in spent))  # 太短的，内核还没记账


def _used() -> dict[str, int]:
    """本进程各线程用掉的处理器时间，纳秒；格式见内核文档 sched-stats。"""
    used = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # 线程刚刚结束
            used[path.parent.name] = int(path.read_text().split()[0])
    return used


def _ticks() -> tuple[int, int] | None:
    """开机以来（空着的，全部的）滴答数；格式见 proc(5)。"""
    try:
        numbers = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return numbers[3] + numbers[4], sum(numbers)
