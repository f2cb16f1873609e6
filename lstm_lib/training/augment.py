"""数据增强：均衡、变速变调、房间混响，一次 FFT 里做完；短的语音一个接一个，凑够一段。

重采样、均衡与混响在频域都只是改谱：读一段长 m 的波形，谱截短或补零成目标的长度，乘上均衡与房间的响应，
再变回来。循环卷积绕回来的尾巴落在开头的“引子”里，切掉。
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from lstm_lib.waves import SAMPLE_RATE

LEAD = int(0.3 * SAMPLE_RATE)  # 引子；语音真正的前文也从这里来，段首不必总是从静音起
GAPS = (0.02, 0.35)  # 接起来的两段语音之间空多少秒
EDGE = 0.02  # 接起来之前，去掉首尾不到峰值这么多的静音
KNOTS = np.array([60, 250, 700, 1500, 3000, 5500])  # 均衡曲线的转折，Hz


@dataclass(frozen=True)
class Change:
    """怎么变：``eq_db`` 是均衡各转折的标准差；``stretch`` 是快慢与音高至多变几成；``room`` 是加混响的概率。"""

    eq_db: float
    stretch: float
    room: float
    reverberation: tuple[float, float]  # 混响时间 T60 的范围，秒


SPEECH = Change(3.0, 0.2, 0.25, (0.1, 0.5))
NOISE = Change(4.0, 0.3, 0.35, (0.1, 0.9))
BLEND = 0.3  # 再叠上第二个噪声的概率


def changed(read, length: int, change: Change, rng) -> np.ndarray:
    """``read(m)`` 给出 16 kHz 的 m 个样点；变过之后是 float32 (length,)。"""
    total = next_fast_len(LEAD + length, real=True)
    total += total % 2
    ratio = np.exp(rng.uniform(-1, 1) * np.log(1 + change.stretch))
    source = next_fast_len(round(total * ratio / 2) * 2, real=True)
    source += source % 2
    spectrum = rfft(np.asarray(read(source), dtype=np.float32)) * np.float32(total / source)
    bins = total // 2 + 1
    spectrum = spectrum[:bins] if len(spectrum) >= bins else np.pad(spectrum, (0, bins - len(spectrum)))
    spectrum *= equalizer(rng, change.eq_db, bins)
    if rng.uniform() < change.room:
        spectrum *= rfft(room(rng, rng.uniform(*change.reverberation)), total)
    return irfft(spectrum, total)[total - length :]


def equalizer(rng, spread_db: float, bins: int) -> np.ndarray:
    """随机的均衡曲线：各转折的增益是标准差 ``spread_db`` 的高斯数，在对数频率上连成折线。"""
    gains = rng.normal(0, spread_db, len(KNOTS))
    frequency = np.linspace(0, SAMPLE_RATE / 2, bins)
    curve = np.interp(np.log(np.maximum(frequency, 1)), np.log(KNOTS), gains)
    return (10 ** (curve / 20)).astype(np.float32)


def room(rng, seconds: float) -> np.ndarray:
    """合成的房间响应：一个直达声，几毫秒之后是指数衰减的噪声；``seconds`` 是 T60。"""
    n = int(seconds * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail[: int(rng.uniform(0.001, 0.01) * SAMPLE_RATE)] = 0
    direct_db = rng.uniform(0, 15)  # 直达声比混响强多少
    tail *= 10 ** (-direct_db / 20) / (np.sqrt(np.sum(tail**2)) + 1e-12)
    tail[0] = 1
    return tail.astype(np.float32)


def trimmed(wave: np.ndarray) -> np.ndarray:
    """去掉首尾的静音。"""
    loud = np.flatnonzero(np.abs(wave) > EDGE * np.abs(wave).max(initial=0))
    return wave[loud[0] : loud[-1] + 1] if len(loud) else wave


def joined(pieces, length: int, rng) -> np.ndarray:
    """``pieces()`` 每次给一段波形；去掉首尾的静音，隔一点空白一个接一个，凑成 ``length`` 个样点。"""
    parts, total = [], -int(rng.uniform(0, 0.5) * SAMPLE_RATE)  # 第一段常常从半截起
    skip = -total
    while total < length:
        gap = np.zeros(int(rng.uniform(*GAPS) * SAMPLE_RATE), np.float32)
        parts += [trimmed(pieces()), gap]
        total += len(parts[-2]) + len(gap)
    return np.concatenate(parts)[skip : skip + length]
