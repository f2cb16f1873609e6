"""找声音文件、量时长、配对，按说话人与噪声来源划分训练与验证。

只读文件头，不读样点；读不了的文件连同原因一起交回，由调用者决定跳过还是停下。
"""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lstm_lib.enhance.audio import open_audio
from lstm_lib.training import known

SUFFIXES = (".wav", ".flac", ".ogg")


class DataError(ValueError):
    """数据不能用于训练：找不到文件、坏文件太多、分不出验证集等；消息直接给人看。"""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """一个能读的声音文件：``frames`` 是原采样率下每声道的样点数，``group`` 是说话人或噪声来源。"""

    path: str
    frames: int
    sample_rate: int
    group: str
    note: str = ""  # 文件头与内容不合之处，接在路径后面给人看

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


@dataclass(frozen=True, slots=True)
class Bad:
    """一个不能用的文件与原因。"""

    path: str
    reason: str


def find_audio(roots, skip=()) -> tuple[list[str], list[Bad]]:
    """递归寻找 wav、flac、ogg（扩展名不分大小写），跟随符号链接；返回（路径, 打不开的文件夹或断链）。

    路径都是绝对路径，次序固定。以设备号与 inode 认文件：链接绕成圈不会无休止，同一个文件经几条路
    找到也只算一次，否则它可能同时落进训练与验证。名字以点开头的（如 macOS 的 ._x.wav）不要。
    ``skip`` 里的文件与文件夹跳过。
    """
    paths, bad, seen = [], [], {_identity(p) for p in skip}
    for root in roots:
        root = Path(root)
        if not root.exists():
            raise DataError(f"找不到文件夹 {root}；请检查路径。")
        if not root.is_dir():
            raise DataError(f"{root} 不是文件夹；请给出装着声音文件的文件夹。")
        pending = [_absolute(root)]
        while pending:
            folder = pending.pop()
            try:
                identity = _identity(folder)
                if identity in seen:
                    continue
                seen.add(identity)
                entries = sorted(os.scandir(folder), key=lambda e: e.name)
            except OSError as error:
                bad.append(Bad(folder, f"文件夹打不开：{error.strerror}"))
                continue
            subfolders = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    subfolders.append(entry.path)
                elif entry.name.lower().endswith(SUFFIXES):
                    _add_file(entry.path, paths, bad, seen)
            pending += reversed(subfolders)
    return paths, bad


