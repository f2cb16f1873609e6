"""把命令行给的文件夹变成训练与验证两份数据：认布局、扫描、配对、划分，并写下清单。"""

import contextlib
import fnmatch
import hashlib
import json
import os
import platform
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lstm_lib import corpus
from lstm_lib.files import atomic_path
from lstm_lib.training import checkpoint, folders, known
from lstm_lib.training.dataset import Corpus, FileTable
from lstm_lib.training.folders import AudioFile, Bad, DataError
from lstm_lib.training.overlap import listed, same_partners, same_sound

BUILTIN = "内置"  # 代替文件夹：书中的合成语音，与（放宽了的）合成噪声


@dataclass
class Sources:
    """使用者给的数据。

    ``speech``、``noise`` 里可以写“文件夹=权重”（抽到它的相对机会），可以用 :data:`BUILTIN` 代替文件夹。

    参数:
        speech: 纯净语音的文件夹，列表
        noise: 噪声的文件夹，列表
        paired: 已经混好的，（纯净、带噪）两个文件夹的列表
        data: 认得的数据集的根，列表
        valid: 验证集：成对的（纯净、带噪），None 是从训练数据里分
        valid_share: 分给验证的时长份额
        max_bad: 读不了的超过这个份额就停下
        speaker: 从相对路径里取说话人的正则
        leave_out: 文件名的通配符：配得上的不碰
        only: “speech”“noise” → 文件名的通配符：只要配得上的；空着是都要
        seed: 随机种子
    """

    speech: list = field(default_factory=list)
    noise: list = field(default_factory=list)
    paired: list = field(default_factory=list)
    data: list = field(default_factory=list)
    valid: tuple | None = None
    valid_share: float = 0.1
    max_bad: float = 0.05
    speaker: str | None = None
    leave_out: list = field(default_factory=list)  # 文件名的通配符：配得上的不碰
    only: dict = field(default_factory=dict)  # “speech”“noise” → 文件名的通配符：只要配得上的；空着是都要
    seed: int = 0


@dataclass
class Gathered:
    """训练与验证两份数据，以及给人看的说明、坏文件。

    ``held["train" 或 "valid"][种类]`` 是两边各组的名字，含上次有、这次不在的。
    """

    train: Corpus
    valid: Corpus
    report: list[str]
    bad: list
    held: dict[str, dict[str, list[str]]]


def fingerprint(train: Corpus, valid: Corpus) -> str:
    """两份数据的指纹：文件或划分变了，它就变。"""
    digest = hashlib.sha256()
    for prefix, part in (("train", train), ("valid", valid)):
        for name, array in part.save_arrays(prefix).items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def gather(sources: Sources, previous: dict | None = None) -> Gathered:
    """扫描并划分。``previous`` 是上一次的 ``held``：已定在哪一边的组不再挪动。"""
    report, previous = [], previous or {"train": {}, "valid": {}}
    sources, weights = _unweighted(sources)
    speech_roots, noise_roots, pair_roots = _resolve(sources, report)
    if bool(speech_roots) != bool(noise_roots):
        lacking, given = ("--noise", "语音") if speech_roots else ("--speech", "噪声")
        raise DataError(f"只给了{given}，还缺 {lacking}：现场混合要语音与噪声两样。")
    if not speech_roots and not pair_roots:
        raise DataError("没有给训练数据：请给 --speech 与 --noise，或 --paired，或 --data。")
    bad, train, valid = [], {}, {}
    held = {side: dict(groups) for side, groups in previous.items()}
    roots_of = {"speech": speech_roots, "noise": noise_roots}
    found = {kind: _scan(kind, roots, sources, bad) if roots else [] for kind, roots in roots_of.items()}
    found["pairs"] = [p for roots in pair_roots for p in scan_pairs(*roots, sources, bad)]
    _refuse_two_roles(found)
    for kind, items in found.items():
        train[kind], valid[kind] = _split(kind, items, sources, held, report)
    if sources.valid:
        fixed = scan_pairs(*sources.valid, sources, bad)
        report.append(f"验证：成对的 {len(fixed)} 对，来自 {sources.valid[0]}")
        valid = {"speech": [], "noise": [], "pairs": fixed}
        _refuse_overlap(fixed, train)
    for part in (train, valid):
        report += folders.notes([*part["speech"], *part["noise"]])
        report += folders.notes(file for p in part["pairs"] for file in (p.clean, p.noisy))
    return Gathered(_corpus(train, weights), _corpus(valid, weights), report, bad, held)


