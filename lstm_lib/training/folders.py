"""找声音文件、量时长、配对，按说话人与噪声来源划分训练与验证。

只读文件头，不读样点；读不了的文件连同原因一起交回，由调用者决定跳过还是停下。
"""

import functools
import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lstm_lib.enhance.audio import open_audio
from lstm_lib.training import known

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


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
    """递归寻找 wav、flac、ogg、mp3（扩展名不分大小写），跟随符号链接；返回（路径, 打不开的文件夹或断链）。

    路径都是绝对路径，次序固定。以设备号与 inode 认文件：链接绕成圈不会无休止，同一个文件经几条路
    找到也只算一次，否则它可能同时落进训练与验证。名字以点开头的（如 macOS 的 ._x.wav）不要。
    ``skip`` 里的文件与文件夹跳过。文件夹不在时 :class:`DataError` 说明实情，见 :func:`existing_folder`。
    """
    paths, bad, seen = [], [], {_identity(p) for p in skip}
    for root in roots:
        pending = [_absolute(existing_folder(root))]
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
                if _hidden(entry.name):
                    continue
                if _is_folder(entry):
                    subfolders.append(entry.path)
                elif entry.name.lower().endswith(SUFFIXES):
                    _add_file(entry.path, paths, bad, seen)
            pending += reversed(subfolders)
    return paths, bad


def _hidden(name) -> bool:
    # 解压不当时，Windows 压缩包里的整条路径成了一个名字：__MACOSX\\._x.wav
    return name.replace("\\", "/").rsplit("/", 1)[-1].startswith(".")


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


def existing_folder(root) -> Path:
    """使用者给的文件夹；磁盘上的名字与他写的只差 Unicode 写法（é 是一个字符还是两个）时，是磁盘上的那个。

    没有这个文件夹时抛 :class:`DataError`，说明真正的原因与该怎么给：套了一层、大小写不同、名字是乱码等。
    """
    root = Path(root)
    if not root.exists():
        root = _twin(root) or root
    if root.is_dir():
        return root
    if not root.exists():
        raise DataError(f"找不到文件夹 {root}{_why_missing(root)}")
    packed = root.suffix.lower() in ARCHIVES
    advice = "是压缩包，不是文件夹；请先解开，再给出里面" if packed else "不是文件夹；请给出"
    raise DataError(f"{root} {advice}装着声音文件的文件夹。")


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def _names(folder) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _twin(path: Path) -> Path | None:
    """逐段找只差 Unicode 写法的名字；没有，或不止一个，是 None。"""
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        here = [part] if os.path.lexists(found / part) else _names(found)
        alike = [name for name in here if _nfc(name) == _nfc(part)]
        if len(alike) != 1:
            return None
        found /= alike[0]
    return found


def _why_missing(root: Path) -> str:
    """:func:`existing_folder` 找不到时的下半句。"""
    if root.is_symlink():
        return f"：它是一个断了的链接，指向的 {os.readlink(root)} 不在；请给出真正的文件夹。"
    parent = next(p for p in root.parents if p.is_dir())
    wanted = root.relative_to(parent)
    name, names = wanted.parts[0], _names(parent)
    for other in names:
        if encoding := next((e for e in ENCODINGS if _nfc(name) in _readings(other, e)), None):
            how = ENCODINGS[encoding]
            return (
                f"：{parent} 里有一个 {other}，名字的编码乱了，按 {how} 读正是它；请先改名，再给出新的名字。"
            )
        if other.casefold() == name.casefold() and other != name:
            return f"：{parent} 里有的是 {other}，大小写不同；请照那样写。"
    folders = [parent / n for n in names[:64] if not _hidden(n) and os.path.isdir(parent / n)]
    for inner in (*folders, *(f / n for f in folders for n in _names(f)[:64])):
        if os.path.isdir(inner / wanted):  # 没有权限看的不算
            return f"，它在里面一层：{inner / wanted}（解压时常会多套一层）；请给出那一个。"
    flat = [n for n in names if n.replace("\\", "/").startswith(wanted.as_posix() + "/")]
    if flat:
        return (
            f"：{parent} 里有 {len(flat)} 个文件的名字带反斜杠（如 {flat[0]}），是 Windows 上打的压缩包，"
            "解开时没有分成文件夹；请用 unzip 或 7z 重新解压。"
        )
    return "；请检查路径。" if parent == root.parent else f"：{parent} 里没有 {name}；请检查路径。"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# 不是 UTF-8 的名字多半用的编码 → 给人看的说法；依次试，配上了就是它
ENCODINGS = {"gbk": "GBK", "big5": "Big5", "shift_jis": "Shift-JIS", "cp1252": "Latin-1"}


