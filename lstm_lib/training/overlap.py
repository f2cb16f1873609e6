"""同一段声音不该有两个角色：又当语音又当噪声，又在训练里又在验证里。

先认文件（同一路径、符号链接、硬链接都是同一个），再认内容：时长与采样率相同的才读一小段来比，
这一段也相同的才整个比。名字、格式（wav 与 flac）不同的拷贝也认得出；数字静音不算相同。
"""

import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from soundfile import SoundFileError

from lstm_lib.enhance.audio import open_audio
from lstm_lib.training.folders import AudioFile

PROBE = 4096  # 先比正中间的这么多样点：不同的录音几乎总在这里就分出来
BLOCK = 1 << 20
NAMED = 3  # 消息里举几个例子


def same_sound(first: list[AudioFile], second: list[AudioFile]) -> list[tuple[AudioFile, AudioFile]]:
    """``second`` 里的每个文件，若与 ``first`` 里的某个是同一个文件或内容逐样点相同，给出（那一个, 它）。

    每个文件至多一次，按 ``second`` 的次序。读不了的文件不算相同：它们另有去处。
    """
    known = {_identity(f): f for f in first}
    found = {f.path: known[i] for f in second if (i := _identity(f)) in known}
    rest = [f for f in second if f.path not in found]
    lengths = {_length(f) for f in first} & {_length(f) for f in rest}
    mine, others = ([f for f in files if _length(f) in lengths] for files in (first, rest))
    with ThreadPoolExecutor(8) as pool:
        for key in (_probe, _whole):  # 前一样相同的，才值得比后一样
            by_key = defaultdict(list)
            for file, value in zip(mine, pool.map(key, mine), strict=True):
                by_key[_length(file), value].append(file)
            pairs = [
                (by_key[_length(file), value], file)
                for file, value in zip(others, pool.map(key, others), strict=True)
                if value is not None and (_length(file), value) in by_key
            ]
            others = [file for _, file in pairs]
            mine = list({f.path: f for files, _ in pairs for f in files}.values())
    found |= {file.path: files[0] for files, file in pairs}
    return [(found[f.path], f) for f in second if f.path in found]


def same_partners(pairs: list[tuple[AudioFile, AudioFile]]) -> list[tuple[AudioFile, AudioFile]]:
    """一对对里，两个是同一个文件或内容逐样点相同的那些。"""
    found = [p for p in pairs if _identity(p[0]) == _identity(p[1])]
    known = {one.path for one, _ in found}
    rest = [p for p in pairs if p[0].path not in known and _length(p[0]) == _length(p[1])]
    with ThreadPoolExecutor(8) as pool:
        for key in (_probe, _whole):
            values = pool.map(lambda p, k=key: (k(p[0]), k(p[1])), rest)
            rest = [p for p, (a, b) in zip(rest, values, strict=True) if a is not None and a == b]
    return found + rest


def listed(pairs) -> str:
    """几对相同的文件写成一句：个数与前几个的名字。"""
    shown = "；".join(
        one.path if one.path == other.path else f"{other.path} 与 {one.path}" for one, other in pairs[:NAMED]
    )
    return f"{len(pairs)} 个文件（{shown}{'……' if len(pairs) > NAMED else ''}）"


def _identity(file: AudioFile):
    try:
        status = os.stat(file.path)
    except OSError:
        return file.path
    return (status.st_dev, status.st_ino)


def _length(file: AudioFile):
    return (file.frames, file.sample_rate)


def _probe(file: AudioFile):
    """正中间一小段的散列；读不了是 None。"""
    try:
        with open_audio(file.path) as stream:
            stream.seek(max(0, (file.frames - PROBE) // 2))
            block = stream.read(PROBE, dtype="float32", always_2d=True)
    except (OSError, ValueError, SoundFileError):
        return None
    return hashlib.sha256(block.mean(axis=1).tobytes()).digest()


def _whole(file: AudioFile):
    """全部样点的散列；读不了，或全是零，是 None。"""
    digest, silent = hashlib.sha256(), True
    try:
        with open_audio(file.path) as stream:
            while len(block := stream.read(BLOCK, dtype="float32", always_2d=True)):
                digest.update(block.mean(axis=1).tobytes())
                silent = silent and not block.any()
    except (OSError, ValueError, SoundFileError):
        return None
    return None if silent else digest.digest()
