"""内置语料：第一次用到时当场合成，不下载任何东西，结果可重现。

语音由 espeak-ng 合成（普通话与英语，许多嗓音），噪声由 :mod:`lstm_lib.corpus.noises` 合成。
对外只需要 :func:`demo_scenes`、:func:`test_scenes`、:func:`validation_scenes`、:func:`training_data`。
"""

import ast
import hashlib
import importlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
from filelock import FileLock

from lstm_lib.book.progress import run_module
from lstm_lib.files import cache_dir


def __getattr__(name: str):
    """``corpus.noises`` 用到才导入：它要 scipy.signal，装载近一秒，而增强一个文件只要语料的键。"""
    if name == "noises":
        return importlib.import_module(f"{__name__}.noises")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Scene:
    """一个带噪场景；波形都是 16 kHz、float32、等长的 (N,)，noisy = clean + noise。"""

    title: str
    clean: np.ndarray
    noise: np.ndarray
    noisy: np.ndarray
    snr_db: float
    noise_kind: str
    heard: bool  # 训练里有没有这一类噪声
    text: str
    voice: str


@dataclass(frozen=True)
class TrainingData:
    """训练用的声音：满幅为 32768 的 int16。"""

    speech: np.ndarray  # (N,)，各句首尾相接
    noise: np.ndarray  # (片段, 样点)
    kinds: list[str]  # 每个噪声片段的种类


def recipe_key(*modules: str, extra: str = "") -> str:
    """按源代码的语法树（不计注释、文档字符串与排版）算出的配方键；配方一改，缓存就换新的。"""
    digest = hashlib.sha256(extra.encode())
    for module in modules:
        package, _, name = module.rpartition(".")
        raw = files(package).joinpath(f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(raw)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                    body[0].value.value = ""
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def corpus_key() -> str:
    """语料配方的键：源代码、句子与合成器的版本。"""
    text = files("lstm_lib.corpus").joinpath("sentences.txt").read_text(encoding="utf-8")
    versions = [f"{name}={version(name)}" for name in ("espeakng-loader", "soxr", "numpy")]
    names = ("build", "speech", "noises", "wide")
    return recipe_key(*(f"lstm_lib.corpus.{name}" for name in names), extra="\n".join([text, *versions]))


def cached_folder() -> tuple[Path, bool]:
    """缓存里的语料应当在哪个目录，以及是不是已经做好了。"""
    folder = cache_dir() / f"corpus-{corpus_key()}"
    return folder, (folder / "fingerprint.txt").exists()


def ensure(progress: bool = True) -> Path:
    """语料所在的目录；还没有时当场制作（约十几秒），别的进程正在做就等它做完。

    先写进临时目录，算好校验和，最后整个改名，所以中途打断不会留下半份语料。
    """
    folder, done = cached_folder()
    if done:
        return folder
    with FileLock(cache_dir() / "corpus.lock"):
        if cached_folder()[1]:
            return folder
        temporary = Path(tempfile.mkdtemp(dir=cache_dir(), prefix=".corpus-"))
        try:
            started = time.perf_counter()
            make(temporary, progress)
            (temporary / "seconds.txt").write_text(f"{time.perf_counter() - started:.1f}", encoding="utf-8")
            (temporary / "fingerprint.txt").write_text(checksum(temporary), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def making_seconds() -> float:
    """上一次制作语料用了多少秒。"""
    return float((ensure() / "seconds.txt").read_text(encoding="utf-8"))


def make(folder: Path, progress: bool = True) -> None:
    """在一个新进程里制作语料，因为 espeak-ng 带内部状态，只有新进程才能重现。"""
    run_module("lstm_lib.corpus.build", folder, title="合成语料", show=progress)


def checksum(folder: Path) -> str:
    """全部波形与说明的 SHA-256。"""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        digest.update(path.read_bytes())
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as waves:  # npz 里有时间戳，所以只算内容
            for name in sorted(waves):
                digest.update(waves[name].tobytes())
    digest.update((folder / "facts.json").read_bytes())
    return digest.hexdigest()


def fingerprint() -> str:
    """语料内容的 SHA-256；同一台机器上每次重做都相同。"""
    return (ensure() / "fingerprint.txt").read_text(encoding="utf-8")


def training_folders(progress: bool = True) -> dict[str, Path]:
    """训练用的声音写成的 wav：``{"speech": 文件夹, "noise": 文件夹}``，在缓存里；第一次要一两分钟。

    语音是书中的训练语音（按嗓音的次序切成几十段），噪声是书中的训练噪声加 :mod:`lstm_lib.corpus.wide`
    的各族，一种一个子文件夹。
    """
    key = recipe_key("lstm_lib.corpus.wide", "lstm_lib.corpus.wide_build", extra=corpus_key())
    folder = cache_dir() / f"wide-{key}"
    if not folder.exists():
        ensure(progress)
        with FileLock(cache_dir() / "wide.lock"):
            if not folder.exists():
                temporary = Path(tempfile.mkdtemp(dir=cache_dir(), prefix=".wide-"))
                try:
                    run_module("lstm_lib.corpus.wide_build", temporary, title="合成训练噪声", show=progress)
                    os.replace(temporary, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    return {"speech": folder / "speech", "noise": folder / "noise"}


@cache
def _scenes(folder: Path, split: str) -> tuple[Scene, ...]:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))[split]
    scenes = []
    with np.load(folder / f"{split}.npz") as waves:
        for index, item in enumerate(facts):
            clean, noise = waves[f"clean{index}"], waves[f"noise{index}"]
            noisy = clean + noise
            for wave in (clean, noise, noisy):
                wave.flags.writeable = False  # 各处共用一份，谁也不许改
            title = item.get("title", f"{item['kind']}，{item['snr_db']} dB")
            scenes.append(
                Scene(
                    title,
                    clean,
                    noise,
                    noisy,
                    item["snr_db"],
                    item["kind"],
                    item["heard"],
                    item["text"],
                    item["voice"],
                )
            )
    return tuple(scenes)


def demo_scenes(progress: bool = True) -> list[Scene]:
    """四个示范场景；第一个是全书反复使用的例子。"""
    return list(_scenes(ensure(progress), "demo"))


def test_scenes(progress: bool = True) -> list[Scene]:
    """测试集：没进过训练的嗓音、句子与噪声样本；六种听过的噪声、三种没听过的，各四档信噪比。"""
    return list(_scenes(ensure(progress), "test"))


test_scenes.__test__ = False  # 名字以 test 开头，但不是 pytest 的用例


def validation_scenes(progress: bool = True) -> list[Scene]:
    """验证集：调参用；另有三种既不在训练、也不在测试里的噪声。"""
    return list(_scenes(ensure(progress), "validation"))


def training_data(progress: bool = True) -> TrainingData:
    """训练用的语音与噪声。"""
    folder = ensure(progress)
    kinds = json.loads((folder / "facts.json").read_text(encoding="utf-8"))["kinds"]
    return TrainingData(np.load(folder / "speech.npy"), np.load(folder / "noise.npy"), kinds)
