"""度量：SI-SDR、STOI，装了 pesq 包时还有 PESQ；以及在一组场景上比较几种方法。"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lstm_lib.corpus import Scene
from lstm_lib.waves import SAMPLE_RATE, as_wave, energy


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """尺度不变信号失真比 SI-SDR，dB（Le Roux 等，ICASSP 2019，式 (4)；两路先各自去均值）。

    把估计乘任意非零常数，结果不变。估计与参考毫无关系（或是常数）时是 -inf，成比例时是 +inf 或受限于舍入误差的大数。

    参数:
        reference: 纯净波形 (N,)
        estimate: 要打分的波形 (N,)
    抛出:
        ValueError: 长短不一，或参考是空的、常数，没有定义
    """
    reference = np.asarray(as_wave(reference, "reference"), dtype=np.float64)
    estimate = np.asarray(as_wave(estimate, "estimate"), dtype=np.float64)
    if reference.shape != estimate.shape:
        raise ValueError(f"参考与估计要一样长，实际是 {len(reference)} 与 {len(estimate)} 个样点。")
    if len(reference) == 0 or np.ptp(reference) == 0:  # 减去均值再看，会剩下舍入误差
        raise ValueError("参考信号是空的、全零或常数，SI-SDR 没有定义；请换一段有声音的参考。")
    if np.ptp(estimate) == 0:
        return -math.inf
    reference = reference - reference.mean()
    estimate = estimate - estimate.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    with np.errstate(divide="ignore"):
        return float(10 * (np.log10(energy(target)) - np.log10(energy(estimate - target))))


def stoi(reference: np.ndarray, estimate: np.ndarray) -> float:
    """短时客观可懂度 STOI，0 到 1（Taal 等，2011），由 pystoi 计算，16 kHz。

    参数:
        reference: 纯净波形 (N,)
        estimate: 要打分的波形 (N,)
    返回:
        得分；参考去掉静音后不足约 0.4 秒时没有定义，是 NaN。
    抛出:
        ValueError: 长短不一
    """
    import pystoi

    reference, estimate = as_wave(reference, "reference"), as_wave(estimate, "estimate")
    if reference.shape != estimate.shape:
        raise ValueError(f"参考与估计要一样长，实际是 {len(reference)} 与 {len(estimate)} 个样点。")
    if not reference.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi 遇到太短的信号只发警告并返回 1e-5
        try:
            return float(pystoi.stoi(reference, estimate, SAMPLE_RATE))
        except (RuntimeWarning, ValueError):
            return float("nan")


def pesq(reference: np.ndarray, estimate: np.ndarray) -> float | None:
    """宽带 PESQ（MOS-LQO）；没有安装 pesq 包时返回 None，信号不合要求（太短、没有语音）时返回 NaN。"""
    try:
        import pesq as engine
    except ImportError:
        return None
    try:
        return float(engine.pesq(SAMPLE_RATE, reference, estimate, "wb"))
    except (engine.PesqError, ValueError):
        return float("nan")


@dataclass(frozen=True)
class Score:
    """一种方法在一个场景上的成绩。"""

    method: str
    kind: str
    heard: bool
    snr_db: float
    si_sdr: float
    stoi: float | None = None
    pesq: float | None = None


def measure(methods: dict[str, Callable], scenes: Iterable[Scene], perceptual: bool = False) -> list[Score]:
    """``methods`` 是 ``{"名字": 场景 → 波形}``；``perceptual`` 为真时连 STOI 与 PESQ 一起算（慢得多）。"""
    scores = []
    for scene in scenes:
        for method, function in methods.items():
            wave = function(scene)
            more = (stoi(scene.clean, wave), pesq(scene.clean, wave)) if perceptual else (None, None)
            value = si_sdr(scene.clean, wave)
            scores.append(Score(method, scene.noise_kind, scene.heard, scene.snr_db, value, *more))
    return scores


def mean(scores: Iterable[Score], metric: str = "si_sdr", **where) -> float:
    """``metric`` 的平均；``where`` 挑出成绩，如 ``method="增强"``、``heard=True``、``kind="风扇"``。"""
    values = [getattr(s, metric) for s in scores if all(getattr(s, k) == v for k, v in where.items())]
    if not values:
        raise ValueError(f"没有符合条件的成绩：{where}。")
    return float(np.mean(values))
