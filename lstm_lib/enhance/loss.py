"""可求导的 STFT 与训练用的损失：负的 SI-SDR。"""

import torch
from torch.nn.functional import pad

from lstm_lib.enhance.audio import HOP_LENGTH, N_FFT, WINDOW


def stft(wave: torch.Tensor) -> torch.Tensor:
    """与 :func:`lstm_lib.enhance.audio.stft` 相同的分帧，可求导：(B, N) → (B, T, 257)，N 是帧移的整数倍。"""
    frames = pad(wave, (HOP_LENGTH, HOP_LENGTH)).unfold(-1, N_FFT, HOP_LENGTH)
    return torch.fft.rfft(frames * torch.from_numpy(WINDOW).to(wave.device))


def istft(spectrum: torch.Tensor) -> torch.Tensor:
    """:func:`stft` 的逆：(B, T, 257) → (B, (T-1)·256)。"""
    frames = torch.fft.irfft(spectrum, n=N_FFT) * torch.from_numpy(WINDOW).to(spectrum.device)
    return (frames[:, :-1, HOP_LENGTH:] + frames[:, 1:, :HOP_LENGTH]).flatten(1)


def si_sdr_loss(reference: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """负的 SI-SDR（dB），对一批取平均；两路先去均值。"""
    reference = reference - reference.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    power = reference.square().sum(-1, keepdim=True) + 1e-9
    target = (estimate * reference).sum(-1, keepdim=True) / power * reference
    ratio = (target.square().sum(-1) + 1e-9) / ((estimate - target).square().sum(-1) + 1e-9)
    return -10 * torch.log10(ratio).mean()
