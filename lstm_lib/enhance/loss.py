"""可求导的 STFT 与训练用的损失：负的 SI-SDR，或再加上可懂度与压缩谱。"""

import functools
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn.functional import pad

from lstm_lib.enhance.audio import HOP_LENGTH, N_FFT, overlap_add, windows
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.waves import SAMPLE_RATE

CEILING = 1e-3  # SI-SDR 到 30 dB 为止：几乎没有噪声的片段不该左右训练
CLEAR_WEIGHTS = 50.0, 10.0  # STOI 差 0.02、压缩谱的相对误差差 0.1，各抵得上 1 dB 的 SI-SDR
WINDOW_SECONDS = 0.384  # STOI 比较的一段有多长
STOI_EVERY = 3  # 训练时隔几帧取一段：相邻的段几乎一样，不必都算
CLIP = 1 + 10 ** (15 / 20)  # STOI 的下限：-15 dB 的失真


def stft(wave: torch.Tensor, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """与 :func:`lstm_lib.enhance.audio.stft` 相同的分帧，可求导：(B, N) → (B, T, n_fft/2+1)。

    N 要是帧移的整数倍，否则报 ``ValueError``。
    """
    if wave.shape[-1] % hop_length:
        raise ValueError(f"波形的长度应是帧移 {hop_length} 的整数倍，实际是 {wave.shape[-1]}。")
    window = torch.from_numpy(windows(n_fft, hop_length)[0].astype("float32")).to(wave.device)
    edge = n_fft - hop_length
    return torch.fft.rfft(pad(wave, (edge, edge)).unfold(-1, n_fft, hop_length) * window)


def istft(spectrum: torch.Tensor, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """:func:`stft` 的逆：(B, T, n_fft/2+1) → (B, N)，N = (T - n_fft/帧移 + 1) · 帧移。"""
    window = torch.from_numpy(windows(n_fft, hop_length)[1].astype("float32")).to(spectrum.device)
    return overlap_add(torch.fft.irfft(spectrum, n=n_fft) * window, hop_length).flatten(1)


def si_sdr_loss(reference: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """负的 SI-SDR（dB），对一批取平均；两路先去均值。"""
    reference = reference - reference.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    power = reference.square().sum(-1, keepdim=True) + 1e-9
    target = (estimate * reference).sum(-1, keepdim=True) / power * reference
    ratio = (target.square().sum(-1) + 1e-9) / ((estimate - target).square().sum(-1) + 1e-9)
    return -10 * torch.log10(ratio).mean()


@functools.cache
def third_octaves(n_fft: int) -> torch.Tensor:
    """STOI 的十五个三分之一倍频程带，150 到 4300 Hz：(n_fft/2+1, 15)，各列是 0 与 1。"""
    centers = 150 * 2 ** (np.arange(15) / 3)
    edges = np.round(np.stack([centers * 2 ** (-1 / 6), centers * 2 ** (1 / 6)]) * n_fft / SAMPLE_RATE)
    edges[1] = np.maximum(edges[1], edges[0] + 1)
    bins = np.arange(n_fft // 2 + 1)[:, None]
    return torch.from_numpy(((bins >= edges[0]) & (bins < edges[1])).astype("float32"))


def soft_stoi(clean: torch.Tensor, estimate: torch.Tensor, hop_length: int, every: int = 1) -> torch.Tensor:
    """可求导的 STOI，(B,)：照 Taal 等（2011）的定义，只是用手头的 STFT（不先换成 10 kHz）。

    ``clean``、``estimate`` 是两路的复数谱 (B, T, n_fft/2+1)；每 ``every`` 帧取一段来比。
    """
    bands = third_octaves(2 * (clean.shape[-1] - 1)).to(clean.device)
    power = [s.real.square() + s.imag.square() for s in (clean, estimate)]
    # 去掉纯净语音比最响的一帧低 40 dB 以上的帧：静音帧挪到最后，含它们的段不算
    loudness = power[0].sum(-1)
    silent = loudness < 1e-4 * loudness.amax(-1, keepdim=True)
    order = torch.argsort(silent.int(), dim=-1, stable=True)[..., None].expand(-1, -1, bands.shape[1])
    x, y = ((p @ bands + 1e-10).sqrt().gather(1, order) for p in power)
    length = min(round(WINDOW_SECONDS * SAMPLE_RATE / hop_length), x.shape[1])
    x, y = (s.unfold(1, length, every) for s in (x, y))  # (B, 段, 15, 帧)
    y = torch.minimum(y * (x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True)), x * CLIP)
    x, y = (s - s.mean(-1, keepdim=True) for s in (x, y))
    score = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1) + 1e-8)
    last = ((~silent).sum(-1) - length).clamp(min=0)
    used = (every * torch.arange(score.shape[1], device=score.device) <= last[:, None]).float()
    return (score.mean(-1) * used).sum(-1) / used.sum(-1)


def clear_loss(reference: torch.Tensor, estimate: torch.Tensor, config: NetworkConfig) -> torch.Tensor:
    """兼顾可懂度的损失：负的 SI-SDR（到 30 dB 为止），加 STOI 的不足，加压缩谱 ｜S｜^0.3 的相对误差。

    SI-SDR 看的几乎只是低频的强音；STOI 各频带同等看待，压缩谱让弱的辅音也有分量，还管着输出的响度。
    """
    reference = reference - reference.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    power = reference.square().sum(-1, keepdim=True) + 1e-9
    target = (estimate * reference).sum(-1, keepdim=True) / power * reference
    signal = target.square().sum(-1) + 1e-9
    ratio = signal / ((estimate - target).square().sum(-1) + CEILING * signal)
    clean, guess = (stft(w, config.n_fft, config.hop_length) for w in (reference, estimate))
    stoi = soft_stoi(clean, guess, config.hop_length, STOI_EVERY)
    clean, guess = ((s.real.square() + s.imag.square() + 1e-8) ** 0.15 for s in (clean, guess))
    spectral = (clean - guess).square().sum((-2, -1)) / clean.square().sum((-2, -1))
    a, b = CLEAR_WEIGHTS
    return (-10 * torch.log10(ratio) + a * (1 - stoi) + b * spectral).mean()


LOSSES = {"si-sdr": lambda reference, estimate, config: si_sdr_loss(reference, estimate), "clear": clear_loss}


def network_loss(
    model: torch.nn.Module,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    config: NetworkConfig,
    autocast=nullcontext,
    loss: str = "si-sdr",
) -> torch.Tensor:
    """带噪语音 (B, N) → 掩蔽 → 波形 → 与纯净语音比的损失，一个标量张量；``loss`` 是 :data:`LOSSES` 之一。

    ``autocast()`` 只罩住网络：STFT 与损失始终是 float32。
    """
    return LOSSES[loss](clean, masked(model, noisy, config, autocast), config)


def masked(model, noisy: torch.Tensor, config: NetworkConfig, autocast=nullcontext) -> torch.Tensor:
    """带噪语音 (B, N) → 掩蔽 → 增强后的波形 (B, N)，可求导。"""
    spectrum = stft(noisy, config.n_fft, config.hop_length)
    with autocast():
        mask = model(config.network_input(spectrum.abs()))
    return istft(mask.float() * spectrum, config.n_fft, config.hop_length)
