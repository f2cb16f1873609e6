"""手写的 NumPy LSTM 有多快：与 torch、onnxruntime、ncnn 轮流计时，一次运行，一张表，单线程。

用法：``python -m bench.lstm_bench [--rounds 30] [--frames 1000]``。比值是逐轮相除之后的中位数：同一轮里机器
一样忙，所以比单独的毫秒数可信；小于 1 表示 NumPy 更快。请在机器空闲时跑。
"""

import argparse
import os

# 要赶在 NumPy 载入之前
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch

from lstm_lib import LSTM
from lstm_lib.book.tables import Table
from lstm_lib.engines import race

RIVALS = ("torch LSTM", "torch LSTMCell", "onnxruntime", "ncnn")


def numpy_engine(lstm) -> race.Engine:
    """``lstm_lib.LSTM`` 本身，状态由使用者带着走。"""
    state = None

    def step(x):
        nonlocal state
        y, state = lstm(x[None], state)
        return y[0]

    def reset():
        nonlocal state
        state = None

    return race.Engine("NumPy（lstm_lib.LSTM）", False, lambda x: lstm(x)[0], step, reset, ours=True)


def check(engines, x):
    """先确认大家算的是同一个东西，再比快慢。"""
    expected = engines[0].sequence(x)
    for engine in engines:
        if engine.sequence is not None:
            np.testing.assert_allclose(engine.sequence(x).reshape(expected.shape), expected, atol=1e-4)
        engine.reset()
        for t in range(5):
            np.testing.assert_allclose(np.ravel(engine.step(x[t].copy())), expected[t], atol=1e-4)
        engine.reset()


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="轮流多少轮，缺省 30")
    parser.add_argument("--frames", type=int, default=1000, help="整段有多少帧，缺省 1000")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lstm = LSTM.from_torch(torch.nn.LSTM(256, 257))
    engines = [numpy_engine(lstm), *race.build(lstm, RIVALS)]
    x = np.random.default_rng(0).standard_normal((args.frames, 256)).astype(np.float32)
    check(engines, x)
    results, rows = race.race(engines, x, args.rounds), []
    for k, engine in enumerate(engines):
        row = [engine.name]
        for kind, unit in (("step", 1e-6), ("sequence", 1e-3)):
            times = results[kind]
            if np.isnan(times[k]).any():
                row += ["—", "—"]
            else:
                row += [f"{np.median(times[k]) / unit:.1f}", f"{np.median(times[0] / times[k]):.2f}"]
        rows.append(row)
    header = ["引擎", "一帧带状态，μs", "NumPy ÷ 它", f"{args.frames} 帧，ms", "NumPy ÷ 它"]
    print(Table(header, rows, "LSTM(256, 257)，float32，单线程，中位数"))


if __name__ == "__main__":
    main()
