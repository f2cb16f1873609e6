"""会说话的检查：错在哪个数组、哪个门、像哪一种写错，每一次都要点对名。"""

from itertools import permutations

import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.formats import gate_check
from lstm_lib.formats.gate_check import ARRAYS, GATE_VALUES, check_gate_order, culprit
from lstm_lib.lstm import layouts, sigmoid
from lstm_lib.lstm.layouts import GATE_NAMES

ORDERS = ["".join(order) for order in permutations("ifgo")]


def changed(change, only=ARRAYS):
    """只动 ``only`` 里那几个数组的转换程序。"""
    return lambda lstm: lstm.with_parameters({n: change(lstm.parameters[n]) for n in only})


def complaint(convert, hidden=4):
    with pytest.raises(AssertionError) as caught:
        check_gate_order(convert, hidden)
    return str(caught.value)


@pytest.mark.parametrize("hidden", [1, 2, 7])
def test_the_right_order_passes(hidden):
    check_gate_order(lambda lstm: lstm, hidden)
    check_gate_order(lambda lstm: LSTM.from_bytes(lstm.to_bytes()), hidden)
    check_gate_order(lambda lstm: lstm.astype("float32"), hidden)
    check_gate_order(changed(lambda a: a.astype(np.float16)), hidden)  # 存成 fp16 也认得


@pytest.mark.parametrize("name", gate_check.ARRAYS)
def test_the_constants_are_what_the_gates_read(name):
    lstm = gate_check.constant_gates(name, hidden=3)
    assert [n for n, a in lstm.parameters.items() if a.any()] == [name]
    _, _, (gates,) = lstm(np.ones((1, 1)), (np.eye(1, 3), np.zeros((1, 3))), return_gates=True)
    for gate, value in GATE_VALUES.items():
        np.testing.assert_allclose(getattr(gates, gate), value, atol=1e-15)


@pytest.mark.parametrize("only", [ARRAYS, *((name,) for name in ARRAYS)], ids="all bias ih hh".split())
@pytest.mark.parametrize("order", [order for order in ORDERS if order != "ifgo"])
def test_every_wrong_order_is_named(order, only):
    """全部换错，或只有一个数组换错，都点名数组、门与主人。"""
    slot, owner = next((a, b) for a, b in zip("ifgo", order, strict=True) if a != b)
    message = complaint(changed(lambda a: layouts.reorder(a, "ifgo", order), only))
    assert message.startswith(f"{GATE_NAMES[slot]} {slot} 错了（{only[0]}）：应读到 {GATE_VALUES[slot]}，")
    assert f"那里放的是{GATE_NAMES[owner]} {owner} 的权重" in message


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("factor", [0, 0.5, 2])
def test_changed_values_are_not_blamed_on_the_order(name, factor):
    message = complaint(changed(lambda a: factor * a, (name,)))
    seen = sigmoid(factor * gate_check.GATE_INPUTS["i"])
    assert message.startswith(f"输入门 i 错了（{name}）：应读到 0.9，读到 {seen:.3f}；")
    assert "这个数不属于任何一个门" in message and "的权重" not in message
    assert ("偏置加了两遍" in message) == (name == "bias_l0")


def test_saturated_gates_are_reported_without_warnings(recwarn):
    assert "读到 1.000；这个数不属于任何一个门" in complaint(changed(lambda a: 1e3 * a))
    assert not recwarn


@pytest.mark.parametrize("name", ARRAYS)
def test_interleaved_units_are_told_apart_from_orders(name):
    def interleave(a):  # 每个单元的四个门挨在一起
        return a.reshape(4, -1, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)

    message = complaint(changed(interleave, (name,)))
    assert f"输入门 i 错了（{name}）" in message and "按单元交错存放" in message


def test_a_transposed_matrix_is_told_apart_from_orders():
    def transposed(lstm):  # 按 (H, 4H) 写出，又按 (4H, H) 读入
        a = lstm.parameters["weight_hh_l0"]
        return lstm.with_parameters({"weight_hh_l0": a.T.reshape(a.shape)})

    assert "矩阵转置了" in complaint(transposed)


