"""把训练用的语音与噪声写成 wav：``python -m lstm_lib.corpus.wide_build 输出目录``。

由 :func:`lstm_lib.corpus.training_folders` 在新进程里调用；种子固定，同一台机器上每次做出的都一样。
"""

import sys
from pathlib import Path

import numpy as np
import soundfile

from lstm_lib import corpus
from lstm_lib.corpus.build import TRAIN_VOICES, to_int16
from lstm_lib.corpus.wide import WIDE
from lstm_lib.waves import SAMPLE_RATE, write_blocks

CLIPS = 60  # 每族几段
LENGTH = 8 * SAMPLE_RATE


def build(folder: Path, progress=lambda fraction: None) -> None:
    """写进 ``folder``（已存在的空目录）的 speech 与 noise。"""
    data = corpus.training_data(progress=False)
    for k, part in enumerate(np.array_split(data.speech, len(TRAIN_VOICES))):
        write(folder / "speech" / f"{k:02d}.wav", part)
    for k, (wave, kind) in enumerate(zip(data.noise, data.kinds, strict=True)):
        if kind not in WIDE:  # 书中的语料也有几段，下面的更多、更长
            write(folder / "noise" / kind / f"{k:03d}.wav", wave)
    for number, (kind, make) in enumerate(WIDE.items()):
        for k in range(CLIPS):
            write(
                folder / "noise" / kind / f"{k:03d}.wav",
                to_int16(make(np.random.default_rng([9, number, k]), LENGTH)),
            )
            progress((number + (k + 1) / CLIPS) / len(WIDE))


def write(path: Path, wave: np.ndarray) -> None:
    """int16 波形写成 16 kHz 的 wav。"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as sink:
        write_blocks(sink, wave)


if __name__ == "__main__":
    build(Path(sys.argv[1]), lambda fraction: print(f"{fraction:.3f}", flush=True))
