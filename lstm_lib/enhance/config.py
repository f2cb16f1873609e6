"""网络与 STFT 的尺寸：一处说清，存进每个权重文件，训练、导出、推理都从这里读。"""

import dataclasses
import json
from dataclasses import dataclass

from lstm_lib.enhance.audio import HOP_LENGTH, N_FFT, check_stft


@dataclass(frozen=True)
class NetworkConfig:
    """掩蔽网络的尺寸；默认值就是本书的修补网络。

    参数:
        input_size: 频点数（``n_fft // 2 + 1``）减一时，网络不看直流；等于频点数时全看
        hidden_size: 隐藏单元数
        num_layers: 层数
        head: 有没有线性层；没有时 LSTM 直接接 Sigmoid，``hidden_size`` 只能等于频点数
        n_fft: STFT 的窗长，样点
        hop_length: STFT 的帧移，样点
    抛出:
        ValueError: 尺寸不合；消息说明哪一个、应当是多少
    """

    input_size: int = N_FFT // 2
    hidden_size: int = N_FFT // 2 + 1
    num_layers: int = 1
    head: bool = True
    n_fft: int = N_FFT
    hop_length: int = HOP_LENGTH

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), field.type
            if type(value) is not kind:
                what = "真假" if kind is bool else "整数"
                raise ValueError(f"网络的配置：{field.name} 应是{what}，得到 {value!r}。")
            if kind is int and value < 1:
                raise ValueError(f"网络的配置：{field.name} 应大于零，得到 {value}。")
        check_stft(self.n_fft, self.hop_length)
        if self.input_size not in (self.bins - 1, self.bins):
            raise ValueError(
                f"网络的配置：n_fft={self.n_fft} 有 {self.bins} 个频点，input_size 应是 "
                f"{self.bins - 1}（去掉直流）或 {self.bins}，得到 {self.input_size}。"
            )
        if not self.head and self.hidden_size != self.bins:
            raise ValueError(
                f"网络的配置：没有线性层时 hidden_size 就是掩蔽的宽，应等于频点数 {self.bins}，"
                f"得到 {self.hidden_size}；请改 hidden_size，或保留线性层。"
            )

    @classmethod
    def for_stft(cls, n_fft: int = N_FFT, hop_length: int | None = None, **sizes) -> "NetworkConfig":
        """按 STFT 定其余：帧移默认半个窗，输入去掉直流，隐藏单元默认与频点一样多。"""
        hop_length = n_fft // 2 if hop_length is None else hop_length
        defaults = {"input_size": n_fft // 2, "hidden_size": n_fft // 2 + 1}
        return cls(n_fft=n_fft, hop_length=hop_length, **(defaults | sizes))

    @property
    def bins(self) -> int:
        """频点数，也是掩蔽的宽。"""
        return self.n_fft // 2 + 1

    def network_input(self, mag):
        """幅度谱 (…, 频点数) → 网络的输入 (…, input_size)：不看直流的去掉第 0 个频点。

        NumPy 数组与 PyTorch 张量都行；最后一维不是频点数时报 ``ValueError``。
        """
        if mag.shape[-1] != self.bins:
            raise ValueError(f"幅度谱的最后一维应是 {self.bins} 个频点，实际形状是 {tuple(mag.shape)}。")
        return mag[..., self.bins - self.input_size :]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NetworkConfig":
        """读回 :meth:`to_json` 写的；不是 JSON、项目多了少了、尺寸不合都是 ``ValueError``。"""
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ValueError(f"网络的配置不是 JSON：{text!r}。") from error
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError(f"网络的配置应恰有 {'、'.join(sorted(names))} 各项，得到 {text}。")
        return cls(**values)

    def __str__(self):
        tail = "" if self.head else "，没有线性层"
        return (
            f"LSTM({self.input_size}, {self.hidden_size})，{self.num_layers} 层{tail}，"
            f"STFT {self.n_fft}/{self.hop_length}"
        )


REPAIRED = NetworkConfig()
DOCUMENT = NetworkConfig(head=False)