# ---------------------------------------------------------------- 一步的诊断


def cell_and_state():
    torch.manual_seed(0)
    cell, random = torch.nn.LSTMCell(5, 7, dtype=torch.float64), np.random.default_rng(1)
    return [p.detach().numpy() for p in cell.parameters()], *(random.normal(size=n) for n in (5, 7, 7)), cell


def wrong_step(x, h, c, W, U, b, order="ifgo", candidate=np.tanh, squash=np.tanh, old=False, by_unit=False):
    """一步，可以指定写错哪里。"""
    z = W @ x + U @ h + b
    gates = layouts.split_gates(z.reshape(-1, 4).T.ravel() if by_unit else z, order)
    i, f, o = (sigmoid(gates[k]) for k in "ifo")
    new = f * c + i * candidate(gates["g"])
    return o * squash(c if old else new), new


def test_a_right_step_is_innocent():
    weights, x, h, c, cell = cell_and_state()
    pair = cell(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c)))
    assert culprit([a.detach().numpy() for a in pair], x, h, c, *weights).startswith("没有写错（最大差 ")


@pytest.mark.parametrize(
    "options, says",
    [
        ({"order": "ifog"}, "门顺序写成了 i f o g"),
        ({"order": "iofg"}, "门顺序写成了 i o f g"),
        ({"order": "figo"}, "门顺序写成了 f i g o"),
        ({"candidate": sigmoid}, "候选值用了 σ，应当用 tanh"),
        ({"squash": lambda c: c}, "算 h 漏了 tanh"),
        ({"old": True}, "算 h 用的是更新之前的 c"),
        ({"by_unit": True}, "四个门按单元交错着切开了，应是上下四块"),
        ({"squash": np.sin}, "不是常见的几种写错，请逐行对照六条公式"),
    ],
)
def test_a_wrong_line_is_named(options, says):
    (W, U, b1, b2), x, h, c, _ = cell_and_state()
    answer = culprit(wrong_step(x, h, c, W, U, b1 + b2, **options), x, h, c, W, U, b1, b2)
    assert answer.startswith(says) and " 或 " not in answer


def test_swapped_states_and_lost_biases_are_named():
    (W, U, b1, b2), x, h, c, _ = cell_and_state()

    def says(pair, words):
        assert culprit(pair, x, h, c, W, U, b1, b2).startswith(f"{words}（")

    says(wrong_step(x, h, c, W, U, b1 + b2)[::-1], "返回的 h 与 c 对调了")
    says(wrong_step(x, c, h, W, U, b1 + b2), "传进来的 h 与 c 对调了")
    for bias, words in (
        (b1, "忘了 bias_hh"),
        (b2, "忘了 bias_ih"),
        (0, "两个偏置都没有加"),
        (2 * (b1 + b2), "偏置加了两遍"),
    ):
        says(wrong_step(x, h, c, W, U, bias), words)


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "ifgo"])
def test_one_output_alone_tells_the_order(order):
    (W, U, b1, b2), x, h, c, _ = cell_and_state()
    answer = culprit(wrong_step(x, h, c, W, U, b1 + b2, order)[0], x, h, c, W, U, b1, b2)
    assert answer.startswith(f"门顺序写成了 {' '.join(order)}")


# ---------------------------------------------------------------- 一段序列，只有输出


def halved(a):
    return a.astype(np.float16)


def column_major(a):
    return a.T.reshape(a.shape)


def transposed_blocks(a):
    return np.concatenate([block.T for block in np.split(a, 4)])


def unrolled(weights, x, h, c, step):
    """一层一层、一步一步地走；step 收 (x, h, c, 初态 h, 初态 c, W, U, b)。"""
    for k, first in enumerate(zip(h, c, strict=True)):
        W, U, b1, b2 = weights[4 * k : 4 * k + 4]
        state, rows = first, []
        for frame in x:
            state = step(frame, *state, *first, W, U, b1 + b2)
            rows.append(state[0])
        x = np.array(rows)
    return x


def line(slope):
    return lambda z: np.clip(slope * z + 0.5, 0, 1)


