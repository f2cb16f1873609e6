"""一条命令，一组表：各引擎跑同一个 LSTM(256, 257)，再跑同一条增强链，单线程，轮流计时。

用法：``python -m bench.engines [--rounds 40] [--frames 1000]``。“NumPy ÷ 它”是逐轮相除之后的中位数：同一轮里
机器一样忙，所以比单独的微秒数可信；小于 1 表示 NumPy 更快。时间受同机其他程序影响，请在机器空闲时跑。
最后的“整条链”也是 ``python -m lstm_lib bench`` 打印的那两张表；装了 pyrnnoise 就连 RNNoise 一起比。
"""

import argparse
from functools import partial

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lstm_lib import LSTM, threads
from lstm_lib.book.tables import Table
from lstm_lib.engines import DTYPES, available, build, chain_race, timing
from lstm_lib.enhance.config import REPAIRED
from lstm_lib.enhance.irm import IRMNetwork
from lstm_lib.native import NativeLSTM

COMPARISONS = (  # (哪一场, 我们的权重, 对手的权重)
    ("step", "float32", "float32"),
    ("step", "float16", "float32"),
    ("step", "int8", "float32"),
    ("step", "int8", "int8"),
    ("sequence", "float32", "float32"),
    ("sequence", "float16", "float32"),
    ("sequence", "int8", "int8"),
    ("batch", "float32", "float32"),
    ("batch", "float16", "float32"),
    ("batch", "int8", "int8"),
)
TITLES = {"step": "一帧", "sequence": "整段", "batch": "几段一起"}
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8": 0.2}


def check(engines, x, several):
    """先确认大家算的是同一个东西，再比快慢；``engines`` 的第一个是标准。"""
    expected, wanted_batch = engines[0].sequence(x), engines[0].batch(several)
    for engine in engines:
        if engine.together:
            np.testing.assert_allclose(
                engine.batch(several),
                wanted_batch,
                rtol=0,
                atol=TOLERANCE[engine.dtype],
                err_msg=engine.title,
            )
        np.testing.assert_allclose(
            engine.sequence(x), expected, rtol=0, atol=TOLERANCE[engine.dtype], err_msg=engine.title
        )
        engine.reset()
        for row, wanted in zip(x[:5], expected, strict=False):
            np.testing.assert_allclose(
                engine.step(row.copy()), wanted, rtol=0, atol=TOLERANCE[engine.dtype], err_msg=engine.title
            )
        engine.reset()


def python_share(fast, x, rounds) -> tuple[float, float]:
    """一次 ``stream.step`` 的秒数，其中 Python（检查、绑定、取出结果）占多少秒。"""
    stream, calls = fast.stream(), 100

    def in_python():
        for _ in range(calls):
            stream.step(x)

    both = [in_python, lambda: stream.repeat(x, calls)]
    whole, inside = np.median(timing.alternate(both, rounds), axis=1) / calls
    return whole, whole - inside


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="轮流多少轮，缺省 40")
    parser.add_argument("--frames", type=int, default=1000, help="整段有多少帧，缺省 1000")
    parser.add_argument("--batch", type=int, default=16, help="几段一起算的有几段，各是整段的一半长，缺省 16")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lstm = LSTM.from_torch(torch.nn.LSTM(256, 257))
    x = np.random.default_rng(0).standard_normal((args.frames, 256)).astype(np.float32)
    engines = build(lstm, ["numpy", *(name for name in available() if name != "numpy")])
    several = np.stack([np.roll(x, k, axis=0)[: -(-args.frames // 2)] for k in range(args.batch)], axis=1)
    notes = [] if (note := threads.crowded(threads.idle_share())) is None else [note]
    with threadpool_limits(1):
        check(engines, x, several)
        results = timing.race(engines, x, args.rounds, batch=several)
        count = [threads.workers(partial(e.sequence, x)) for e in engines]
    for kind, unit, title in (
        ("step", 1e-6, "一次一帧，带状态，μs"),
        ("sequence", 1e-3, f"整段 {args.frames} 帧，ms"),
        ("batch", 1e-3, f"{several.shape[1]} 段一起算，各 {len(several)} 帧，ms"),
    ):
        times = results[kind]
        took_part = [row for row in times if not np.isnan(row).any()]
        ratios = [f"{np.median(times[0] / row):.2f}" for row in took_part]
        notes += [f"{TITLES[kind]}，{note}" for note in timing.unrest([e.title for e in engines], times)]
        rows = [[*row, ratio] for row, ratio in zip(timing.rows(engines, times, unit), ratios, strict=True)]
        print(Table(["引擎", "权重", "中位数", "四分位范围", "NumPy ÷ 它"], rows, title), "\n")
    notes += [
        f"{e.title} 用了 {n} 个线程，不是一个：它的数不能与别家比。"
        for e, n in zip(engines, count, strict=True)
        if n not in (1, None)
    ]
    print(*(notes or ["各家都只用一个线程，四分位的宽度都在中位数的三成以内。"]), sep="\n", end="\n\n")
    comparisons = []
    for kind, ours, theirs in COMPARISONS:
        times = results[kind]
        us, them = timing.fastest(engines, times, ours, ours=True), timing.fastest(engines, times, theirs)
        middle, low, high = timing.speedup(times, them, us)
        row = [TITLES[kind], engines[us].title, engines[them].title, f"{middle:.2f}", f"{low:.2f}–{high:.2f}"]
        comparisons.append(row)
    print(
        Table(["场次", "本书", "最快的对手", "快几倍", "四分位范围"], comparisons, "与最快的对手相比"), "\n"
    )
    shares = []
    for dtype in DTYPES:
        whole, share = python_share(NativeLSTM(lstm, dtype), x[0].copy(), args.rounds)
        shares.append([dtype, whole * 1e6, share * 1e6])
    print(Table(["权重", "stream.step，μs", "其中 Python，μs"], shares, "Python 占多少"), "\n")
    with threadpool_limits(1):
        report = chain_race.compare(IRMNetwork(REPAIRED).eval(), args.rounds, args.frames / 1000)
    print(report.table, report.parts, *report.notes, sep="\n\n")


if __name__ == "__main__":
    main()
