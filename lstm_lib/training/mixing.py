"""混出成对的（纯净、带噪）文件，供 evaluate 打分、train 验证：同一份参数与种子，混出的总是一样。"""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lstm_lib.enhance.audio import write_audio
from lstm_lib.files import os_reason, tidy_folders
from lstm_lib.training import sources
from lstm_lib.training.dataset import Segments
from lstm_lib.training.folders import DataError, check_bad
from lstm_lib.waves import SAMPLE_RATE

PEAK = 0.98  # 削顶的声音不是加性噪声：峰值太高就两路一起压低


def mix(data, out, count: int, seconds: float, snrs, level_db, seed: int, progress=iter, say=print) -> None:
    """在 ``out``（还没有，或是空的）里写 ``clean`` 与 ``noisy`` 两个文件夹，各 ``count`` 个同名的 wav。

    信噪比 ``snrs`` 轮着用，写在文件名里；每个 ``seconds`` 秒，短的语音同一个人的接起来，噪声不够长就绕回来。
    要么整个文件夹出现，要么什么也没有。数据有问题时是 ``ValueError``，写不了是 ``OSError``。
    """
    found = sources.whole(data)
    for line in found.report:
        say(line)
    for bad in found.bad[:5]:
        say(f"跳过 {bad.path}：{bad.reason}")
    length, out = round(seconds * SAMPLE_RATE), Path(os.path.realpath(out))  # 符号链接写到它指向的那一边
    segments = [Segments(found.train, length, (snr, snr), level_db, seed, join=True) for snr in snrs]
    there = out.is_dir()  # 已经有的文件夹留着，只往里放：它可能是挂载点，也可能正是当前目录
    unreadable = {}
    with tidy_folders(out), _beside(out if there else out.parent, out) as temporary:
        for side in ("clean", "noisy"):
            (temporary / side).mkdir()
        for n in progress(range(count)):
            noisy, clean, failed, problem = segments[n % len(snrs)][n]
            unreadable.update(failed)
            if problem:
                raise DataError(problem)
            check_bad([*found.bad, *unreadable], found.train.files, data.max_bad, "语音与噪声")
            gain = min(1.0, PEAK / max(np.abs(noisy).max(), np.abs(clean).max()))
            name = f"{n + 1:0{len(str(count))}d}_{snrs[n % len(snrs)]:+g}dB.wav"
            for side, wave in (("clean", clean), ("noisy", noisy)):
                # 浮点的 wav 头里有写的时刻，同样的命令字节就不同
                write_audio(temporary / side / name, gain * wave, subtype="PCM_24")
        if there:
            _move_in(temporary, out)
        else:
            os.chmod(temporary, 0o755)
            os.replace(temporary, out)


@contextmanager
def _beside(parent: Path, out: Path):
    """``parent`` 里的一个临时文件夹，用完就删；里面写不成时，消息里说的是 ``out``。"""
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".mix-"))
    try:
        yield temporary
    except OSError as error:
        raise OSError(os_reason(error).replace(str(temporary), str(out))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_in(temporary: Path, out: Path) -> None:
    """两个文件夹搬进 ``out``，要么都在，要么都不在。"""
    sides = [path.name for path in sorted(temporary.iterdir())]
    try:
        for side in sides:
            os.replace(temporary / side, out / side)
    except OSError:
        for side in sides:
            if not (temporary / side).exists():
                shutil.rmtree(out / side, ignore_errors=True)
        raise