def bent_step(gate, squash):
    def step(x, h, c, _h, _c, W, U, b):
        i, f, g, o = np.split(W @ x + U @ h + b, 4)
        c = gate(f) * c + gate(i) * squash(g)
        return gate(o) * squash(c), c

    return step


def clipped(z):
    return np.clip(z, -1, 1)


STEPS = {
    "状态没有传下去": lambda x, h, c, h0, c0, *w: wrong_step(x, h0, c0, *w),
    "h 没有传下去": lambda x, h, c, h0, c0, *w: wrong_step(x, h0, c, *w),
    "c 没有传下去": lambda x, h, c, h0, c0, *w: wrong_step(x, h, c0, *w),
    "传进来的 h 与 c 对调了": lambda x, h, c, h0, c0, *w: wrong_step(x, c, h, *w),
    "算 h 用的是更新之前的 c": lambda x, h, c, h0, c0, *w: wrong_step(x, h, c, *w, old=True),
    "σ 用了折线近似 clip(x/5": bent_step(line(1 / 5), np.tanh),
    "σ 用了折线近似 clip(x/6": bent_step(line(1 / 6), np.tanh),
    "tanh 用了折线近似": bent_step(sigmoid, clipped),
    "σ 与 tanh 都用了折线近似（σ 的斜率 1/6）": bent_step(line(1 / 6), clipped),
}


def ungated(x, h, c, _h, _c, *w):
    _, c = wrong_step(x, h, c, *w)
    return np.tanh(c), c


def coupled(x, h, c, _h, _c, W, U, b):
    i, _, g, o = np.split(W @ x + U @ h + b, 4)
    c = c + sigmoid(i) * (np.tanh(g) - c)
    return sigmoid(o) * np.tanh(c), c


