"""C 内核编译成 WebAssembly，以及在 Python 里运行它（wasmtime）：网页里跑的就是这两个模块。

模块有两个：``wasm`` 只用 SIMD128，``wasm_relaxed`` 另用 relaxed SIMD 的点积。模块里有一条不认识的指令，浏览器就整个
不收，所以不能像本机的内核那样运行时再挑。编译用 ``python -m ziglang cc``；出口见 ``wasm.c``。

>>> chain = WasmEnhancer(data, "int8")      # data 是整个网络的文件的字节
>>> out = chain.process(samples)
"""

import atexit
import importlib.util
import os
import sys
import tempfile
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_lib.files import atomic_path, cache_dir
from lstm_lib.native.build import HERE, KINDS, WASM, NativeBuildError, compiler_version, run
from lstm_lib.native.quantize import check_dtype, check_stored

# 没有 Emscripten，也没有 Node：wasi 的 C 库只用到内存与数学函数，模块一个导入也没有
TARGET = ["-target", "wasm32-wasi", "-mexec-model=reactor"]
COMPILE = ["-std=gnu11", "-O3", "-ffp-contract=off"]
LINK = ["-s", "-Wl,-z,stack-size=262144"]  # 去掉名字；栈缺省要 16 MB，这里的函数用不到几 KB
SOURCES = ("kernel.c", "dispatch.c", "model.c", "enhancer.c", "wasm.c")
LEVELS = tuple(WASM)
FLOAT32 = np.dtype(np.float32)
MOST_BYTES = 2**31 - 1


class Facts(NamedTuple):
    """``enhancer_facts``，见 enhancer.h。"""

    sample_rate: int
    hop: int
    latency: int
    level: int
    quantized: int
    layers: int
    input_size: int
    hidden_size: int
    shared_bytes: int
    stream_bytes: int


FACTS = np.dtype([(name, "<i8" if name.endswith("bytes") else "<i4") for name in Facts._fields])


def check_level(level: str) -> str:
    if level not in WASM:
        raise ValueError(f"WebAssembly 的级别应为 {' 或 '.join(LEVELS)}，得到 {level!r}")
    return level


def build_module(level: str = "wasm_relaxed") -> Path:
    """``level`` 的模块（.wasm 文件）的路径：第一次用到时编译，之后取缓存。

    没有装 ziglang、或编译失败，抛 ``NativeBuildError``，说怎么办。
    """
    flags = WASM[check_level(level)]
    if not importlib.util.find_spec("ziglang"):
        raise NativeBuildError(
            "编译 WebAssembly 模块要用 ziglang，这里没有安装；请先 pip install ziglang。"
            "系统的 C 编译器帮不上忙：它们大多没有带 WebAssembly 的 C 库。"
        )
    from filelock import FileLock

    compiler = [sys.executable, "-m", "ziglang", "cc", *TARGET]
    parts = (compiler_version(tuple(compiler)), TARGET, COMPILE, LINK, SOURCES, flags)
    digest = sha256(repr(parts).encode())
    for path in sorted(HERE.glob("*.[ch]")):
        digest.update(path.read_bytes())
    path = cache_dir() / "native" / f"lstm-{level}-{digest.hexdigest()[:16]}.wasm"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with atomic_path(path) as temporary:
                _compile([*compiler, *COMPILE, *flags], level, temporary)
    return path


def _compile(command: list[str], level: str, target: Path) -> None:
    """各文件分头编译，再链接成一个去掉了名字的模块 ``target``。"""
    defines = [f"-DLEVEL={level}", f"-DHAVE_{level.upper()}"]
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder) / f"{name}.o") for name in SOURCES]
        commands = [
            [*command, *defines, "-c", str(HERE / name), "-o", output]
            for name, output in zip(SOURCES, objects, strict=True)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(run, commands))
        run([*command, *LINK, *objects, "-o", str(target), "-lm"])


@lru_cache
def load_module(level: str = "wasm_relaxed") -> tuple[Any, Any]:
    """编译好的模块，已由 wasmtime 译成本机的指令：``(wasmtime.Engine, wasmtime.Module)``。

    没有装 wasmtime 抛 ``ImportError``；编译不了抛 ``NativeBuildError``。
    """
    check_level(level)
    try:
        import wasmtime
    except ImportError as error:
        raise ImportError(
            "在 Python 里运行 WebAssembly 要用 wasmtime；请运行 pip install wasmtime"
        ) from error

    path = build_module(level)
    engine = wasmtime.Engine()
    try:
        return engine, wasmtime.Module.from_file(engine, str(path))
    except wasmtime.WasmtimeError:  # 缓存里的文件坏了：重编一次
        path.unlink(missing_ok=True)
        return engine, wasmtime.Module.from_file(engine, str(build_module(level)))


