"""建书之前先说大约要多久：训练的一步当场量，别的按这台机器眼下的快慢，从量过的一次建书折算。

另起一个进程去量（``python _ext/book_estimate.py``），torch 便不必留在 Sphinx 的进程里；量的是等候的时间，
别的程序正忙着时，估计也就长一些。
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lstm_lib.threads import waiting

FEW = 3  # 没有几章要执行，就不必估
# 量过的一次建书（两核，空闲），秒
REFERENCE_PROBE = 0.09  # probe() 的用时
CORPUS = 20.0  # 合成语料，连同载入
CHAPTER = 19.0  # 执行一章，平均，连同启动内核
PAGES = 22.0  # 其余：估计本身、读写各页、搜索索引、Netron


def announce(notebooks, workers, say) -> None:
    """``notebooks`` 是要执行的笔记本；``say`` 收一句话。量不出来就不估，建书照常。"""
    if len(notebooks) < FEW:
        return
    try:
        facts = calibrate()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        say(f"估不出要多久（{error}），照常建书。")
        return
    for line in sentences(facts, len(notebooks), workers):
        say(line)


def sentences(facts: dict, chapters: int, workers: int) -> list[str]:
    """由量得的结果写出的话。"""
    slowness = facts["probe"] / REFERENCE_PROBE
    parts, total = [], PAGES * slowness
    if facts["corpus"]:
        parts.append((f"合成语料约 {spoken(CORPUS * slowness)}", CORPUS * slowness))
    if facts["steps"]:
        training = facts["steps"] * facts["step"]
        text = f"训练 {facts['networks']} 个网络共 {facts['steps']} 步约 {spoken(training)}"
        parts.append((f"{text}（刚量得每步 {facts['step'] * 1e3:.0f} 毫秒）", training))
    seconds = chapters * CHAPTER * slowness / workers
    together = f"（{workers} 个同时）" if workers > 1 else ""
    parts.append((f"执行 {chapters} 个笔记本{together}约 {spoken(seconds)}", seconds))
    total += sum(seconds for _, seconds in parts)
    lines = [f"{'，'.join(text for text, _ in parts)}；连同排版，合计大约 {spoken(total)}。"]
    if slowness > 1.5:
        lines.append(
            f"这台机器眼下比作参照的那台（两核，空闲）慢 {slowness:.1f} 倍；若是别的程序正忙，忙完会快起来。"
        )
    return lines


def spoken(seconds: float) -> str:
    """两位有效数字就够：估计没有那么准。"""
    if seconds < 50:
        return f"{max(5, 5 * round(seconds / 5))} 秒"
    minutes = seconds / 60
    return f"{minutes:.1f} 分钟" if minutes < 3 else f"{minutes:.0f} 分钟"


def calibrate() -> dict:
    """另起一个进程量这台机器；返回 :func:`measure` 的结果。"""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | waiting() | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> dict:
    """缺什么、这台机器多快：一步训练几秒，一段固定的 Python 与 NumPy 几秒。"""
    from lstm_lib import corpus
    from lstm_lib.enhance import trained

    missing = [name for name in trained.RECIPES if not trained.cached_path(name).exists()]
    return {
        "probe": probe(),
        "corpus": not corpus.cached_folder()[1],
        "networks": len(missing),
        "steps": sum(trained.RECIPES[name].steps for name in missing),
        "step": training_step() if missing else 0.0,
    }


def training_step() -> float:
    """走几步真正的训练，数据是随便造的；返回每步的秒数。"""
    from dataclasses import replace

    import numpy as np

    from lstm_lib import corpus
    from lstm_lib.enhance import recipe

    noise = np.random.default_rng(0).integers(-9000, 9000, (2, 200_000)).astype(np.int16)
    kinds = [next(iter(corpus.noises.HEARD)), next(iter(corpus.noises.FAMILIES))]
    data = corpus.TrainingData(noise[0], noise, kinds)
    for steps in (5, 25):  # 头几步在热身，不算
        history = recipe.train(data, replace(recipe.RECIPES["short"], steps=steps), progress=False)[1]
    return history["seconds"] / history["steps"]


def probe() -> float:
    """一段固定的活，三次里的中间一次：一半是 Python 的循环，一半是 NumPy 的小矩阵。"""
    import numpy as np

    weight, times = np.full((256, 256), 1e-3, np.float32), []
    for _ in range(3):
        started = time.perf_counter()
        state = np.ones(256, np.float32)
        for _ in range(4000):
            state = np.tanh(weight @ state)
        sum(k * k % 7 for k in range(1_500_000))
        times.append(time.perf_counter() - started)
    return sorted(times)[1]


if __name__ == "__main__":
    print(json.dumps(measure()))
