"""引擎的共同面孔：:class:`Network`（算什么）、:class:`Engine`（怎么算）、:class:`Offer`（有哪些、要装什么）。"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_lib.formats import torch_lstm, writers
from lstm_lib.lstm import LSTM, conventions, sigmoid

FLOAT32 = np.dtype(np.float32)
State = Any  # 各引擎自己的状态；使用者只管拿着、交回去，None 表示从零开始


@dataclass(frozen=True, eq=False)
class Network:
    """一个网络的全部：LSTM（单向、无投影，层数与宽度任意），之后可有线性层，再可有 sigmoid。

    ``weight`` (O, H)、``bias`` (O,) 是线性层，没有就是 None，这时 O = H。一律 float32。
    """

    lstm: LSTM
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    sigmoid: bool = False

    def __post_init__(self) -> None:
        writers.check_writable(self.lstm)
        weight, bias = writers.check_head(self.weight, self.bias, self.lstm.config.hidden_size)
        object.__setattr__(self, "lstm", self.lstm.astype("float32"))
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    @property
    def plain(self) -> bool:
        """只有 LSTM，后面什么也没有。"""
        return self.weight is None and not self.sigmoid

    def after(self, h: np.ndarray) -> np.ndarray:
        """LSTM 之后的部分，NumPy 来算：一帧 (H,) → (O,)，一段 (T, H) → (T, O)。"""
        if self.weight is not None:
            h = self.weight @ h if h.ndim == 1 else h @ self.weight.T
            if self.bias is not None:
                h += self.bias
        return sigmoid(h) if self.sigmoid else h


def describe(source: Any) -> Network:
    """各种来源 → :class:`Network`：``LSTM``、本书的网络 ``IRMNetwork``，或者已经是 ``Network``。

    ``IRMNetwork`` 看的是 ``mask``（``torch.nn.LSTM``）与 ``head``（``Linear`` 或 ``Identity``），末尾是 sigmoid。
    认不得的、双向的、带投影的，抛 ``ValueError``。
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, LSTM):
        return Network(source)
    lstm, head = getattr(source, "mask", None), getattr(source, "head", None)
    if lstm is None or head is None:
        advice = (
            "；单独一个 torch.nn.LSTM 请先用 LSTM.from_torch 读进来" if hasattr(source, "state_dict") else ""
        )
        got = conventions.kind(source)
        raise ValueError(f"应给 lstm_lib.LSTM、IRMNetwork 或 engines.Network，得到 {got}{advice}")
    kind, weight, bias = type(head).__name__, None, None
    if kind == "Identity":
        torch_lstm.check_hooks(head)
    elif kind in ("Linear", "ParametrizedLinear"):
        weight, bias = torch_lstm.load_linear(head)
    else:
        raise ValueError(f"网络的 head 应是 Linear 或 Identity，得到 {kind}")
    _check_network(source)
    return Network(torch_lstm.load_lstm(LSTM, lstm), weight, bias, sigmoid=True)


def _check_network(source: Any) -> None:
    """除了 mask 与 head，网络里没有别的东西在改数：没有钩子、没有改写前向、末尾确是 sigmoid。"""
    from lstm_lib.enhance.irm import IRMNetwork

    torch_lstm.check_hooks(source)
    if isinstance(source, IRMNetwork):
        torch_lstm.check_calls(source, IRMNetwork)
    activation = getattr(source, "activation", None)
    if activation is not None:
        torch_lstm.check_hooks(activation)
        if type(activation).__name__ != "Sigmoid":
            raise ValueError(f"网络末尾的 activation 应是 Sigmoid，得到 {conventions.kind(activation)}")