_stores: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """退出时先放掉 wasmtime 的东西：等解释器拆到一半再放，它会往标准错误里写一串异常。"""
    for store in list(_stores):
        store.close()
    load_module.cache_clear()


class Instance:
    """一个模块的实例：自己的一块线性内存，``instance.call("名字", …)`` 调它的出口。

    实例之间什么也不共用；同一个实例同一时刻只能由一个线程用。
    """

    def __init__(self, level: str = "wasm_relaxed") -> None:
        import wasmtime

        self.level = check_level(level)
        engine, module = load_module(level)
        self._store = wasmtime.Store(engine)
        _stores.add(self._store)
        self._exports: Any = wasmtime.Instance(self._store, module, []).exports(self._store)
        self._memory: Any = self._exports["memory"]
        self.call("_initialize")

    def call(self, name: str, *arguments: int) -> Any:
        """调用出口 ``name``；各参数与返回值都是 32 位整数（或没有返回值）。"""
        return self._exports[name](self._store, *arguments)

    @property
    def nbytes(self) -> int:
        """线性内存此刻有多大，单位字节。"""
        return self._memory.data_len(self._store)

    def allocate(self, size: int) -> int:
        """在线性内存里要 ``size`` 字节，返回地址（64 字节对齐）；要不到抛 ``MemoryError``。"""
        address = self.call("allocate", size) if size <= MOST_BYTES else 0
        if not address:
            raise MemoryError(f"WebAssembly 的线性内存里要不到 {size} 字节")
        return address

    def write(self, address: int, data: bytes | np.ndarray) -> None:
        """把字节或数组写到 ``address``。"""
        self._memory.write(self._store, data if isinstance(data, bytes) else data.tobytes(), address)

    def read(self, address: int, count: int, dtype: Any = FLOAT32) -> np.ndarray:
        """从 ``address`` 读 ``count`` 个数，是副本。"""
        dtype = np.dtype(dtype)
        size = count * dtype.itemsize
        return np.frombuffer(self._memory.read(self._store, address, address + size), dtype).copy()

    def open(self, name: str, data: bytes, *options: int) -> int:
        """把模型文件的字节交给出口 ``name``，返回打开的东西的地址；文件不能用抛 ``ValueError``。"""
        address = self.allocate(max(len(data), 1))
        self.write(address, data)
        opened = self.call(name, address, len(data), *options)
        self.call("release", address)
        if not opened:
            raise ValueError(f"权重数据：{self.complaint()}")
        return opened

    def complaint(self) -> str:
        """最近一次的错误码与字节位置 → 一句话。"""
        start, text = self.call("error_message"), b""
        while b"\0" not in text:
            text += bytes(self._memory.read(self._store, start + len(text), start + len(text) + 64))
        reason = text[: text.index(b"\0")].decode()
        offset = self.call("error_offset")
        return reason if offset < 0 else f"第 {offset} 字节处，{reason}"


