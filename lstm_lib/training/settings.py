"""一次训练的全部参数：取值、学习率的走法，以及与上一次的参数有哪些不同。"""

import math
from dataclasses import asdict, dataclass

from lstm_lib.enhance.audio import HOP_LENGTH
from lstm_lib.waves import SAMPLE_RATE


@dataclass
class Settings:
    """决定训练结果的全部参数；接着训练时这些都要与原来一致。"""

    epochs: int = 20
    steps: int = 0  # 每轮的步数；0 是按数据多少自动定
    batch: int = 16
    seconds: float = 2.0
    learning_rate: float = 4e-3
    clip: float = 1.0
    snr_db: tuple = (-8.0, 15.0)
    level_db: tuple = (-40.0, -15.0)
    valid_segments: int = 128
    repaired: bool = True
    seed: int = 0
    init: str = ""  # 从哪个网络的权重起步；空着是随机起步

    @property
    def length(self) -> int:
        """每段的样点数：帧移的整数倍。"""
        return max(2, round(self.seconds * SAMPLE_RATE / HOP_LENGTH)) * HOP_LENGTH

    def learning_rate_at(self, step: int) -> float:
        """先用 5% 的步数线性升到最高，再按余弦降到近零；只看步数，所以断点续训不必另存。"""
        total = self.epochs * self.steps
        warm = max(1, total // 20)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def settle_steps(self, seconds: float, previous: dict | None) -> None:
        """没有指定每轮步数时：平均每秒声音用到一次，至少 10 步，至多 1000 步；接着训练则沿用原来的。

        ``seconds`` 是训练语音的总时长，``previous`` 是检查点里的参数（从头训练时为 None）。
        """
        if not self.steps:
            automatic = int(min(max(seconds / (self.batch * self.seconds), 10), 1000))
            self.steps = previous["steps"] if previous else automatic

    def changes_from(self, previous: dict) -> list[str]:
        """与检查点里的参数逐项比较，返回不同的各项，每项一句话。"""
        return [
            f"{OPTIONS[name]} 原来是 {previous.get(name)}，现在是 {value}"
            for name, value in asdict(self).items()
            if _plain(previous.get(name)) != _plain(value)
        ]


OPTIONS = {
    "epochs": "--epochs",
    "steps": "--steps",
    "batch": "--batch",
    "seconds": "--seconds",
    "learning_rate": "--lr",
    "clip": "--clip",
    "snr_db": "--snr",
    "level_db": "--level",
    "valid_segments": "--valid-segments",
    "repaired": "--document",
    "seed": "--seed",
    "init": "--init",
}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value
