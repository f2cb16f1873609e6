"""给随书的网络打分，写进 lstm_lib/weights/scores.json：换了权重之后运行。

python tools/shipped_scores.py --group "名字" 文件夹… [--group …]
每个文件夹里要有 clean 与 noisy 两个子文件夹，文件按名字配对（mix 命令就这样写）。装了 pyrnnoise 的话一同打分。
"""

import json
import re
from pathlib import Path

import numpy as np

from lstm_lib import StreamingEnhancer
from lstm_lib.cli import ChineseParser
from lstm_lib.engines import chain
from lstm_lib.enhance import audio, classical, irm, rnnoise
from lstm_lib.enhance.scores import si_sdr, stoi
from lstm_lib.enhance.trained import SHIPPED, SHIPPED_SHA256, load_shipped
from lstm_lib.files import atomic_path


def methods():
    """方法的名字 → 带噪 (N,) 变成增强 (N,) 的函数。"""
    network = load_shipped()
    found = {"带噪": lambda noisy: noisy}
    found |= dict(list(classical.METHODS.items())[:1])
    if not rnnoise.why_not():
        found["RNNoise"] = rnnoise.denoise
    found["随书的网络"] = lambda noisy: irm.enhance(network, noisy)
    found["随书的网络，int8"] = StreamingEnhancer(chain(network, "c-int8"))
    return found


def score(folders, run):
    """一种方法在几个文件夹上的平均，先在每个文件夹里平均（一个文件夹是一种噪声）。"""
    rows = []
    for folder in folders:
        pairs = []
        for noisy in sorted((folder / "noisy").iterdir()):
            clean = audio.read_audio(folder / "clean" / noisy.name)
            enhanced = run(audio.read_audio(noisy))
            pairs.append((si_sdr(clean, enhanced), stoi(clean, enhanced)))
        rows.append(np.mean(pairs, axis=0))
    level, clear = np.mean(rows, axis=0)
    return {"si_sdr": round(float(level), 2), "stoi": round(float(clear), 4)}


def main():
    parser = ChineseParser(prog="python tools/shipped_scores.py", description=__doc__)
    parser.add_argument("--group", nargs="+", action="append", required=True, metavar=("名字", "文件夹"))
    groups = {}
    for name, *folders in parser.parse_args().group:
        if not folders:
            parser.error(f"--group {name}：后面要写文件夹")
        for folder in map(Path, folders):
            if not (folder / "noisy").is_dir() or not (folder / "clean").is_dir():
                parser.error(f"{folder} 里没有 clean 与 noisy 两个子文件夹")
        groups[name] = {title: score(list(map(Path, folders)), run) for title, run in methods().items()}
    publish(groups)


def publish(groups):
    """得分写进 scores.json，表写进 README.md 里“得分”那一节。"""
    target = SHIPPED.with_name("scores.json")
    with atomic_path(target) as temporary:
        text = json.dumps({"sha256": SHIPPED_SHA256, "groups": groups}, ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    rows = ["| 测试集 | 方法 | SI-SDR（dB） | STOI |", "|---|---|---|---|"]
    for group, found in groups.items():
        for name, row in found.items():
            rows.append(f"| {group} | {name} | {row['si_sdr']:.2f} | {row['stoi']:.3f} |")
    card = SHIPPED.with_name("README.md")
    text = card.read_text(encoding="utf-8")
    table = "\n".join(rows) + "\n"
    text, found = re.subn(r"(?<=\n\n)\| 测试集 .*?\n(?=\n)", table, text, count=1, flags=re.S)
    if not found:
        raise SystemExit(f"错误：{card} 里没有以“| 测试集”开头的表")
    text = re.sub(r"`[0-9a-f]{64}`", f"`{SHIPPED_SHA256}`", text)
    with atomic_path(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"已写出 {target} 与 {card}")


if __name__ == "__main__":
    main()