def relu_step(candidate, squash):
    def step(x, h, c, _h, _c, W, U, b):
        i, f, g, o = np.split(W @ x + U @ h + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * candidate(g)
        return sigmoid(o) * squash(c), c

    return step


def relu(z):
    return z * (z > 0)


STEPS |= {
    "tanh 换成了 ReLU": relu_step(relu, relu),
    "候选值用了 ReLU": relu_step(relu, np.tanh),
    "算 h 用了 ReLU": relu_step(np.tanh, relu),
    "算 h 漏了输出门": ungated,
    "遗忘门用的是 1 − 输入门": coupled,
}
WEIGHTS = {  # 错法 → (名字里有它的参数, 怎么改)
    "权重存成了 fp16": ("", halved),
    "偏置加了两遍": ("bias", lambda a: 2 * a),
    "两个偏置都没有加": ("bias", lambda a: 0 * a),
    "遗忘门的偏置多加了 1": ("bias", lambda a: a + np.repeat([0, 1, 0, 0], len(a) // 4)),
    "weight_hh 的四块方阵各自转置了": ("weight_hh", transposed_blocks),
    "weight_ih 的四块方阵各自转置了": ("weight_ih", transposed_blocks),
    "weight_hh 按列存放": ("weight_hh", column_major),
    "weight_hh 的门顺序写成了 i f o g": ("weight_hh", lambda a: layouts.reorder(a, "ifgo", "ifog")),
    "门顺序写成了 i g o f，也就是把 i o f g 的权重当成 i f g o": (
        "",
        lambda a: layouts.reorder(a, "ifgo", "iofg"),
    ),
}
SERIES = {  # 错法 → 由 (lstm, x, h, c) 得到的输出
    "输出晚了一帧": lambda lstm, x, h, c: np.concatenate([0 * x[:1], lstm(x, (h, c))[0][:-1]]),
    "输出早了一帧": lambda lstm, x, h, c: np.concatenate([lstm(x, (h, c))[0][1:], 0 * x[:1]]),
    "输入的时间倒了": lambda lstm, x, h, c: lstm(x[::-1], (h, c))[0],
    "输出的时间倒了": lambda lstm, x, h, c: lstm(x, (h, c))[0][::-1],
    "输入、输出的时间都倒了": lambda lstm, x, h, c: lstm(x[::-1], (h, c))[0][::-1],
    "初态的 h 与 c 对调了": lambda lstm, x, h, c: lstm(x, (c, h))[0],
    "初态没有用上": lambda lstm, x, h, c: lstm(x)[0],
    "返回的 h 与 c 对调了": lambda lstm, x, h, c: lstm(x, (h, c), return_gates=True)[2][-1].c,
    "没有写错": lambda lstm, x, h, c: lstm(x, (h, c))[0],
    "输入没有除以 32768": lambda lstm, x, h, c: lstm(x * 2**15, (h, c))[0],
    "输入多除了一次 32768": lambda lstm, x, h, c: lstm(x / 2**15, (h, c))[0],
    "输入多除了一次 255": lambda lstm, x, h, c: lstm(x / 255, (h, c))[0],
    "输入多做了归一化（逐维": lambda lstm, x, h, c: lstm((x - x.mean(0)) / x.std(0), (h, c))[0],
    "输入多做了归一化（整段": lambda lstm, x, h, c: lstm((x - x.mean()) / x.std(), (h, c))[0],
}


@pytest.fixture(params=[1, 2], ids=["一层", "两层"])
def series(request):
    torch.manual_seed(3)
    module = torch.nn.LSTM(5, 5, request.param, dtype=torch.float64)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    random = np.random.default_rng(4)
    x, (h, c) = random.normal(size=(12, 5)), random.normal(size=(2, request.param, 5))
    return LSTM.from_torch(module), [p.detach().numpy() for p in module.parameters()], x, h, c


@pytest.mark.parametrize("what", [*STEPS, *WEIGHTS, *SERIES])
def test_the_mistake_is_named_from_the_output_alone(series, what):
    lstm, weights, x, h, c = series
    if what in STEPS:
        y = unrolled(weights, x, h, c, STEPS[what])
    elif what in WEIGHTS:
        only, change = WEIGHTS[what]
        chosen = {n: change(a) for n, a in lstm.parameters.items() if only in n}
        y = lstm.with_parameters(chosen)(x, (h, c))[0]
    else:
        y = SERIES[what](lstm, x, h, c)
    answer = culprit(y.astype(np.float32), x, h, c, *weights)
    assert answer.startswith(what) and " 或 " not in answer, answer
    assert "最大差" in answer and "再往下是「" in answer


def test_swapped_layers_are_named():
    torch.manual_seed(3)
    module = torch.nn.LSTM(5, 5, 3, dtype=torch.float64)
    weights = [p.detach().numpy() for p in module.parameters()]
    x = np.random.default_rng(4).normal(size=(9, 5))
    y = unrolled([*weights[:4], *weights[8:], *weights[4:8]], x, *np.zeros((2, 3, 5)), STEPS_RIGHT)
    assert culprit(y, x, None, None, *weights).startswith("第 1 层与第 2 层的权重对调了（")


def test_layers_that_are_left_out_or_share_are_named():
    torch.manual_seed(3)
    module = torch.nn.LSTM(5, 5, 2, dtype=torch.float64)
    weights = [p.detach().numpy() for p in module.parameters()]
    x, *start = (np.random.default_rng(4).normal(size=shape) for shape in ((9, 5), (2, 5), (2, 5)))
    for chosen, state, says in (
        (weights[:4], [a[:1] for a in start], "最上面一层没有算"),
        (weights[4:], [a[1:] for a in start], "最下面一层没有算"),
        (weights[:4] * 2, start, "各层用的都是第 0 层的权重"),
    ):
        y = unrolled(chosen, x, *state, STEPS_RIGHT)
        assert culprit(y, x, *start, *weights).startswith(f"{says}（")
    state, rows = (start[0][0], start[1][0]), []
    for frame in x:
        for W, U, b1, b2 in (weights[:4], weights[4:]):
            state = wrong_step(frame, *state, W, U, b1 + b2)
            frame = state[0]
        rows.append(frame)
    assert culprit(np.array(rows), x, *start, *weights).startswith("各层共用了一份状态（")


@pytest.mark.parametrize("layers", [1, 2])
def test_rounding_of_small_weights_is_not_taken_for_another_mistake(layers):
    """权重小、输出也小的网络：许多种错法的差都只比舍入大几倍。"""
    torch.manual_seed(1)
    module = torch.nn.LSTM(12, 12, layers, dtype=torch.float64)
    weights = [p.detach().numpy() for p in module.parameters()]
    x, h, c = np.random.default_rng(1).normal(size=(30, 12)), None, None
    scale = [np.abs(a).max() / 127 for a in weights]
    for rounded in (
        [halved(a).astype(float) for a in weights],
        [np.round(a / s) * s for a, s in zip(weights, scale, strict=True)],
    ):
        y = unrolled(rounded, x, *np.zeros((2, layers, 12)), STEPS_RIGHT)
        assert culprit(y, x, h, c, *weights).startswith("没有写错（")


def STEPS_RIGHT(x, h, c, _h, _c, *w):
    return wrong_step(x, h, c, *w)


def test_how_well_it_fits_is_said(series):
    lstm, weights, x, h, c = series
    y, (_, last) = lstm(x, (h, c))
    answer = culprit(y + 1e-3 * np.sign(y), x, h, c, *weights)
    assert answer.startswith("没有写错（最大差 1.0e-03，像是 fp16 或 int8 的舍入；再往下是「")
    answer = culprit(np.random.default_rng(0).normal(size=y.shape), x, h, c, *weights)
    assert answer.startswith("不是常见的几种写错") and "最接近的是「" in answer
    assert culprit((y, (y[-1], last)), x, h, c, *weights).startswith("没有写错（")
    assert not culprit((y, (y[-1], last + 1)), x, h, c, *weights).startswith("没有写错（")
    y[3, 2] = np.nan
    assert "NaN" in culprit(y, x, h, c, *weights)


def test_what_cannot_be_told_apart_is_all_named():
    """从零开始的一步：U 乘在零上，抄错 weight_ih 的次序与三个都抄错，只差偏置；没有偏置就分不开。"""
    (W, U, _, _), x, _, _, _ = cell_and_state()
    zero = np.zeros(28)
    h, _ = wrong_step(x, np.zeros(7), np.zeros(7), W, U, zero, "ofgi")
    answer = culprit(h, x, None, None, W, U, zero, zero)
    assert "门顺序写成了 o f g i 或 weight_ih 的门顺序写成了 o f g i" in answer and "分不开" in answer


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda y, x, w: (y[:3], x, w), r"输出 应有 12 × 5 个数，得到形状 \(3, 5\)"),
        (lambda y, x, w: (y, x[:, :4], w), r"输入 x 应有 T × 5 个数，得到形状 \(12, 4\)"),
        (lambda y, x, w: (y, x, w[:-1]), "权重应逐层是"),
        (lambda y, x, w: (y, x, []), "得到 没有权重"),
        (lambda y, x, w: (y, x, [w[0][:, :0], *w[1:]]), "权重应逐层是"),
        (lambda y, x, w: (y, x, [w[0], w[1], w[2][:3], *w[3:]]), "权重应逐层是"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(series, change, message):
    lstm, weights, x, h, c = series
    y, x, weights = change(lstm(x, (h, c))[0], x, weights)
    with pytest.raises(ValueError, match=message):
        culprit(y, x, h, c, *weights)


def test_every_wrong_gate_is_named():
    message = complaint(changed(lambda a: layouts.reorder(a, "ifgo", "iofg"), ("weight_hh_l0", "bias_l0")))
    for name in ("weight_hh_l0", "bias_l0"):
        for gate, owner in zip("fgo", "ofg", strict=True):
            lines = [
                row
                for row in message.splitlines()
                if row.startswith(f"{GATE_NAMES[gate]} {gate} 错了（{name}")
            ]
            assert len(lines) == 1 and f"放的是{GATE_NAMES[owner]} {owner} 的权重" in lines[0]
    assert "weight_ih" not in message and "输入门 i 错了" not in message
    assert message.count("layouts.GATE_ORDERS") == 1
