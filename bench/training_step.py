"""训练一步要多久：线程几个、等待时空转还是睡下，机器空闲与旁边有别的程序时各量一遍。

用法：``python -m bench.training_step [--steps 40] [--busy 0 1 3]``。每一行另开一个进程（等待的方式要赶在 torch 载入
之前定下），先走 5 步热身。``--busy`` 是旁边同时空转的进程数；请在机器空闲时跑。
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time

from lstm_lib.threads import EAGER, PATIENT

WAITING = {
    "空转": {},  # OpenMP 的缺省
    "转一会儿再睡": EAGER,
    "睡下": PATIENT,
}
WARM_UP = 5


def child(threads: int, steps: int) -> None:
    """在这个进程里走 ``steps`` 步，打印各步的毫秒数与权重的指纹。"""
    import torch

    from lstm_lib import corpus
    from lstm_lib.enhance import irm, recipe

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = irm.IRMNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batches, times = recipe.Batches(corpus.training_data(progress=False), recipe.Recipe()), []
    for _ in range(steps + WARM_UP):
        started = time.perf_counter()
        clean, noisy = batches()
        recipe.training_step(network, optimizer, clean, noisy, network.config, clip=1.0)
        times.append((time.perf_counter() - started) * 1e3)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters()))
    print(json.dumps({"times": times[WARM_UP:], "digest": digest.hexdigest()[:8]}))


def measure(waiting: dict, threads: int, steps: int) -> dict:
    command = [sys.executable, "-m", "bench.training_step", "--child", str(threads), "--steps", str(steps)]
    done = subprocess.run(command, env=os.environ | waiting, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="量多少步，缺省 40")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 3], help="旁边空转的进程数，缺省 0 1 3")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1], help="线程数")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, args.steps)
        return
    import numpy as np

    from lstm_lib.book.tables import Table

    rows = []
    for busy in args.busy:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for threads in args.threads:
                for name, waiting in WAITING.items() if threads > 1 else [("不用等", {})]:
                    result = measure(waiting, threads, args.steps)
                    low, middle, high = np.percentile(result["times"], [10, 50, 90])
                    row = [busy, threads, name, middle, f"{low:.0f}–{high:.0f}", np.mean(result["times"])]
                    rows.append([*row, result["digest"]])
        finally:
            for process in others:
                process.kill()
                process.wait()
    header = ["旁边的程序", "线程", "等待时", "中位数，ms", "10%–90%", "平均，ms", "权重的指纹"]
    print(Table(header, rows, "训练一步（16 段 × 63 帧）"))


if __name__ == "__main__":
    main()
