"""理想比值掩蔽与本书的语音增强网络：掩蔽、网络、增强、训练好的权重。

书里有两个网络，中间是同一个 ``LSTM(256, 257)``：

* ``DOCUMENT``：LSTM 之后直接接 Sigmoid。隐藏状态在 (-1, 1) 里，掩蔽因此被困在 (0.269, 0.731)。
* ``REPAIRED``：LSTM 与 Sigmoid 之间加一层 ``Linear(257, 257)``。全书其余各章用它。

输入是原始的带噪幅度谱（去掉直流那一个频点），输出是 257 个频点的掩蔽。别的尺寸见 :class:`NetworkConfig`。
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from lstm_lib.enhance.audio import HOP_LENGTH, N_FFT, istft, stft
from lstm_lib.enhance.config import DOCUMENT, REPAIRED, NetworkConfig
from lstm_lib.files import atomic_path, utf8_path

EPS = 1e-12
OLD_FILES = {"true": REPAIRED, "false": DOCUMENT}  # 从前的权重文件只记着 repaired


# ---- 理想掩蔽：输入语音与噪声的复数谱 S、N，形状 (T, 频点数)，输出同形状的实数掩蔽 ----


def ideal_binary_mask(speech: np.ndarray, noise: np.ndarray, threshold_db: float = 0.0) -> np.ndarray:
    """IBM：该点的信噪比高于门限为 1，否则为 0（Wang，2005）。"""
    return (np.abs(speech) ** 2 > 10 ** (threshold_db / 10) * np.abs(noise) ** 2).astype(np.float32)


def ideal_ratio_mask(speech: np.ndarray, noise: np.ndarray, beta: float = 0.5) -> np.ndarray:
    """IRM：(|S|² / (|S|² + |N|²))^β（Wang、Narayanan 与 Wang，2014）；β=1 就是维纳滤波器的增益。

    两者都是零的地方没有定义，取 0。
    """
    speech, noise = np.abs(speech) ** 2, np.abs(noise) ** 2
    return (speech / np.maximum(speech + noise, EPS)) ** beta


def phase_sensitive_mask(speech: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """PSM：|S|·cos(θ_S - θ_Y) / |Y|，截到 [0, 1]（Erdogan 等，2015）。"""
    noisy = speech + noise
    return np.clip((speech * noisy.conj()).real / np.maximum(np.abs(noisy) ** 2, EPS), 0, 1)


def apply_mask(
    mask: np.ndarray, noisy: np.ndarray, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH
) -> np.ndarray:
    """掩蔽 (T, n_fft/2+1) 乘带噪幅度谱，沿用带噪相位，还原成波形 (N,)。

    掩蔽与带噪谱的形状不同时报 ``ValueError``：多半是两边的 STFT 不一样。
    """
    spectrum = stft(noisy, n_fft, hop_length)
    if np.shape(mask) != spectrum.shape:
        raise ValueError(
            f"掩蔽的形状是 {np.shape(mask)}，带噪谱（n_fft={n_fft}，帧移 {hop_length}）是 {spectrum.shape}，"
            "两者应当一样；请用与掩蔽相同的 n_fft 与 hop_length。"
        )
    return istft(mask * spectrum, len(noisy), n_fft, hop_length).astype(np.float32)


# ---- 网络 ----


class IRMNetwork(nn.Module):
    """带噪幅度谱 (B, T, input_size) → 掩蔽 (B, T, 频点数)；尺寸由 ``config`` 定。

    ``batch_first=False`` 只为演示轴的坑而留。
    """

    def __init__(self, config: NetworkConfig = REPAIRED, batch_first: bool = True):
        super().__init__()
        self.config = config
        sizes = config.input_size, config.hidden_size, config.num_layers
        self.mask = nn.LSTM(*sizes, batch_first=batch_first)
        self.head = nn.Linear(config.hidden_size, config.bins) if config.head else nn.Identity()
        self.activation = nn.Sigmoid()

    def forward(self, mag: torch.Tensor, state=None) -> torch.Tensor:
        """只要掩蔽；``state`` 是 (h, c)，各 (层数, B, hidden_size)，默认为零。"""
        return self.forward_with_state(mag, state)[0]

    def forward_with_state(self, mag: torch.Tensor, state=None):
        """掩蔽与末状态：``mask, (h, c)``；把末状态传给下一次调用，就是流式推理。"""
        hidden, state = self.mask(mag, state)
        return self.activation(self.head(hidden)), state


def network_input(mag, config: NetworkConfig = REPAIRED):
    """幅度谱 (…, 257) → 网络的输入 (…, 256)：去掉直流（第 0 个频点）；别的尺寸由 ``config`` 定。

    NumPy 数组与 PyTorch 张量都行；最后一维不是频点数时报 ``ValueError``。
    """
    return config.network_input(mag)


@torch.inference_mode()
def predict_mask(network: IRMNetwork, noisy: np.ndarray) -> np.ndarray:
    """带噪波形 (N,) → 掩蔽 (T, 频点数)，float32。"""
    config = network.config
    mag = np.abs(stft(noisy, config.n_fft, config.hop_length)).astype(np.float32)
    return network(torch.from_numpy(network_input(mag, config))[None])[0].numpy()


def enhance(network: IRMNetwork, noisy: np.ndarray) -> np.ndarray:
    """整段增强：带噪波形 (N,)，16 kHz → 增强后的波形 (N,)，float32。与 ``StreamingEnhancer`` 只差舍入。

    参数:
        network: ``load_trained()`` 或 ``irm.load()`` 的返回值
        noisy: (N,)，±1 为满幅
    """
    config = network.config
    return apply_mask(predict_mask(network, noisy), noisy, config.n_fft, config.hop_length)


# ---- 权重的保存与载入 ----


def save(network: IRMNetwork, path, history: dict | None = None) -> None:
    """存成 safetensors；网络的配置与训练过程写成 JSON，放在元数据里。

    参数:
        network: 要存的网络
        path: 要写的文件；写到一半出错，原来的文件不动
        history: 训练过程，可选的字典
    抛出:
        OSError: 写不了
    """
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"config": network.config.to_json(), "history": json.dumps(history or {})}
    with atomic_path(path) as temporary:
        # 先拼好再写：磁盘满时是说得清的 OSError，而不是 safetensors 自己的异常
        temporary.write_bytes(to_bytes(weights, metadata=metadata))


def load(path) -> IRMNetwork:
    """读回 :func:`save` 存的网络（推理模式）；``train`` 写的 ``best.safetensors`` 也是这一种。

    抛出:
        FileNotFoundError: 没有这个文件
        ValueError: 文件损坏、配置写坏了、权重与配置对不上；消息说明哪里不对
    """
    metadata = read_metadata(path)
    with utf8_path(path) as readable:
        weights = load_file(readable)
    return rebuild(metadata.get("config"), metadata.get("repaired", "true"), weights, path)


def rebuild(config: str | None, repaired: str, weights: dict[str, torch.Tensor], path) -> IRMNetwork:
    """由配置的 JSON 与权重造出网络（推理模式）；``path`` 只用在报错里。

    从前的文件没有配置，只有 ``repaired``（JSON 的真假）：书中的两个网络之一。
    """
    try:
        config = OLD_FILES[repaired] if config is None else NetworkConfig.from_json(config)
    except (ValueError, KeyError) as error:
        reason = error if config is not None else f"repaired 应是 true 或 false，得到 {repaired!r}。"
        raise ValueError(f"{path} 里网络的配置不能用：{reason}") from error
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    layers = sum(name.startswith("mask.weight_ih") for name in found)
    if layers != config.num_layers:  # 先查这个：配置写坏了，也不会真去造一百万层
        raise ValueError(f"{path} 里的权重与它的配置（{config}）对不上：权重是 {layers} 层。")
    with torch.device("meta"):  # 只要形状，不占内存
        wanted = {name: tuple(tensor.shape) for name, tensor in IRMNetwork(config).state_dict().items()}
    if found != wanted:
        name = next(n for n in (*wanted, *found) if found.get(n) != wanted.get(n))
        raise ValueError(
            f"{path} 里的权重与它的配置（{config}）对不上：{name} 应是 {wanted.get(name, '没有')}，"
            f"文件里是 {found.get(name, '没有')}。"
        )
    network = IRMNetwork(config)
    network.load_state_dict(weights)
    return network.eval()


def load_history(path) -> dict:
    """:func:`save` 时一起存下的训练过程；没有存就是空字典。出错与 :func:`load` 相同。"""
    return json.loads(read_metadata(path).get("history", "{}"))


def read_metadata(path) -> dict:
    """safetensors 文件头里的元数据，键与值都是字符串；出错与 :func:`load` 相同。"""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"找不到权重文件 {path}；请检查路径。")
    if not path.stat().st_size:
        raise ValueError(f"权重文件 {path} 是空的；请重新下载或重新导出。")
    try:
        with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} 不是 safetensors 权重文件，或者下载得不完整。底层的说法：{error}"
        ) from error
