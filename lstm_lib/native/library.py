"""装载编译好的共享库，选定指令集级别。"""

import contextlib
import mmap
import os
import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from lstm_lib.native import build

HEADERS = (
    ("lstm.h", "级别"),
    ("lstm.h", "结构"),
    ("model.h", "错误码"),
    ("model.h", "模型"),
    ("enhancer.h", "接口"),
)

HUGE = 2**21  # 大页的字节数


@lru_cache
def load(extra: tuple[str, ...] = (), only: str | None = None) -> tuple[Any, Any]:
    """编译（如有必要）并装载内核，返回 ``(ffi, lib)``；编译不了时抛 ``NativeBuildError``。"""
    import cffi

    ffi = cffi.FFI()
    for name, mark in HEADERS:
        ffi.cdef(excerpt(name, mark))
    path = build.build(extra, only=only)
    try:
        return ffi, ffi.dlopen(str(path))
    except OSError:  # 缓存里的文件坏了：重编一次
        path.unlink(missing_ok=True)
        return ffi, ffi.dlopen(str(build.build(extra, only=only)))


STEPS = """
void lstm_loops(int, int, const float *, const float *, const float *, const float *, float *, const float *,
                float *, int64_t);
void lstm_packed(int, int, const float *, const float *, const float *, float *, const float *, float *, int64_t);
void lstm_block(const float *, const float *, int, float *);
int32_t lstm_read(const void *, int64_t, int64_t);
int64_t lstm_peak_float(int64_t, float *);
int64_t lstm_peak_int8(int64_t, int32_t *);
"""


@lru_cache
def load_steps(level: str | None = None) -> tuple[Any, Any]:
    """“从公式到 C”一章的教学程序 steps.c，按 ``level`` 编译；返回 ``(ffi, lib)``。"""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(STEPS)
    level = choose_level(level)
    flags = [*build.machine_levels()[level], f"-DLEVEL={level}", "-ffp-contract=fast"]  # 教学程序靠编译器合并
    return ffi, ffi.dlopen(str(build.build_library("steps", [(build.HERE / "steps.c", flags)])))


LESSON = """
void *lesson_open(const void *, int64_t);
void lesson_fft(void *, const float *, float *, float *, float *, int64_t);
void lesson_close(void *);
"""


@lru_cache
def load_lesson() -> tuple[Any, Any]:
    """“上设备”一章的教学程序 lesson.c（单独的 FFT），按本机最高的级别编译；返回 ``(ffi, lib)``。"""
    import cffi

    ffi, level = cffi.FFI(), choose_level()
    ffi.cdef(LESSON)
    jobs = [("lesson.c", [*build.machine_levels()[level], f"-DLEVEL={level}"])]
    jobs += [("dispatch.c", [f"-DHAVE_{level.upper()}"]), ("model.c", [])]
    return ffi, ffi.dlopen(str(build.build_library("lesson", [(build.HERE / n, f) for n, f in jobs])))


TRAPS = """
int32_t trap_sum(const char *, int32_t);
int32_t trap_bad(const float *, int32_t);
float trap_difference(float, float, float, float);
float trap_read(const uint8_t *);
float trap_stack(float);
"""


@lru_cache
def load_traps(*flags: str) -> tuple[Any, Any]:
    """“上设备”一章的教学程序 traps.c，按本机最高的级别、外加编译选项 ``flags`` 编译；返回 ``(ffi, lib)``。"""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(TRAPS)
    flags = (*build.machine_levels()[choose_level()], *flags)
    return ffi, ffi.dlopen(str(build.build_library("traps", [(build.HERE / "traps.c", list(flags))])))


def aligned(shape: int | tuple[int, ...], dtype: DTypeLike, alignment: int = 64) -> np.ndarray:
    """起始地址按缓存行（64 字节）对齐的全零数组；装得满一个大页（2 MB）的，请系统用大页。

    权重一帧一帧地从头读：4 KB 一页，要查几百次页表，各页又随便落在二级缓存的哪里，会互相挤。
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # 缺省是共享的，共享的拿不到大页
        memory, alignment = mmap.mmap(-1, size + HUGE, flags=private), HUGE
        with contextlib.suppress(OSError):  # 系统没有大页也能用，只是慢些
            memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(memory, np.uint8)
    else:
        raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(dtype).reshape(shape)


def levels() -> list[str]:
    """这台机器上能运行的指令集级别，从低到高。"""
    _, lib = load()
    return [name for name in build.machine_levels() if lib.lstm_level_supported(build.LEVEL_NUMBERS[name])]


def choose_level(level: str | None = None) -> str:
    """定下指令集级别：参数优先，其次环境变量 ``LSTM_LIB_NATIVE_LEVEL``，否则取机器支持的最高一级。"""
    wanted, usable = level or os.environ.get("LSTM_LIB_NATIVE_LEVEL"), levels()
    if wanted and wanted not in usable:
        raise ValueError(f"指令集级别 {wanted!r} 在这台机器上不能用；可用的有：{'、'.join(usable)}")
    return wanted or usable[-1]


def excerpt(name: str, mark: str) -> str:
    """取出内核源文件 ``name`` 里 ``// [mark]`` 与 ``// [/mark]`` 之间的那一段。"""
    text = (build.HERE / name).read_text(encoding="utf-8")
    found = re.search(rf"^// \[{re.escape(mark)}\]\n(.*?)^// \[/{re.escape(mark)}\]$", text, re.S | re.M)
    if found is None:
        raise ValueError(f"{name} 里没有标记为“{mark}”的片段")
    return found[1]
