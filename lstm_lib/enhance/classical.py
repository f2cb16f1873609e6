"""经典的单通道增强，作对照：谱减法、判决引导维纳滤波、平稳谱门。

输入带噪波形 (N,)，输出同样长的 float32 波形；参数取自出处，没有针对本书的语料调过。
"""

import numpy as np
from scipy import signal

from lstm_lib.enhance.audio import istft, stft
from lstm_lib.waves import SAMPLE_RATE


def track_noise(power: np.ndarray, prior_snr_db: float = 15.0, smoothing: float = 0.8) -> np.ndarray:
    """逐帧跟踪噪声功率谱：按语音存在概率加权更新（Gerkmann 与 Hendriks，2012，式 (18)(22)(23)）。

    ``power`` 是带噪功率谱 (T, 257)，返回同形状的噪声功率估计；起点取前五帧的平均。
    """
    prior = 10 ** (prior_snr_db / 10)
    noise = power[:5].mean(axis=0) + 1e-12
    average = np.zeros_like(noise)
    tracked = np.empty_like(power)
    for t, frame in enumerate(power):
        ratio = np.minimum(frame / noise * prior / (1 + prior), 200)
        presence = 1 / (1 + (1 + prior) * np.exp(-ratio))
        average = 0.9 * average + 0.1 * presence
        presence = np.where(average > 0.99, np.minimum(presence, 0.99), presence)  # 免得卡在“全是语音”
        noise = smoothing * noise + (1 - smoothing) * (presence * noise + (1 - presence) * frame) + 1e-12
        tracked[t] = noise
    return tracked


def spectral_subtraction(noisy: np.ndarray, over: float = 3.0, floor: float = 0.01) -> np.ndarray:
    """功率谱减法（Berouti 等，1979）：减去 ``over`` 倍的噪声功率，最低留 ``floor`` 倍的带噪功率。"""
    spectrum = stft(noisy)
    power = np.abs(spectrum) ** 2
    gain = np.sqrt(np.maximum(1 - over * track_noise(power) / np.maximum(power, 1e-12), floor))
    return istft(gain * spectrum, len(noisy)).astype(np.float32)


def wiener(noisy: np.ndarray, alpha: float = 0.98, floor_db: float = -20.0) -> np.ndarray:
    """判决引导的维纳滤波（Ephraim 与 Malah，1984，式 (51)；增益 ξ/(1+ξ)）。"""
    spectrum = stft(noisy)
    power = np.abs(spectrum) ** 2
    floor = 10 ** (floor_db / 20)
    gains, previous = np.empty_like(power), np.zeros(power.shape[1])
    for t, (frame, noise) in enumerate(zip(power, track_noise(power), strict=True)):
        # 先验信噪比：上一帧的增强结果与这一帧的后验信噪比，按 α 折中
        prior = alpha * previous / noise + (1 - alpha) * np.maximum(frame / noise - 1, 0)
        gains[t] = prior / (1 + prior)
        previous = gains[t] ** 2 * frame
    return istft(np.maximum(gains, floor) * spectrum, len(noisy)).astype(np.float32)


def quietest(energy: np.ndarray, frames: int) -> slice:
    """能量最低的连续 ``frames`` 帧（不够就取全部）。"""
    frames = min(frames, len(energy))
    return slice(start := int(np.argmin(np.convolve(energy, np.ones(frames), "valid"))), start + frames)


def triangle(half: int) -> np.ndarray:
    """和为 1 的三角形平滑核，长 2·half + 1。"""
    rise = np.arange(1, half + 2)
    kernel = np.concatenate([rise, rise[-2::-1]]).astype(float)
    return kernel / kernel.sum()


def spectral_gate(
    noisy: np.ndarray, threshold: float = 1.5, hertz: float = 500, seconds: float = 0.05
) -> np.ndarray:
    """平稳谱门，与 noisereduce 的平稳模式同一个算法、同样的默认参数（Sainburg 等，2020）。

    先在整段里找最安静的 0.4 秒当作噪声样本；每个频点的门限是样本对数谱的均值加 ``threshold`` 倍标准差，
    高于门限的点留下，掩蔽再在频率与时间上平滑。它要看完整段才能动手，不能流式运行。
    1024 点、帧移 256 的 STFT 是它自己的选择；不足一个窗的波形是 ``ValueError``。
    """
    size, hop = 1024, 256
    if len(noisy) < size:  # scipy 会悄悄换一个短窗，频点就对不上了
        raise ValueError(
            f"平稳谱门要至少 {size} 个样点（{1000 * size // SAMPLE_RATE} 毫秒），只有 {len(noisy)} 个"
        )
    _, _, spectrum = signal.stft(noisy, nperseg=size, noverlap=size - hop, padded=False)
    level = 20 * np.log10(np.abs(spectrum) + 1e-10)
    level = np.maximum(level, level.max(axis=1, keepdims=True) - 80)
    sample = level[:, quietest(np.sum(np.abs(spectrum) ** 2, axis=0), int(0.4 * SAMPLE_RATE / hop))]
    gate = sample.mean(axis=1) + threshold * sample.std(axis=1)
    kernel = np.outer(
        triangle(int(hertz / (SAMPLE_RATE / (size / 2)))),
        triangle(int(seconds / (hop / SAMPLE_RATE))),
    )
    mask = signal.fftconvolve((level > gate[:, None]).astype(float), kernel, mode="same")
    _, wave = signal.istft(spectrum * mask, nperseg=size, noverlap=size - hop)
    wave = wave[: len(noisy)]
    return np.pad(wave, (0, len(noisy) - len(wave))).astype(np.float32)


METHODS = {"谱减法": spectral_subtraction, "判决引导维纳": wiener, "平稳谱门": spectral_gate}
