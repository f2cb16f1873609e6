"""训练配方与训练循环：随机取段、混合，一步一步走；学习率与一步的做法，自己的数据上也用这一份。"""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from lstm_lib import corpus
from lstm_lib.book.progress import bar
from lstm_lib.enhance.audio import HOP_LENGTH
from lstm_lib.enhance.config import DOCUMENT, REPAIRED, NetworkConfig
from lstm_lib.enhance.irm import IRMNetwork
from lstm_lib.enhance.loss import network_loss


@dataclass(frozen=True)
class Recipe:
    """训练配方。"""

    network: NetworkConfig = REPAIRED
    steps: int = 4000
    batch: int = 16
    segment: int = 63  # 每段的帧数，约一秒；帧移不是 256 的网络，取最接近的整数个帧移
    learning_rate: float = 5e-3
    beta2: float = 0.99  # Adam 的步子看最近约一百步的梯度；缺省的 0.999 是一千步，训练只有几千步，太长
    clip: float = 1.0
    loss: str = "si-sdr"  # loss.LOSSES 之一
    snr_db: tuple[float, float] = (-6.0, 12.0)
    level_db: tuple[float, float] = (-32.0, 12.0)  # 整体响度的范围
    far: float = 0.1  # 响度取遍整个范围的概率；其余时候只在 ±6 dB 里变
    families: float = 0.31  # 噪声没有名字（取自宽家族与更像生活的几族）的概率
    blend: float = 0.1  # 再叠上第二个噪声片段的概率
    carry: float = 0.2  # 一段从上一批的末状态出发的概率；其余从零状态出发
    seed: int = 0

    @property
    def length(self) -> int:
        """每段的样点数：帧移的整数倍。"""
        hop = self.network.hop_length
        return max((self.segment - 1) * HOP_LENGTH // hop, 1) * hop


NO_SCALING = torch.amp.GradScaler("cpu", enabled=False)  # 不放大损失：只有 fp16 才要
SHORT = Recipe(steps=300)  # 短训练只为比较，先后次序 300 步已经定了：别的都一样，只差一处
RECIPES = {
    "repaired": Recipe(),
    "document": replace(SHORT, network=DOCUMENT),
    "short": SHORT,
    "narrow": replace(SHORT, families=0.0),
    "fresh": replace(SHORT, carry=0.0),
    "clear": replace(SHORT, loss="clear"),
}


class Batches:
    """随机取段、混合，每次给出一批 (语音, 带噪)，形状 (B, 段长) 的 float32。"""

    def __init__(self, data: corpus.TrainingData, recipe: Recipe):
        self.recipe = recipe
        self.length = recipe.length
        self.speech, self.noise = data.speech, data.noise
        named = [index for index, kind in enumerate(data.kinds) if kind in corpus.noises.NAMED]
        family = [index for index, kind in enumerate(data.kinds) if kind not in corpus.noises.NAMED]
        self.groups = (np.array(named), np.array(family))
        self.rng = np.random.default_rng(recipe.seed)

    def draw_noise(self) -> np.ndarray:
        rng = self.rng
        clips = self.groups[int(rng.uniform() < self.recipe.families)]
        clip = self.noise[rng.choice(clips)]
        start = rng.integers(len(clip) - self.length)
        return clip[start : start + self.length].astype(np.float32)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        rng, recipe = self.rng, self.recipe
        speech = np.empty((recipe.batch, self.length), np.float32)
        noisy = np.empty_like(speech)
        for row in range(recipe.batch):
            start = rng.integers(len(self.speech) - self.length)
            clean = self.speech[start : start + self.length].astype(np.float32) / 32768
            noise = self.draw_noise()
            if rng.uniform() < recipe.blend:
                second = self.draw_noise()
                balance = 10 ** (rng.uniform(-10, 10) / 20)
                noise = noise + second * (balance * rms(noise) / rms(second))
            gain = rms(clean) / rms(noise) / 10 ** (rng.uniform(*recipe.snr_db) / 20)
            far = rng.uniform() < recipe.far
            level = 10 ** (
                (rng.triangular(recipe.level_db[0], 0, recipe.level_db[1]) if far else rng.uniform(-6, 6))
                / 20
            )
            speech[row] = level * clean
            noisy[row] = level * (clean + gain * noise)
        return torch.from_numpy(speech), torch.from_numpy(noisy)


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave * wave))) + 1e-6


