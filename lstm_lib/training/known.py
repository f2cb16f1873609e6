"""认得的公开数据集：各自的文件夹长什么样、哪里是语音哪里是噪声、说话人写在文件名的哪一段。

``recognise(root)`` 从 ``root`` 起向下两层寻找；``layout_above(path)`` 从一个子文件夹向上寻找，
好让 ``--speech data_aishell/wav/train`` 这样只给一部分的用法也能按说话人划分。
"""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownLayout:
    """一种公开数据集的布局；路径都相对数据集的根，可含通配符。

    ``marks``：几组路径，任何一组全部存在就算认出。``speech``、``noise``：取声音的子文件夹。
    ``paired``：纯净文件夹的通配式，带噪的那一个把名字里的 clean 换成 noisy。
    ``group``：正则，从文件名（不含扩展名）取出说话人或噪声来源；取不到时看 ``otherwise``：
    file 是一个文件一组，folder 是一个文件夹一组，空着则落回通用规则。
    ``held_out``：官方测试集，训练时不碰。``tree``：举一个文件的路径；``note``：怎样用，一句话。
    """

    name: str
    marks: tuple[tuple[str, ...], ...]
    speech: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    otherwise: str = ""
    tree: str = ""
    note: str = ""


LAYOUTS = (
    KnownLayout(
        name="VoiceBank-DEMAND",
        marks=(("clean_trainset*wav*", "noisy_trainset*wav*"),),
        paired=("clean_trainset*wav*",),
        test=("clean_testset*wav*",),
        held_out=("clean_testset*wav*", "noisy_testset*wav*"),
        group=(r"(p\d+)_\d+",),
        tree="clean_trainset_28spk_wav/p226_001.wav",
        note="成对，带噪的在 noisy_trainset_28spk_wav；说话人是 p226 这一段；clean_testset_wav 只用于评测",
    ),
    KnownLayout(
        name="DNS Challenge",
        marks=(
            ("datasets_fullband/clean_fullband", "datasets_fullband/noise_fullband"),
            ("clean_fullband", "noise_fullband"),
            ("datasets/clean", "datasets/noise"),
        ),
        speech=("datasets_fullband/clean_fullband", "clean_fullband", "datasets/clean"),
        noise=("datasets_fullband/noise_fullband", "noise_fullband", "datasets/noise"),
        held_out=("datasets*/dev_testset*", "datasets*/test_set*", "dev_testset*"),
        group=(r".*(reader_\d+)", r"(p\d+|s5)_\d+", r"(\d{4})_[A-Z]{3}_[A-Z]{3}", r"([fm]\d)_"),
        tree="datasets_fullband/clean_fullband/read_speech/…_reader_06709_0.wav",
        note="语音与噪声分开，现场混合，噪声在 noise_fullband；说话人是 reader_06709 这一段，混响 impulse_responses 不用",
    ),
    KnownLayout(
        name="THCHS-30",
        marks=(("data/[A-D][0-9]*_[0-9]*.wav", "train"),),
        speech=("train", "dev"),
        held_out=("test",),
        group=(r"([A-D]\d+)_\d+",),
        tree="data_thchs30/train/A11_0.wav",
        note="train、dev 里是指向 data 的符号链接；说话人是 A11 这一段；test 不碰",
    ),
    KnownLayout(
        name="AISHELL-1",
        marks=(("wav/train/S[0-9]*",),),
        speech=("wav/train", "wav/dev"),
        held_out=("wav/test",),
        group=(r"BAC\d+(S\d+)W\d+",),
        tree="data_aishell/wav/train/S0002/BAC009S0002W0122.wav",
        note="说话人是 S0002 这一段；wav/test 不碰",
    ),
    KnownLayout(
        name="MUSAN",
        marks=(("noise/free-sound",), ("noise/sound-bible",)),
        speech=("speech",),
        noise=("noise", "music"),
        otherwise="file",
        tree="musan/noise/free-sound/noise-free-sound-0000.wav",
        note="作噪声时取 noise 与 music，不取 speech",
    ),
    KnownLayout(
        name="ESC-50",
        marks=(("audio", "meta/esc50.csv"),),
        noise=("audio",),
        group=(r"\d-(\d+)-[A-Z]-\d+",),
        otherwise="file",
        tree="ESC-50-master/audio/1-100032-A-0.wav",
        note="同一条原始录音会切成几个文件（中间那段编号相同），划分时不拆开",
    ),
    KnownLayout(
        name="DEMAND",
        marks=(("[DNOPST][A-Z]*/ch01.wav",),),
        noise=("[DNOPST][A-Z]*",),
        otherwise="folder",
        tree="DKITCHEN/ch01.wav … ch16.wav",
        note="一个文件夹是同一现场的 16 路话筒，划分时不拆开",
    ),
)


@dataclass(frozen=True)
class Found:
    """在 ``base`` 处认出的一种布局。"""

    layout: KnownLayout
    base: Path

    def folders(self, role: str) -> list[Path]:
        """``role`` 是 speech、noise、test、held_out 之一；返回存在的文件夹。"""
        return _matches(self.base, getattr(self.layout, role))

    def pairs(self, role: str = "paired") -> list[tuple[Path, Path]]:
        """成对的（纯净、带噪）文件夹；``role`` 是 paired（训练）或 test（评测）。"""
        cleans = _matches(self.base, getattr(self.layout, role))
        noisies = [c.with_name(c.name.replace("clean", "noisy", 1)) for c in cleans]
        return [(c, n) for c, n in zip(cleans, noisies, strict=True) if n.is_dir()]


def _matches(base: Path, patterns) -> list[Path]:
    return [p for pattern in patterns for p in sorted(base.glob(pattern)) if p.is_dir()]


def _layout_at(folder: Path) -> KnownLayout | None:
    for layout in LAYOUTS:
        for marks in layout.marks:
            if all(any(True for _ in folder.glob(mark)) for mark in marks):
                return layout
    return None


def recognise(root, depth: int = 2) -> list[Found]:
    """在 ``root`` 及其下 ``depth`` 层里寻找认得的布局，由浅到深；认出的不再往里找。"""
    found, level = [], [Path(root)]
    for remaining in range(depth, -1, -1):
        deeper = []
        for folder in level:
            layout = _layout_at(folder)
            if layout:
                found.append(Found(layout, folder))
            elif remaining:
                deeper += _subfolders(folder)
        level = deeper
    return found


def _subfolders(folder: Path, limit: int = 64) -> list[Path]:
    # 子文件夹太多（如一人一个文件夹）的地方不会再藏着一个数据集的根，不必逐个翻
    try:
        children = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return []
    return children if len(children) <= limit else []


def layout_above(folder, levels: int = 4) -> Found | None:
    """从 ``folder`` 自己起向上 ``levels`` 层寻找认得的布局。"""
    folder = Path(folder).absolute()
    for base in [folder, *folder.parents][: levels + 1]:
        layout = _layout_at(base)
        if layout:
            return Found(layout, base)
    return None


def group_from_name(layout: KnownLayout, stem: str) -> str | None:
    """按布局的命名规则取说话人（或噪声来源）；名字不合规则时返回 None。"""
    for pattern in layout.group:
        match = re.match(pattern, stem)
        if match:
            return match.group(1)
    return None
