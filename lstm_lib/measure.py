"""在一组场景上比较几种方法：SI-SDR、STOI，装了 pesq 包时还有 PESQ。"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lstm_lib import audio
from lstm_lib.corpus import Scene


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
            more = (
                (audio.stoi(scene.clean, wave), audio.pesq(scene.clean, wave)) if perceptual else (None, None)
            )
            value = audio.si_sdr(scene.clean, wave)
            scores.append(Score(method, scene.noise_kind, scene.heard, scene.snr_db, value, *more))
    return scores


def mean(scores: Iterable[Score], metric: str = "si_sdr", **where) -> float:
    """``metric`` 的平均；``where`` 挑出成绩，如 ``method="增强"``、``heard=True``、``kind="风扇"``。"""
    values = [getattr(s, metric) for s in scores if all(getattr(s, k) == v for k, v in where.items())]
    if not values:
        raise ValueError(f"没有符合条件的成绩：{where}。")
    return float(np.mean(values))
