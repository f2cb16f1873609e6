"""会说话的检查：对不上的时候，说出是哪个数组、哪个门、像是哪一种写错。

随机权重的一个最大差只说明错了。这里给每个门一个不同的常数，读到的常数是谁的，那个位置放的就是谁。
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.lstm import LSTM, layouts, sigmoid, step
from lstm_lib.lstm.conventions import Array, State, real
from lstm_lib.lstm.layouts import GATE_NAMES

GATE_VALUES = {"i": 0.9, "f": 0.7, "g": -0.5, "o": 0.6}  # 四个门应当恒等于的常数，彼此隔得开
# 预激活值：σ 与 tanh 的反函数
GATE_INPUTS = {k: np.arctanh(v) if k == "g" else np.log(v / (1 - v)) for k, v in GATE_VALUES.items()}
ARRAYS = ("bias_l0", "weight_ih_l0", "weight_hh_l0")
TOLERANCE = 1e-3  # 容得下 fp16 存的权重；四个常数之间至少差 0.1


def constant_gates(name: str, hidden: int = 4) -> LSTM:
    """一个 float64 的单层 LSTM，输入维数是 1：``name`` 那个数组放各门的常数，其余两个数组全零。

    矩阵只用第 0 列，所以输入 x₀ = 1、初态 h₀ = (1, 0, …) 时，四个门恰好是 ``GATE_VALUES``。
    """
    config = layouts.LSTMConfig(1, hidden, dtype="float64")
    parameters = {key: np.zeros(shape) for key, shape in config.shapes().items()}
    rows = np.repeat([GATE_INPUTS[gate] for gate in layouts.GATE_ORDERS["torch"]], hidden)
    parameters[name].reshape(4 * hidden, -1)[:, 0] = rows
    return LSTM(config, parameters)


def check_gate_order(convert: Callable[[LSTM], LSTM], hidden: int = 4) -> None:
    """检查一个转换程序把四个门放对了没有。bias、weight_ih、weight_hh 轮流放各门的常数，哪一个忘了换都逃不掉。

    参数:
        convert: 收一个 ``LSTM``：输入 1 维、``hidden`` 个单元、单层单向；返回转换之后的，例如导出到文件再读回来
        hidden: 几个单元
    抛出:
        AssertionError: 放错了；逐个点名数组、门与那里放的是谁
    """
    first, wrong = np.eye(1, hidden), []  # h₀ = (1, 0, …)
    for name in ARRAYS:
        lstm = convert(constant_gates(name, hidden))
        _, _, (gates,) = lstm(np.ones((1, 1)), (first, np.zeros((1, hidden))), return_gates=True)
        for gate, value in GATE_VALUES.items():
            seen = getattr(gates, gate)[0].astype(float)
            if not np.allclose(seen, value, rtol=0, atol=TOLERANCE):
                reason = _explain(name, gate, seen)
                wrong.append(f"{GATE_NAMES[gate]} {gate} 错了（{name}）：应读到 {value}，{reason}")
    if any("那里放的是" in line for line in wrong):
        wrong.append("请核对门顺序表 layouts.GATE_ORDERS")
    if wrong:
        raise AssertionError("\n".join(wrong))


def _explain(name: str, gate: str, seen: Array) -> str:
    """由数组 ``name`` 放常数时一个门各单元读到的数 ``seen`` (H,) 推断那里放的是什么。"""
    if np.ptp(seen) > TOLERANCE:
        return (
            f"各单元读到的却不一样（{seen.min():.3f} 到 {seen.max():.3f}）："
            "不是门的次序，是矩阵转置了，或四个门按单元交错存放"
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # 门饱和到 0 或 1 时
        z = np.arctanh(seen[0]) if gate == "g" else np.log(seen[0] / (1 - seen[0]))
    owners = [k for k in GATE_INPUTS if k != gate and abs(GATE_INPUTS[k] - z) < 5 * TOLERANCE]
    if not owners:
        hint = "偏置加了两遍，或漏了一份？" if "bias" in name else "没有抄进来，或乘了倍数？"
        return f"读到 {seen[0]:.3f}；这个数不属于任何一个门：不是次序，是数值变了（{hint}）"
    return f"读到 {seen[0]:.3f}；那里放的是{GATE_NAMES[owners[0]]} {owners[0]} 的权重"


# ---------------------------------------------------------------- 只看输出的诊断

RIGHT = "没有写错"
EXACT, ROUGH = 1e-5, 2e-2  # 最大差不到前者只是 float32 的舍入；不到输出的百分之二，像 fp16、int8 的舍入
Layers = list[tuple[Array, ...]]  # 一层一组 (weight_ih, weight_hh, bias)
Run = tuple[Array, Array | None]  # 顶层各步的输出 (T, H)，各层末了的 c (L, H)
Cell = Callable[..., State]  # (x, h, c, 初态 h, 初态 c, 三个权重) → 新的 (h, c)


def _cell(gate: Any = sigmoid, squash: Any = np.tanh, candidate: Any = np.tanh, old: bool = False) -> Cell:
    """换了激活函数，或算 h 时用了旧 c（``old``）的一步。"""

    def cell(x: Array, h: Array, c: Array, _h: Array, _c: Array, w: Array, u: Array, b: Array) -> State:
        i, f, g, o = np.split(w @ x + u @ h + b, 4)
        new = gate(f) * c + gate(i) * candidate(g)
        return gate(o) * squash(c if old else new), new

    return cell


def _ungated(state: State) -> State:
    return np.tanh(state[1]), state[1]


def _coupled(x: Array, h: Array, c: Array, _h: Array, _c: Array, w: Array, u: Array, b: Array) -> State:
    i, _, g, o = np.split(w @ x + u @ h + b, 4)
    new = (1 - sigmoid(i)) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(new), new


def _inputs(x: Array) -> Iterator[tuple[str, Array]]:
    """喂错的输入：(哪一种错法, 那样的输入)。"""
    for factor in (2**15, 255):  # 16 位整数、8 位整数当成了小数，或者反过来
        yield f"输入没有除以 {factor}", x * factor
        yield f"输入多除了一次 {factor}", x / factor
    with np.errstate(divide="ignore", invalid="ignore"):
        yield "输入多做了归一化（逐维减均值、除以标准差）", (x - x.mean(0)) / x.std(0)
        yield "输入多做了归一化（整段减均值、除以标准差）", (x - x.mean()) / x.std()
    if (x > -1).all():
        yield "输入多取了一次 log(1 + x)", np.log1p(x)


def _cells(steps: int) -> Iterator[tuple[str, Cell]]:
    """写错的一步：(哪一种错法, 那样的一步)。"""
    yield "传进来的 h 与 c 对调了", lambda x, h, c, _h, _c, *w: step(x, c, h, *w)
    yield "算 h 用的是更新之前的 c", _cell(old=True)
    yield "算 h 漏了 tanh", _cell(squash=lambda c: c)
    yield "候选值用了 σ，应当用 tanh", _cell(candidate=sigmoid)

    def relu(x: Array) -> Array:
        return np.maximum(x, 0)

    yield "tanh 换成了 ReLU", _cell(squash=relu, candidate=relu)
    yield "候选值用了 ReLU，应当用 tanh", _cell(candidate=relu)
    yield "算 h 用了 ReLU，应当用 tanh", _cell(squash=relu)
    yield "算 h 漏了输出门", lambda x, h, c, *rest: _ungated(_cell()(x, h, c, *rest))
    yield "遗忘门用的是 1 − 输入门", _coupled

    def bent(x: Array) -> Array:
        return np.clip(x, -1, 1)

    yield "tanh 用了折线近似 clip(x, −1, 1)", _cell(sigmoid, bent, bent)
    for n in (5, 6):  # Keras 与 ONNX 的斜率是 1/5，PyTorch 的是 1/6

        def hard(x: Array, n: int = n) -> Array:
            return np.clip(x / n + 0.5, 0, 1)

        yield f"σ 用了折线近似 clip(x/{n} + ½, 0, 1)", _cell(hard)
        yield f"σ 与 tanh 都用了折线近似（σ 的斜率 1/{n}）", _cell(hard, bent, bent)
    if steps > 1:
        yield "状态没有传下去，每一帧都从初态开始", lambda x, h, c, h0, c0, *w: step(x, h0, c0, *w)
        yield "h 没有传下去，每一帧都从初态开始", lambda x, h, c, h0, _c, *w: step(x, h0, c, *w)
        yield "c 没有传下去，每一帧都从初态开始", lambda x, h, c, _h, c0, *w: step(x, h, c0, *w)


def _weights(layers: Layers, biases: Layers) -> Iterator[tuple[str, Layers]]:
    """抄错的权重：(哪一种错法, 抄错之后的)。"""

    def changed(change: Callable[[Array], Array], which: tuple[int, ...] = (0, 1, 2)) -> Layers:
        return [tuple(change(a) if k in which else a for k, a in enumerate(layer)) for layer in layers]

    sums = {
        "忘了 bias_hh": (1, 0),
        "忘了 bias_ih": (0, 1),
        "两个偏置都没有加": (0, 0),
        "偏置加了两遍": (2, 2),
        "两个偏置都用了 bias_ih": (2, 0),
        "两个偏置都用了 bias_hh": (0, 2),
    }
    for what, (m, n) in sums.items():
        pairs = zip(layers, biases, strict=True)
        yield what, [(w, u, m * b_ih + n * b_hh) for (w, u, _), (b_ih, b_hh) in pairs]
    yield (
        "四个门按单元交错着切开了，应是上下四块",
        changed(lambda a: a.reshape(-1, 4, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)),
    )
    yield "权重存成了 fp16", changed(lambda a: a.astype(np.float16).astype(float))
    rows = np.arange(len(layers[0][2])) * 4 // len(layers[0][2])
    yield "遗忘门的偏置多加了 1（TensorFlow 的 forget_bias）", changed(lambda b: b + (rows == 1), (2,))
    for k, name in enumerate(("weight_ih", "weight_hh")):
        yield f"{name} 按列存放，却按行读了", changed(lambda a: a.T.reshape(a.shape), (k,))
        if all(len(layer[k]) == 4 * layer[k].shape[1] for layer in layers):
            blocks = changed(lambda a: np.concatenate([b.T for b in np.split(a, 4)]), (k,))
            yield f"{name} 的四块方阵各自转置了", blocks
    for a, b in combinations(range(len(layers)), 2):
        if layers[a][0].shape == layers[b][0].shape:
            swapped = list(layers)
            swapped[a], swapped[b] = layers[b], layers[a]
            yield f"第 {a} 层与第 {b} 层的权重对调了", swapped
    whose = {"": (0, 1, 2), "weight_ih 的": (0,), "weight_hh 的": (1,), "偏置的": (2,)}
    for order in map("".join, permutations("ifgo")):
        # 反过来说是同一回事：按 order 切 i f g o 的权重，等于拿 stored 次序的权重按 i f g o 切
        stored = "".join("ifgo"[order.index(gate)] for gate in "ifgo")
        also = f"，也就是把 {' '.join(stored)} 的权重当成 i f g o" if stored != order else ""
        for owner, which in whose.items():
            if order != "ifgo":
                moved = changed(partial(layouts.reorder, source=order, target="torch"), which)
                yield f"{owner}门顺序写成了 {' '.join(order)}{also}", moved


def _run(
    x: Array, h: Array, c: Array, layers: Layers, cell: Cell | None = None
) -> tuple[Array, Array, Array]:
    """x (T, I)、初态各 (L, H) → 顶层各步的 h 与 c，各 (T, H)；各层末了的 (h, c)，(L, 2, H)。"""
    cell, last = cell or _cell(), []
    for weights, *start in zip(layers, h, c, strict=True):
        states: list[Any] = [start]
        for frame in x:
            states.append(cell(frame, *states[-1], *start, *weights))
        x, cells = np.array(states[1:]).swapaxes(0, 1)
        last.append(states[-1])
    return x, cells, np.array(last)


def _shared(x: Array, h: Array, c: Array, layers: Layers) -> Array:
    """各层共用一份 (h, c)：上一层接着改下一层刚写的；从第 0 层的初态开始。"""
    state, rows = (h[0], c[0]), []
    for frame in x:
        for weights in layers:
            state = step(frame, *state, *weights)
            frame = state[0]
        rows.append(frame)
    return np.array(rows)


def _tries(x: Array, h: Array, c: Array, layers: Layers, biases: Layers) -> Iterator[tuple[str, Run]]:
    """对的与各种错法各会得出什么；不参加比较的地方是 NaN 或 None。"""

    def run(*arguments: Any) -> Run:
        y, _, last = _run(*arguments)
        return y, last[:, 1]

    y, cells, last = _run(x, h, c, layers)
    yield RIGHT, (y, last[:, 1])
    yield "返回的 h 与 c 对调了", (cells, last[:, 0])
    yield from ((what, run(x, h, c, layers, cell)) for what, cell in _cells(len(x)))
    yield from ((what, run(x, h, c, wrong)) for what, wrong in _weights(layers, biases))
    yield from ((what, run(wrong, h, c, layers)) for what, wrong in _inputs(x) if np.isfinite(wrong).all())
    if len(layers) > 1:
        yield "最上面一层没有算", run(x, h[:-1], c[:-1], layers[:-1])
        if layers[0][0].shape == layers[1][0].shape:
            yield "各层用的都是第 0 层的权重", run(x, h, c, layers[:1] * len(layers))
            yield "最下面一层没有算", run(x, h[1:], c[1:], layers[1:])
        shared = _shared(x, h, c, layers)
        yield "各层共用了一份状态", (shared, None)
    if len(x) > 1:
        gap, (backward, final) = np.full_like(y[:1], np.nan), run(x[::-1], h, c, layers)
        if h.any() or c.any():  # 全零时说的都是“没有写错”
            yield "初态的 h 与 c 对调了", run(x, c, h, layers)
            yield "初态没有用上，是从零开始的", run(x, 0 * h, 0 * c, layers)
        yield "输出晚了一帧", (np.concatenate([gap, y[:-1]]), None)
        yield "输出早了一帧", (np.concatenate([y[1:], gap]), None)
        yield "输入的时间倒了", (backward, final)
        yield "输入、输出的时间都倒了", (backward[::-1], final)
        yield "输出的时间倒了", (y[::-1], last[:, 1])


def _rows(value: Any, label: str, width: int, count: int | None = None) -> Array:
    """变成 (行数, width)；大小为 1 的轴、压平了的都收，个数对不上的抛 ``ValueError``。"""
    array = real(value, label, float)
    if not array.size or array.size % width or count not in (None, array.size // width):
        raise ValueError(f"{label} 应有 {count or 'T'} × {width} 个数，得到形状 {array.shape}")
    return array.reshape(-1, width)


def culprit(outputs: Any, x: ArrayLike, h: ArrayLike | None, c: ArrayLike | None, *weights: ArrayLike) -> str:
    """手写的（或板子上的）LSTM 与 PyTorch 不同时，把常见的错法逐一试过，说出是哪一种、对得有多准。

    参数:
        outputs: 它的输出：一步是 h (H,)，一段是 y (T, H)；连末了的 c 也拿得到时给 (h, c)，或 ``(y, (h, c))``
        x: 一步的输入 (I,) 或一段 (T, I)，几十帧就够
        h: 初态 (H,)，多层时 (L, H)；None 是零
        c: 同上
        weights: 依次是各层的 weight_ih、weight_hh、bias_ih、bias_hh，次序同 ``module.parameters()``，门顺序 i f g o；
            只管单向、有偏置、没有投影的
    返回:
        一句话：对得上时是「没有写错…」；几种都对得上，逐个列出；一种也不像，说最接近的是谁。
    抛出:
        ValueError: 权重的个数或形状不对，或大小与 x、输出不合
    """
    arrays = [real(a, f"第 {k} 个权重", float) for k, a in enumerate(weights)]
    size = int(arrays[1].size ** 0.5 / 2) if len(arrays) > 1 else 0  # weight_hh 是 (4H, H)
    width = arrays[0].size // (4 * size) if size else 0
    wanted: list[tuple[int, ...]] = []
    for k in range(0, len(arrays), 4):
        wanted += [(4 * size, size if k else width), (4 * size, size), (4 * size,), (4 * size,)]
    if [a.shape for a in arrays] != wanted or not width:
        shapes = "、".join(str(a.shape) for a in arrays) or "没有权重"
        raise ValueError(
            f"权重应逐层是 (4H, I)、(4H, H)、(4H,)、(4H,)，得到 {shapes}；双向、投影、无偏置的这里不收"
        )
    groups = [tuple(arrays[k : k + 4]) for k in range(0, len(arrays), 4)]
    layers: Layers = [(w, u, b_ih + b_hh) for w, u, b_ih, b_hh in groups]
    x = _rows(x, "输入 x", width)
    h, c = (
        np.zeros((len(layers), size)) if a is None else _rows(a, "初态", size, len(layers)) for a in (h, c)
    )
    y, last = outputs if isinstance(outputs, tuple | list) else (outputs, None)
    last = last[1] if isinstance(last, tuple | list) else last  # (y, (h, c))
    y, last = _rows(y, "输出", size, len(x)), None if last is None else _rows(last, "末了的 c", size)
    if not np.isfinite(y).all() or (last is not None and not np.isfinite(last).all()):
        return "输出里有 NaN 或无穷大：先查除以零、溢出、没有写满的缓冲区"

    def gap(tried: Run) -> float:
        worst = float(np.nanmax(np.abs(tried[0] - y)))
        if last is not None and tried[1] is not None:
            worst = max(worst, float(np.abs(tried[1][-len(last) :] - last).max()))
        return worst

    gaps = {what: gap(tried) for what, tried in _tries(x, h, c, layers, [g[2:] for g in groups])}
    ranked = sorted(gaps, key=lambda what: gaps[what])
    best = gaps[ranked[0]]
    alike = [what for what in ranked if gaps[what] <= max(10 * best, 1e-12)]
    other = next((what for what in ranked if what not in alike), ranked[-1])
    behind = f"再往下是「{other}」，差 {gaps[other]:.1e}"
    # 有舍入时，差不多大的小错也混在里面：对的那种排在最前（或与第一名不分上下）才算没有写错
    right = gaps[RIGHT] <= (10 if best <= EXACT else 2) * best or gaps[RIGHT] <= 1e-12
    if best > EXACT and (best > ROUGH * np.abs(y).max() or (len(alike) > 3 and not right)):
        nearest = f"最接近的是「{ranked[0]}」，最大差 {best:.1e}；{behind}"
        return f"不是常见的几种写错，请逐行对照六条公式（{nearest}）"
    rough = "，像是 fp16 或 int8 的舍入" if best > EXACT else ""
    if right:
        return f"{RIGHT}（最大差 {best:.1e}{rough}；{behind}）"
    unclear = "；这组数据分不开它们，换非零的初态、多几帧再试" if len(alike) > 1 else ""
    return f"{' 或 '.join(alike)}（最大差 {best:.1e}{rough}；{behind}{unclear}）"
