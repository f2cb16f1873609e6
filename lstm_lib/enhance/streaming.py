"""流式增强：任意长短的音频块进来，增强后的音频出去，状态与重叠相加的尾巴留在对象里。

逐帧计算与整段计算（:func:`lstm_lib.enhance.audio.stft` → 掩蔽 → :func:`lstm_lib.enhance.audio.istft`）是同一套加减乘除，
所以两者的输出逐样点相等；块怎么切，输出一个比特也不变。

一个帧移的工作由“链”来做：:class:`MaskChain` 是 NumPy 写的，配任何掩蔽函数；``lstm_lib.native.NativeEnhancer`` 是整条都在
C 里的。两种链面孔相同，:func:`lstm_lib.engines.chain` 按引擎的名字造。
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol, Self

import numpy as np
import soxr

from lstm_lib.enhance.audio import N_FFT, windows
from lstm_lib.enhance.config import REPAIRED, NetworkConfig
from lstm_lib.waves import SAMPLE_RATE, as_wave, first_bad

# 掩蔽函数：(幅度谱一帧 (input_size,)、状态) → (掩蔽 (频点数,)、新状态)。状态是什么由引擎自己定，None 表示从头开始
MaskStep = Callable[[np.ndarray, object], tuple[np.ndarray, object]]


class Chain(Protocol):
    """一路音频从波形到波形的全部工作，一次整数个帧移；``hop``、``latency`` 的单位是样点。

    ``process`` 收 (N,) float32，N 是 ``hop`` 的整数倍，返回同样长的一段，比输入晚 ``latency - hop`` 个样点；
    ``reset`` 从头开始，``fork`` 另开一路，权重共用。
    """

    hop: int
    latency: int

    def process(self, samples: np.ndarray) -> np.ndarray: ...

    def reset(self) -> None: ...

    def fork(self) -> Self: ...


class MaskChain:
    """用 NumPy 做的链：分析 → 掩蔽函数 → 合成 → 重叠相加。``config`` 定 STFT 与输入的宽。"""

    def __init__(self, step: MaskStep, config: NetworkConfig = REPAIRED):
        self.step, self.config = step, config
        self.hop, self.latency = config.hop_length, config.n_fft
        self._analysis, self._synthesis = (
            window.astype(np.float32) for window in windows(config.n_fft, config.hop_length)
        )
        self._first_bin = config.bins - config.input_size  # 1：网络不看直流
        self.reset()

    def reset(self) -> None:
        self._state = None
        self._window = np.zeros(self.latency, np.float32)  # 最近的 n_fft 个输入样点
        self._tail = np.zeros(self.latency - self.hop, np.float32)  # 以前各帧的后半，等着与下一帧相加

    def fork(self) -> Self:
        return type(self)(self.step, self.config)

    def process(self, samples: np.ndarray) -> np.ndarray:
        output = np.empty_like(samples)
        for start in range(0, len(samples), self.hop):
            hop = slice(start, start + self.hop)
            output[hop] = self._one_hop(samples[hop])
        return output

    def _one_hop(self, samples: np.ndarray) -> np.ndarray:
        """一个帧移的全部工作。"""
        hop = self.hop
        self._window[:-hop] = self._window[hop:]
        self._window[-hop:] = samples
        spectrum = np.fft.rfft(self._window * self._analysis)
        mask, self._state = self.step(np.abs(spectrum[self._first_bin :]), self._state)
        if mask.shape != spectrum.shape:
            raise ValueError(
                f"掩蔽函数给出的形状是 {mask.shape}，{self.config.n_fft} 点 STFT 的频点是 {spectrum.shape}；"
                "请把网络的配置传进来：StreamingEnhancer(step, network.config)。"
            )
        frame = np.fft.irfft(spectrum * mask, n=self.config.n_fft) * self._synthesis
        frame[:-hop] = self._tail + frame[:-hop]
        self._tail = frame[hop:]
        return frame[:hop]


class StreamingEnhancer:
    """一路单声道 16 kHz 音频的流式增强器。

    延迟：一段（一个帧移）要等盖住它的最后一帧到齐才能算完，算法延迟 :attr:`latency` 等于窗长：
    默认 512 个样点，即 32 ms。

    参数:
        source: 掩蔽函数，由 :func:`lstm_lib.engines.mask_step` 得到，也可以自己写；函数本身不存状态，几路音频可以
            合用一个。也可以是一条链（见 :func:`lstm_lib.engines.chain`），例如整条都在 C 里的；一条链同一时刻只归
            一个增强器用
        config: 定 STFT 与输入的宽，默认是书中的网络；别的网络给它的 ``network.config``。``source`` 是链时由链自己定
    """

    latency = N_FFT

    def __init__(self, source: MaskStep | Chain, config: NetworkConfig = REPAIRED):
        self.chain: Chain = MaskChain(source, config) if callable(source) else source
        self.latency, self._hop = self.chain.latency, self.chain.hop
        self._early = self.latency // self._hop - 1  # 头几帧只有一部分在信号里
        self.reset()

    def reset(self) -> None:
        """忘掉一切，准备处理下一段音频。"""
        self.chain.reset()
        self._pending = np.zeros(0, np.float32)  # 不足一个帧移的零头
        self._hops = 0
        self._received = 0

    def process(self, block: np.ndarray) -> np.ndarray:
        """送进一块波形，取出此刻已经算完的。

        参数:
            block: (N,)，±1 为满幅，N 任意，可为 0
        返回:
            (M,)，float32；M 是帧移的整数倍，可为 0。
        抛出:
            ValueError: 形状不对，或有 NaN、无穷大、大得离谱的数；状态不变：一个 NaN 进了 h、c，以后每一帧都是 NaN
        """
        return self._take(as_wave(block, "block").astype(np.float32, copy=False))

    def _take(self, block: np.ndarray) -> np.ndarray:
        """同 :meth:`process`，``block`` 已经查过：重采样会略微超出送进来的，不能到这里又嫌大。"""
        samples = np.concatenate([self._pending, block])
        whole = len(samples) // self._hop * self._hop
        output = self._advance(samples[:whole])
        self._received += len(block)
        self._pending = samples[whole:].copy()  # 不 copy 会一直牵住整块
        return output

    def flush(self) -> np.ndarray:
        """音频结束：补零把余下的样点挤出来，然后 :meth:`reset`。进多少样点，一共就出多少样点。"""
        hops = self._early + (len(self._pending) > 0)
        tail = np.zeros(hops * self._hop, np.float32)
        tail[: len(self._pending)] = self._pending
        emitted = max(self._hops - self._early, 0) * self._hop
        output = self._advance(tail)[: self._received - emitted]
        self.reset()
        return output

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """整段 (N,) → (N,)：从头处理一遍。"""
        self.reset()
        return np.concatenate([self.process(wave), self.flush()])

    def _advance(self, samples: np.ndarray) -> np.ndarray:
        """送进整数个帧移；头几帧吐出的部分在信号之外，丢掉。"""
        output = self.chain.process(samples)
        hops = len(samples) // self._hop
        skipped = min(max(self._early - self._hops, 0), hops) * self._hop
        self._hops += hops
        return output[skipped:]


class AnyRateEnhancer:
    """任意采样率、任意声道数的流式增强器：重采样到 16 kHz → 每个声道各自增强 → 重采样回去。

    每个声道有自己的状态，权重共用。高于 8 kHz 的成分网络看不见，输出里也就没有。
    延迟不止是 STFT 的窗：两次重采样的滤波器也要看见未来的样点，而且成批地吐出结果，见 :attr:`latency`。

    参数:
        source: 同 :class:`lstm_lib.StreamingEnhancer`
        sample_rate: 采样率，Hz
        channels: 声道数
        config: 同 :class:`lstm_lib.StreamingEnhancer`
        quality: soxr 的重采样质量，从 "VHQ"、"HQ" 到 "LQ"：低一些，滤波器短，延迟小
    """

    def __init__(
        self,
        source: MaskStep | Chain,
        sample_rate: float,
        channels: int,
        config: NetworkConfig = REPAIRED,
        quality: str = "HQ",
    ):
        chain: Chain = MaskChain(source, config) if callable(source) else source
        self.sample_rate = sample_rate
        self._delays = chain.latency, chain.hop, quality
        self._enhancers = [StreamingEnhancer(chain.fork()) for _ in range(channels)]
        rates = (sample_rate, SAMPLE_RATE)
        same = sample_rate == SAMPLE_RATE
        self._down = None if same else soxr.ResampleStream(*rates, channels, "float32", quality)
        self._up = None if same else soxr.ResampleStream(*rates[::-1], channels, "float32", quality)
        self._received = self._emitted = 0

    @property
    def latency(self) -> int:
        """从一个样点送进来到它的结果出来，最多隔多少个样点（``sample_rate`` 下的）。

        拿一分钟的静音量出来；更长的声音里，有的采样率偶尔还会多等几个样点。
        """
        return _measured_latency(self.sample_rate, *self._delays)

    def process(self, block: np.ndarray) -> np.ndarray:
        """送进一块，取出此刻已经算完的。

        参数:
            block: (N, 声道)，N 任意
        返回:
            (M, 声道)，float32。
        抛出:
            ValueError: 声道数不对，或有 NaN、无穷大、大得离谱的数；状态不变
        """
        return self._run(block, last=False)

    def flush(self) -> np.ndarray:
        """音频结束，取出余下的样点；一共进多少样点就出多少样点。之后要处理别的音频请新建对象。"""
        rest = self._run(np.zeros((0, len(self._enhancers)), np.float32), last=True)
        # 来回两次重采样，长度可能差一两个样点：多截少补
        missing = max(self._received - self._emitted, 0)
        return np.pad(rest, ((0, missing), (0, 0)))[: len(rest) + self._received - self._emitted]

    def _run(self, block: np.ndarray, last: bool) -> np.ndarray:
        block = np.asarray(block, np.float32)
        if block.ndim != 2 or block.shape[1] != len(self._enhancers):
            raise ValueError(f"block 的形状应为 (N, {len(self._enhancers)})，实际是 {block.shape}。")
        bad = first_bad(block)  # 赶在重采样之前：滤波器也有状态，各声道还要一同往前走
        if bad is not None:
            raise ValueError(f"block 含 NaN、无穷大或大得离谱的数，第一个在第 {bad} 个样点。")
        self._received += len(block)
        low = self._down.resample_chunk(block, last=last) if self._down else block
        columns = [enhancer._take(low[:, i]) for i, enhancer in enumerate(self._enhancers)]
        if last:
            columns = [np.append(c, e.flush()) for c, e in zip(columns, self._enhancers, strict=True)]
        output = np.stack(columns, axis=1)
        if self._up:
            output = self._up.resample_chunk(output, last=last)
        self._emitted += len(output)
        return output


@lru_cache
def _measured_latency(sample_rate: float, latency: int, hop: int, quality: str) -> int:
    """一毫秒一毫秒地送进一分钟静音，看“已经送进的”最多领先“已经出来的”多少。

    两个重采样器各有节拍，要过几十秒，最不凑巧的一刻才会碰上。只数样点，不真的增强。
    """
    if sample_rate == SAMPLE_RATE:
        return latency
    down = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, "float32", quality)
    up = soxr.ResampleStream(SAMPLE_RATE, sample_rate, 1, "float32", quality)
    step = max(1, round(sample_rate / 1000))
    silence = np.zeros((step, 1), np.float32)
    received = low = through = emitted = worst = 0
    for _ in range(round(60 * sample_rate / step)):
        received += step
        low += len(down.resample_chunk(silence))
        ready = max(low // hop * hop - (latency - hop), 0)  # 头几帧吐出的在信号之外，见 StreamingEnhancer
        if ready > through:
            before, more = emitted, np.zeros((ready - through, 1), np.float32)
            emitted, through = emitted + len(up.resample_chunk(more)), ready
            if emitted > before:
                worst = max(worst, received - before)
    return worst
