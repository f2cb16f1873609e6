"""编译 C 内核：第一次用到时由系统的编译器或 ``python -m ziglang cc`` 编译，之后从缓存里直接装载。

缓存键是源码、编译选项、编译器与机器四者的散列，改了任何一样都会重新编译。编译在临时目录里进行，
完成后一次改名到位；两个进程同时来，后到的等先到的编完。
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from lstm_lib.files import atomic_path, cache_dir

HERE = Path(__file__).parent
COMPILE = ["-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off", "-Wno-psabi"]
Job = tuple[Path, list[str]]  # 一个 C 文件与它的编译选项
X86: dict[str, list[str]] = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        *("-mavx2", "-mfma", "-mf16c"),
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
        "-mprefer-vector-width=512",
    ],
}
ARM: dict[str, list[str]] = {"portable": [], "neon_dot": ["-march=armv8.2-a+dotprod"]}
WASM: dict[str, list[str]] = {"wasm": ["-msimd128"], "wasm_relaxed": ["-msimd128", "-mrelaxed-simd"]}
# lstm.h 里的编号
LEVEL_NUMBERS = {"portable": 0, "avx2": 1, "avx512": 2, "neon_dot": 3, "wasm": 4, "wasm_relaxed": 5}
KINDS = {"float32": 0, "int8": 1, "float16": 2}  # 权重怎样存，同样照 lstm.h


class NativeBuildError(OSError):
    """C 内核编译不出来：没有编译器，或编译器报错。"""


def machine_levels(machine: str | None = None) -> dict[str, list[str]]:
    """这种处理器可以编译哪些指令集级别，各用什么选项；从低到高。"""
    machine = (machine or platform.machine()).lower()
    if machine in ("x86_64", "amd64"):
        return X86
    return ARM if machine in ("aarch64", "arm64") else {"portable": []}


def compilers() -> list[list[str]]:
    """依次试哪些编译器：环境变量 ``LSTM_LIB_CC`` 指定的，系统的 cc/gcc/clang，最后是 ziglang。"""
    chosen = os.environ.get("LSTM_LIB_CC")
    if chosen:
        return [shlex.split(chosen)]
    found = [[path] for path in map(shutil.which, ("cc", "gcc", "clang")) if path][:1]
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc"])
    return found


def build(
    extra: Iterable[str] = (), directory: str | os.PathLike | None = None, only: str | None = None
) -> Path:
    """编译（或从缓存取得）内核的共享库，返回其路径；失败抛 ``NativeBuildError``，说明试过什么、怎么办。

    extra：额外的编译选项，章节用它关掉某一步优化作对比；only：只编这一个级别。
    """
    levels = machine_levels()
    if only:
        levels = {only: levels[only]}
    jobs = [("kernel.c", [*flags, *extra, f"-DLEVEL={name}"]) for name, flags in levels.items()]
    jobs.append(("dispatch.c", [f"-DHAVE_{name.upper()}" for name in levels]))
    jobs += [("model.c", []), ("enhancer.c", [])]
    return build_library("lstm", [(HERE / name, flags) for name, flags in jobs], directory)


def build_library(name: str, jobs: Sequence[Job], directory: str | os.PathLike | None = None) -> Path:
    """编译 ``jobs``（每项是一个 C 文件与它的选项）并链接成共享库；已有缓存就直接返回。"""
    from filelock import FileLock

    directory = Path(directory or cache_dir() / "native")
    directory.mkdir(parents=True, exist_ok=True)
    failures = []
    for compiler in compilers():
        try:
            suffix = ".dll" if os.name == "nt" else ".so"
            path = directory / f"{name}-{_key(compiler, jobs)}{suffix}"
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    with atomic_path(path) as temporary:
                        compile_library(compiler, jobs, temporary)
            return path
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(f"{shlex.join(compiler)}：{error}")
    if failures:
        raise NativeBuildError("C 内核编译失败（本书其余部分不受影响）。" + "；".join(failures))
    raise NativeBuildError(
        "找不到 C 编译器，C 内核无法编译（本书其余部分不受影响）。任选一种办法：安装系统编译器"
        "（Debian/Ubuntu：apt install gcc；macOS：xcode-select --install），或者 pip install ziglang"
    )


def compile_library(
    compiler: Sequence[str], jobs: Sequence[Job], target: str | os.PathLike, extra: Iterable[str] = ()
) -> None:
    """用 ``compiler``（命令行的前几个词）编译各文件，链接成共享库 ``target``。"""
    base = [*compiler, *COMPILE, *extra]
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/{number}.o" for number in range(len(jobs))]
        commands = [
            [*base, *dialect(compiler, flags), "-c", str(source), "-o", output]
            for (source, flags), output in zip(jobs, objects, strict=True)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(run, commands))
        run([*base, "-shared", *objects, "-o", str(target), "-lm"])


def dialect(compiler: Sequence[str], flags: Iterable[str]) -> list[str]:
    """同一组选项在 zig cc 里的写法：它按本机 CPU 编译，除非指明；型号的名字也与 GCC 不同。"""
    if "ziglang" not in compiler:
        return list(flags)
    if ARM["neon_dot"][0] in flags:
        return ["-mcpu=generic+dotprod" if flag == ARM["neon_dot"][0] else flag for flag in flags]
    return ["-mcpu=baseline", *flags]


def run(command: Sequence[str]) -> None:
    """跑一条编译命令；失败时把编译器最后说的话带进异常。"""
    result = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=900
    )
    if result.returncode:
        raise NativeBuildError(f"编译器退出码 {result.returncode}，最后说：{result.stderr[-500:].strip()}")


def _key(compiler: Sequence[str], jobs: Sequence[Job]) -> str:
    """缓存键：源码 + 选项 + 编译器的版本 + 机器。"""
    sources = {Path(source).resolve() for source, _ in jobs} | set(HERE.glob("*.[ch]"))  # 有的 .c 也被包含
    flags = [(Path(source).name, options) for source, options in jobs]
    machine = (platform.system(), platform.machine())
    digest = hashlib.sha256(
        repr((compiler, compiler_version(tuple(compiler)), COMPILE, flags, machine)).encode()
    )
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache
def compiler_version(compiler: tuple[str, ...]) -> str:
    if "ziglang" in compiler:  # 启动 zig 要几百毫秒，版本号看包就够了
        return version("ziglang")
    result = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False, timeout=60)
    if result.returncode:
        raise NativeBuildError(f"{shlex.join(compiler)} --version 失败")
    return result.stdout