def whole(sources: Sources) -> Gathered:
    """不划分：给的语音与噪声全算“训练”，验证是空的；不收成对的数据。"""
    report, bad = [], []
    sources, weights = _unweighted(sources)
    speech_roots, noise_roots, _ = _resolve(sources, report)
    found = {"pairs": []}
    for kind, roots in (("speech", speech_roots), ("noise", noise_roots)):
        found[kind] = _scan(kind, roots, sources, bad)
    _refuse_two_roles(found)
    report += folders.notes([*found["speech"], *found["noise"]])
    nothing = {kind: [] for kind in KINDS}
    return Gathered(_corpus(found, weights), _corpus(nothing, {}), report, bad, {})


def _unweighted(sources):
    """拆开“文件夹=权重”：（只剩文件夹的数据, 权重）。"""
    weights = {}
    speech = _weighted("speech", sources.speech, weights)
    noise = _weighted("noise", sources.noise, weights)
    return replace(sources, speech=speech, noise=noise), weights


def _weighted(role, given, weights):
    """“文件夹=权重”拆开：返回文件夹的列表，把 (绝对路径, 权重) 记进 ``weights[role]``；有一个写了就都要写。"""
    plain, numbers = [], []
    for text in map(str, given):
        path, number = text, None
        if "=" in text and not Path(text).exists():
            path, _, tail = text.rpartition("=")
            try:
                number = float(tail)
            except ValueError:
                number = -1.0
            if not 0 < number < float("inf"):
                raise DataError(f"--{role} {text}：等号后面的权重要是大于零的数，例如 {path}=2。")
        numbers.append(number)
        builtin = path == BUILTIN and not Path(path).exists()
        plain.append(corpus.training_folders()[role] if builtin else folders.existing_folder(path))
    if any(n is not None for n in numbers):
        if None in numbers:
            lacking = given[numbers.index(None)]
            raise DataError(f"--{role} 有的写了权重，{lacking} 没有；请都写上，如 {lacking}=1，或都不写。")
        weights[role] = [(os.path.abspath(p), n) for p, n in zip(plain, numbers, strict=True)]
    return plain


def _factors(files, weights):
    """各文件每秒声音的权重：文件夹的权重除以它的总秒数；没有写权重的都是 1。"""
    if not weights or not files:
        return 1.0
    owner = [
        max((k for k, (root, _) in enumerate(weights) if Path(f.path).is_relative_to(root)),
            key=lambda k: len(weights[k][0]))
        for f in files
    ]  # fmt: skip
    seconds = np.bincount(owner, [f.seconds for f in files], len(weights))
    return np.array([weights[k][1] / seconds[k] for k in owner])


def valid_pair(given) -> tuple[Path, Path]:
    """--valid 的一个或两个文件夹 → 成对的（纯净、带噪）。"""
    if len(given) == 2:
        return Path(given[0]), Path(given[1])
    root = folders.existing_folder(given[0])
    inner = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not (root / "clean").is_dir() and len(inner) == 1:  # 解压时多套了一层
        root = inner[0]
    pairs = [p for found in known.recognise(root) for p in found.pairs("test")] if root.is_dir() else []
    pairs += (
        [(root / "clean", root / "noisy")] if (root / "clean").is_dir() and (root / "noisy").is_dir() else []
    )
    if len(given) != 1 or len(pairs) != 1:
        raise DataError(
            f"--valid {' '.join(map(str, given))}：请给成对的“纯净 带噪”两个文件夹，"
            "或内有 clean、noisy 两个子文件夹的一个文件夹。"
        )
    return pairs[0]


def _resolve(sources, report):
    """认得的布局换成其中该用的子文件夹；不认得的原样用。"""
    speech, noise, pairs = [], [], [tuple(map(Path, p)) for p in sources.paired]
    for role, roots, target in (("speech", sources.speech, speech), ("noise", sources.noise, noise)):
        for root in map(folders.existing_folder, roots):
            found = [f for f in known.recognise(root) if f.folders(role)]
            for each in found:
                report.append(f"{root} 认作 {each.layout.name}：{each.layout.note}")
            target += [folder for each in found for folder in each.folders(role)] or [root]
    for root in map(folders.existing_folder, sources.data):
        found = known.recognise(root)
        if not found:
            names = "、".join(layout.name for layout in known.LAYOUTS)
            raise DataError(
                f"--data {root} 不是认得的数据集（{names}）；请改用 --speech 与 --noise，或 --paired。"
            )
        for each in found:
            report.append(f"{each.base} 认作 {each.layout.name}：{each.layout.note}")
            pairs += each.pairs()
            # MUSAN 的语音混进语音里没有坏处，但同一份数据不该又当语音又当噪声
            speech += each.folders("speech") if each.layout.name != "MUSAN" else []
            noise += each.folders("noise")
    return speech, noise, pairs


def _held_out(roots):
    """认得的数据集的官方测试集：给的不是测试集本身，就一个文件也不碰（符号链接也认得出）。"""
    skip = []
    for root in roots:
        found = known.layout_above(root)
        for folder in found.folders("held_out") if found else []:
            if not Path(root).absolute().is_relative_to(folder.absolute()):
                skip += [folder, *folders.find_audio([folder])[0]]
    return skip


