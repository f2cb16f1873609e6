"""随机片段：从磁盘上现读现混，什么也不整个装进内存。

第 n 个片段完全由（种子, n）决定：与工作进程的个数、分布式的份数、从哪里接着跑都无关。
这样“采样器的状态”只剩一个整数，断点续训与多机训练的结果都能与一气呵成的单机训练对上。
"""

import functools
import math
import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from soundfile import SoundFileError
from torch.utils.data import Dataset, Sampler

from lstm_lib.enhance.audio import AudioError, check_samples, open_audio, read_audio, resample, said
from lstm_lib.training import augment
from lstm_lib.waves import BLOCK, SAMPLE_RATE, scale_noise

SILENCE = 1e-4  # 均方根低于 -80 dBFS 的片段不用：SI-SDR 在静音上没有定义
TRIES = 50
SHORT = 60 * SAMPLE_RATE  # 压缩的文件不超过这么长，就整个解码、留在内存里
DECODED = 5000  # 每个进程至多留这么多个
MARGIN = 320  # 重采样时两边多读 20 毫秒，免得片段的头尾带上滤波器的边缘效应


class FileTable:
    """文件表：路径连成一整块字节，其余是数组；百万个文件约 100 MB，且在工作进程之间共享。

    Python 的字符串列表做不到这一点：引用计数一动，写时复制的内存页就各复制一份。
    """

    def __init__(self, paths, frames, rates, groups=None, factors=1.0):
        encoded = [os.fsencode(p) for p in paths]
        self.names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        self.frames = np.asarray(frames, dtype=np.int64)
        self.rates = np.asarray(rates, dtype=np.int64)
        self.groups = np.arange(len(encoded)) if groups is None else np.asarray(groups, dtype=np.int64)
        self.cumulative = np.cumsum(self.frames / self.rates * factors)

    @classmethod
    def of(cls, files, factors=1.0):
        """由 :class:`~lstm_lib.training.folders.AudioFile` 的列表造表；``factors`` 是各文件每秒声音的权重。"""
        order = {group: k for k, group in enumerate(dict.fromkeys(f.group for f in files))}
        return cls(
            [f.path for f in files],
            [f.frames for f in files],
            [f.sample_rate for f in files],
            [order[f.group] for f in files],
            factors,
        )

    def __len__(self):
        return len(self.ends)

    @property
    def seconds(self) -> float:
        return float(np.sum(self.frames / self.rates)) if len(self) else 0.0

    def path(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.names[start : self.ends[index]].tobytes())

    def length(self, index: int) -> int:
        """换成 16 kHz 后的样点数。"""
        return int(self.frames[index] * SAMPLE_RATE // self.rates[index])

    def draw(self, rng) -> int:
        """按时长（与文件夹的权重）抽一个文件：同一份权重里，每一秒声音被抽到的机会相同。"""
        return int(
            np.searchsorted(self.cumulative, rng.uniform(0, self.cumulative[-1]), side="right").clip(
                0, len(self) - 1
            )
        )

    def read(self, index: int, start: int, length: int) -> np.ndarray:
        """读第 ``index`` 个文件从 ``start`` 起的 ``length`` 个 16 kHz 样点；文件不够长处补零。"""
        path, available = self.path(index), self.length(index)
        if path.lower().endswith(COMPRESSED) and available <= SHORT:
            wave = decoded(path)[start : start + length]
            return np.pad(wave, (0, length - len(wave)))
        return read_segment(self.path(index), int(self.frames[index]), int(self.rates[index]), start, length)


COMPRESSED = (".mp3", ".ogg")  # 从半中间读起又慢又未必准


@functools.lru_cache(maxsize=DECODED)
def decoded(path: str) -> np.ndarray:
    """整个解码成 16 kHz 单声道 float32；短的压缩文件用它，免得每取一段都从头解起。"""
    with warnings.catch_warnings():  # 文件头与内容不合的，扫描时说过了
        warnings.simplefilter("ignore")
        return read_audio(path)


def read_segment(path, frames: int, rate: int, start: int, length: int) -> np.ndarray:
    """只读文件的一小段，得到 16 kHz 单声道 float32 (length,)；``start`` 以 16 kHz 样点计，多声道取平均。

    文件不见了、读不动、比登记的短、含 NaN：``OSError`` 或 :class:`~lstm_lib.enhance.audio.AudioError`。
    """
    common = math.gcd(rate, SAMPLE_RATE)
    source_step, target_step = rate // common, SAMPLE_RATE // common
    margin = 0 if rate == SAMPLE_RATE else -(-MARGIN // target_step)
    first = max(0, start // target_step - margin)
    last = -(-(start + length) // target_step) + margin
    source_start = first * source_step
    wanted = max(0, min(last * source_step, frames) - source_start)
    with open_audio(path) as file:
        try:
            skipped = _skip(file, source_start)
            samples = file.read(wanted, dtype="float32", always_2d=True)
        except SoundFileError as error:
            raise AudioError(f"{path} 读到一半出错，文件可能损坏。底层的说法：{said(error)}") from error
    if len(samples) < wanted:
        raise AudioError(
            f"{path} 比开始训练时短了（文件变了，或文件头说多了）：要读到第 {source_start + wanted} 个样点，"
            f"只有 {skipped + len(samples)} 个。"
        )
    wave = resample(check_samples(samples, path, source_start).mean(axis=1), rate)
    wave = wave[start - first * target_step :][:length]
    return np.pad(wave, (0, length - len(wave))).astype(np.float32, copy=False)


def _skip(file, frames: int) -> int:
    """略过开头的 ``frames`` 个样点，返回真略过了几个；GSM、G.721 之类跳不得，从头解过去。"""
    if file.seekable():
        return file.seek(frames)
    left = frames
    while left and (got := len(file.read(min(left, BLOCK), dtype="float32"))):
        left -= got
    return frames - left


FIELDS = ("names", "ends", "frames", "rates", "groups", "cumulative")


@dataclass
class Corpus:
    """一份数据：现场混合用的语音与噪声，以及已经配好对的纯净与带噪（逐项对应）；不用的为空表。"""

    speech: FileTable
    noise: FileTable
    clean: FileTable
    noisy: FileTable

    @property
    def seconds(self) -> float:
        return self.speech.seconds + self.clean.seconds

    @property
    def files(self) -> int:
        return sum(len(t) for t in (self.speech, self.noise, self.clean, self.noisy))

    def save_arrays(self, prefix: str) -> dict:
        return {
            f"{prefix}.{name}.{field}": getattr(getattr(self, name), field)
            for name in ("speech", "noise", "clean", "noisy")
            for field in FIELDS
        }

    @classmethod
    def from_arrays(cls, arrays, prefix: str):
        tables = []
        for name in ("speech", "noise", "clean", "noisy"):
            table = FileTable.__new__(FileTable)
            for field in FIELDS:
                setattr(table, field, arrays[f"{prefix}.{name}.{field}"])
            tables.append(table)
        return cls(*tables)


class Segments(Dataset):
    """片段数据集：``segments[n] -> (带噪, 纯净, 读不了的文件, 难题)``，波形都是 float32 (length,)。

    ``snr_db``、``level_db``：信噪比与带噪语音电平（dBFS，均方根）的范围，均匀抽取；成对的数据自有信噪比，只改电平。
    ``level_db`` 为 None 时不改电平。``augment`` 见 :mod:`lstm_lib.training.augment`；``join`` 只把短的语音接起来。
    读不了的文件换一个再抽，并把（路径, 原因）
    交回去，由训练循环计数；怎么抽都不行时，“难题”是说明原因的一句话，平时是 None。
    """

    def __init__(
        self,
        corpus: Corpus,
        length: int,
        snr_db=(-5.0, 15.0),
        level_db=(-35.0, -15.0),
        seed: int = 0,
        augment: bool = False,
        join: bool = False,
    ):
        self.corpus, self.length, self.seed = corpus, length, seed
        self.augment, self.join = augment, join
        self.snr_db, self.level_db = snr_db, level_db

    def __getitem__(self, n: int):
        rng = np.random.default_rng([self.seed, n])
        failed, problem = (
            [],
            f"一连抽了 {TRIES} 段都是静音（低于 -80 dBFS）；请检查语音与噪声文件里是否真有声音。",
        )
        for _ in range(TRIES):
            try:
                noisy, clean = self._draw(rng)
            except _Unreadable as error:
                failed.append(error.args)
                problem = f"一连 {TRIES} 次没有读到能用的片段；最近一次：{error.args[1]}"
                continue
            if noisy is not None:
                return noisy, clean, failed, None
        # 在工作进程里抛异常，主进程看到的是一大段回溯；交一句话回去，由主进程来抛
        silence = np.zeros(self.length, np.float32)
        return silence, silence, failed, problem

    def _draw(self, rng):
        corpus = self.corpus
        # 两种数据都有时，按时长决定这一段取自哪一种
        if rng.uniform(0, corpus.seconds) < corpus.speech.seconds:
            clean, noise = self._varied(rng) if self.augment else self._plain(rng)
            if _rms(clean) < SILENCE or _rms(noise) < SILENCE:
                return None, None
            noisy = clean + scale_noise(clean, noise, rng.uniform(*self.snr_db))
        else:
            index = corpus.clean.draw(rng)
            start = _random_start(corpus.clean.length(index), self.length, rng)
            clean = _read(corpus.clean, index, start, self.length)
            noisy = _read(corpus.noisy, index, start, self.length)
            if _rms(clean) < SILENCE or _rms(noisy) < SILENCE:
                return None, None
        if self.level_db is not None:
            gain = 10 ** (rng.uniform(*self.level_db) / 20) / _rms(noisy)
            noisy, clean = noisy * gain, clean * gain
        return noisy.astype(np.float32), clean.astype(np.float32)

    def _plain(self, rng):
        """语音与噪声各一段，原样。"""
        speech, noise = self.corpus.speech, self.corpus.noise
        if self.join:
            clean = _joined(speech, self.length, rng)
        else:
            clean = _segment(speech, speech.draw(rng), self.length, rng)
        return clean, _looped(noise, noise.draw(rng), self.length, rng)

    def _varied(self, rng):
        """语音与噪声各一段，各自随机变过；噪声有时是两个叠起来的。"""
        speech, noise = self.corpus.speech, self.corpus.noise
        clean = augment.changed(lambda m: _joined(speech, m, rng), self.length, augment.SPEECH, rng)

        def draw():
            return augment.changed(
                lambda m: _looped(noise, noise.draw(rng), m, rng), self.length, augment.NOISE, rng
            )

        mixed = draw()
        if rng.uniform() < augment.BLEND:
            second = draw()
            balance = 10 ** (rng.uniform(-12, 6) / 20)
            mixed = mixed + second * (balance * _rms(mixed) / max(_rms(second), SILENCE))
        return clean, mixed


def _segment(table, index, length, rng):
    return _read(table, index, _random_start(table.length(index), length, rng), length)


def _looped(table, index, length, rng):
    """不够长就首尾相接。"""
    available = table.length(index)
    if available >= length:
        return _segment(table, index, length, rng)
    wave = _read(table, index, 0, max(available, 1))
    return np.resize(np.roll(wave, int(rng.integers(len(wave)))), length)


def _joined(table, length, rng):
    """一段语音；文件不够长的，接上同一组（说话人）的别的文件。"""
    index = table.draw(rng)
    if table.length(index) >= length:
        return _segment(table, index, length, rng)
    same = np.flatnonzero(table.groups == table.groups[index])
    order = iter([index])

    def piece():
        chosen = next(order, None)
        chosen = int(rng.choice(same)) if chosen is None else chosen
        return _read(table, chosen, 0, min(max(table.length(chosen), 1), length))

    return augment.joined(piece, length, rng)


class _Unreadable(Exception):
    pass


def _read(table, index, start, length):
    try:
        return table.read(index, start, length)
    except (OSError, ValueError) as error:
        path = table.path(index)
        raise _Unreadable(path, str(error).removeprefix(path).strip()) from error


def _random_start(available, length, rng):
    return int(rng.integers(max(available - length, 0) + 1))


def _rms(wave):
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def collate(items):
    """一批片段 → (带噪 (B,N), 纯净 (B,N), 读不了的文件, 难题)。"""
    noisy, clean, failed, problems = zip(*items, strict=True)
    noisy, clean = (torch.from_numpy(np.stack(waves)) for waves in (noisy, clean))
    return noisy, clean, [f for each in failed for f in each], next(filter(None, problems), None)


class ShardedBatches(Sampler):
    """第 ``epoch`` 轮的批次；``rank`` 只取每个全局批次里属于自己的那一段。

    全局第 s 批总是片段 [s·B, (s+1)·B)：份数 ``world`` 变了，全局批次的内容不变。
    """

    def __init__(self, steps: int, batch_size: int, rank: int = 0, world: int = 1):
        self.steps, self.batch_size, self.rank, self.world = steps, batch_size, rank, world
        self.epoch = 0

    def __len__(self):
        return self.steps

    def __iter__(self):
        share = self.batch_size // self.world
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            first = step * self.batch_size + self.rank * share
            yield list(range(first, first + share))
