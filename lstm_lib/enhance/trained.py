"""训练好的网络：随书发的那一个，以及在内置语料上训练的几个（第一次用到时当场训练，以后从缓存里读）。"""

import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from lstm_lib import corpus
from lstm_lib.book.progress import run_module
from lstm_lib.enhance import irm, recipe
from lstm_lib.enhance.config import REPAIRED
from lstm_lib.files import cache_dir
from lstm_lib.threads import waiting

# 小网络放得进网页：只有 24 个隐藏单元，给“拨着看”的量化用；不写进 recipe.py，免得为它重新训练另外几个
TINY = replace(recipe.SHORT, network=replace(REPAIRED, hidden_size=24), steps=500)
RECIPES = recipe.RECIPES | {"tiny": TINY}
TITLES = {
    "repaired": "训练网络",
    "document": "短训练：原样网络",
    "short": "短训练：修补网络",
    "narrow": "短训练：六种噪声",
    "fresh": "短训练：段段从零起",
    "clear": "短训练：兼顾可懂度",
    "tiny": "短训练：小网络",
}


SHIPPED = Path(__file__).parent.parent / "weights" / "real.safetensors"  # 数据、许可与得分见旁边的 README.md
SHIPPED_SHA256 = "0aa867fa49374328c97665e747646f40707e4c465d5ffba03138e6131b7ad9ad"


def load_shipped() -> irm.IRMNetwork:
    """随书发的网络（推理模式），用真的噪声与真的普通话训练，尺寸与全书的修补网络相同；不必训练。

    文件不在是 ``FileNotFoundError``；它的 SHA-256 不是发布时的那一个，是 ``ValueError``。
    """
    found = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    if found != SHIPPED_SHA256:
        raise ValueError(
            f"{SHIPPED} 不是随书发的那一份（SHA-256 是 {found[:12]}…，应是 {SHIPPED_SHA256[:12]}…）：下载不完整，"
            "或者被改过。请重新安装；自己训练的网络用 --model 给出。"
        )
    return irm.load(SHIPPED)


def shipped_scores() -> dict[str, dict[str, dict[str, float]]]:
    """随书的网络在没进过训练的真录音上的得分：测试集 → 方法 → ``si_sdr``（dB）与 ``stoi``。

    那些录音的许可不许随书散发，所以得分是发布权重时量好、记下来的（``tools/shipped_scores.py``）。记录属于别的
    权重时报 ``ValueError``。
    """
    found = json.loads(SHIPPED.with_name("scores.json").read_text(encoding="utf-8"))
    if found["sha256"] != SHIPPED_SHA256:
        raise ValueError(
            f"{SHIPPED.with_name('scores.json')} 是别的权重的得分；请运行 tools/shipped_scores.py。"
        )
    return found["groups"]


def key(name: str) -> str:
    """缓存键：配方、训练代码与语料的配方一起决定。"""
    extra = f"{name} {RECIPES[name]} {corpus.corpus_key()} {torch.__version__}"
    return corpus.recipe_key("lstm_lib.enhance.recipe", "lstm_lib.enhance.loss", extra=extra)


def train_builtin(name: str = "repaired", progress: bool = True) -> tuple[irm.IRMNetwork, dict]:
    """按名字在内置语料上训练。"""
    return recipe.train(corpus.training_data(progress), RECIPES[name], progress, TITLES[name])


def trained_path(name: str = "repaired", progress: bool = True) -> Path:
    """训练好的权重文件；还没有就当场训练并存进缓存。``name`` 的取法见 :func:`load_trained`。"""
    return prepare([name], progress)[0]


def cached_path(name: str) -> Path:
    """缓存里的权重文件应当叫什么；不管它在不在。不认识的名字报 ``ValueError``。"""
    if name not in RECIPES:
        raise ValueError(f"没有叫 {name!r} 的网络；可选：{'、'.join(RECIPES)}。")
    return cache_dir() / f"irm-{name}-{key(name)}.safetensors"


def prepare(names: Iterable[str] = tuple(RECIPES), progress: bool = True) -> list[Path]:
    """一次训练好几个网络（缺省是全部），返回各自的权重文件；已有的不再训练，别的进程正在训练的就等它。

    训练在新进程里做：等待的方式要赶在 torch 载入之前定下。
    """
    paths = {name: cached_path(name) for name in names}
    if not all(path.exists() for path in paths.values()):
        with ExitStack() as locks:
            for path in sorted(paths.values()):  # 都按同一个次序上锁，不会互相等
                locks.enter_context(FileLock(path.with_suffix(".lock")))
            missing = [item for name, path in paths.items() if not path.exists() for item in (name, path)]
            if missing:
                corpus.ensure(progress)
                run_module(__name__, *missing, title="训练网络", show=progress, environment=waiting())
    return list(paths.values())


def load_trained(name: str = "repaired", progress: bool = True) -> irm.IRMNetwork:
    """训练好的网络（推理模式）。第一次调用会合成语料并训练（要几分钟，带进度条），以后直接从缓存里读。

    参数:
        name: "repaired" 是全书用的修补网络；"tiny" 是放得进网页的小网络（24 个隐藏单元）。另外五个是只为比较的短训练：
            "short" 是修补网络，别的各改一处：原样网络 "document"，只有六种噪声 "narrow"，段段从零状态出发 "fresh"，
            换成兼顾可懂度的损失 "clear"
        progress: 显示进度条
    返回:
        ``irm.IRMNetwork``，``network.config`` 是它的尺寸。
    抛出:
        ValueError: 没有这个名字
    """
    return irm.load(trained_path(name, progress))


def training_history(name: str = "repaired", progress: bool = True) -> dict:
    """:func:`load_trained` 那次训练的过程。

    ``losses`` 是 [步, 损失（dB）] 的列表，``seconds`` 是用时（秒），``steps`` 是步数，``batch`` 是每步的段数。
    """
    return irm.load_history(trained_path(name, progress))


if __name__ == "__main__":
    for wanted, target in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        trained_network, training = train_builtin(wanted)
        irm.save(trained_network, target, training)