def _readings(name: str, encoding: str) -> list[str]:
    """乱码的名字按 ``encoding`` 可能是什么：它的字节原样留着，或（汉字的）被当成 cp437、Latin-1 解成了别的字。"""
    found = []
    # 名字里有 U+DC80–U+DCFF，才是没有解成字的字节
    raw = re.search("[\udc80-\udcff]", name)
    for wrong, errors in (
        (("utf-8", "surrogateescape"),) if raw else (("cp437", "strict"), ("latin-1", "strict"))
    ):
        try:
            text = name.encode(wrong, errors).decode(encoding)
        except UnicodeError:
            continue
        if text != name and (raw or re.search("[ぁ-ヿ一-鿿]", text)):
            found.append(_nfc(text))
    return found


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
        return without_name(error, path)
    if frames <= 0:
        return note or "一个样点也没有（时长为 0）"
    return frames, rate, note


def without_name(error, path: str) -> str:
    """错误的消息，去掉开头的路径：名单里另有它，不必说两遍。"""
    return str(error).removeprefix(path).strip().removeprefix("的")


def group_rule_for(roots, paths, pattern: str | None = None, by_folder: bool = True):
    """给出“路径 → 组名”的规则。组是划分的最小单位：一个说话人，或噪声的一条原始录音。

    依次：使用者给的正则 ``pattern``（在根以下的相对路径里找，取第一对括号的内容）；认得的数据集的命名；
    ``by_folder`` 时看子文件夹（公共部分以下的第一层，一人一个文件夹是常见的放法）；都没有就一个文件一组。
    """
    compiled = _compile(pattern)
    roots = [existing_folder(r) for r in roots]
    layouts = {os.path.join(_absolute(r), ""): known.layout_above(r) for r in roots}
    common = os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else ""

    def rule(path: str) -> str:
        if compiled:
            root = next(r for r in layouts if path.startswith(r))
            match = compiled.search(_nfc(path[len(root) :]))
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


def check_bad(bad: list[Bad], good_count: int, limit: float, what: str, roots=()) -> None:
    """坏文件的份额超过 ``limit`` 就抛 :class:`DataError`，列出前几个；一个文件也没有时说 ``roots`` 里有什么。"""
    total = len(bad) + good_count
    if total == 0:
        raise DataError(
            f"{what}里一个 wav、flac、ogg 或 mp3 文件也没有{_contents(roots)}；别的格式（如 m4a、pcm）请先转换。"
        )
    if good_count == 0 or len(bad) > limit * total:
        listed = "\n".join(f"  {b.path}：{b.reason}" for b in bad[:5])
        more = f"\n  ……共 {len(bad)} 个" if len(bad) > 5 else ""
        raise DataError(
            f"{what}里 {total} 个文件有 {len(bad)} 个不能用"
            f"（{len(bad) / total:.1%}，超过 --max-bad 的 {limit:.1%}）：\n"
            f"{listed}{more}\n请修好或移走它们；确认可以不要，就把 --max-bad 调大。"
        )


def _contents(roots) -> str:
    """文件夹里有的是什么：最多的几种扩展名，隐藏的另说。"""
    kinds = Counter()
    for root in roots:
        for _, inner, names in os.walk(root):
            inner[:] = [n for n in inner if not _hidden(n)]
            kinds.update("隐藏文件" if _hidden(n) else os.path.splitext(n)[1].lower() or n for n in names)
    shown = "、".join(f"{kind} {count} 个" for kind, count in kinds.most_common(5))
    return f"（里面有 {shown}）" if shown else "（是空的）" if roots else ""


@dataclass(frozen=True, slots=True)
class Pair:
    """一对文件：同一句话的纯净与带噪。"""

    clean: AudioFile
    noisy: AudioFile


def pair(
    clean: list[AudioFile], noisy: list[AudioFile], clean_root, noisy_root, broken=()
) -> tuple[list[Pair], list[Bad]]:
    """按相对路径（不计扩展名）配对；对不上时再按 DNS Challenge 的 fileid 编号配。

    é 写成一个字符还是两个（macOS 上解开的是后者）都算同名；大小写不同、编码乱了的，没有更像的才配。
    一对也没有、而两边的文件各在更里面的一层时，从那一层算起。``broken`` 是两边各自已知不能用的文件。
    没有搭档的、分不清搭档是谁的、长短相差超过 20 毫秒的都记作不能用：错开的一对会教坏网络。
    """
    sides, roots = (clean, noisy), (_absolute(clean_root), _absolute(noisy_root))
    pairs, bad, left = _pair_below(sides, roots)
    if not pairs and not bad:
        inner = tuple(_deepest(files, root) for files, root in zip(sides, roots, strict=True))
        if inner != roots:
            found = _pair_below(sides, inner)
            if found[0] or found[1]:
                (pairs, bad, left), roots = found, inner
    if not pairs and not bad:
        pairs, bad, left = _match(sides, roots, lambda path, _: _fileid_key(path))
    good = []
    for one in pairs:
        c, n = one.clean, one.noisy
        if abs(c.seconds - n.seconds) > 0.02:
            bad.append(Bad(n.path, f"与 {c.path} 长短不同：{n.seconds:.3f} 秒与 {c.seconds:.3f} 秒"))
        else:
            good.append(one)
    return good, bad + _lonely(left, sides, roots, broken)


