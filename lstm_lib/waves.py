"""波形的约定、分块写出与按信噪比混合：16 kHz 单声道，±1 为满幅。"""

import numpy as np

SAMPLE_RATE = 16000  # Hz，全书共用
BLOCK = 16384  # 声音文件每次读写的样点数；多大都不影响结果
LOUDEST = 1e12  # 绝对值再大就不是声音了（满幅是 1），多半是读错了类型；平方、滤波、网络里也不再可靠
# libsndfile 写这些编码时自己会削到满幅，或本来就存得下更大的数
CLIPPED = ("PCM_", "ALAC_", "FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_")


def as_wave(wave, name: str = "wave") -> np.ndarray:
    """检查并转成一维浮点波形；多声道、空形状、NaN、inf、大得离谱的数都当场报错。"""
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise ValueError(f"{name} 应是一维的单声道波形 (N,)，实际形状是 {wave.shape}。")
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(
            f"{name} 应是浮点波形（±1 为满幅），实际类型是 {wave.dtype}；整数样点请先除以满幅值。"
        )
    if wave.dtype == np.float16:
        wave = wave.astype(np.float32)
    bad = first_bad(wave)
    if bad is not None:
        raise ValueError(f"{name} 含 NaN、无穷大或大得离谱的数，第一个在第 {bad} 个样点。")
    return wave


def first_bad(samples: np.ndarray) -> int | None:
    """(N,) 或 (N, 声道) 里第一个是 NaN、无穷大或大得离谱（见 ``LOUDEST``）的样点在第几个；没有就是 None。"""
    if not samples.size or np.abs(samples).max() <= LOUDEST:  # 有 NaN 时最大值是 NaN，不小于任何数
        return None
    bad = ~(np.abs(samples) <= LOUDEST)
    return int(np.argmax(bad.reshape(len(samples), -1).any(axis=1)))


def write_blocks(sink, wave: np.ndarray) -> None:
    """把波形 (N,) 或 (N, 声道) 一块一块地写进打开着的 ``soundfile.SoundFile``；凡是写声音都用它。

    libsndfile 一次写两分钟以上的 Ogg，整个进程崩溃；写 μ 律、A 律与 ADPCM 时超过满幅的样点，
    变成别的数，或者也崩溃。
    """
    clip = wave.dtype.kind == "f" and not sink.subtype.startswith(CLIPPED)
    for start in range(0, len(wave), BLOCK):
        part = wave[start : start + BLOCK]
        sink.write(np.clip(part, -1, 1) if clip else part)


def energy(wave: np.ndarray) -> float:
    """能量 Σx²，用 float64 累加。"""
    wave = np.asarray(wave, dtype=np.float64)
    return float(wave @ wave)


def snr(speech: np.ndarray, noise: np.ndarray) -> float:
    """信噪比，dB。"""
    return 10 * np.log10(energy(speech) / energy(noise))


def scale_noise(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """把噪声缩放到与语音的信噪比恰为 ``snr_db``：10·log10(Σs²/Σn²)。两者形状都是 (N,)。"""
    speech, noise = as_wave(speech, "speech"), as_wave(noise, "noise")
    if speech.shape != noise.shape:
        raise ValueError(f"语音与噪声要一样长，实际是 {len(speech)} 与 {len(noise)} 个样点。")
    speech_energy, noise_energy = energy(speech), energy(noise)
    if speech_energy == 0 or noise_energy == 0:
        raise ValueError(f"{'语音' if speech_energy == 0 else '噪声'}全是零，信噪比没有意义；请换一段。")
    gain = np.sqrt(speech_energy / noise_energy / 10 ** (snr_db / 10))
    return (noise * gain).astype(noise.dtype)


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """按信噪比混合：语音 + 缩放后的噪声，语音本身不动。要单独的噪声用 :func:`scale_noise`。"""
    return speech + scale_noise(speech, noise, snr_db)