class Engine(ABC):
    """一个引擎，装着一个网络。新引擎至少要写 :meth:`advance`；能一次算整段的，另写 :meth:`sequence`。

    ``name``、``title``、``dtype``、``ours`` 由 :class:`Offer` 填上，见那里。
    ``input_size`` 是一帧有几个数。
    """

    name: str = ""
    title: str = ""
    dtype: str = "float32"
    ours: bool = False

    def __init__(self, input_size: int, state_shape: tuple[int, ...]):
        """``state_shape``：引擎收下的 h（与 c）的形状，元素个数是 层数 × H。"""
        self.input_size, self.state_shape = input_size, state_shape
        self._frame_shape, self._state = (input_size,), None

    @property
    def threads(self) -> int:
        """计算时用几个线程；缺省一个。"""
        return 1

    def __repr__(self) -> str:
        return f"<引擎 {self.name}：{self.title}，{self.dtype}>"

    @abstractmethod
    def advance(self, x: np.ndarray, state: State = None) -> tuple[np.ndarray, State]:
        """走一帧。引擎里什么也不存，``state`` 也不被改写：任意多路音频合用一个引擎，各拿各的状态。

        参数:
            x: (I,)
            state: 上一帧留下的状态，None 是从零开始
        返回:
            (y (O,), 新状态)。
        抛出:
            ValueError: 形状不对
        """

    def sequence(self, x: np.ndarray) -> np.ndarray:
        """整段 (T, I) → (T, O)，从零状态出发，与 :meth:`step` 的状态无关。"""
        state, rows = None, []
        for frame in self.frames(x):
            y, state = self.advance(frame, state)
            rows.append(y)
        return np.stack(rows)

    @property
    def whole(self) -> bool:
        """会不会一次算整段；不会的，:meth:`sequence` 只是一帧一帧走完，不必拿去比快慢。"""
        return type(self).sequence is not Engine.sequence

    def batch(self, x: np.ndarray) -> np.ndarray:
        """一样长的 B 段 (T, B, I) → (T, B, O)，各从零状态出发。这里是一段一段地算；会一起算的引擎另写。"""
        x = self.batches(x)
        return np.stack([self.sequence(x[:, b]) for b in range(x.shape[1])], axis=1)

    @property
    def together(self) -> bool:
        """会不会把几段放在一起算，共用读进来的权重。"""
        return type(self).batch is not Engine.batch

    def step(self, x: np.ndarray) -> np.ndarray:
        """走一帧 (I,) → (O,)，状态留在引擎里。"""
        y, self._state = self.advance(x, self._state)
        return y

    def reset(self) -> None:
        """:meth:`step` 的状态清零。"""
        self._state = None

    def to_state(self, h: np.ndarray, c: np.ndarray) -> State:
        """h、c 各 (层数, H) → :meth:`advance` 收的状态：从别处接着算，或核对导出的模型时用。"""
        count = int(np.prod(self.state_shape))
        arrays = []
        for label, value in (("h", h), ("c", c)):
            array = np.array(conventions.real(value, f"状态 {label}", FLOAT32))
            if array.size != count:
                raise ValueError(f"状态 {label} 应有 {count} 个数，得到形状 {array.shape}")
            arrays.append(array.reshape(self.state_shape))
        return tuple(arrays)

    def from_state(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`to_state` 的逆：状态 → h、c，各 (层数, H)，NumPy 的副本。"""
        h, c = (np.array(a).reshape(-1, self.state_shape[-1]) for a in state)
        return h, c

    def frame(self, x: np.ndarray) -> np.ndarray:
        """一帧：(I,)、连续的 float32；形状不对抛 ``ValueError``（有的库不查，会读到数组外面去）。"""
        if (
            x.__class__ is np.ndarray
            and x.dtype is FLOAT32
            and x.shape == self._frame_shape
            and x.flags.c_contiguous
        ):
            return x
        array = conventions.real(x, "输入 x", FLOAT32)
        if array.shape != self._frame_shape:
            raise ValueError(f"一帧输入 x 的形状应为 {self._frame_shape}，得到 {array.shape}")
        return np.ascontiguousarray(array)

    def frames(self, x: np.ndarray) -> np.ndarray:
        """一段：(T, I)、连续的 float32，T 至少是 1；形状不对抛 ``ValueError``。"""
        array = conventions.real(x, "输入 x", FLOAT32)
        if array.ndim != 2 or array.shape[1] != self.input_size or not len(array):
            raise ValueError(f"整段输入 x 的形状应为 (T, {self.input_size})，T 至少是 1，得到 {array.shape}")
        return np.ascontiguousarray(array)

    def batches(self, x: np.ndarray) -> np.ndarray:
        """几段：(T, B, I)、连续的 float32，T、B 至少是 1；形状不对抛 ``ValueError``。"""
        array = conventions.real(x, "输入 x", FLOAT32)
        if array.ndim != 3 or array.shape[2] != self.input_size or not array.size:
            raise ValueError(
                f"几段输入 x 的形状应为 (T, B, {self.input_size})，T、B 至少是 1，得到 {array.shape}"
            )
        return np.ascontiguousarray(array)


@dataclass(frozen=True)
class Offer:
    """一个模块提供的一种引擎。

    ``name`` 是键（命令行与代码里用），``title`` 是表里显示的名字；``make(network)`` 造出引擎；
    ``dtype`` 是 LSTM 权重的类型，"float32"、"float16" 或 "int8"（线性层：本书的 C 与 LSTM 一样，别家仍是 float32）；
    ``packages`` 是要装的包；``ours`` 说是不是本书自己写的。
    ``load(*paths)`` 由已经导出的模型文件造引擎，没有这个本事的是 None；``suffixes`` 是那些文件的扩展名。
    ``chain(network, stft)`` 造出自带 STFT 的整条增强链（见 ``enhance.streaming.Chain``），没有的是 None。
    """

    name: str
    title: str
    make: Callable[[Network], Engine]
    dtype: str = "float32"
    packages: tuple[str, ...] = ()
    ours: bool = False
    load: Callable[..., Engine] | None = None
    suffixes: tuple[str, ...] = ()
    chain: Callable[..., Any] | None = None

    @property
    def missing(self) -> list[str]:
        """还缺哪几个包；空的就是能用。"""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]

    def check(self) -> None:
        """缺包时抛 ``ImportError``，说缺什么、怎么装。"""
        if self.missing:
            names = " ".join(self.missing)
            raise ImportError(f"引擎 {self.name} 用不起来：没有安装 {names}；请运行 pip install {names}")

    def sign(self, engine: Engine) -> Engine:
        """把名字、标题等写到造好的引擎上。"""
        engine.name, engine.title, engine.dtype, engine.ours = self.name, self.title, self.dtype, self.ours
        return engine
