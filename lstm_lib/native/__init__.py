"""C 内核上的 LSTM：与 :class:`lstm_lib.lstm.LSTM` 同一副面孔，float32 或 int8。

>>> fast = NativeLSTM(lstm, dtype="int8")
>>> y, (h, c) = fast(x, state)
>>> stream = fast.stream()
>>> y_t = stream.step(x_t)
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.lstm import LSTM, conventions
from lstm_lib.lstm.conventions import State
from lstm_lib.native.build import LEVEL_NUMBERS, NativeBuildError
from lstm_lib.native.library import choose_level, excerpt, levels, load, load_steps
from lstm_lib.native.pack import Cell, aligned, pack_cell, quantize_rows, split_units

__all__ = [
    "NativeBuildError",
    "NativeLSTM",
    "Stream",
    "activation",
    "excerpt",
    "levels",
    "load_steps",
    "quantize_rows",
    "split_units",
]

FLOAT32 = np.dtype(np.float32)
Source = LSTM | bytes | bytearray | memoryview | str | Path  # 权重从哪里来
INT8_COLUMNS = 2**16  # 再宽，255·127·K 就可能超出 int32


class NativeLSTM:
    """用 C 内核算的 LSTM：``y, (h, c) = fast(x, state)``，形状与约定同 ``LSTM``，数一律是 float32。

    lstm：``LSTM``、权重文件的字节（格式见 ``lstm.weight_file``）或权重文件的路径；损坏的数据在进 C 之前就被拒绝。
    ``LSTM`` 自带的缺省初态与各序列长度照样生效；带窥视孔或截幅的抛 ``ValueError``，C 内核没有这两样。
    dtype："float32"，或 "int8"（权重逐行量化，输入逐帧量化，门仍用浮点）。
    level：指令集级别，缺省取机器支持的最高一级，见 ``levels()``。
    flags：额外的编译选项，例如 ``("-DLIBM_GATES=1",)``；只在教学与测试时有用。
    对象建好后只读：任意多个线程、任意多个流共用一份权重，计算时不占 Python 的全局锁。
    """

    def __init__(
        self,
        lstm: Source,
        dtype: str = "float32",
        level: str | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        if dtype not in ("float32", "int8"):
            raise ValueError(f"dtype 应为 'float32' 或 'int8'，得到 {dtype!r}")
        lstm = _read(lstm)
        config = lstm.config
        layers = range(min(config.num_layers, 2))  # 再往上的各层都与第 1 层一样宽
        widest = max(config.output_size, *map(config.layer_input_size, layers))
        if dtype == "int8" and widest > INT8_COLUMNS:
            raise ValueError(f"int8 内核最多 {INT8_COLUMNS} 列输入，这个 LSTM 有 {widest} 列：整数和会溢出")
        self.config, self.dtype, self.level = config, dtype, choose_level(level)
        # 缺省初态由 LSTM 照它的规矩给；没有的就不留着它，免得多占一份权重
        self._source = None if lstm.initial_state is None else lstm
        self._lengths = lstm.lengths
        self._ffi, self._lib = load(tuple(flags), self.level) if flags else load()
        number, quantized = LEVEL_NUMBERS[self.level], dtype == "int8"
        width = self._lib.lstm_level_width(number)
        self.cells = [
            pack_cell(config, lstm.parameters, layer, direction, width, quantized)
            for layer in range(config.num_layers)
            for direction in range(config.num_directions)
        ]
        structs = self._ffi.new("lstm_cell[]", [self._struct(cell) for cell in self.cells])
        shape = (config.num_layers, config.num_directions)
        self._net = self._ffi.new("lstm_net *", (number, quantized, *shape, structs))
        self._keep = structs  # cffi 的结构只借用指针，要有人拿着

    def __repr__(self) -> str:
        return f"NativeLSTM({self.config}, dtype={self.dtype!r}, level={self.level!r})"

    @property
    def nbytes(self) -> int:
        """打包后全部权重的字节数（含补零、偏置、量化步长）。"""
        return sum(cell.nbytes for cell in self.cells)

    def __call__(
        self, x: ArrayLike, state: State | None = None, lengths: ArrayLike | None = None
    ) -> tuple[np.ndarray, State]:
        """整段计算，返回 ``y, (h, c)``；state、lengths 的含义同 ``LSTM``。形状不对、序列为空都抛 ``ValueError``。"""
        config = self.config
        x, unbatched = conventions.sequence(x, config, FLOAT32)
        frames, batch = x.shape[:2]
        h, c = self._initial(state, batch, unbatched)
        y = np.zeros((frames, batch, config.num_directions * config.output_size), FLOAT32)
        ends = conventions.lengths(self._lengths if lengths is None else lengths, frames, batch)
        if ends is None:
            self._run(x, h, c, y)
        else:  # 一样长的序列一起算，算到各自的末尾为止
            for n in np.unique(ends):
                rows = ends == n
                part = [np.ascontiguousarray(a) for a in (h[:, rows], c[:, rows], y[:n, rows])]
                self._run(x[:n, rows], *part)
                h[:, rows], c[:, rows], y[:n, rows] = part
        y = conventions.outward(y, config, unbatched)
        return y, (h[:, 0], c[:, 0]) if unbatched else (h, c)

    def _run(self, x: np.ndarray, h: np.ndarray, c: np.ndarray, y: np.ndarray) -> None:
        """x (T, B, I) 从 (h, c) 走完，就地写满 y、更新 h 与 c（三者都要连续）。"""
        frames, batch = x.shape[:2]
        if batch:
            x, stream = np.ascontiguousarray(x), _Buffers(self, h, c, frames, batch)
            self._lib.lstm_run(stream.struct, self._pointer(x), self._pointer(y), frames)

    def _initial(self, state: State | None, batch: int, unbatched: bool) -> State:
        """查过的初态；没有给的用 LSTM 自带的，也没有就是零。"""
        if state is None and self._source is not None:
            state = self._source._default_state(unbatched)
        return conventions.initial_state(state, self.config, batch, unbatched, FLOAT32)

    def stream(self) -> "Stream":
        """新开一路流：自带状态（几 KB），与别的流共用权重。"""
        return Stream(self)

    def _struct(self, cell: Cell) -> tuple:
        arrays = (cell.weight, cell.bias, cell.scale, cell.offset, cell.projection)
        sizes = (cell.input_size, cell.hidden_size, cell.output_size, cell.wide, cell.narrow, cell.backward)
        return (*sizes, *(self._ffi.NULL if a is None else self._pointer(a, typed=False) for a in arrays))

    def _pointer(self, array: np.ndarray, typed: bool = True) -> Any:
        """数组的首地址；数组要由别人拿着，直到 C 用完。"""
        return self._ffi.cast("float *" if typed else "void *", array.ctypes.data)


def activation(name: str, x: ArrayLike, level: str | None = None) -> np.ndarray:
    """内核里的快速 tanh 或 sigmoid，逐元素作用于 float32 数组 x；``name`` 是 "tanh" 或 "sigmoid"。"""
    ffi, lib = load()
    x = np.ascontiguousarray(x, FLOAT32)
    y = np.empty_like(x)
    pointers = (ffi.cast("float *", a.ctypes.data) for a in (x, y))
    getattr(lib, f"lstm_{name}")(LEVEL_NUMBERS[choose_level(level)], *pointers, x.size)
    return y


class _Buffers:
    """一次调用（或一路流）的状态、草稿与对应的 C 结构。"""

    def __init__(self, fast: NativeLSTM, h: np.ndarray, c: np.ndarray, frames: int, batch: int) -> None:
        ffi, lib = fast._ffi, fast._lib
        self.h, self.c, self.fast = h, c, fast
        self.scratch = aligned(lib.lstm_scratch_bytes(fast._net, frames, batch), np.uint8)
        pointers = (fast._pointer(h), fast._pointer(c), fast._pointer(self.scratch, typed=False))
        self.struct = ffi.new("lstm_stream *", (fast._net, *pointers, batch, 0))


class Stream:
    """一路流：``y_t = stream.step(x_t)``，状态自带，逐帧调用等于整段调用。

    一路流同一时刻只能由一个线程使用；不同的流互不相干。
    """

    def __init__(self, fast: NativeLSTM) -> None:
        config = fast.config
        if config.direction != "forward":
            raise ValueError(f"direction={config.direction!r} 的 LSTM 要看到未来的帧，不能逐帧流式计算")
        if fast._lengths is not None:
            raise ValueError("这个 LSTM 限定了各序列的长度（lengths），一帧一帧走没有长度可言：请一次算整段")
        self._buffers = _Buffers(fast, *fast._initial(None, 1, False), 1, 1)
        self._lib, self._struct = fast._lib, self._buffers.struct
        self._run = fast._lib.lstm_run
        self._shape, self._y = (config.input_size,), np.empty(config.output_size, FLOAT32)
        self._x = aligned(self._shape, FLOAT32)
        # 地址只取一次：每次调用都取，一微秒里有小半花在这上面
        self._x_pointer, self._y_pointer = fast._pointer(self._x), fast._pointer(self._y)

    def step(self, x: ArrayLike) -> np.ndarray:
        """送进一帧 x (input_size,)，返回这一帧的 y (output_size,)，是新的数组。"""
        # 先查类型与形状：下面的赋值会把标量悄悄铺满一帧，把复数的虚部悄悄丢掉
        if x.__class__ is not np.ndarray or x.dtype is not FLOAT32 or x.shape != self._shape:
            x = self._convert(x)
        self._x[...] = x
        self._run(self._struct, self._x_pointer, self._y_pointer, 1)
        return self._y.copy()

    def repeat(self, x: ArrayLike, times: int) -> None:
        """在 C 里把 ``step(x)`` 重复 ``times`` 遍，不回 Python：用来量 Python 占了多少时间。"""
        self._x[...] = self._convert(x)
        self._lib.lstm_repeat(self._struct, self._x_pointer, self._y_pointer, times)

    def reset(self, state: State | None = None) -> None:
        """状态回到开头（零，或 LSTM 自带的缺省初态），或换成 state = (h, c)，形状各为 (层数, …)。"""
        h, c = self._buffers.fast._initial(state, 1, state is not None)
        self._buffers.h[:], self._buffers.c[:] = h, c

    @property
    def state(self) -> State:
        """此刻的 (h, c)，形状各为 (层数, …)，是副本。"""
        return self._buffers.h[:, 0].copy(), self._buffers.c[:, 0].copy()

    @property
    def nbytes(self) -> int:
        """这一路流自己占的内存，单位字节。"""
        arrays = (self._buffers.h, self._buffers.c, self._buffers.scratch, self._x, self._y)
        return sum(a.nbytes for a in arrays)

    def _convert(self, x: ArrayLike) -> np.ndarray:
        x = conventions.real(x, "输入 x", FLOAT32)
        if x.shape != self._shape:
            raise ValueError(f"一帧输入 x 的形状应为 {self._shape}，得到 {x.shape}")
        return np.ascontiguousarray(x)


def _read(lstm: Source) -> LSTM:
    """三种来源都重新查一遍尺寸（文件另查长度与 CRC）：C 只看见合格的数组。C 算不了的抛 ``ValueError``。"""
    if isinstance(lstm, str | Path):
        return LSTM.load(lstm)
    if isinstance(lstm, bytes | bytearray | memoryview):
        return LSTM.from_bytes(bytes(lstm))
    if not isinstance(lstm, LSTM):
        advice = "；torch 的请先用 LSTM.from_torch 读进来" if hasattr(lstm, "state_dict") else ""
        raise ValueError(f"应给 lstm_lib.LSTM、权重文件的字节或路径，得到 {conventions.kind(lstm)}{advice}")
    for name in ("peepholes", "clip"):
        if getattr(lstm, name) is not None:
            label = conventions.OPTIONS[name]
            raise ValueError(f"C 内核没有{label}（{name}），算不了这个 LSTM：请直接用它自己（NumPy）算")
    return lstm.with_parameters({})
