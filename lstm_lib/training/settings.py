"""一次训练的全部参数：取值，以及与上一次的参数有哪些不同。"""

from dataclasses import asdict, dataclass

from lstm_lib.enhance.config import REPAIRED, NetworkConfig
from lstm_lib.waves import SAMPLE_RATE


@dataclass
class Settings:
    """决定训练结果的全部参数；接着训练时这些都要与原来一致。

    参数:
        epochs: 轮数
        steps: 每轮的步数；0 是按数据多少自动定
        batch: 全局每步几段
        seconds: 每段几秒
        learning_rate: 最高学习率
        clip: 梯度裁剪的范数
        snr_db: 混合的信噪比范围，dB
        level_db: 带噪语音的电平范围，dBFS
        valid_segments: 验证用几段
        network: 网络的尺寸
        seed: 随机种子
        loss: si-sdr 或 clear，见 ``lstm_lib.enhance.loss.LOSSES``
        augment: 均衡、变速、混响，见 ``lstm_lib.training.augment``
        average: 权重的滑动平均每步留住多少；0 是不平均
        carry: 一段从上一批的末状态出发的概率，见 ``lstm_lib.enhance.recipe.Carried``
        init: 从哪个网络的权重起步；空着是随机起步
    """

    epochs: int = 20
    steps: int = 0  # 每轮的步数；0 是按数据多少自动定
    batch: int = 16
    seconds: float = 2.0
    learning_rate: float = 4e-3
    clip: float = 1.0
    snr_db: tuple = (-8.0, 15.0)
    level_db: tuple = (-40.0, -15.0)
    valid_segments: int = 128
    network: NetworkConfig = REPAIRED
    seed: int = 0
    loss: str = "si-sdr"  # 见 lstm_lib.enhance.loss.LOSSES
    augment: bool = False  # 均衡、变速、混响，见 lstm_lib.training.augment
    average: float = 0.0  # 权重的滑动平均留住多少；0 是不平均
    carry: float = 0.0  # 一段从上一批的末状态出发的概率
    init: str = ""  # 从哪个网络的权重起步；空着是随机起步

    @property
    def length(self) -> int:
        """每段的样点数：帧移的整数倍。"""
        hop = self.network.hop_length
        return max(2, round(self.seconds * SAMPLE_RATE / hop)) * hop

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps

    def settle_steps(self, seconds: float, previous: dict | None) -> None:
        """没有指定每轮步数时：平均每秒声音用到一次，至少 10 步，至多 1000 步；接着训练则沿用原来的。

        ``seconds`` 是训练语音的总时长，``previous`` 是检查点里的参数（从头训练时为 None）。
        """
        if not self.steps:
            automatic = int(min(max(seconds / (self.batch * self.seconds), 10), 1000))
            self.steps = previous["steps"] if previous else automatic

    def plain(self) -> dict:
        """存进检查点的各项；网络的配置另存，不在其中。"""
        return {name: value for name, value in asdict(self).items() if name != "network"}

    def changes_from(self, previous: dict, network: NetworkConfig) -> list[str]:
        """与检查点里的参数、网络的配置逐项比较，返回不同的各项，每项一句话。"""
        now = asdict(self.network) | self.plain()
        before = asdict(network) | Settings().plain() | previous  # 从前的检查点没有后来才有的几项
        return [
            f"{option} 原来是 {_plain(before.get(name))}，现在是 {_plain(now[name])}"
            for name, option in OPTIONS.items()
            if _plain(before.get(name)) != _plain(now[name])
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
    "n_fft": "--n-fft",
    "hop_length": "--hop",
    "input_size": "网络的输入",
    "hidden_size": "--hidden",
    "num_layers": "--layers",
    "head": "线性层（--document 去掉它）",
    "seed": "--seed",
    "loss": "--loss",
    "augment": "--augment",
    "average": "--average",
    "carry": "--carry",
    "init": "--init",
}


def _plain(value):
    """比较与显示用：元组与列表不分，真假说成有无。"""
    if isinstance(value, bool):
        return "有" if value else "没有"
    return list(value) if isinstance(value, tuple) else value