def _is_folder(entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # 指向自己的链接
        return False


def _identity(path):
    status = os.stat(path)
    return (status.st_dev, status.st_ino)


def _add_file(path, paths, bad, seen):
    try:
        identity = _identity(path)
    except OSError:
        reason = "链接断了，指向的文件不在" if os.path.islink(path) else "文件不见了"
        bad.append(Bad(path, reason))
        return
    if identity not in seen:
        seen.add(identity)
        paths.append(path)


def scan(roots, pattern=None, by_folder=True, skip=(), threads: int = 8) -> tuple[list[AudioFile], list[Bad]]:
    """找文件并读文件头；返回（能用的, 不能用的）。分组的规则见 :func:`group_rule_for`。"""
    paths, bad = find_audio(roots, skip)
    rule = group_rule_for(roots, paths, pattern, by_folder)
    good = []
    with ThreadPoolExecutor(threads) as pool:
        for path, result in zip(paths, pool.map(_read_header, paths), strict=True):
            if isinstance(result, str):
                bad.append(Bad(path, result))
            else:
                good.append(AudioFile(path, *result[:2], rule(path), result[2]))
    return good, bad


def _read_header(path):
    try:
        if not os.path.isfile(path):  # 训练要一读再读
            return "不是普通的文件（是管道、设备、套接字之类）；请存成文件"
        with open_audio(path) as file:
            frames, rate, note = file.frames, file.samplerate, file.note
    except (OSError, ValueError, RuntimeError) as error:
        return str(error).removeprefix(path).strip()  # 名单里另有路径，不必说两遍
    if frames <= 0:
        return note or "一个样点也没有（时长为 0）"
    return frames, rate, note


def group_rule_for(roots, paths, pattern: str | None = None, by_folder: bool = True):
    """给出“路径 → 组名”的规则。组是划分的最小单位：一个说话人，或噪声的一条原始录音。

    依次：使用者给的正则 ``pattern``（在根以下的相对路径里找，取第一对括号的内容）；认得的数据集的命名；
    ``by_folder`` 时看子文件夹（公共部分以下的第一层，一人一个文件夹是常见的放法）；都没有就一个文件一组。
    """
    compiled = _compile(pattern)
    layouts = {os.path.join(_absolute(r), ""): known.layout_above(r) for r in roots}
    common = os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else ""

    def rule(path: str) -> str:
        if compiled:
            root = next(r for r in layouts if path.startswith(r))
            match = compiled.search(path[len(root) :])
            if not match or match.group(1) is None:
                raise DataError(
                    f"--speaker 的正则 {pattern!r} 在 {path} 里找不到说话人；请改正则或移走这个文件。"
                )
            return match.group(1)
        found = next((f for r, f in layouts.items() if f and path.startswith(r)), None)
        if found:
            group = known.group_from_name(found.layout, Path(path).stem)
            if group:
                return f"{found.layout.name}/{group}"
            if found.layout.otherwise:
                return os.path.dirname(path) if found.layout.otherwise == "folder" else path
        below = os.path.relpath(path, common).split(os.sep)
        return os.path.join(common, below[0]) if by_folder and len(below) > 1 else path

    return rule


def _compile(pattern):
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--speaker 的正则 {pattern!r} 写错了：{error}。") from error
    if compiled.groups < 1:
        raise DataError(f"--speaker 的正则 {pattern!r} 里要有一对括号，圈出说话人，例如 '(spk\\d+)_'。")
    return compiled


def _absolute(path) -> str:
    return os.path.abspath(os.fspath(path))


def notes(files) -> list[str]:
    """文件头与内容不合的那些，一句一个，最多五个。"""
    odd = dict.fromkeys(f"{f.path} {f.note}" for f in files if f.note)
    lines = [f"注意：{line}" for line in list(odd)[:5]]
    return lines + ([f"注意：……共 {len(odd)} 个文件的文件头与内容不合"] if len(odd) > 5 else [])


def check_bad(bad: list[Bad], good_count: int, limit: float, what: str) -> None:
    """坏文件的份额超过 ``limit`` 就抛 :class:`DataError`，列出前几个。"""
    total = len(bad) + good_count
    if total == 0:
        raise DataError(f"{what}里一个 wav、flac 或 ogg 文件也没有；别的格式（如 mp3、pcm）请先转换。")
    if good_count == 0 or len(bad) > limit * total:
        listed = "\n".join(f"  {b.path}：{b.reason}" for b in bad[:5])
        more = f"\n  ……共 {len(bad)} 个" if len(bad) > 5 else ""
        raise DataError(
            f"{what}里 {total} 个文件有 {len(bad)} 个不能用"
            f"（{len(bad) / total:.1%}，超过 --max-bad 的 {limit:.1%}）：\n"
            f"{listed}{more}\n请修好或移走它们；确认可以不要，就把 --max-bad 调大。"
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """一对文件：同一句话的纯净与带噪。"""

    clean: AudioFile
    noisy: AudioFile


def pair(
    clean: list[AudioFile], noisy: list[AudioFile], clean_root, noisy_root
) -> tuple[list[Pair], list[Bad]]:
    """按相对路径（不计扩展名）配对；对不上时再按 DNS Challenge 的 fileid 编号配。

    没有搭档的、长短相差超过 20 毫秒的都记作不能用：错开的一对会教坏网络。
    """
    for key in (_relative_key, _fileid_key):
        others = {key(n.path, noisy_root): n for n in noisy}
        matched = {key(c.path, clean_root): c for c in clean}
        common = (matched.keys() & others.keys()) - {None}
        if common:
            break
    pairs, bad = [], []
    for name in sorted(common):
        c, n = matched[name], others[name]
        if abs(c.seconds - n.seconds) > 0.02:
            bad.append(Bad(n.path, f"与 {c.path} 长短不同：{n.seconds:.3f} 秒与 {c.seconds:.3f} 秒"))
        else:
            pairs.append(Pair(c, n))
    used = {f.path for p in pairs for f in (p.clean, p.noisy)} | {b.path for b in bad}
    used |= {matched[name].path for name in common}
    bad += [Bad(f.path, "另一个文件夹里没有同名的搭档") for f in (*clean, *noisy) if f.path not in used]
    return pairs, bad


def _relative_key(path, root):
    return os.path.splitext(os.path.relpath(path, _absolute(root)))[0]


def _fileid_key(path, root):
    match = re.search(r"fileid_(\d+)", os.path.basename(path))
    return match and match.group(1)


def split_groups(durations: dict[str, float], share: float, seed: int = 0, keep=(), trained=()) -> set[str]:
    """挑出验证用的组：按组名的散列排队取，取够总时长的 ``share`` 为止；至少一组，绝不全取。

    ``durations`` 是各组的秒数。``keep``、``trained`` 是已定为验证、训练的组，两边都不挪，不够时只从新组里取。
    某一边一组也没有时抛 :class:`DataError`。
    """
    if len(durations) < 2:
        raise DataError(
            "只有一组（一个说话人，或一个噪声文件），分不出互不相干的训练与验证；"
            "请多放一些文件，或用 --valid 另给验证集；说话人认错了就用 --speaker 给出正则。"
        )
    # 组名若是路径，只看公共部分以下的一段：整个文件夹搬了家，划分不变
    paths = [g for g in durations if os.path.isabs(g)]
    common = os.path.commonpath(paths) if paths else ""

    def digest(group):
        name = os.path.relpath(group, common).replace(os.sep, "/") if os.path.isabs(group) else group
        return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "replace")).digest()

    order = sorted(durations, key=digest)
    target = share * sum(durations.values())
    chosen = {g for g in keep if g in durations}
    fixed = chosen | set(trained)
    candidates = [g for g in order if g not in fixed]
    for maximum in (1.5 * target, float("inf")):  # 先不取那些大得离谱的组，实在没有别的才取
        for group in candidates:
            taken = sum(durations[g] for g in chosen)
            if chosen and taken >= target:
                return chosen
            if (
                group not in chosen
                and len(chosen) < len(durations) - 1
                and taken + durations[group] <= maximum
            ):
                chosen.add(group)
        if chosen:
            break
    for side, present in (("验证", chosen), ("训练", durations.keys() - chosen)):
        if not present:
            raise DataError(
                f"上次定下的{side}组一个也不在了，剩下的都属于另一边，不能挪用；"
                "请把原来的文件放回来，或用 --valid 另给验证集，或换一个 --out 重新划分。"
            )
    return chosen
