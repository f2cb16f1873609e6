"""各章里印出来的代码，就是这里测试的代码：取出标记为 definition 的单元，当模块用。"""

from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.lstm import layouts

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
RANDOM = np.random.default_rng(11)


def definitions(name):
    """一章的导入单元与全部 definition 单元。"""
    notebook = nbformat.read(CHAPTERS / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code = [cell for cell in code if "setup" not in cell.metadata.get("tags", [])]  # 只在 Colab 里有用
    chosen = [code[0]] + [c for c in code if "definition" in c.metadata.get("tags", [])]
    assert len(chosen) > 1, f"{name} 里没有标记为 definition 的单元"
    namespace = {"__name__": name}
    for cell in chosen:
        exec(compile(cell.source, f"{name}.ipynb", "exec"), namespace)
    return SimpleNamespace(**namespace)


@pytest.fixture(scope="module")
def handwritten():
    return definitions("handwritten")


@pytest.fixture(scope="module")
def weights():
    return definitions("weights")


@pytest.fixture(scope="module")
def backward():
    return definitions("backward")


@pytest.fixture(scope="module")
def device():
    return definitions("device")


def module(inputs, hidden, **options):
    return torch.nn.LSTM(inputs, hidden, dtype=torch.float64, **options).requires_grad_(False)


def arrays(lstm):
    return tuple(lstm.parameters[f"{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias"))


@pytest.mark.parametrize("inputs, hidden", [(1, 1), (3, 5), (8, 2), (17, 13)])
def test_printed_step_and_sequences_equal_torch(handwritten, inputs, hidden):
    net = module(inputs, hidden)
    lstm, x = LSTM.from_torch(net), RANDOM.normal(size=(9, inputs))
    h, c = RANDOM.normal(size=hidden), RANDOM.normal(size=hidden)
    y, last = net(torch.from_numpy(x), (torch.from_numpy(h)[None], torch.from_numpy(c)[None]))
    for run in (handwritten.sequence, handwritten.sequence_gemm, handwritten.sequence_fast):
        ours, state = run(x, h, c, *arrays(lstm))
        np.testing.assert_allclose(ours, y.numpy(), atol=1e-12)
        np.testing.assert_allclose(state, [a[0].numpy() for a in last], atol=1e-12)
    cell = torch.nn.LSTMCell(inputs, hidden, dtype=torch.float64)
    theirs = cell(torch.from_numpy(x[0]), (torch.from_numpy(h), torch.from_numpy(c)))
    kept = h.copy(), c.copy()
    ours = handwritten.step(x[0], h, c, *handwritten.weights(cell))
    np.testing.assert_allclose(ours, [a.detach().numpy() for a in theirs], atol=1e-12)
    np.testing.assert_array_equal((h, c), kept)  # 不就地改传进来的状态
    whole = handwritten.step(x[:4], *np.broadcast_to([[h], [c]], (2, 4, hidden)), *arrays(lstm))
    each = [handwritten.step(one, h, c, *arrays(lstm)) for one in x[:4]]
    np.testing.assert_allclose(whole, np.swapaxes(each, 0, 1), atol=1e-14)


@pytest.mark.parametrize("name", ["sequence", "sequence_gemm", "sequence_fast"])
def test_printed_sequences_take_a_batch_and_leave_the_state_alone(handwritten, name):
    net = module(3, 5)
    x, state = RANDOM.normal(size=(6, 4, 3)), RANDOM.normal(size=(2, 4, 5))
    kept = state.copy()
    y, last = net(torch.from_numpy(x), tuple(torch.from_numpy(state)[:, None]))
    ours, ends = getattr(handwritten, name)(x, *state, *arrays(LSTM.from_torch(net)))
    np.testing.assert_allclose(ours, y.numpy(), atol=1e-12)
    np.testing.assert_allclose(ends, [a[0].numpy() for a in last], atol=1e-12)
    np.testing.assert_array_equal(state, kept)


def test_printed_sigmoid(handwritten):
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(handwritten.sigmoid(np.array([-1e3, 0, 1e3])), [0, 0.5, 1])


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("both", [False, True])
def test_printed_layers_and_directions(handwritten, layers, both):
    net = module(3, 4, num_layers=layers, bidirectional=both)
    x, start = RANDOM.normal(size=(6, 2, 3)), RANDOM.normal(size=(2, layers * (1 + both), 2, 4))
    y, last = net(torch.from_numpy(x), tuple(torch.from_numpy(start)))
    ours, state = handwritten.layered(x, start, LSTM.from_torch(net).parameters, layers, both)
    np.testing.assert_allclose(ours, y.numpy(), atol=1e-12)
    np.testing.assert_allclose(state, [a.numpy() for a in last], atol=1e-12)


def test_printed_projection(handwritten):
    lstm = LSTM.from_torch(module(3, 5, proj_size=2))
    x, h, c = RANDOM.normal(size=3), RANDOM.normal(size=2), RANDOM.normal(size=5)
    ours = handwritten.step_projected(x, h, c, *arrays(lstm), lstm.parameters["weight_hr_l0"])
    _, (h1, c1) = lstm(x[None], (h[None], c[None]))
    np.testing.assert_allclose(ours[0], h1[0], atol=1e-14)
    np.testing.assert_allclose(ours[1], c1[0], atol=1e-14)


def test_printed_diagnosis_names_the_gate(handwritten):
    def shuffled(order):
        return lambda m: m.with_parameters(
            {n: layouts.reorder(a, "ifgo", order) for n, a in m.parameters.items()}
        )

    handwritten.check_gate_order(shuffled("ifgo"))
    for name in ("bias_l0", "weight_ih_l0", "weight_hh_l0"):
        for order in map("".join, permutations("ifgo")):
            assert "".join(handwritten.whose(shuffled(order), name).values()) == order
    for order in set(map("".join, permutations("ifgo"))) - {"ifgo"}:
        slot, owner = next((a, b) for a, b in zip("ifgo", order, strict=True) if a != b)
        with pytest.raises(AssertionError) as caught:
            handwritten.check_gate_order(shuffled(order))
        names = handwritten.GATE_NAMES
        assert str(caught.value).startswith(f"{names[slot]} {slot} 错了")
        assert f"放的是{names[owner]} {owner} 的权重" in str(caught.value)


def test_printed_guess_order(handwritten):
    lstm = LSTM.from_torch(module(4, 6))
    x = RANDOM.normal(size=(7, 4))
    for order in map("".join, permutations("ifgo")):
        mystery = {n: layouts.reorder(a, "ifgo", order) for n, a in lstm.parameters.items()}
        assert handwritten.guess_order(mystery, lstm.config, x, lstm(x)[0]) == order


def test_printed_reader(weights):
    lstm = LSTM.from_torch(torch.nn.LSTM(3, 4))
    data = lstm.to_bytes()
    for name, array in weights.read_weights(data).items():
        np.testing.assert_array_equal(array, lstm.parameters[name + "_l0"])
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 0x40
        with pytest.raises(ValueError):
            weights.read_weights(bytes(bad))
    for other in (torch.nn.LSTM(3, 4, 2), torch.nn.LSTM(3, 4, bias=False), torch.nn.LSTM(3, 4, proj_size=2)):
        with pytest.raises(ValueError, match="只读最简单的一种"):
            weights.read_weights(LSTM.from_torch(other).to_bytes())
    for length in range(len(data)):
        with pytest.raises(ValueError, match="不完整" if length >= 64 else "不是权重文件"):
            weights.read_weights(data[:length])


def test_printed_keras_and_forget_bias(weights):
    lstm = LSTM.from_torch(torch.nn.LSTM(3, 4))
    w, u, b = arrays(lstm)
    x = RANDOM.normal(size=(5, 3))
    np.testing.assert_array_equal(weights.from_keras(w.T, u.T, b)(x)[0], lstm(x)[0])
    net = torch.nn.LSTM(3, 4, 2, bidirectional=True)  # 参数仍需要梯度
    weights.set_forget_bias(net, 1.5)
    for name, bias in LSTM.from_torch(net).parameters.items():
        if name.startswith("bias"):
            assert (layouts.split_gates(bias)["f"] == 1.5).all()
            assert len(np.unique(bias)) > 2


@pytest.mark.parametrize("inputs, hidden, steps, batch", [(1, 1, 1, 1), (3, 5, 4, 2), (6, 2, 9, 7)])
def test_printed_backward(backward, inputs, hidden, steps, batch):
    lstm = LSTM.from_torch(module(inputs, hidden))
    x, dy = RANDOM.normal(size=(steps, batch, inputs)), RANDOM.normal(size=(steps, batch, hidden))
    h, c, dh, dc = RANDOM.normal(size=(4, batch, hidden))
    w, u, b = arrays(lstm)
    records, last_h, last_c = backward.forward(x, h, c, w, u, b)
    _, state = lstm(x, (h[None], c[None]))
    np.testing.assert_allclose([last_h, last_c], [a[0] for a in state], atol=1e-13)
    printed = backward.backward(records, dy, dh, dc, w, u)
    library = lstm.backward(x, (h[None], c[None]), dy, dh[None], dc[None])
    pairs = {"dx": library.dx, "dh0": library.dh0[0], "dc0": library.dc0[0]}
    pairs |= dict(zip(("dW", "dU", "db"), library.parameters.values(), strict=True))
    for name, value in pairs.items():
        np.testing.assert_allclose(printed[name], value, atol=1e-10)


def test_printed_clip_and_truncation(backward):
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert backward.length(grads) == 5
    clipped = backward.clip_by_norm(grads, 1.0)
    np.testing.assert_allclose([*clipped["a"], *clipped["b"][0]], [0.6, 0, 0.8], atol=1e-6)
    assert backward.clip_by_norm(grads, 6.0)["a"][0] == 3.0
    for limit in (0.5, 100.0):
        tensors = [torch.nn.Parameter(torch.zeros(n, 4, dtype=torch.float64)) for n in (3, 5)]
        given = {k: RANDOM.normal(size=tuple(t.shape)) for k, t in enumerate(tensors)}
        for k, tensor in enumerate(tensors):
            tensor.grad = torch.from_numpy(given[k].copy())
        torch.nn.utils.clip_grad_norm_(tensors, limit)
        for k, value in backward.clip_by_norm(given, limit).items():
            np.testing.assert_allclose(value, tensors[k].grad.numpy(), atol=1e-12)
    p, x, dy = backward.fresh(2, 3), RANDOM.normal(size=(8, 4, 2)), RANDOM.normal(size=(8, 4, 3))
    lstm = LSTM.from_torch(module(2, 3))
    lstm = lstm.with_parameters({"weight_ih_l0": p["W"], "weight_hh_l0": p["U"], "bias_l0": p["b"]})
    for k in (1, 3, 8):  # 只走 k 步，等于拿前 T−k 步的末状态作初态
        state = lstm(x[:-k])[1] if k < 8 else None
        want = lstm.backward(x[-k:], state, dy[-k:]).parameters["weight_hh_l0"]
        np.testing.assert_allclose(backward.truncated(p, x, dy, k)["dU"], want, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 12, 49, 160, 256])
def test_printed_fft(device, size):
    z = RANDOM.normal(size=size) + 1j * RANDOM.normal(size=size)
    np.testing.assert_allclose(device.fft(z), np.fft.fft(z), atol=1e-12 * size)
    x = RANDOM.normal(size=2 * size)
    np.testing.assert_allclose(device.real_fft(x), np.fft.rfft(x), atol=1e-12 * size)