KINDS = {"speech": "语音", "noise": "噪声", "pairs": "成对数据"}


def _scan(kind, roots, sources, bad):
    pattern = sources.speaker if kind == "speech" else None
    good, unusable = folders.scan(roots, pattern, by_folder=kind == "speech", skip=_held_out(roots))
    if sources.leave_out or sources.only.get(kind):
        kept = [[f for f in part if _wanted(kind, f.path, sources)] for part in (good, unusable)]
        found = len(good) + len(unusable)
        if found and not any(kept):
            raise DataError(
                f"{KINDS[kind]}（{'、'.join(map(str, roots))}）里有 {found} 个声音文件，"
                f"照 {_patterns(kind, sources)} 一挑，一个也不剩；通配符比的是文件名，不带文件夹，请改一改。"
            )
        good, unusable = kept
    what = f"{KINDS[kind]}（{'、'.join(map(str, roots))}）"
    folders.check_bad(unusable, len(good), sources.max_bad, what, roots)
    bad += unusable
    return good


def _patterns(kind, sources) -> str:
    """挑文件的两个选项，照命令行的写法。"""
    options = ((f"--only-{kind}", sources.only.get(kind)), ("--leave-out", sources.leave_out))
    return "、".join(f"{name} {' '.join(patterns)}" for name, patterns in options if patterns)


def _wanted(kind, path, sources):
    def match(patterns):
        return any(fnmatch.fnmatch(os.path.basename(path), pattern) for pattern in patterns)

    only = sources.only.get(kind)
    return (not only or match(only)) and not match(sources.leave_out)


def scan_pairs(clean_root, noisy_root, sources, bad):
    """扫描两个文件夹并配对；不能用的添进 ``bad``，太多就抛 :class:`DataError`。

    两个文件夹是同一个时拒绝；带噪的与纯净的内容完全相同的，算不能用。
    """
    clean_root, noisy_root = folders.existing_folder(clean_root), folders.existing_folder(noisy_root)
    if clean_root.samefile(noisy_root):
        raise DataError(
            f"纯净 {clean_root} 与带噪 {noisy_root} 是同一个文件夹；请分别给出纯净与带噪的文件夹。"
        )
    clean, bad_clean = folders.scan([clean_root], sources.speaker)
    noisy, bad_noisy = folders.scan([noisy_root], sources.speaker)
    pairs, unmatched = folders.pair(clean, noisy, clean_root, noisy_root, (bad_clean, bad_noisy))
    same = same_partners([(p.clean, p.noisy) for p in pairs])
    if same and len(same) == len(pairs):
        raise DataError(
            f"纯净 {clean_root} 与带噪 {noisy_root} 里是同样的声音：{listed(same)}；"
            "请检查两个文件夹有没有给错，带噪的应当有噪声。"
        )
    reasons = {other.path: f"与纯净的 {one.path} 是同样的声音，没有噪声" for one, other in same}
    pairs = [p for p in pairs if p.noisy.path not in reasons]
    unusable = bad_clean + bad_noisy + unmatched + [Bad(*item) for item in reasons.items()]
    what = f"成对数据（{clean_root} 与 {noisy_root}）"
    folders.check_bad(unusable, 2 * len(pairs), sources.max_bad, what, (clean_root, noisy_root))
    bad += unusable
    return pairs


def _split(kind, items, sources, held, report):
    """分成（训练, 验证），并把各组在哪一边记进 ``held``；暂时不在的组也留在里面，回来时还在原来的一边。"""
    if not items:
        return [], []
    name = KINDS[kind]
    files = [p.clean for p in items] if kind == "pairs" else items
    durations = {}
    for file in files:
        durations[file.group] = durations.get(file.group, 0) + file.seconds
    total = _duration(sum(durations.values()))
    unit = "来源" if kind == "noise" else "说话人"
    if sources.valid:
        report.append(f"{name}：{len(items)} 个文件，{total}，全部用于训练")
        _remember(held, kind, durations.keys(), set())
        return items, []
    keep = held["valid"].get(kind, ())
    # 从前的记录只有验证组：那时在的其余各组都训练过了，分不清新旧就不再取
    trained = held["train"].get(kind, durations.keys() - set(keep) if keep else ())
    chosen = folders.split_groups(durations, sources.valid_share, sources.seed, keep, trained)
    _remember(held, kind, durations.keys() - chosen, chosen)
    train = [i for i, f in zip(items, files, strict=True) if f.group not in chosen]
    valid = [i for i, f in zip(items, files, strict=True) if f.group in chosen]
    plain = [[i.clean if kind == "pairs" else i for i in side] for side in (train, valid)]
    same = same_sound(*plain)
    if same:
        report.append(
            f"注意：{name}的验证里有{listed(same)}与训练的是同样的声音，得分会偏高；请去掉重复的文件，"
            "或让它们的名字认得出是同一个来源"
        )
    counts = f"训练 {len(train)} 个、验证 {len(valid)} 个"
    report.append(f"{name}：{len(items)} 个文件，{total}，{len(durations)} 个{unit}；{counts}")
    if kind != "noise" and all(f.group == f.path for f in files):
        report.append(
            f"注意：认不出{name}里谁是谁，只好一个文件算一个说话人，同一人可能两边都有；"
            "请一人一个子文件夹，或用 --speaker 给出正则"
        )
    return train, valid


