"""训练的内存与语料大小无关：100 个文件与 10 000 个文件，峰值内存并排。

用法：``python -m bench.training_memory [--files 100 10000]``。在临时文件夹里造出语料，各训练一小段
（另开进程），读主进程与工作进程的峰值常驻内存；对照一列是语料本身的大小。
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

SECONDS = 4.0
RATE = 16000


def make_corpus(root: Path, files: int) -> int:
    """一半语音一半噪声，每个 ``SECONDS`` 秒；返回总字节数。"""
    root.mkdir(parents=True)
    blobs = {}
    for seed, role in enumerate(("speech", "noise")):
        wave = np.random.default_rng(seed).normal(0, 0.1, int(SECONDS * RATE))
        soundfile.write(root / "first.wav", wave, RATE)
        blobs[role] = bytearray((root / "first.wav").read_bytes())
    (root / "first.wav").unlink()
    for number in range(files // 2):
        for role, blob in blobs.items():
            folder = root / (f"speech/spk{number % 50:03d}" if role == "speech" else role)
            folder.mkdir(parents=True, exist_ok=True)
            blob[-4:] = number.to_bytes(4, "little")  # 各写各的：同一段声音会被认出来
            (folder / f"{number:06d}.wav").write_bytes(blob)
    return files // 2 * 2 * len(blob)


def measure(root: Path, workers: int, steps: int) -> dict:
    """另开一个进程训练，返回它与它的工作进程的峰值内存（MB）。"""
    code = [sys.executable, "-m", "bench.training_memory", "--child", str(root)]
    code += ["--workers", str(workers), "--steps", str(steps)]
    result = subprocess.run(code, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"训练失败：{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def child(root: Path, workers: int, steps: int) -> None:
    import torch

    from lstm_lib.training import loop, sources

    torch.set_num_threads(1)
    data = sources.Sources(speech=[root / "speech"], noise=[root / "noise"])
    settings = loop.Settings(epochs=1, steps=steps, batch=16, seconds=2.0, valid_segments=32)
    loop.train(data, settings, root / "run", "cpu", workers=workers, tensorboard="off", say=lambda *_: None)
    peak = {
        who: resource.getrusage(getattr(resource, f"RUSAGE_{who}")).ru_maxrss for who in ("SELF", "CHILDREN")
    }
    scale = 1024 if sys.platform != "darwin" else 1024 * 1024  # Linux 以 KB 计，macOS 以字节计
    print(json.dumps({who: value / scale for who, value in peak.items()}))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[100, 10_000], help="各用多少个文件")
    parser.add_argument("--workers", type=int, default=1, help="工作进程数")
    parser.add_argument("--steps", type=int, default=20, help="训练多少步")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(Path(args.child), args.workers, args.steps)
        return
    from lstm_lib.book.tables import Table

    rows = []
    for files in args.files:
        with tempfile.TemporaryDirectory() as folder:
            size = make_corpus(Path(folder) / "corpus", files)
            peak = measure(Path(folder) / "corpus", args.workers, args.steps)
        rows.append([files, size / 1e6, round(peak["SELF"]), round(peak["CHILDREN"])])
    print(Table(["文件数", "语料 (MB)", "主进程峰值 (MB)", "工作进程峰值 (MB)"], rows))


if __name__ == "__main__":
    main()
