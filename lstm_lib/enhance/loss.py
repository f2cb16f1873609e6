"""可求导的 STFT 与训练用的损失：负的 SI-SDR。"""

from contextlib import nullcontext

import torch
from torch.nn.functional import pad

from lstm_lib.enhance.audio import HOP_LENGTH, N_FFT, overlap_add, windows
from lstm_lib.enhance.config import NetworkConfig


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


def network_loss(
    model: torch.nn.Module,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    config: NetworkConfig,
    autocast=nullcontext,
) -> torch.Tensor:
    """带噪语音 (B, N) → 掩蔽 → 波形 → 与纯净语音比的损失，一个标量张量。

    ``autocast()`` 只罩住网络：STFT 与损失始终是 float32。
    """
    spectrum = stft(noisy, config.n_fft, config.hop_length)
    with autocast():
        mask = model(config.network_input(spectrum.abs()))
    estimate = istft(mask.float() * spectrum, config.n_fft, config.hop_length)
    return si_sdr_loss(clean, estimate)