class Carried(torch.nn.Module):
    """训练时套在网络外面：一批里随机的几段从上一批的末状态出发，于是网络见过攒久了的状态、半路换掉的噪声。

    幅度谱 (B, T, input_size) → 掩蔽 (B, T, 频点数)。B 变了，或 :meth:`reset` 之后的第一批，全都从零状态出发。

    参数:
        network: 要训练的网络
        probability: 一段接着上一批走的概率
        part: ``(哪一份, 几份)``：几个进程分一批时，各取自己的那几段；抽的数与不分的时候相同
    """

    def __init__(self, network: IRMNetwork, probability: float, part: tuple[int, int] = (0, 1)):
        super().__init__()
        self.network, self.probability, self.part = network, probability, part
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """忘掉末状态；给了 ``seed``，往后抽的数就由它定，不给就用 torch 自己的。"""
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def forward(self, mag: torch.Tensor) -> torch.Tensor:
        state = self.state if self.state is not None and self.state[0].shape[1] == len(mag) else None
        if state is not None:
            which, parts = self.part
            drawn = torch.rand(len(mag) * parts, 1, generator=self.generator)
            carried = drawn.chunk(parts)[which].to(mag.device) < self.probability
            state = tuple(part * carried for part in state)
        mask, state = self.network.forward_with_state(mag, state)
        self.state = tuple(part.detach() for part in state)  # 梯度不回到上一批
        return mask


def train(
    data: corpus.TrainingData, recipe: Recipe, progress: bool = True, title: str = "训练网络"
) -> tuple[IRMNetwork, dict]:
    """按配方训练，返回网络（推理模式）与训练过程；种子固定，同一台机器上结果逐位相同。"""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return train_loop(data, recipe, progress, title)
    finally:
        torch.set_num_threads(threads)


def train_loop(data, recipe, progress, title):
    """训练循环：取一批，定学习率，走一步；每 25 步记一次平均的损失。"""
    network = IRMNetwork(recipe.network)
    model = Carried(network, recipe.carry)
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, recipe.beta2), fused=True)
    batches = Batches(data, recipe)
    started, losses, recent = time.perf_counter(), [], []
    with bar(recipe.steps, title, show=progress) as shown:
        for step in range(recipe.steps):
            clean, noisy = batches()
            set_rate(optimizer, *one_cycle(step, recipe.steps, recipe.learning_rate))
            loss = training_step(
                model, optimizer, clean, noisy, recipe.network, recipe.clip, loss=recipe.loss
            )
            recent.append(loss.item())
            if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
                losses.append((step + 1, float(np.mean(recent))))
                recent.clear()
                shown.note(f"损失 {losses[-1][1]:.2f} dB")
            shown.update()
    seconds = time.perf_counter() - started
    history = {"losses": losses, "seconds": seconds}
    return network.eval(), history | {"steps": recipe.steps, "batch": recipe.batch}


def training_step(
    model, optimizer, clean, noisy, config, clip, autocast=nullcontext, scaler=NO_SCALING, loss="si-sdr"
) -> torch.Tensor:
    """走一步：前向、损失、反向、梯度裁剪、更新；返回这一批的损失。

    ``clean``、``noisy`` 是 (B, N)。``autocast`` 与 ``scaler`` 是混合精度用的，默认都不起作用；``loss`` 是损失的名字。
    """
    value = network_loss(model, clean, noisy, config, autocast, loss)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)  # 裁剪看的是没有放大过的梯度
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()
    return value.detach()


def one_cycle(step: int, steps: int, peak: float) -> tuple[float, float]:
    """一共 ``steps`` 步，第 ``step`` 步（从 0 数起）的学习率与 Adam 的 β₁。

    前 5% 的步数，学习率按余弦从 ``peak`` / 25 升到 ``peak``，此后按余弦降到 ``peak`` / 250000；β₁ 反过来，
    从 0.95 降到 0.85 再升回去（Smith 与 Topin，2017）。与 torch 的 ``OneCycleLR(pct_start=0.05)``
    逐位相同，但只看步数：断点续训不必另存什么。升温段恰好是一步（20 步）时，torch 会除以零，这里直接取最高。
    """
    low, least = peak / 25, peak / 25 / 1e4
    top, last = 0.05 * steps - 1, steps - 1
    if step <= top:
        part = step / top if top else 1.0
        return cosine(low, peak, part), cosine(0.95, 0.85, part)
    part = (step - top) / (last - top)
    return cosine(peak, least, part), cosine(0.85, 0.95, part)


def cosine(start: float, end: float, part: float) -> float:
    """从 ``start`` 到 ``end``，走了 ``part``（0 到 1）时的值：半个余弦。"""
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


def set_rate(optimizer, learning_rate: float, beta1: float) -> None:
    """换上这一步的学习率与 β₁。"""
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = learning_rate, (beta1, group["betas"][1])
