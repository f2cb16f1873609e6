"""声音的进出：读写声音文件、重采样、STFT。

全书约定：16 kHz 单声道 float32；512 点 STFT、帧移 256、周期型平方根 Hann 窗，共 257 个频点。
"""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from lstm_lib.files import atomic_path
from lstm_lib.waves import SAMPLE_RATE, as_wave

N_FFT = 512
HOP_LENGTH = 256
BINS = N_FFT // 2 + 1
# 周期型 Hann 的平方根就是半个正弦；分析、合成各乘一次，相邻两帧的窗平方之和恒为 1
_WINDOW = np.sin(np.pi * np.arange(N_FFT) / N_FFT)
WINDOW = _WINDOW.astype(np.float32)

SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16"}


class AudioError(ValueError):
    """声音文件或声音数据有问题；消息说明是哪个文件、哪里不对、怎么办。"""


def stft(wave: np.ndarray) -> np.ndarray:
    """短时傅里叶变换：波形 (N,) → 复数谱 (T, 257)，T = ceil(N/256) + 1。

    首尾各补零，第 t 帧覆盖样点 [256(t-1), 256(t+1))，因此每个样点都恰好落在两帧里。
    float32 输入得 complex64，float64 输入得 complex128。
    """
    wave = as_wave(wave)
    frames = -(-len(wave) // HOP_LENGTH) + 1
    padded = np.zeros((frames + 1) * HOP_LENGTH, dtype=wave.dtype)
    padded[HOP_LENGTH : HOP_LENGTH + len(wave)] = wave
    return np.fft.rfft(sliding_window_view(padded, N_FFT)[::HOP_LENGTH] * _WINDOW.astype(wave.dtype), axis=-1)


def istft(spectrum: np.ndarray, length: int) -> np.ndarray:
    """逆变换：复数谱 (T, 257) → 波形 (length,)，加窗后重叠相加；与 :func:`stft` 精确互逆。"""
    spectrum = np.asarray(spectrum)
    if spectrum.ndim != 2 or spectrum.shape[1] != BINS:
        raise ValueError(f"谱的形状应为 (T, {BINS})，实际是 {spectrum.shape}。")
    if not 0 <= length <= (len(spectrum) - 1) * HOP_LENGTH:
        raise ValueError(
            f"{len(spectrum)} 帧最多还原 {(len(spectrum) - 1) * HOP_LENGTH} 个样点，要不出 {length} 个。"
        )
    frames = np.fft.irfft(spectrum, n=N_FFT, axis=-1)
    frames *= _WINDOW.astype(frames.dtype)
    # 每帧的后半与下一帧的前半相加；最前面的半帧在信号之外，不要
    return (frames[:-1, HOP_LENGTH:] + frames[1:, :HOP_LENGTH]).reshape(-1)[:length]


def open_audio(path) -> soundfile.SoundFile:
    """打开声音文件（用完要 ``close`` 或放在 ``with`` 里）；打不开时给出中文的 :class:`AudioError`。

    文件不存在时是 ``FileNotFoundError``，没有权限时是 ``PermissionError``。
    """
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path} 是文件夹，这里要的是一个声音文件（wav、flac 等）。")
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError:
        raise FileNotFoundError(f"找不到声音文件 {path}；请检查路径。") from None
    except PermissionError:
        raise PermissionError(f"没有权限读声音文件 {path}。") from None
    if empty:
        raise AudioError(f"{path} 是空文件（0 字节），里面没有声音；多半是录音或下载没有完成。")
    try:
        name = str(path)
        # 文件名不是 UTF-8（如 GBK）时要给字节，否则 soundfile 编码不了
        return soundfile.SoundFile(name if name.isprintable() or os.name == "nt" else os.fsencode(path))
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(
            f"{path} 不是能识别的声音文件（看内容，不看扩展名）；请换成 wav 或 flac。底层的说法：{error}"
        ) from error


def check_samples(samples: np.ndarray, path, start: int = 0) -> np.ndarray:
    """样点里有 NaN 或无穷大时报错，说明文件与位置；``start`` 是这一块在文件里的起点。"""
    bad = ~np.isfinite(samples)
    if bad.any():
        first = start + int(np.argmax(bad.reshape(len(samples), -1).any(axis=1)))
        raise AudioError(f"{path} 的第 {first} 个样点是 NaN 或无穷大；请检查产生这个文件的程序，修好再来。")
    return samples


def resample(wave: np.ndarray, rate: float, target: float = SAMPLE_RATE) -> np.ndarray:
    """用 soxr 重采样到 ``target`` Hz；采样率相同时原样返回。"""
    return wave if rate == target else soxr.resample(wave, rate, target)


def read_audio(path) -> np.ndarray:
    """读声音文件，得到 16 kHz 单声道 float32 波形 (N,)。

    别的采样率用 soxr 转换，多声道取平均，16/24/32 位整数与浮点样点都归到 ±1 为满幅。
    空文件、不是声音的文件、没有样点、含 NaN 或无穷大：:class:`AudioError`，消息里有文件名。
    """
    with open_audio(path) as file:
        rate = file.samplerate
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{path} 读到一半出错，文件可能损坏。底层的说法：{error}") from error
    if len(samples) == 0:
        raise AudioError(f"{path} 里一个样点也没有（时长为 0）；请换一个有声音的文件。")
    wave = check_samples(samples, path).mean(axis=1)
    wave = resample(wave, rate)
    if len(wave) == 0:
        raise AudioError(f"{path} 太短，换成 {SAMPLE_RATE} Hz 后不足一个样点。")
    return np.ascontiguousarray(wave, dtype=np.float32)


def write_audio(path, wave: np.ndarray, sample_rate: int = SAMPLE_RATE, subtype: str | None = None) -> None:
    """写声音文件，格式由扩展名定；要么整个文件出现，要么旧文件原样不动。

    ``wave`` 是 (N,) 或 (N, 声道)；wav 与 flac 默认 16 位整数，超过 ±1 的样点被削到满幅
    （要原样保留，wav 可用 ``subtype="FLOAT"``）。
    """
    path = Path(path)
    format_name = path.suffix[1:].upper()
    if format_name not in soundfile.available_formats():
        raise AudioError(f"不会写 {path}：不认识扩展名“{path.suffix}”；请用 .wav 或 .flac。")
    wave = np.asarray(wave)
    check_samples(wave, path)
    with atomic_path(path) as temporary:
        try:
            soundfile.write(
                temporary, wave, sample_rate, subtype=subtype or SUBTYPES.get(path.suffix.lower())
            )
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"写不成 {path}：采样率、声道数或编码这种格式放不下，或者磁盘满了。底层的说法：{error}"
            ) from error
