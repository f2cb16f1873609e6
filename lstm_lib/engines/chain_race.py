"""整条链的赛跑：波形进、波形出，一个核，各引擎与 RNNoise 轮流跑，时间都折成“一秒的声音”。

>>> report = compare(network)          # network 带着 config，例如 load_trained() 的返回值
>>> print(report.table)
>>> print(report.parts)                # 本书的 C 拆开看：内核、整条链、成块送
>>> print(*report.notes, sep="\\n")     # 少了谁、机器忙不忙
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lstm_lib import threads
from lstm_lib.book.tables import Table
from lstm_lib.engines import available, chain, describe, offers, timing
from lstm_lib.enhance import rnnoise
from lstm_lib.native import NativeLSTM
from lstm_lib.waves import BLOCK, SAMPLE_RATE

TOLERANCE = {
    "float32": 1e-4,
    "float16": 2e-3,
    "int8": 0.05,
}  # 与 NumPy 的链相差多少算是同一条链；输入的满幅是 ±1
HOUR = 3600


@dataclass(frozen=True, eq=False)
class Entrant:
    """一名选手：``chain`` 有 ``hop`` 与 ``process``；``rate`` 是它的采样率（Hz）。"""

    name: str
    title: str
    dtype: str
    chain: timing.Runner
    rate: float = SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Report:
    """:func:`compare` 的结果：``times`` (选手, 轮) 是实时率，``entrants`` 同序；两张表与几句提醒。"""

    entrants: list[Entrant]
    times: np.ndarray
    table: Table
    parts: Table | None
    notes: list[str] = field(default_factory=list)


def entrants(network: Any, names: Iterable[str] | None = None) -> tuple[list[Entrant], list[str]]:
    """选手与缺席的说明：``names``（缺省是装齐了的全部引擎），NumPy 总在第一个，装了 ``pyrnnoise`` 的还有 RNNoise。"""
    known = offers()
    chosen = ["numpy", *(name for name in (available() if names is None else names) if name != "numpy")]
    made = [Entrant(n, known[n].title, known[n].dtype, chain(network, n)) for n in chosen]
    if reason := rnnoise.why_not():
        return made, [f"跳过 RNNoise：{reason}。"]
    rival = rnnoise.RNNoise()
    title = f"RNNoise（{rnnoise.PACKAGE} {rival.version}）"
    return [*made, Entrant(rnnoise.PACKAGE, title, "它自己的", rival, rival.rate)], []


def check(made: Sequence[Entrant]) -> None:
    """先确认本书网络的各条链算的是同一个东西，再比快慢；对不上抛 ``AssertionError``，说是哪一家。"""
    reference = made[0].chain
    noise = np.random.default_rng(1).standard_normal(20 * reference.hop)
    samples = (0.1 * noise).astype(np.float32)
    expected = reference.process(samples)
    for entrant in made[1:]:
        if entrant.dtype in TOLERANCE:
            np.testing.assert_allclose(
                entrant.chain.process(samples),
                expected,
                rtol=0,
                atol=TOLERANCE[entrant.dtype],
                err_msg=entrant.title,
            )


def compare(
    network: Any, rounds: int = 20, seconds: float = 0.5, names: Iterable[str] | None = None
) -> Report:
    """各引擎放进同一条链，一次一个帧移，轮流 ``rounds`` 轮，每轮各走约 ``seconds`` 秒的声音。

    线程由调用者定：先 ``threadpoolctl.threadpool_limits(1)``、``torch.set_num_threads(1)``。
    """
    idle = threads.idle_share()
    made, notes = entrants(network, names)
    check(made)
    times = timing.race_chains([e.chain for e in made], [e.rate for e in made], rounds, seconds)
    notes += [] if (note := threads.crowded(idle)) is None else [note]
    notes += timing.unrest([e.title for e in made], times)
    return Report(made, times, _table(made, times), _parts(network, made, rounds), notes)


def _table(made: Sequence[Entrant], times: np.ndarray) -> Table:
    rival = next((k for k, e in enumerate(made) if e.name == rnnoise.PACKAGE), None)
    header = ["引擎", "权重", "一次，ms", "用时，μs", "四分位范围", "实时率", "一小时的声音，秒"]
    header += ["比 NumPy 快几倍", *(["比 RNNoise 快几倍"] if rival is not None else [])]
    body = []
    for entrant, row in zip(made, times, strict=True):
        hop = entrant.chain.hop / entrant.rate
        low, middle, high = np.percentile(row, timing.QUARTILES)
        cells = [entrant.title, entrant.dtype, hop * 1e3, middle * hop * 1e6]
        cells += [f"{low * hop * 1e6:.3g}–{high * hop * 1e6:.3g}", f"{middle:.5f}", middle * HOUR]
        others = [0, *([rival] if rival is not None else [])]
        body.append([*cells, *(f"{timing.speedup(times, k, made.index(entrant))[0]:.2f}" for k in others)])
    return Table(header, body, "整条链：波形进、波形出，一次一个帧移，一个线程；快几倍是逐轮之比的中位数")


def _parts(network: Any, made: Sequence[Entrant], rounds: int) -> Table | None:
    """本书的 C 拆开看：LSTM 的内核一帧、整条链一次一个帧移、整条链成块送（离线），都是一个帧移的微秒数。"""
    ours = [e for e in made if e.name in ("c", "c-float16", "c-int8")]
    if not ours:
        return None
    # 一份不到一毫秒：比系统换着跑的时间片短，忙的机器上中位数也还量得准
    frames, rng = 16, np.random.default_rng(2)
    lstm, body = describe(network).lstm, []
    for entrant in ours:
        process, hop = entrant.chain.process, entrant.chain.hop
        per_block = max(1, BLOCK // hop)
        block = (0.1 * rng.standard_normal(per_block * hop)).astype(np.float32)
        singles = list(block[: min(frames, per_block) * hop].reshape(-1, hop))
        x = np.abs(rng.standard_normal(lstm.config.input_size)).astype(np.float32)
        stream = NativeLSTM(lstm, entrant.dtype).stream()
        jobs = [
            lambda s=stream, x=x: s.repeat(x, frames),
            lambda p=process, s=singles: timing.hop_by_hop(p, s),
            lambda p=process, b=block: p(b),
        ]
        counts = np.array([[frames], [len(singles)], [per_block]])
        kernel, whole, blocks = times = timing.alternate(jobs, 4 * rounds) / counts
        middles = np.median(times, axis=1) * 1e6
        cost = [f"{np.median(part / kernel):.2f}" for part in (whole, blocks)]
        hour = f"{middles[2] / 1e6 * HOUR * SAMPLE_RATE / hop:.2f}"
        body.append([entrant.title, middles[0], middles[1], cost[0], middles[2], cost[1], hour])
    header = [
        "本书的 C，一个帧移，μs",
        "LSTM 内核",
        "整条链，逐帧",
        "是内核的几倍（逐帧）",
        f"整条链，成块（{BLOCK} 个样点）",
        "是内核的几倍（成块）",
    ]
    return Table([*header, "一小时的声音，秒"], body, "整条链里内核占多少")
