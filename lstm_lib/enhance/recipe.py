"""训练配方与训练循环：随机取段、混合，一步一步走。"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from lstm_lib import corpus
from lstm_lib.book.progress import bar
from lstm_lib.enhance.audio import HOP_LENGTH
from lstm_lib.enhance.irm import IRMNetwork, network_input
from lstm_lib.enhance.loss import istft, si_sdr_loss, stft


@dataclass(frozen=True)
class Recipe:
    """训练配方。"""

    repaired: bool = True
    steps: int = 3000
    batch: int = 16
    segment: int = 63  # 每段的帧数，约一秒
    learning_rate: float = 4e-3
    clip: float = 1.0
    snr_db: tuple[float, float] = (-7.0, 13.0)
    level_db: tuple[float, float] = (-32.0, 12.0)  # 整体响度的范围
    far: float = 0.25  # 响度取遍整个范围的概率；其余时候只在 ±6 dB 里变
    families: float = 0.2  # 噪声取自宽家族的概率
    blend: float = 0.15  # 再叠上第二个噪声片段的概率
    seed: int = 0


SHORT = Recipe(steps=600)  # 三个短训练只为比较：别的都一样，只差一处
RECIPES = {
    "repaired": Recipe(),
    "document": replace(SHORT, repaired=False),
    "short": SHORT,
    "narrow": replace(SHORT, families=0.0),
}


class Batches:
    """随机取段、混合，每次给出一批 (语音, 带噪)，形状 (B, 段长) 的 float32。"""

    def __init__(self, data: corpus.TrainingData, recipe: Recipe):
        self.recipe = recipe
        self.length = (recipe.segment - 1) * HOP_LENGTH
        self.speech, self.noise = data.speech, data.noise
        named = [index for index, kind in enumerate(data.kinds) if kind not in corpus.noises.FAMILIES]
        family = [index for index, kind in enumerate(data.kinds) if kind in corpus.noises.FAMILIES]
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


def train(
    data: corpus.TrainingData, recipe: Recipe, progress: bool = True, title: str = "训练网络"
) -> tuple[IRMNetwork, dict]:
    """按配方训练，返回网络（推理模式）与训练过程；种子固定，同一台机器上结果逐比特相同。"""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return run(data, recipe, progress, title)
    finally:
        torch.set_num_threads(threads)


def run(data, recipe, progress, title):
    network = IRMNetwork(repaired=recipe.repaired)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.05
    )
    batches = Batches(data, recipe)
    started, losses, recent = time.perf_counter(), [], []
    with bar(recipe.steps, title, show=progress) as shown:
        for step in range(1, recipe.steps + 1):
            clean, noisy = batches()
            spectrum = stft(noisy)
            mask = network(network_input(spectrum.abs()))
            loss = si_sdr_loss(clean, istft(mask * spectrum))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            recent.append(loss.item())
            if step % 25 == 0 or step == recipe.steps:
                losses.append((step, float(np.mean(recent))))
                recent.clear()
                shown.note(f"损失 {losses[-1][1]:.2f} dB")
            shown.update()
    seconds = time.perf_counter() - started
    return network.eval(), {
        "losses": losses,
        "seconds": seconds,
        "steps": recipe.steps,
        "batch": recipe.batch,
    }
