"""手写的反向传播：与 torch.autograd、与有限差分对照。"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_lib import LSTM
from lstm_lib.lstm.backward import backward

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_equals_autograd(data):
    hidden = data.draw(st.integers(1, 6))
    module = torch.nn.LSTM(
        data.draw(st.integers(1, 6)),
        hidden,
        data.draw(st.integers(1, 3)),
        bias=data.draw(st.booleans()),
        batch_first=data.draw(st.booleans()),
        bidirectional=data.draw(st.booleans()),
        proj_size=data.draw(st.integers(0, hidden - 1)),
        dtype=torch.float64,
    )
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    steps, batch = data.draw(st.integers(1, 6)), data.draw(st.one_of(st.none(), st.integers(1, 3)))
    lead = [steps] if not batch else [batch, steps] if module.batch_first else [steps, batch]
    x = torch.randn(*lead, module.input_size, dtype=torch.float64, requires_grad=True)
    rows = module.num_layers * (1 + module.bidirectional)
    state = tuple(
        torch.randn(rows, *([batch] if batch else []), n, dtype=torch.float64, requires_grad=True)
        for n in (module.proj_size or hidden, hidden)
    )
    y, last = module(x, state)
    given_grads = [torch.randn_like(a) for a in (y, *last)]
    sum((a * g).sum() for a, g in zip((y, *last), given_grads, strict=True)).backward()
    ours = LSTM.from_torch(module).backward(
        x.detach().numpy(), tuple(a.detach().numpy() for a in state), *(g.numpy() for g in given_grads)
    )
    pairs = [(x, ours.dx), (state[0], ours.dh0), (state[1], ours.dc0)]
    for name, value in ours.parameters.items():
        for half in ("bias_ih", "bias_hh") if name.startswith("bias") else ("",):
            pairs.append((getattr(module, name.replace("bias", half) if half else name), value))
    assert len(pairs) == 3 + len(list(module.parameters()))
    for theirs, value in pairs:
        assert value.shape == tuple(theirs.shape)
        np.testing.assert_allclose(value, theirs.grad.numpy(), rtol=0, atol=1e-10)


def test_equals_finite_differences():
    torch.manual_seed(1)
    lstm = LSTM.from_torch(torch.nn.LSTM(2, 3, bidirectional=True, dtype=torch.float64))
    random = np.random.default_rng(1)
    x, dy = random.normal(size=(4, 2, 2)), random.normal(size=(4, 2, 6))
    grads = backward(lstm, x, None, dy)

    def loss(model, value):
        return (model(value)[0] * dy).sum()

    step = 1e-6
    for name, value in (("x", x), *lstm.parameters.items()):
        at = tuple(random.integers(0, n) for n in value.shape)
        moved = [value.copy(), value.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        if name == "x":
            a, b, ours = loss(lstm, moved[0]), loss(lstm, moved[1]), grads.dx[at]
        else:
            a, b = (loss(lstm.with_parameters({name: m}), x) for m in moved)
            ours = grads.parameters[name][at]
        assert ours == pytest.approx((a - b) / (2 * step), rel=1e-6, abs=1e-8)


def test_missing_gradients_are_zero():
    torch.manual_seed(2)
    module = torch.nn.LSTM(2, 3, dtype=torch.float64)
    lstm, x = LSTM.from_torch(module), np.ones((4, 1, 2))
    zero = backward(lstm, x, None, None)
    assert not zero.dx.any() and not any(g.any() for g in zero.parameters.values())
    only_c = backward(lstm, x, None, None, dc=np.ones((1, 1, 3)))
    module(torch.ones(4, 1, 2, dtype=torch.float64))[1][1].sum().backward()
    np.testing.assert_allclose(only_c.parameters["weight_hh_l0"], module.weight_hh_l0.grad, atol=1e-12)


def test_float32_stays_float32():
    lstm = LSTM.from_torch(torch.nn.LSTM(2, 3))
    grads = backward(lstm, np.ones((4, 1, 2)), None, np.ones((4, 1, 3)))
    assert {g.dtype for g in (grads.dx, grads.dh0, grads.dc0, *grads.parameters.values())} == {
        np.dtype("float32")
    }


@pytest.mark.parametrize("name", ["peepholes", "clip", "lengths"])
def test_unsupported_options_are_refused_by_name(name):
    lstm = LSTM.from_torch(torch.nn.LSTM(2, 3))
    value = {"peepholes": np.ones((1, 3, 3)), "clip": 1.0, "lengths": np.array([1])}[name]
    other = LSTM(lstm.config, lstm.parameters, **{name: value})
    with pytest.raises(ValueError, match=f"没有实现.*{name}"):
        backward(other, np.ones((4, 1, 2)), None, np.ones((4, 1, 3)))


@pytest.mark.parametrize("name", ["dy", "dh", "dc"])
def test_wrong_gradient_shapes(name):
    lstm = LSTM.from_torch(torch.nn.LSTM(2, 3))
    grads = {"dy": np.zeros((4, 1, 3))} | {name: np.zeros((4, 2, 3))}
    with pytest.raises(ValueError, match=f"梯度 {name} 的形状应为"):
        backward(lstm, np.ones((4, 1, 2)), None, **grads)


def test_trains_a_tiny_task_in_numpy():
    """第一个数是 ±1，后面全是干扰，末尾要说出它。纯 NumPy 的 Adam，损失应降到原来的千分之一以下。"""
    torch.manual_seed(0)
    lstm, random = LSTM.from_torch(torch.nn.LSTM(1, 8, dtype=torch.float64)), np.random.default_rng(0)
    x = 0.5 * random.normal(size=(20, 64, 1))
    x[0] = np.sign(x[0])
    losses, m, v = [], dict.fromkeys(lstm.parameters, 0.0), dict.fromkeys(lstm.parameters, 0.0)
    for k in range(1, 151):
        y, _ = lstm(x)
        error = y[-1, :, :1] - 0.8 * x[0]
        losses.append((error**2).mean())
        dy = np.zeros_like(y)
        dy[-1, :, :1] = 2 * error / error.size
        grads = backward(lstm, x, None, dy).parameters
        m = {n: 0.9 * m[n] + 0.1 * g for n, g in grads.items()}
        v = {n: 0.99 * v[n] + 0.01 * g**2 for n, g in grads.items()}
        moves = {n: 0.03 * (m[n] / (1 - 0.9**k)) / (np.sqrt(v[n] / (1 - 0.99**k)) + 1e-8) for n in grads}
        lstm = lstm.with_parameters({n: w - moves[n] for n, w in lstm.parameters.items()})
    assert losses[-1] < losses[0] / 1000
