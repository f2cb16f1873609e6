"""一条命令，一张表：各引擎跑同一个 LSTM(256, 257)，单线程，轮流计时。

用法：``python -m bench.engines [--rounds 40] [--frames 1000]``。时间受同机其他程序影响，请在机器空闲时跑。
"""

import argparse

import numpy as np
import torch

from lstm_lib import LSTM
from lstm_lib.book.tables import Table
from lstm_lib.engines import race
from lstm_lib.native import NativeLSTM

COMPARISONS = (  # (哪一场, 我们用 int8 吗, 对手用 int8 吗)
    ("step", False, False),
    ("step", True, False),
    ("step", True, True),
    ("sequence", False, False),
    ("sequence", True, True),
)


def python_share(fast, x, rounds) -> tuple[float, float]:
    """一次 ``stream.step`` 的秒数，其中 Python（检查、绑定、取出结果）占多少秒。"""
    stream, calls = fast.stream(), 100

    def in_python():
        for _ in range(calls):
            stream.step(x)

    whole, inside = (
        np.median(race.alternate([in_python, lambda: stream.repeat(x, calls)], rounds), axis=1) / calls
    )
    return whole, whole - inside


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="轮流多少轮，缺省 40")
    parser.add_argument("--frames", type=int, default=1000, help="整段有多少帧，缺省 1000")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lstm = LSTM.from_torch(torch.nn.LSTM(256, 257))
    x = np.random.default_rng(0).standard_normal((args.frames, 256)).astype(np.float32)
    engines = race.build(lstm)
    results = race.race(engines, x, args.rounds)
    for kind, unit, title in (
        ("step", 1e-6, "一次一帧，带状态，μs"),
        ("sequence", 1e-3, f"整段 {args.frames} 帧，ms"),
    ):
        print(
            Table(["引擎", "权重", "中位数", "四分位范围"], race.rows(engines, results[kind], unit), title),
            "\n",
        )
    comparisons = []
    for kind, ours, theirs in COMPARISONS:
        times = results[kind]
        us, them = race.fastest(engines, times, ours, ours=True), race.fastest(engines, times, theirs)
        middle, low, high = race.speedup(times, them, us)
        title = "一帧" if kind == "step" else "整段"
        row = [title, engines[us].name, engines[them].name, f"{middle:.2f}", f"{low:.2f}–{high:.2f}"]
        comparisons.append(row)
    print(
        Table(["场次", "本书", "最快的对手", "快几倍", "四分位范围"], comparisons, "与最快的对手相比"), "\n"
    )
    shares = []
    for dtype in ("float32", "int8"):
        whole, share = python_share(NativeLSTM(lstm, dtype), x[0].copy(), args.rounds)
        shares.append([dtype, whole * 1e6, share * 1e6])
    print(Table(["权重", "stream.step，μs", "其中 Python，μs"], shares, "Python 占多少"))


if __name__ == "__main__":
    main()