def _remember(held, kind, train, valid):
    """添上这次的各组；训练过的不再算验证组。"""
    train = set(held["train"].get(kind, ())) | train
    held["train"][kind] = sorted(train)
    held["valid"][kind] = sorted((set(held["valid"].get(kind, ())) | valid) - train)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} 小时" if seconds >= 3600 else f"{seconds / 60:.1f} 分钟"


def _refuse_two_roles(found):
    """同样的声音不能既是要留下的，又是要去掉的。"""
    clean, noisy = [p.clean for p in found["pairs"]], [p.noisy for p in found["pairs"]]
    for one, one_role, other, other_role, advice in (
        (found["speech"], "语音", found["noise"], "噪声", "--speech 与 --noise"),
        (clean, "纯净", found["noise"], "噪声", "--paired 与 --noise"),
        (found["speech"], "语音", noisy, "带噪", "--speech 与 --paired"),
    ):
        same = same_sound(one, other)
        if same:
            raise DataError(f"{listed(same)}既当{one_role}又当{other_role}；请把 {advice} 分开。")


def _refuse_overlap(fixed, train):
    used = [*train["speech"], *train["noise"], *(f for p in train["pairs"] for f in (p.clean, p.noisy))]
    same = same_sound(used, [f for p in fixed for f in (p.clean, p.noisy)])
    if same:
        raise DataError(f"{listed(same)}既在训练里又在 --valid 里；请把两者分开。")


def _corpus(parts, weights):
    clean = [p.clean for p in parts["pairs"]]
    noisy = [p.noisy for p in parts["pairs"]]
    speech, noise = (FileTable.of(parts[k], _factors(parts[k], weights.get(k))) for k in ("speech", "noise"))
    return Corpus(speech, noise, FileTable.of(clean), FileTable.of(noisy))


def save_index(path, gathered: Gathered) -> None:
    """写下两份数据的清单，供其他进程读；不含 pickle。"""
    arrays = {**gathered.train.save_arrays("train"), **gathered.valid.save_arrays("valid")}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load_index(path) -> tuple[Corpus, Corpus]:
    """读回 :func:`save_index` 写下的（训练, 验证）。"""
    with np.load(path, allow_pickle=False) as arrays:
        return Corpus.from_arrays(arrays, "train"), Corpus.from_arrays(arrays, "valid")


def trained_on(model) -> list[AudioFile]:
    """检查点 ``model``（文件，或训练的输出文件夹）旁边的清单里训练用的声音；没有或读不了清单就是空的。"""
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    try:
        corpus, _ = load_index(folder / checkpoint.INDEX)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return []
    tables = corpus.speech, corpus.noise, corpus.clean, corpus.noisy
    return [
        AudioFile(t.path(i), int(t.frames[i]), int(t.rates[i]), "") for t in tables for i in range(len(t))
    ]


def shared_index(world, path, expected: str) -> tuple[Corpus, Corpus]:
    """各进程读 0 号进程写的清单；有谁读不到，或读到的指纹不是 ``expected``，就一同抛 :class:`DataError`。"""
    corpora, host = None, platform.node()
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        corpora = load_index(path)
    seen = corpora is not None and fingerprint(*corpora) == expected
    blind = [name for name in world.gather(None if seen else host) if name is not None]
    if blind:
        where = f"{blind[0]} " if seen else "这台机器"
        raise DataError(f"{where}上看不到 0 号进程写的 {path}；多机训练时 --out 要放在共享的文件夹里。")
    return corpora


def save_held(path, held: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(held, ensure_ascii=True, indent=1), encoding="ascii")


def load_held(path) -> dict:
    """上一次两边的各组；没有或读不了就当没有（会按同样的散列重新划分）。从前的格式只有验证组。"""
    try:
        held = json.loads(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        held = {}
    held = held if isinstance(held, dict) else {}
    return held if held.keys() == {"train", "valid"} else {"train": {}, "valid": held}


def save_bad(path, bad) -> None:
    """坏文件清单，一行一个：路径、制表符、原因。"""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        stream.writelines(f"{b.path}\t{b.reason}\n" for b in bad)