class WasmEnhancer:
    """整条增强链在 WebAssembly 里，与 :class:`~lstm_lib.native.NativeEnhancer` 同一副面孔，一路单声道。

    source：整个网络的文件（版本 2）的字节或路径；dtype："float32"、"float16"、"int8" 或 None（照文件里存的）。
    level："wasm" 或 "wasm_relaxed"；group：一次最多几个帧移一起算（1–256），结果逐位相同，网页用 1。

    输出比输入晚 ``latency - hop`` 个样点。``rate`` 的单位是 Hz，``hop``、``latency`` 是样点。
    """

    def __init__(
        self,
        source: bytes | str | os.PathLike,
        dtype: str | None = None,
        level: str = "wasm_relaxed",
        group: int = 16,
    ) -> None:
        check_dtype(dtype)
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        self.level, self.instance = level, Instance(level)
        self._group, self._opened = group, (data, dtype)
        self._chain = self.instance.open("open", data, KINDS[dtype or "float32"], group)
        raw = self.instance.read(self.instance.call("info", self._chain), 1, FACTS)[0]
        self.facts = facts = Facts(*(int(value) for value in raw))
        self.rate, self.hop, self.latency = facts.sample_rate, facts.hop, facts.latency
        self.dtype = list(KINDS)[facts.quantized]
        check_stored(dtype, self.dtype, None)
        self._block = self.instance.allocate(4 * group * self.hop)
        # 分组、一次送多少都不影响结果，所以内存不随输入的长短变
        self._step = group * self.hop

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"WasmEnhancer(LSTM({facts.input_size}, {facts.hidden_size})，{facts.layers} 层，"
            f"帧移 {self.hop}，dtype={self.dtype!r}, level={self.level!r})"
        )

    @property
    def nbytes(self) -> int:
        """模块的线性内存有多大，单位字节。"""
        return self.instance.nbytes

    def process(self, samples: np.ndarray) -> np.ndarray:
        """送进 (N,) 的 float32 波形，N 是帧移的整数倍；返回同样长的一段。

        长度不对、样点里有 NaN 或大得离谱的数抛 ``ValueError``，状态不变。
        """
        samples = np.ascontiguousarray(samples, FLOAT32)
        if samples.ndim != 1 or len(samples) % self.hop:
            raise ValueError(f"samples 应是一维、长度为帧移 {self.hop} 的整数倍，得到形状 {samples.shape}")
        if not (np.abs(samples) <= 1e15).all():  # 先查完整段：半段算过，状态就变了
            raise ValueError("输入的样点里有 NaN、无穷大或大得离谱的数")
        out, instance = np.empty_like(samples), self.instance
        for start in range(0, len(samples), self._step):
            part = samples[start : start + self._step]
            instance.write(self._block, part)
            if instance.call("process", self._chain, self._block, self._block, len(part) // self.hop):
                raise ValueError(instance.complaint())
            out[start : start + len(part)] = instance.read(self._block, len(part))
        return out

    def fork(self) -> "WasmEnhancer":
        """另一路，从头开始，各走各的：模块各有一块线性内存，模型也各装一份。"""
        return WasmEnhancer(*self._opened, self.level, self._group)

    def reset(self) -> None:
        """忘掉一切，准备处理下一段。"""
        self.instance.call("reset", self._chain)

    def last(self) -> tuple[np.ndarray, np.ndarray]:
        """刚算完的那一组里第一帧：网络看到的幅度谱 (input_size,) 与掩蔽 (n_fft/2 + 1,)。"""
        call = self.instance.call
        spectrum = self.instance.read(call("spectrum", self._chain), self.facts.input_size)
        return spectrum, self.instance.read(call("mask", self._chain), self.latency // 2 + 1)


class WasmNetwork:
    """只有网络（LSTM、线性层、sigmoid）在 WebAssembly 里：给引擎用，整段或接着上次的状态走。

    data：整个网络的文件（版本 2）的字节，LSTM 是单向的；``layers``、``hidden``、``outputs`` 是层数、H 与输出的个数。
    """

    def __init__(
        self, data: bytes, layers: int, inputs: int, hidden: int, outputs: int, dtype: str, level: str
    ) -> None:
        self.layers, self.inputs, self.hidden, self.outputs = layers, inputs, hidden, outputs
        self._lock, self.instance = threading.Lock(), Instance(level)
        self._net = self.instance.open("network_open", data, KINDS[dtype])
        self._h, self._c = (self.instance.call(f"network_{name}", self._net) for name in "hc")
        self._room = self._x = 0

    def run(self, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (T, I) 从状态 h、c（各 (层数, H)）走完：(y (T, O), h, c)，都是新的数组。几个线程一起用要排队。"""
        frames, shape = len(x), (self.layers, self.hidden)
        with self._lock:
            instance = self.instance
            if frames > self._room:
                if self._room:
                    instance.call("release", self._x)
                self._room = frames
                self._x = instance.allocate(4 * frames * (self.inputs + self.outputs))
            y = self._x + 4 * self._room * self.inputs
            instance.write(self._h, h)
            instance.write(self._c, c)
            instance.write(self._x, x)
            instance.call("network_run", self._net, self._x, y, frames)
            result = instance.read(y, frames * self.outputs).reshape(frames, self.outputs)
            count = self.layers * self.hidden
            return (
                result,
                instance.read(self._h, count).reshape(shape),
                instance.read(self._c, count).reshape(shape),
            )
