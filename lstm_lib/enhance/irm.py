"""理想比值掩蔽与本书的语音增强网络：掩蔽、网络、增强、训练好的权重。

两个网络，中间是同一个 ``LSTM(256, 257)``：

* ``"document"``：LSTM 之后直接接 Sigmoid。隐藏状态在 (-1, 1) 里，掩蔽因此被困在 (0.269, 0.731)。
* ``"repaired"``：LSTM 与 Sigmoid 之间加一层 ``Linear(257, 257)``。全书其余各章用它。

输入是原始的带噪幅度谱（去掉直流那一个频点），输出是 257 个频点的掩蔽。
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from lstm_lib.enhance.audio import BINS, istft, stft
from lstm_lib.files import atomic_path

INPUT_SIZE = 256
HIDDEN_SIZE = BINS
EPS = 1e-12


# ---- 理想掩蔽：输入语音与噪声的复数谱 S、N，形状 (T, 257)，输出同形状的实数掩蔽 ----


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


def apply_mask(mask: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    """掩蔽 (T, 257) 乘带噪幅度谱，沿用带噪相位，还原成波形 (N,)。"""
    return istft(mask * stft(noisy), len(noisy)).astype(np.float32)


# ---- 网络 ----


class IRMNetwork(nn.Module):
    """带噪幅度谱 (B, T, 256) → 掩蔽 (B, T, 257)。

    ``repaired=False`` 是 LSTM 直接接 Sigmoid 的原样；``batch_first=False`` 只为演示轴的坑而留。
    """

    def __init__(self, repaired: bool = True, batch_first: bool = True):
        super().__init__()
        self.repaired = repaired
        self.mask = nn.LSTM(
            INPUT_SIZE, HIDDEN_SIZE, num_layers=1, bidirectional=False, batch_first=batch_first
        )
        self.head = nn.Linear(HIDDEN_SIZE, BINS) if repaired else nn.Identity()
        self.activation = nn.Sigmoid()

    def forward(self, mag: torch.Tensor, state=None) -> torch.Tensor:
        """只要掩蔽；``state`` 是 (h, c)，各 (1, B, 257)，默认为零。"""
        return self.forward_with_state(mag, state)[0]

    def forward_with_state(self, mag: torch.Tensor, state=None):
        """掩蔽与末状态：``mask, (h, c)``；把末状态传给下一次调用，就是流式推理。"""
        hidden, state = self.mask(mag, state)
        return self.activation(self.head(hidden)), state


def network_input(mag):
    """257 个频点的幅度谱 (…, 257) → 网络的输入 (…, 256)：去掉直流（第 0 个频点）。

    NumPy 数组与 PyTorch 张量都行；最后一维不是 257 时报 ``ValueError``。
    """
    if mag.shape[-1] != BINS:
        raise ValueError(f"幅度谱的最后一维应是 {BINS} 个频点，实际形状是 {tuple(mag.shape)}。")
    return mag[..., 1:]


@torch.inference_mode()
def predict_mask(network: IRMNetwork, noisy: np.ndarray) -> np.ndarray:
    """带噪波形 (N,) → 掩蔽 (T, 257)，float32。"""
    mag = np.abs(stft(noisy)).astype(np.float32)
    return network(torch.from_numpy(network_input(mag))[None])[0].numpy()


def enhance(network: IRMNetwork, noisy: np.ndarray) -> np.ndarray:
    """带噪波形 (N,) → 增强后的波形 (N,)，float32。"""
    return apply_mask(predict_mask(network, noisy), noisy)


# ---- 权重的保存与载入 ----


def save(network: IRMNetwork, path, history: dict | None = None) -> None:
    """存成 safetensors；结构与训练过程（可选的 JSON 字典）写在元数据里。"""
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"repaired": json.dumps(network.repaired), "history": json.dumps(history or {})}
    with atomic_path(path) as temporary:
        # 先拼好再写：磁盘满时是说得清的 OSError，而不是 safetensors 自己的异常
        temporary.write_bytes(to_bytes(weights, metadata=metadata))


def load(path) -> IRMNetwork:
    """读回 :func:`save` 存的网络（推理模式）。

    找不到文件是 ``FileNotFoundError``；文件损坏或权重对不上是 ``ValueError``，说明哪里不对。
    """
    metadata = read_metadata(path)
    network = IRMNetwork(repaired=json.loads(metadata.get("repaired", "true")))
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} 里的权重与本书的网络对不上：{error}") from error
    return network.eval()


def load_history(path) -> dict:
    """:func:`save` 时一起存下的训练过程；没有存就是空字典。出错与 :func:`load` 相同。"""
    return json.loads(read_metadata(path).get("history", "{}"))


def read_metadata(path) -> dict:
    """safetensors 文件头里的元数据，键与值都是字符串；出错与 :func:`load` 相同。"""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"找不到权重文件 {path}；请检查路径。")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} 不是完整的 safetensors 权重文件：{error}") from error
