"""声音的进出：读写声音文件、重采样、STFT。

全书约定：16 kHz 单声道 float32；512 点 STFT、帧移 256、周期型平方根 Hann 窗，共 257 个频点。
别的窗长与帧移也行，只要帧移整除窗长、不超过半个窗。
"""

import functools
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from lstm_lib.files import atomic_path, c_path
from lstm_lib.waves import SAMPLE_RATE, as_wave

N_FFT = 512
HOP_LENGTH = 256
BINS = N_FFT // 2 + 1

SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16"}


class AudioError(ValueError):
    """声音文件或声音数据有问题；消息说明是哪个文件、哪里不对、怎么办。"""


def check_stft(n_fft: int, hop_length: int) -> None:
    """窗长与帧移能不能精确还原；不能就报 ``ValueError``。"""
    if n_fft < 2 or n_fft % 2:
        raise ValueError(f"STFT 的窗长 n_fft 应是正偶数，得到 {n_fft}。")
    if hop_length < 1 or n_fft % hop_length or 2 * hop_length > n_fft:
        raise ValueError(
            f"STFT 的帧移 hop_length 应整除窗长 {n_fft}、且不超过它的一半，得到 {hop_length}；"
            f"例如 {n_fft // 2}。"
        )


@functools.cache
def windows(n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """分析窗与合成窗，各 (n_fft,) 的只读 float64。

    周期型 Hann 的平方根就是半个正弦。每个样点落在 R = n_fft / hop_length 帧里，窗的平方加起来恒为 R/2
    （R ≥ 2）；合成窗里除掉它，R = 2 时两个窗一样。
    """
    check_stft(n_fft, hop_length)
    analysis = np.sin(np.pi * np.arange(n_fft) / n_fft)
    synthesis = analysis * (2 * hop_length / n_fft)
    analysis.flags.writeable = synthesis.flags.writeable = False
    return analysis, synthesis


WINDOW = windows()[0].astype(np.float32)


def stft(wave: np.ndarray, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> np.ndarray:
    """短时傅里叶变换：波形 (N,) → 复数谱 (T, n_fft/2+1)，T = ceil(N/帧移) + R - 1，R = n_fft / 帧移。

    首尾各补 n_fft - 帧移 个零，每个样点都恰好落在 R 帧里。默认的 512/256 是 R = 2、257 个频点，
    第 t 帧覆盖样点 [256(t-1), 256(t+1))。float32 输入得 complex64，float64 输入得 complex128。
    """
    wave = as_wave(wave)
    window, _ = windows(n_fft, hop_length)
    hops, edge = -(-len(wave) // hop_length), n_fft - hop_length
    padded = np.zeros(hops * hop_length + 2 * edge, dtype=wave.dtype)
    padded[edge : edge + len(wave)] = wave
    return np.fft.rfft(sliding_window_view(padded, n_fft)[::hop_length] * window.astype(wave.dtype), axis=-1)


def istft(spectrum: np.ndarray, length: int, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> np.ndarray:
    """逆变换：复数谱 (T, n_fft/2+1) → 波形 (length,)，加窗后重叠相加；与 :func:`stft` 精确互逆。"""
    spectrum = np.asarray(spectrum)
    _, window = windows(n_fft, hop_length)
    if spectrum.ndim != 2 or spectrum.shape[1] != n_fft // 2 + 1:
        raise ValueError(f"谱的形状应为 (T, {n_fft // 2 + 1})，实际是 {spectrum.shape}。")
    overlap = n_fft // hop_length
    hops = max(len(spectrum) - overlap + 1, 0)
    if not 0 <= length <= hops * hop_length:
        raise ValueError(f"{len(spectrum)} 帧最多还原 {hops * hop_length} 个样点，要不出 {length} 个。")
    frames = np.fft.irfft(spectrum, n=n_fft, axis=-1)
    frames *= window.astype(frames.dtype)
    return overlap_add(frames, hop_length).reshape(-1)[:length]


def overlap_add(frames, hop_length: int):
    """重叠相加：加过窗的帧 (…, T, n_fft) → (…, T-R+1, 帧移)；NumPy 数组与 PyTorch 张量都行。

    每段由 R 帧里错开的 R 块相加，先加早的帧；两头不足 R 帧的地方在信号之外，不要。
    """
    overlap = frames.shape[-1] // hop_length
    hops = frames.shape[-2] - overlap + 1
    total = frames[..., :hops, (overlap - 1) * hop_length :]
    for late in range(1, overlap):
        block = slice((overlap - 1 - late) * hop_length, (overlap - late) * hop_length)
        total = total + frames[..., late : late + hops, block]
    return total


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
                c_path(temporary), wave, sample_rate, subtype=subtype or SUBTYPES.get(path.suffix.lower())
            )
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"写不成 {path}：采样率、声道数或编码这种格式放不下，或者磁盘满了。底层的说法：{error}"
            ) from error
