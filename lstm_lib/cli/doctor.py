"""``python -m lstm_lib doctor``：检查这台机器能不能建书、跑笔记本，缺什么就说怎么补。"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lstm_lib.book.tables import aligned
from lstm_lib.cli import UserError

OK, WARN, FAIL = "正常", "提醒", "缺失"
MINIMUM_PYTHON = (3, 11)
DISK_GB = 2.0  # 语料、网络、编译器缓存与成书合计的大约用量
MEMORY_GB = 3.0
DESCRIPTION = f"""\
检查这台机器能不能建书、跑笔记本：Python 与各个包的版本、导入、缓存目录、内存、C 编译器、浏览器。

每项一行，开头是 [{OK}]、[{WARN}]（可以不理）或 [{FAIL}]（要先补上），后两种的下一行说怎么办。"""

EPILOG = """\
退出码：0 可以建书（也许有提醒）；1 有缺失；2 命令行写错；130 被 Ctrl-C 中断。"""


@dataclass
class Finding:
    """一项检查的结论：``level`` 是 OK、WARN 或 FAIL，``advice`` 说怎么办。"""

    level: str
    subject: str
    detail: str
    advice: str = ""


def requirements_file() -> Path | None:
    """本书的 requirements.txt：程序包以 ``-e`` 装上时就在它旁边；单独装的程序包没有。"""
    path = Path(__file__).resolve().parents[2] / "requirements.txt"
    return path if path.is_file() else None


def parse_requirements(path) -> list[tuple[str, str]]:
    """清单里的（包名，版本条件）；选项行、注释与空行跳过。"""
    return parse_lines(Path(path).read_text(encoding="utf-8").splitlines())


def parse_lines(lines) -> list[tuple[str, str]]:
    """同上，逐行；分号后面的条件（系统、附加项）不看。"""
    result = []
    for line in lines:
        text = line.split("#")[0].split(";")[0].strip()
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(.*)", text)
        if match and not text.startswith("-"):
            result.append((match.group(1), match.group(2).strip()))
    return result


def check_python(version=None) -> Finding:
    version = version or sys.version_info[:3]
    text = ".".join(map(str, version))
    if tuple(version[:2]) < MINIMUM_PYTHON:
        return Finding(FAIL, "Python", f"{text} 太旧", "请安装 3.11 或更新的 CPython，重建虚拟环境")
    if platform.python_implementation() != "CPython":
        return Finding(
            WARN, "Python", f"{text}，{platform.python_implementation()}", "本书只在 CPython 上试过"
        )
    return Finding(OK, "Python", text)


def check_package(name: str, condition: str, installed: str | None) -> Finding:
    """``installed`` 是已装的版本，None 表示没有。"""
    from packaging.specifiers import SpecifierSet

    wanted = f"'{name}{condition}'"
    if installed is None:
        return Finding(FAIL, name, "没有安装", f"pip install {wanted}")
    if not SpecifierSet(condition).contains(installed, prereleases=True):
        return Finding(FAIL, name, f"{installed}，本书要求 {condition}", f"pip install --upgrade {wanted}")
    return Finding(OK, name, installed)


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def declared_requirements() -> list[tuple[str, str]]:
    """书所要的（包名，版本条件）：旁边有 requirements.txt 就读它，没有就问装好的程序包的 ``book`` 附加项。"""
    path = requirements_file()
    if path is not None:
        return parse_requirements(path)
    try:
        lines = importlib.metadata.requires("lstm_lib") or []
    except importlib.metadata.PackageNotFoundError:  # 拷来的文件夹，没有装过
        return []
    wanted = [line for line in lines if "extra ==" not in line or re.search(r"extra == .book.", line)]
    return list(dict(pair for line in wanted for pair in parse_lines([line])).items())


def check_packages() -> list[Finding]:
    wanted = declared_requirements()
    install = (
        "pip install -r requirements.txt"
        if requirements_file() is not None
        else "pip install 'lstm_lib[book]'"
    )
    if not wanted:
        advice = "请在书的目录里运行 pip install -r requirements.txt"
        return [Finding(WARN, "依赖清单", "找不到 requirements.txt，未查各包的版本", advice)]
    versions = {name: installed_version(name) for name, _ in wanted}
    if importlib.util.find_spec("packaging") is None:  # 没有它比不了版本，只说缺什么
        missing = [name for name, version in versions.items() if version is None]
        return [
            *(Finding(OK, name, version) for name, version in versions.items() if version),
            Finding(FAIL, "其余的包", f"没有安装：{'、'.join(['packaging', *missing])}", install),
        ]
    return [check_package(name, condition, versions[name]) for name, condition in wanted]


def check_import(name: str) -> Finding | None:
    """装了却导入不了（缺系统库、架构不符）才报；另起进程，崩溃也不连累自己。"""
    code = [sys.executable, "-c", f"import {name}"]
    done = subprocess.run(code, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [f"退出码 {done.returncode}"])[-1]
    return Finding(FAIL, name, f"装了却导入不了：{last}", f"pip install --force-reinstall {name}")


def check_cache() -> Finding | None:
    from lstm_lib.files import cache_dir

    try:
        folder = cache_dir()
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except ModuleNotFoundError:  # 没有 platformdirs：少了哪个包，上面已经说了
        return None
    except OSError as error:
        return Finding(FAIL, "缓存目录", f"不能写：{error}", "把环境变量 LSTM_LIB_CACHE 设成一个可写的目录")
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        return Finding(WARN, "缓存目录", f"{folder}，只剩 {free:.1f} GB", f"请腾出至少 {DISK_GB:.0f} GB")
    return Finding(OK, "缓存目录", f"{folder}，可用 {free:.0f} GB")


def physical_memory() -> float | None:
    """这台机器的内存，GB；问不出来是 None。"""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return None


def need_memory(what: str, need: float, advice: str) -> None:
    """``what`` 约要 ``need`` GB，这台机器明摆着放不下就拒绝，免得把机器拖进交换区；问不出有多少的不管。"""
    have = physical_memory()
    if have is not None and need > have:
        raise UserError(f"{what}约要 {need:.1f} GB 内存，这台机器只有 {have:.1f} GB；{advice}")


def check_memory() -> Finding:
    total = physical_memory()
    if total is None:
        return Finding(OK, "内存", "未知")
    if total < MEMORY_GB:
        return Finding(WARN, "内存", f"{total:.1f} GB", f"训练与建书约需 {MEMORY_GB:.0f} GB，可能会很慢")
    return Finding(OK, "内存", f"{total:.1f} GB")


def check_compiler() -> Finding:
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found:
        return Finding(OK, "C 编译器", found)
    if importlib.util.find_spec("ziglang"):
        return Finding(OK, "C 编译器", "zig cc（随 ziglang 包）")
    return Finding(FAIL, "C 编译器", "没有", "pip install ziglang，或安装系统的 gcc、clang")


def find_chromium() -> str | None:
    """系统里 Chromium（或 Chrome）的路径；没有时是 None。"""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def check_browser() -> Finding:
    found = find_chromium()
    if found:
        return Finding(OK, "浏览器", found)
    return Finding(
        WARN, "浏览器", "没有 Chromium", "只有做 PDF、跑网页测试才用得着：apt-get install chromium"
    )


def diagnose() -> list[Finding]:
    """全部检查，按从基础到可选的顺序。"""
    findings = [check_python(), *check_packages()]
    for name in ("torch", "onnxruntime", "ncnn", "soundfile"):
        if importlib.util.find_spec(name):
            findings.append(check_import(name))
    findings += [check_cache(), check_memory(), check_compiler(), check_browser()]
    return [item for item in findings if item is not None]


def add_parser(subparsers):
    parser = subparsers.add_parser(
        "doctor", help="检查环境：缺什么、太旧的是什么、怎么补", description=DESCRIPTION, epilog=EPILOG
    )
    parser.set_defaults(run=run)


def run(args) -> int:
    findings = diagnose()
    lines = aligned([f"[{item.level}] {item.subject}", item.detail] for item in findings)
    for item, line in zip(findings, lines, strict=True):
        print(line)
        if item.advice:
            print(f"       怎么办：{item.advice}")
    failed = sum(item.level == FAIL for item in findings)
    warned = sum(item.level == WARN for item in findings)
    if failed:
        print(f"有 {failed} 项要先补上，才能建书。")
        return 1
    print("环境齐备，可以运行 jupyter-book build ." if not warned else f"可以建书；另有 {warned} 条提醒。")
    return 0
