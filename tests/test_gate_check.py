"""会说话的检查：错在哪个数组、哪个门、像哪一种写错，每一次都要点对名。"""

from itertools import permutations

import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.lstm import gate_check, layouts, sigmoid
from lstm_lib.lstm.gate_check import ARRAYS, GATE_VALUES, check_gate_order, culprit
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
    assert culprit([a.detach().numpy() for a in pair], x, h, c, *weights) == "没有写错"


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
    assert culprit(wrong_step(x, h, c, W, U, b1 + b2, **options), x, h, c, W, U, b1, b2) == says


def test_swapped_states_and_lost_biases_are_named():
    (W, U, b1, b2), x, h, c, _ = cell_and_state()
    weights = (W, U, b1, b2)
    assert culprit(wrong_step(x, h, c, W, U, b1 + b2)[::-1], x, h, c, *weights) == "返回的 h 与 c 对调了"
    assert culprit(wrong_step(x, c, h, W, U, b1 + b2), x, h, c, *weights) == "传进来的 h 与 c 对调了"
    for bias, says in ((b1, "忘了 bias_hh"), (b2, "忘了 bias_ih"), (0, "两个偏置都没有加")):
        assert culprit(wrong_step(x, h, c, W, U, bias), x, h, c, *weights) == says
