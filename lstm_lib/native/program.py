"""把 ``main.c`` 与两个文件的发行版编译成命令行程序 ``enhancer``：给这台机器，或经 ziglang 给别的机器。"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from lstm_lib.files import atomic_path, cache_dir
from lstm_lib.native.build import HERE, NativeBuildError, compiler_version, compilers, run
from lstm_lib.native.release import release

FLAGS = ["-std=gnu11", "-O3"]
STATIC = ["-static", "-s"]
# 目标 → 给 zig cc 的选项；Linux 的是 musl，静态链接，拷过去就能跑
TARGETS: dict[str, list[str]] = {
    "x86_64-linux": ["-target", "x86_64-linux-musl", *STATIC],
    "aarch64-linux": ["-target", "aarch64-linux-musl", *STATIC],
    # 硬浮点，有 NEON 与融合乘加的 ARMv7（Cortex-A7、A15、A53 的 32 位模式……）
    "armv7-linux": ["-target", "arm-linux-musleabihf", "-mcpu=cortex_a7", *STATIC],
    "riscv64-linux": ["-target", "riscv64-linux-musl", *STATIC],
    # 有双精度浮点、没有向量扩展的也能跑
    "loongarch64-linux": ["-target", "loongarch64-linux-musl", "-mcpu=generic_la64-lsx+d", *STATIC],
    "x86_64-windows": ["-target", "x86_64-windows-gnu", "-s"],
    "aarch64-macos": ["-target", "aarch64-macos", "-s"],
    "x86_64-macos": ["-target", "x86_64-macos", "-s"],
}
NATIVE = "native"


def build_program(target: str, out: str | os.PathLike, extra: Sequence[str] = ()) -> Path:
    """编译程序 ``out``；``target`` 是 ``TARGETS`` 之一或 "native"。

    没有编译器或编译失败抛 ``NativeBuildError``，写不了抛 ``OSError``；失败时 ``out`` 原样不动。
    """
    out, failures = Path(out), []
    with tempfile.TemporaryDirectory() as folder:
        sources, made = write_sources(folder), Path(folder) / "enhancer"
        for command in commands(target):
            try:
                run([*command, *FLAGS, *extra, *sources, "-o", str(made), *libraries(target)])
            except (OSError, subprocess.SubprocessError) as error:
                failures.append(f"{shlex.join(command)}：{error}")
                continue
            with atomic_path(out) as temporary:
                shutil.copyfile(made, temporary)
            mode = out.stat().st_mode
            out.chmod(mode | (mode & 0o444) >> 2)  # 能读的人都能执行；atomic_path 给的是普通文件的权限
            return out
    raise NativeBuildError(f"编译 {target} 的程序失败。" + "；".join(failures))


def write_sources(folder: str | os.PathLike) -> list[str]:
    """发行版与 main.c 写进 ``folder``；返回要编译的两个文件。"""
    files = release() | {"main.c": (HERE / "main.c").read_text(encoding="utf-8")}
    for name in ("enhancer.h", "enhancer.c", "main.c"):
        (Path(folder) / name).write_text(files[name], encoding="utf-8")
    return [str(Path(folder) / name) for name in ("enhancer.c", "main.c")]


def commands(target: str) -> list[list[str]]:
    """依次试哪些编译命令。"""
    if target == NATIVE:
        zig = ["-mcpu=baseline"]  # 不按这台机器的 CPU 编译：各级别运行时才挑
        found = [[*compiler, *(zig if "ziglang" in compiler else [])] for compiler in compilers()]
        if not found:
            raise NativeBuildError("找不到 C 编译器；请安装系统编译器，或者 pip install ziglang。")
        return found
    if not importlib.util.find_spec("ziglang"):
        raise NativeBuildError(
            f"为别的机器（{target}）编译要用 ziglang，这里没有安装；请先 pip install ziglang。"
            "只给这台机器编译用 --target native，系统的编译器就够了。"
        )
    return [[sys.executable, "-m", "ziglang", "cc", *TARGETS[target]]]


def suffix(target: str) -> str:
    """程序的扩展名。"""
    return ".exe" if "windows" in target or (target == NATIVE and os.name == "nt") else ""


def libraries(target: str) -> list[str]:
    return ["-lshell32"] if suffix(target) else ["-lm"]


def cached_program(target: str) -> Path:
    """:func:`build_program` 编译好的程序，放在缓存目录里：源码、选项、编译器都没变，就不再编译。错误相同。"""
    from filelock import FileLock

    compiler = commands(target)[0]
    words = compiler[:1] if target == NATIVE and "ziglang" not in compiler else compiler
    parts = (compiler, compiler_version(tuple(words)), FLAGS, release(), (HERE / "main.c").read_text("utf-8"))
    digest = sha256(repr(parts).encode()).hexdigest()[:16]
    path = cache_dir() / "native" / f"enhancer-{target}-{digest}{suffix(target)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        return path if path.exists() else build_program(target, path)
