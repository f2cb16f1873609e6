"""手写的 LSTM，只用 NumPy：一步、一段序列、多层、双向、投影。

公式与记号同 ``torch.nn.LSTM`` 的文档：门顺序 i f g o，输入 x，隐藏状态 h，细胞状态 c。
``step`` 与六条公式逐行对应，用来读；``LSTM`` 算的是同一件事，用来跑。
"""

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from lstm_lib.lstm import conventions, layouts, weight_file
from lstm_lib.lstm.backward import Gradients, backward
from lstm_lib.lstm.conventions import Array, State


def sigmoid(x: ArrayLike) -> Array:
    """σ(x) = 1/(1+e⁻ˣ)。指数只取 −|x|，所以 x 再大也不溢出，很负时也不丢相对精度。"""
    e = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1, e) / (1 + e)


def step(
    x: Array,
    h: Array,
    c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: ArrayLike = 0.0,
    weight_hr: Array | None = None,
) -> State:
    """一个时间步，与六条公式逐行对应：x、h、c → 新的 (h, c)。

    参数:
        x: (…, I)，这一步的输入
        h: (…, P)，上一步的隐藏状态；没有投影时 P = H
        c: (…, H)，上一步的细胞状态
        weight_ih: (4H, I)，门顺序 i f g o
        weight_hh: (4H, P)，门顺序同上
        bias: (4H,)，两个偏置之和
        weight_hr: (P, H)，投影；None 是没有
    返回:
        新的 (h, c)，形状不变。
    """
    z = x @ weight_ih.T + h @ weight_hh.T + bias
    i, f, g, o = np.split(z, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g  # 旧记忆留多少 + 新内容写多少
    h = o * np.tanh(c)  # 记忆露出多少
    return (h if weight_hr is None else h @ weight_hr.T), c


class Gates(NamedTuple):
    """一层一个方向上各时刻的门 i f g o 与细胞状态 c，前几维与输入相同，最后一维是 H。"""

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array


class LSTM:
    """与 ``torch.nn.LSTM`` 同样约定的 LSTM，只用 NumPy：``y, (h, c) = lstm(x, state)``。

    多半不用自己造：``from_torch``、``from_onnx``、``from_ncnn``、``from_keras``、``load`` 各从一处读来。
    造好以后只读；``config`` 是全部尺寸，``parameters`` 是参数名到只读数组（两个偏置已合成一个 ``bias_l…``）。
    """

    def __init__(
        self,
        config: layouts.LSTMConfig,
        parameters: Mapping[str, ArrayLike],
        *,
        peepholes: ArrayLike | None = None,
        clip: float | None = None,
        initial_state: State | str | None = None,
        lengths: ArrayLike | None = None,
        note: str = "",
    ) -> None:
        """peepholes、clip、initial_state、lengths 是 ONNX 才有的。

        参数:
            config: 全部尺寸，见 ``LSTMConfig``
            parameters: 参数名到数组，名字与形状见 ``config.shapes()``
            peepholes: 窥视孔，(方向数, 3, H)，次序 i f o
            clip: 把激活函数的输入限制在 ±clip
            initial_state: 没有另给时的初态 (h, c)，可以没有 B 那一维；是文字的，调用者必须给，文字说明原因
            lengths: 没有另给时各序列的有效步数，(B,)
            note: 写在 repr 里的一句话（从文件读来时的根据）
        抛出:
            ValueError: 参数的名字、形状与配置不符
        """
        self.config, dtype = config, np.dtype(config.dtype)
        shapes = config.shapes()
        if set(parameters) != set(shapes):
            odd = sorted(set(parameters) ^ set(shapes))
            raise ValueError(f"参数的名字与配置不符，多出或缺少：{'、'.join(odd)}")
        self.parameters: dict[str, Array] = {}
        for name, shape in shapes.items():
            array = np.array(conventions.real(parameters[name], f"参数 {name}", dtype), order="C")
            if array.shape != shape:
                raise ValueError(f"参数 {name} 的形状应为 {shape}，得到 {array.shape}")
            array.flags.writeable = False  # 改参数请用 with_parameters：下面的打包副本要跟着变
            self.parameters[name] = array
        self.peepholes = None if peepholes is None else np.array(peepholes, dtype=dtype)
        self.clip, self.initial_state, self.lengths, self.note = clip, initial_state, lengths, note
        self._packed = [
            [_Packed.make(self, f"_l{layer}{suffix}") for suffix in config.suffixes]
            for layer in range(config.num_layers)
        ]

    def __repr__(self) -> str:
        return f"LSTM({self.config}{self.note and '；' + self.note})"

    # ------------------------------------------------------------ 权重从哪里来

    @classmethod
    def from_bytes(cls, data: bytes, name: str | None = None) -> Self:
        """权重文件的字节（格式见 ``weight_file``）→ LSTM；``name`` 是报错时怎么称呼它。

        抛出:
            WeightFileError: 数据坏了；它也是 ``ValueError``
        """
        return cls(*weight_file.decode(data, name))

    def to_bytes(self) -> bytes:
        """编成权重文件的字节。

        抛出:
            ValueError: 带着格式里放不下的东西（窥视孔等），不会悄悄丢掉
        """
        for name, label in conventions.OPTIONS.items():
            if getattr(self, name) is not None:
                raise ValueError(f"权重文件放不下 {label}（{name}），这个 LSTM 不能保存")
        return weight_file.encode(self.config, self.parameters)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """读权重文件。先看文件头：别家的大文件不必读完就能拒绝。

        抛出:
            FileNotFoundError: 没有这个文件
            IsADirectoryError: 给的是文件夹
            WeightFileError: 不是权重文件，或者坏了
        """
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} 是文件夹，不是权重文件")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"找不到权重文件：{path}")
        with open(path, "rb") as file:
            head = file.read(weight_file.HEADER_SIZE)
            weight_file.read_header(head, str(path))
            return cls.from_bytes(head + file.read(), str(path))

    def save(self, path: str | os.PathLike) -> None:
        """写权重文件；写到一半出错时，原来的文件保持原样。"""
        from lstm_lib.files import atomic_path

        data = self.to_bytes()
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    def with_parameters(self, parameters: Mapping[str, ArrayLike]) -> Self:
        """换一套参数（训练走一步、改几个数），其余不变，返回新的 LSTM；没给的参数沿用原来的。"""
        return type(self)(self.config, {**self.parameters, **parameters}, **self._options())

    def astype(self, dtype: DTypeLike) -> Self:
        """换成 float32 或 float64。"""
        from dataclasses import replace

        config = replace(self.config, dtype=np.dtype(dtype).name)
        return type(self)(config, self.parameters, **self._options())

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*conventions.OPTIONS, "note")}

    # ------------------------------------------------------------ 前向

    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: State | None = ...,
        lengths: ArrayLike | None = ...,
        *,
        return_gates: Literal[True],
    ) -> tuple[Array, State, list[Gates]]: ...

    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: State | None = ...,
        lengths: ArrayLike | None = ...,
        return_gates: Literal[False] = ...,
    ) -> tuple[Array, State]: ...

    def __call__(
        self,
        x: ArrayLike,
        state: State | None = None,
        lengths: ArrayLike | None = None,
        return_gates: bool = False,
    ) -> tuple[Array, State] | tuple[Array, State, list[Gates]]:
        """前向计算。

        参数:
            x: (T, B, I)；``batch_first`` 时 (B, T, I)；不分批时 (T, I)。先转成权重的类型
            state: 初态 (h, c)：h (层数 × 方向数, B, P)，c (层数 × 方向数, B, H)，不分批时没有 B；缺省为零
            lengths: (B,)，各序列的有效步数，缺省都是 T；超出部分 y 为零、状态不变
            return_gates: 为真时另外返回各层各方向的 ``Gates``
        返回:
            ``y, (h, c)``：y 与 x 同样排，最后一维是 方向数 × P；h、c 是末状态。``return_gates`` 时再多一个列表。
        抛出:
            ValueError: 形状不对、序列为空
        """
        config = self.config
        x, unbatched = conventions.sequence(x, config, config.dtype)
        state = self._default_state(unbatched, x.shape[1]) if state is None else state
        h0, c0 = conventions.initial_state(state, config, x.shape[1], unbatched, config.dtype)
        lengths = conventions.lengths(lengths, self.lengths, *x.shape[:2])
        h, c, gates = np.empty_like(h0), np.empty_like(c0), []
        for layer, directions in enumerate(self._packed):
            outputs = []
            for d, packed in enumerate(directions):
                k = layer * len(directions) + d
                y, h[k], c[k], record = packed.run(x, h0[k], c0[k], lengths, return_gates)
                outputs.append(y)
                if record is not None:
                    gates.append(record)
            x = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)
        y = conventions.outward(x, config, unbatched)
        if unbatched:
            h, c = h[:, 0], c[:, 0]
        if not return_gates:
            return y, (h, c)
        return (
            y,
            (h, c),
            [Gates(*(conventions.outward(a, config, unbatched) for a in record)) for record in gates],
        )

    def backward(
        self,
        x: ArrayLike,
        state: State | None,
        dy: ArrayLike | None,
        dh: ArrayLike | None = None,
        dc: ArrayLike | None = None,
    ) -> Gradients:
        """沿时间反向传播；前向会重算一遍。

        参数:
            x: 与前向所给的相同
            state: 与前向所给的相同，None 是零
            dy: 损失对 y 的梯度，与 y 同形，None 是零
            dh: 损失对末状态 h 的梯度，None 是零
            dc: 损失对末状态 c 的梯度，None 是零
        返回:
            ``Gradients``：对 x、初态与全部参数的梯度。
        抛出:
            ValueError: 带窥视孔、截幅或长度的，没有写反向
        """
        return backward(self, x, state, dy, dh, dc)

    def _default_state(self, unbatched: bool, batch: int) -> State | None:
        """ONNX 节点自带的初态，配上这次调用的批。"""
        if self.initial_state is None:
            return None
        if isinstance(self.initial_state, str):
            raise ValueError(f"{self.initial_state}；调用时请用 state 传入初态 (h, c)")
        every = (np.repeat(a[:, None], batch, 1) if a.ndim == 2 else a for a in self.initial_state)
        h, c = (a[:, 0] if unbatched and a.shape[1] == 1 else a for a in every)
        for name, a in (("h", h), ("c", c)):
            wanted = (a.shape[0], a.shape[-1]) if unbatched else (a.shape[0], batch, a.shape[-1])
            if a.shape != wanted:
                raise ValueError(
                    f"初态 {name} 的形状应为 {wanted}，得到 {a.shape}：这是 LSTM 自带的缺省初态，"
                    f"给 {a.shape[1]} 条一批用的；请用 state 另给初态 (h, c)"
                )
        return h, c


