"""整条增强链都在 C 里的一路流：波形进、波形出。C 的一侧见 enhancer.h。"""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from lstm_lib.native.build import KINDS, LEVEL_NUMBERS
from lstm_lib.native.library import aligned, choose_level, load
from lstm_lib.native.quantize import check_dtype, check_stored

FLOAT32 = np.dtype(np.float32)


class NativeEnhancer:
    """一路单声道的增强链：``out = chain.process(samples)``，样点数是帧移的整数倍。

    source：整个网络的文件（版本 2，格式见 ``formats.network_file``）的字节或路径。
    dtype："float32"、"float16" 或 "int8"；None 表示照文件里存的。文件里已是 int8 的，只能是 int8；
    已是 float16 的，只能是 float16 或 int8。
    level：指令集级别，缺省取机器支持的最高一级。
    group：一次最多几个帧移一起算（1–256）；多了快，少了省内存，结果逐位相同。

    输出比输入晚 ``latency - hop`` 个样点。``rate`` 是采样率（Hz），``hop``、``latency`` 的单位是样点。
    同一个对象同一时刻只能由一个线程用；``fork()`` 另开一路，权重共用。
    """

    def __init__(
        self,
        source: bytes | str | os.PathLike,
        dtype: str | None = None,
        level: str | None = None,
        group: int = 16,
    ):
        check_dtype(dtype)
        name = None if isinstance(source, bytes) else str(source)
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        self.level = choose_level(level)
        ffi, lib = load()
        options = ffi.new("enhancer_options *", (LEVEL_NUMBERS[self.level], KINDS[dtype or "float32"], group))
        error = ffi.new("enhancer_error *")
        arguments = (ffi.from_buffer(data), len(data), options)
        size = lib.enhancer_bytes(*arguments, error)
        if size >= 0:
            memory = aligned(size, np.uint8)
            struct = lib.enhancer_open_at(*arguments, ffi.cast("void *", memory.ctypes.data), error)
        if error.code:
            reason = complaint(ffi, lib, error)
            raise ValueError(f"权重文件 {name}：{reason}" if name else f"权重数据：{reason}")
        self._begin(struct, [memory])
        check_stored(dtype, self.dtype, name)

    def _begin(self, struct: Any, memory: list[np.ndarray]) -> None:
        self._ffi, self._lib = load()
        self._struct, self._memory = struct, memory
        self._error, self._floats = self._ffi.new("enhancer_error *"), self._ffi.typeof("float[]")
        self._process = self._lib.enhancer_process
        self.facts = facts = self._lib.enhancer_info(struct)
        self.rate, self.hop, self.latency = facts.sample_rate, facts.hop, facts.latency
        self.dtype = list(KINDS)[facts.quantized]

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"NativeEnhancer(LSTM({facts.input_size}, {facts.hidden_size})，{facts.layers} 层，"
            f"帧移 {self.hop}，dtype={self.dtype!r}, level={self.level!r})"
        )

    @property
    def nbytes(self) -> tuple[int, int]:
        """（各路流共用的，一路流自己的）内存，单位字节。"""
        return self.facts.shared_bytes, self.facts.stream_bytes

    def process(self, samples: np.ndarray) -> np.ndarray:
        """送进 (N,) 的 float32 波形，N 是帧移的整数倍；返回同样长的一段。

        长度不对、样点里有 NaN 或大得离谱的数抛 ``ValueError``，状态不变。
        """
        samples = np.ascontiguousarray(samples, FLOAT32)
        if samples.ndim != 1 or len(samples) % self.hop:
            raise ValueError(f"samples 应是一维、长度为帧移 {self.hop} 的整数倍，得到形状 {samples.shape}")
        out = np.empty(len(samples), FLOAT32)
        # from_buffer 比 ctypes.data 快十来倍，一次一个帧移时看得出来
        view, floats, hops = self._ffi.from_buffer, self._floats, len(samples) // self.hop
        if self._process(self._struct, view(floats, samples), view(floats, out), hops, self._error):
            raise ValueError(complaint(self._ffi, self._lib, self._error))
        return out

    def reset(self) -> None:
        """忘掉一切，准备处理下一段。"""
        self._lib.enhancer_reset(self._struct)

    def fork(self) -> Self:
        """另开一路流：状态是新的，权重共用。"""
        memory = aligned(self.facts.stream_bytes, np.uint8)
        other = object.__new__(type(self))
        other.level = self.level
        pointer = self._ffi.cast("void *", memory.ctypes.data)
        other._begin(self._lib.enhancer_fork_at(self._struct, pointer), [*self._memory, memory])
        return other


def complaint(ffi: Any, lib: Any, error: Any) -> str:
    """C 的错误码与字节位置 → 一句话。"""
    reason = ffi.string(lib.lstm_message(error.code)).decode()
    return reason if error.offset < 0 else f"第 {error.offset} 字节处，{reason}"