def _pair_below(sides, roots):
    """从两个根算起配对：（配成的, 分不清的, 剩下的）。"""
    pairs, bad, left = [], [], sides
    for key in (_stem_key, *(functools.partial(_loose_key, encoding=e) for e in ENCODINGS)):
        more, unclear, left = _match(left, roots, key)
        pairs, bad = pairs + more, bad + unclear
    return pairs, bad, left


def _match(sides, roots, key):
    """两边 ``key`` 相同的配成对；一边有几个、又不是两边一一同名的，谁也不配，把几个都说出来。"""
    groups = defaultdict(lambda: ([], []))
    for side, (files, root) in enumerate(zip(sides, roots, strict=True)):
        for file in files:
            groups[key(file.path, root) or ""][side].append(file)
    pairs, bad, left = [], [], ([], [])
    for name, group in sorted(groups.items()):
        if not name or not all(group):
            for rest, files in zip(left, group, strict=True):
                rest.extend(files)
        elif matched := _one_to_one(group, roots):
            pairs += matched
        else:
            bad += [_unclear(f, group, side) for side in (0, 1) for f in group[side]]
    return pairs, bad, left


def _one_to_one(group, roots) -> list[Pair]:
    if len(group[0]) == len(group[1]) == 1:
        return [Pair(group[0][0], group[1][0])]
    for exact in (os.path.relpath, lambda path, root: _nfc(os.path.relpath(path, root)), _stem_key):
        clean, noisy = (
            {exact(f.path, root): f for f in files} for files, root in zip(group, roots, strict=True)
        )
        if clean.keys() == noisy.keys() and len(clean) == len(group[0]) and len(noisy) == len(group[1]):
            return [Pair(clean[name], noisy[name]) for name in clean]
    return []


def _unclear(file, group, side) -> Bad:
    twins = [f.path for f in group[side] if f is not file]
    if twins:
        what = f"与 {'、'.join(twins)} {_difference(file.path, twins[0])}，分不清谁是谁的搭档"
    else:
        others = [f.path for f in group[1 - side]]
        what = f"它的搭档有 {len(others)} 个：{'、'.join(others)}，{_difference(*others[:2])}"
    return Bad(file.path, f"{what}；请只留一个")


def _difference(one, other) -> str:
    if _nfc(one) == _nfc(other):
        return "只差 Unicode 写法（同一个字，编成一个字符或两个）"
    if _nfc(os.path.splitext(one)[0]) == _nfc(os.path.splitext(other)[0]):
        return "只差扩展名"
    if _fileid_key(one) and _fileid_key(one) == _fileid_key(other):
        return "fileid 编号相同"
    return "只差大小写" if one.casefold() == other.casefold() else "是同一个名字的两种编码"


def _lonely(left, sides, roots, broken) -> list[Bad]:
    """没有配上的文件，各说真正的原因。"""
    bad = []
    for side, files in enumerate(left):
        lost = {_stem_key(b.path, roots[1 - side]): b.path for b in (broken[1 - side] if broken else ())}
        elsewhere = {os.path.basename(_stem_key(f.path, roots[1 - side])): f.path for f in sides[1 - side]}
        for file in files:
            key = _stem_key(file.path, roots[side])
            reason = "另一个文件夹里没有同名的搭档"
            if key in lost:
                reason = f"它的搭档 {lost[key]} 不能用"
            elif os.path.basename(key) in elsewhere:
                there = elsewhere[os.path.basename(key)]
                reason = f"同名的 {there} 在另一个子文件夹里；两边的子文件夹要一样"
            bad.append(Bad(file.path, reason))
    return bad


def _deepest(files, root) -> str:
    """这些文件共同所在的最里面一层。"""
    return os.path.commonpath([os.path.dirname(f.path) for f in files]) if files else root


def _stem_key(path, root):
    return _nfc(os.path.splitext(os.path.relpath(path, root))[0].replace("\\", "/"))


def _loose_key(path, root, encoding):
    stem = _stem_key(path, root)
    return (_readings(stem, encoding) or [stem])[0].casefold()


def _fileid_key(path):
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
