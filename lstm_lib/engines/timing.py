"""全书唯一的一只秒表：轮流计时、逐帧计时、反复计时，以及中位数、分散程度与快慢之比。

时间一律是秒。机器一时忙一时闲，所以要比较的东西轮流做、看中位数，只谈各自极限时才看最小值。
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from lstm_lib.engines.base import Engine

clock = time.perf_counter
SCATTER = 0.3  # 四分位的宽度超过中位数的这么多，就提醒
QUARTILES = [25, 50, 75]


class Runner(Protocol):
    """一次处理若干个帧移的东西：``enhance.streaming.Chain`` 都是，RNNoise 也是。"""

    hop: int

    def process(self, samples: np.ndarray) -> np.ndarray: ...


def alternate(functions: Sequence[Callable[[], Any]], rounds: int, calls: int = 1) -> np.ndarray:
    """轮流计时：每一轮把各函数依次各调 ``calls`` 次，返回 (函数, 轮) 的单次秒数。

    轮流做，机器一时忙一时闲对大家就是一样的；先各跑一遍不计时，缓存与惰性初始化都热了再开始。
    """
    for function in functions:
        function()
    times = np.empty((len(functions), rounds))
    for turn in range(rounds):
        for k, function in enumerate(functions):
            function()  # 上一个函数把缓存换成了它的数据，先找回来
            start = clock()
            for _ in range(calls):
                function()
            times[k, turn] = (clock() - start) / calls
    return times


def repeat(function: Callable[[], Any], rounds: int = 1, seconds: float = 0.0) -> np.ndarray:
    """一个函数反复计时：至少 ``rounds`` 次，至少 ``seconds`` 秒；返回每一次的秒数。"""
    times: list[float] = []
    deadline = clock() + seconds
    while len(times) < rounds or clock() < deadline:
        start = clock()
        function()
        times.append(clock() - start)
    return np.array(times)


def each_frame(
    advance: Callable[[Any, Any], tuple[Any, Any]],
    frames: Iterable[np.ndarray],
    between: Callable[[], Any] | None = None,
) -> np.ndarray:
    """逐帧计时：带着状态从头走完 ``frames``，返回每一帧的秒数。

    ``advance(x, state) -> (y, state)`` 同 ``Engine.advance``；``between()`` 在每帧之前做，不计时。
    """
    state, times = None, []
    for x in frames:
        if between is not None:
            between()
        start = clock()
        _, state = advance(x, state)
        times.append(clock() - start)
    return np.array(times)


def levels(times: np.ndarray, percentile: float = 99) -> tuple[float, float, float]:
    """一串用时的中位数、第 ``percentile`` 百分位数、最大值。"""
    return float(np.median(times)), float(np.percentile(times, percentile)), float(np.max(times))


def race(
    engines: Sequence[Engine],
    x: np.ndarray,
    rounds: int = 30,
    calls: int = 40,
    batch: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """几场比赛：``{"step": …, "sequence": …, "batch": …}``，各是 (引擎, 轮) 的秒数；不会的那一行是 NaN。

    x (T, I)：``sequence`` 算整段；``step`` 只用它的第一帧，带着状态反复走。
    batch (T, B, I)：``batch`` 把 B 段放在一起算，只有会一起算的参加；不给就没有这一场。
    """
    results = {}
    frame = x[0].copy()
    bouts = [("step", frame, calls, engines), ("sequence", x, 1, [e for e in engines if e.whole])]
    if batch is not None:
        bouts.append(("batch", batch, 1, [e for e in engines if e.together]))
    for kind, argument, count, entered in bouts:
        able = [k for k, e in enumerate(engines) if e in entered]
        methods = [getattr(engines[k], kind) for k in able]
        times = np.full((len(engines), rounds), np.nan)
        times[able] = alternate([partial(method, argument) for method in methods], rounds, count)
        results[kind] = times
    return results


def race_chains(
    chains: Sequence[Runner], rates: Sequence[float], rounds: int = 20, seconds: float = 0.5
) -> np.ndarray:
    """整条链的比赛：一次送一个帧移，返回 (链, 轮)，单位是“算一秒的声音要几秒”，也就是实时率。

    每条链的采样率 ``rates``（Hz）与帧移 ``hop`` 可以各不相同，所以比的是一秒声音；每一轮各走大约 ``seconds`` 秒的
    声音，状态一直带着。送的是白噪声：有的链遇到静音会少算。
    """
    jobs, spans = [], []
    for chain, rate in zip(chains, rates, strict=True):
        hops = max(1, round(seconds * rate / chain.hop))
        noise = np.random.default_rng(0).standard_normal((hops, chain.hop)).astype(np.float32)
        jobs.append(partial(hop_by_hop, chain.process, list(0.1 * noise)))
        spans.append(hops * chain.hop / rate)
    return alternate(jobs, rounds) / np.array(spans)[:, None]


def hop_by_hop(process: Callable[[np.ndarray], Any], hops: Iterable[np.ndarray]) -> None:
    """像实时那样，一个帧移一个帧移地送。"""
    for samples in hops:
        process(samples)


def rows(engines: Sequence[Engine], times: np.ndarray, unit: float) -> list[list]:
    """每个引擎一行：名字、权重的类型、中位数、四分位范围，时间以 ``unit`` 秒为单位；没有参加的没有行。"""
    table = []
    for engine, row in zip(engines, times, strict=True):
        if np.isnan(row).any():
            continue
        low, middle, high = np.percentile(row, QUARTILES) / unit
        table.append([engine.title, engine.dtype, middle, f"{low:.3g}–{high:.3g}"])
    return table


def unrest(titles: Sequence[str], times: np.ndarray) -> list[str]:
    """哪几行量得不准：四分位的宽度超过中位数的 ``SCATTER`` 的，各说一句宽了多少；times (各行, 轮)，有 NaN 的行不看。"""
    notes = []
    for title, row in zip(titles, times, strict=True):
        low, middle, high = np.percentile(row, QUARTILES)
        if high - low > SCATTER * middle:
            notes.append(f"{title}：四分位的宽度是中位数的 {(high - low) / middle:.0%}，多半有别的程序在跑。")
    return notes


def fastest(engines: Sequence[Engine], times: np.ndarray, dtype: str, ours: bool = False) -> int:
    """某一类（float32、float16 或 int8，对手或本书）里中位数最小的引擎的编号。"""
    medians = np.median(times, axis=1)
    able = [
        k for k, e in enumerate(engines) if e.dtype == dtype and e.ours == ours and not np.isnan(medians[k])
    ]
    if not able:
        raise ValueError(f"没有 {dtype} 的{'本书' if ours else '别家'}引擎参加这一场")
    return min(able, key=lambda k: medians[k])


def speedup(times: np.ndarray, slow: int, fast: int) -> tuple[float, float, float]:
    """``fast`` 比 ``slow`` 快几倍：逐轮比值的中位数与四分位数（同一轮里两者的环境相同）。"""
    middle, low, high = np.percentile(times[slow] / times[fast], [50, 25, 75])
    return float(middle), float(low), float(high)