class _Packed(NamedTuple):
    """一层一个方向的权重，排成算得快的样子。

    门顺序换成 i f o g，三个 σ 挨在一起；σ(x) = ½·tanh(½x) + ½，前三块先乘 ½（二进制里是精确的），
    于是一次 tanh 管全部四个门，也永不溢出。矩阵转置后按行存放，乘法连续读内存。
    """

    weight_ih: Array  # (I, 4H)
    weight_hh: Array  # (P, 4H)
    bias: Array | None  # (4H,)
    weight_hr: Array | None  # (H, P)
    peepholes: Array | None  # (3, H)，次序 i f o，同样乘过 ½
    clip: float | None
    reverse: bool

    @classmethod
    def make(cls, lstm: LSTM, end: str) -> Self:
        hidden, reverse = lstm.config.hidden_size, end.endswith("_reverse")
        half = np.repeat(np.array([0.5, 0.5, 0.5, 1], lstm.config.dtype), hidden)

        def pack(name: str) -> Array:
            return np.ascontiguousarray(
                layouts.reorder(lstm.parameters[name + end], "torch", "ifog").T * half
            )

        weight_hr = lstm.parameters.get("weight_hr" + end)
        peepholes = lstm.peepholes
        if peepholes is not None:
            peepholes = peepholes[lstm.config.suffixes.index("_reverse" if reverse else "")] / 2
        return cls(
            pack("weight_ih"),
            pack("weight_hh"),
            pack("bias") if lstm.config.bias else None,
            None if weight_hr is None else np.ascontiguousarray(weight_hr.T),
            peepholes,
            lstm.clip,
            reverse,
        )

    def run(
        self, x: Array, h: Array, c: Array, lengths: Array | None, keep: bool
    ) -> tuple[Array, Array, Array, Array | None]:
        """x (T, B, I) 从 (h, c) 走完；返回 y (T, B, P)、末态 h 与 c；``keep`` 时还有各时刻的 i f g o c。"""
        steps, batch, hidden = *x.shape[:2], c.shape[-1]
        # 与时间无关的一半：全部时刻的 W·x 是一个大矩阵乘法
        inputs = (x.reshape(steps * batch, x.shape[2]) @ self.weight_ih).reshape(steps, batch, 4 * hidden)
        if self.bias is not None:
            inputs += self.bias
        y = np.empty((steps, batch, h.shape[-1]), x.dtype)
        record = np.empty((5, steps, batch, hidden), x.dtype) if keep else None
        # 循环里只往这几块内存里写，不再申请新的
        c, z, work = c.copy(), np.empty((batch, 4 * hidden), x.dtype), np.empty((batch, hidden), x.dtype)
        sigmoids, (i, f, o, g) = z[:, : 3 * hidden], np.split(z, 4, axis=1)
        plain = self.clip is None and self.peepholes is None
        for t in reversed(range(steps)) if self.reverse else range(steps):
            before = None if lengths is None else (h, c.copy())
            np.matmul(h, self.weight_hh, out=z)
            z += inputs[t]
            if plain:
                np.tanh(z, out=z)
                sigmoids *= 0.5
                sigmoids += 0.5
                c *= f
                c += np.multiply(i, g, out=work)
            else:
                self._update_with_options(i, f, o, g, c)
            np.tanh(c, out=work)
            if self.weight_hr is None:
                h = np.multiply(o, work, out=y[t])
            else:
                h = np.matmul(np.multiply(o, work, out=work), self.weight_hr, out=y[t])
            if record is not None:
                for slot, value in zip(record, (i, f, g, o, c), strict=True):
                    slot[t] = value
            if lengths is not None and before is not None:
                alive = (t < lengths)[:, None]
                h, c[:] = np.where(alive, h, before[0]), np.where(alive, c, before[1])
                y[t][t >= lengths] = 0
        return y, h, c, record

    def _update_with_options(self, i: Array, f: Array, o: Array, g: Array, c: Array) -> None:
        """带窥视孔或截幅的一步（ONNX 的选项）：就地把四个门的预激活值变成门，并更新 c。"""
        if self.peepholes is not None:
            i += self.peepholes[0] * c
            f += self.peepholes[1] * c
        self._activate(i, f, half=True)
        self._activate(g, half=False)
        c[:] = f * c + i * g
        if self.peepholes is not None:
            o += self.peepholes[2] * c  # 输出门看的是更新后的 c
        self._activate(o, half=True)

    def _activate(self, *gates: Array, half: bool) -> None:
        """就地截幅并过激活函数；``half`` 的门是 σ，其输入已经乘过 ½。"""
        for gate in gates:
            if self.clip is not None:
                bound = self.clip / 2 if half else self.clip
                np.clip(gate, -bound, bound, out=gate)
            np.tanh(gate, out=gate)
            if half:
                gate *= 0.5
                gate += 0.5
