"""手写 LSTM 的前向：与 torch.nn.LSTM 逐项对照，错误的输入逐项拒绝。"""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lstm_lib
from lstm_lib import LSTM
from lstm_lib.lstm import Gates, layouts, sigmoid, step

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@st.composite
def cases(draw):
    """随机的一个 torch.nn.LSTM、输入与初态。"""
    hidden = draw(st.integers(1, 9))
    module = torch.nn.LSTM(
        draw(st.integers(1, 9)),
        hidden,
        draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden - 1)),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )
    torch.manual_seed(draw(st.integers(0, 2**16)))
    for p in module.parameters():
        torch.nn.init.normal_(p, std=draw(st.sampled_from([0.3, 1.0])))
    steps, batch = draw(st.integers(1, 7)), draw(st.one_of(st.none(), st.integers(1, 4)))
    shape = (steps, module.input_size)
    if batch:
        shape = (batch, *shape) if module.batch_first else (steps, batch, module.input_size)
    kind = module.weight_ih_l0.dtype
    x, rows = torch.randn(shape, dtype=kind), module.num_layers * (1 + module.bidirectional)
    state = None
    if draw(st.booleans()):
        sizes = (module.proj_size or hidden, hidden)
        state = tuple(torch.randn((rows, *([batch] if batch else []), n), dtype=kind) for n in sizes)
    return module, x, state


def as_numpy(state):
    return None if state is None else tuple(a.numpy() for a in state)


def assert_same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        b = b.detach().numpy()
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@given(cases())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_equals_torch(case):
    module, x, state = case
    theirs, their_state = module(x, state)
    lstm = LSTM.from_torch(module)
    y, (h, c) = lstm(x.numpy(), as_numpy(state))
    assert_same((y, h, c), (theirs, *their_state), TOLERANCE[x.dtype])
    y2, (h2, c2), gates = LSTM.from_bytes(lstm.to_bytes())(x.numpy(), as_numpy(state), return_gates=True)
    np.testing.assert_array_equal((y2, h2, c2)[0], y)
    np.testing.assert_array_equal(c2, c)
    np.testing.assert_array_equal(h2, h)
    assert len(gates) == len(h)
    for record in gates:
        assert isinstance(record, Gates)
        assert {a.shape for a in record} == {(*x.shape[:-1], module.hidden_size)}


@given(cases(), st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_lengths_equal_packed_sequences(case, data):
    module, x, state = case
    if x.ndim == 2:
        return
    steps, batch = (x.shape[1], x.shape[0]) if module.batch_first else x.shape[:2]
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(x, lengths, module.batch_first, enforce_sorted=False)
    out, their_state = module(packed, state)
    theirs, _ = rnn.pad_packed_sequence(out, module.batch_first, total_length=steps)
    y, (h, c) = LSTM.from_torch(module)(x.numpy(), as_numpy(state), lengths=lengths)
    assert_same((y, h, c), (theirs, *their_state), TOLERANCE[x.dtype])


def small(**options):
    torch.manual_seed(0)
    return torch.nn.LSTM(3, 4, dtype=torch.float64, **options)


def test_frame_by_frame_equals_the_whole():
    lstm = LSTM.from_torch(small(num_layers=2))
    x = np.random.default_rng(0).normal(size=(9, 2, 3))
    whole, (h, c) = lstm(x)
    state, frames = None, []
    for t in range(len(x)):
        y, state = lstm(x[t : t + 1], state)
        frames.append(y)
    np.testing.assert_allclose(np.concatenate(frames), whole, atol=1e-15)
    np.testing.assert_allclose(state, (h, c), atol=1e-15)


def test_step_is_the_six_equations():
    module = small(proj_size=2)
    x, h, c = (torch.randn(5, n, dtype=torch.float64) for n in (3, 2, 4))
    y, (_, c1) = module(x[None], (h[None], c[None]))
    p = LSTM.from_torch(module).parameters
    weights = (p["weight_ih_l0"], p["weight_hh_l0"], p["bias_l0"], p["weight_hr_l0"])
    assert_same(step(x.numpy(), h.numpy(), c.numpy(), *weights), (y[0], c1[0]), 1e-13)
    ours = step(x[0].numpy(), h[0].numpy(), c[0].numpy(), *weights)
    assert_same(ours, (y[0, 0], c1[0, 0]), 1e-13)
    plain = small(bias=False)
    h = torch.randn(5, 4, dtype=torch.float64)
    y, (_, c1) = plain(x[None], (h[None], c[None]))
    p = LSTM.from_torch(plain).parameters
    ours = step(x.numpy(), h.numpy(), c.numpy(), p["weight_ih_l0"], p["weight_hh_l0"])
    assert_same(ours, (y[0], c1[0]), 1e-13)


def test_gates_satisfy_the_equations():
    lstm = LSTM.from_torch(small(bidirectional=True, batch_first=True))
    x = np.random.default_rng(1).normal(size=(2, 6, 3))
    y, _, gates = lstm(x, return_gates=True)
    for d, (i, f, g, o, c) in enumerate(gates):
        order = slice(None, None, -1 if d else 1)
        i, f, g, o, c = (a[:, order] for a in (i, f, g, o, c))
        before = np.concatenate([np.zeros_like(c[:, :1]), c[:, :-1]], axis=1)
        np.testing.assert_allclose(c, f * before + i * g, atol=1e-14)
        np.testing.assert_allclose(y[:, order, 4 * d : 4 * d + 4], o * np.tanh(c), atol=1e-14)
        assert all(((a > 0) & (a < 1)).all() for a in (i, f, o)) and (g < 0).any()


def test_sigmoid_is_stable():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
        x = np.linspace(-40, 40, 101)
        np.testing.assert_allclose(sigmoid(x), torch.sigmoid(torch.from_numpy(x)).numpy(), rtol=1e-14)
        assert sigmoid(0) == 0.5


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_huge_inputs_do_not_warn(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, _ = LSTM.from_torch(small())(np.full((5, 1, 3), scale))
    assert np.isfinite(y).all()


def test_inputs_are_left_alone_and_outputs_are_ours():
    lstm = LSTM.from_torch(small())
    x, state = np.ones((2, 1, 3)), (np.ones((1, 1, 4)), np.ones((1, 1, 4)))
    copies = x.copy(), state[0].copy(), state[1].copy()
    y, (h, c) = lstm(x, state)
    for a, b in zip((x, *state), copies, strict=True):
        np.testing.assert_array_equal(a, b)
    h[:] = 7
    assert y[-1].max() < 1
    assert not np.shares_memory(c, state[1])


def test_weights_are_copied_and_read_only():
    module = small()
    lstm = LSTM.from_torch(module)
    before = lstm.parameters["weight_ih_l0"].copy()
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    np.testing.assert_array_equal(lstm.parameters["weight_ih_l0"], before)
    with pytest.raises(ValueError, match="read-only"):
        lstm.parameters["weight_ih_l0"][0] = 0


def test_with_parameters_and_astype():
    lstm = LSTM.from_torch(small())
    x = np.ones((2, 1, 3))
    zero = lstm.with_parameters({"weight_ih_l0": np.zeros((16, 3)), "bias_l0": np.zeros(16)})
    assert not zero(x)[0].any() and lstm(x)[0].any()
    single = lstm.astype("float32")
    assert single(x)[0].dtype == np.float32 and lstm(x)[0].dtype == np.float64
    np.testing.assert_allclose(single(x)[0], lstm(x)[0], atol=1e-6)
    assert lstm.astype(np.float64).config == lstm.config


def test_options_survive_a_change_of_parameters_or_type():
    plain = LSTM.from_torch(small())
    lstm = LSTM(plain.config, plain.parameters, clip=0.5)
    assert (lstm.with_parameters({}).clip, lstm.astype("float32").clip) == (0.5, 0.5)


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.float16])
def test_other_real_inputs_are_converted(kind):
    y, _ = LSTM.from_torch(small())(np.ones((2, 1, 3), kind))
    assert y.dtype == np.float64
    assert LSTM.from_torch(small())([[1, 1, 1]])[0].shape == (1, 4)


def packed(x):
    return torch.nn.utils.rnn.pack_padded_sequence(x, [2])


TENSORS = {  # 数对得上的都收：(由 float64 的 x 变来, 又该等于什么)
    "要求导": lambda x: (x.clone().requires_grad_(), x),
    "算出来的": lambda x: (2 * x.clone().requires_grad_(), 2 * x),
    "bfloat16": lambda x: (x.bfloat16(), x.bfloat16()),
    "float16": lambda x: (x.half(), x.half()),
    "float8": lambda x: (x.to(torch.float8_e4m3fn), x.to(torch.float8_e4m3fn)),
    "稀疏": lambda x: (x.to_sparse(), x),
    "量化": lambda x: (torch.quantize_per_tensor(x.float(), 0.25, 0, torch.qint8), (x / 0.25).round() * 0.25),
    "反号视图": lambda x: (torch._neg_view(x), -x),
    "整数": lambda x: (x.int(), x.int()),
    "一列要求导的": lambda x: (list(x.clone().requires_grad_()), x),
    "一列 bfloat16": lambda x: (tuple(x.bfloat16()), x.bfloat16()),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_any_kind_are_inputs(kind):
    x = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given, same = TENSORS[kind](x)
    lstm = LSTM.from_torch(small())
    expected, _ = lstm(same.double().numpy())
    np.testing.assert_array_equal(lstm(given)[0], expected)
    h, plain_h = (torch.cat([a, a[..., :1]], -1) for a in (given.to_dense() if kind == "稀疏" else x, x))
    if kind in ("要求导", "算出来的"):
        h = h.detach().requires_grad_()
        np.testing.assert_array_equal(
            lstm(x, (h[:1], h[1:]))[0], lstm(x.numpy(), (plain_h.numpy()[:1], plain_h.numpy()[1:]))[0]
        )
        gradients = lstm.backward(x, (h[:1], h[1:]), torch.ones(2, 1, 4).requires_grad_())
        plain = lstm.backward(x.numpy(), (plain_h.numpy()[:1], plain_h.numpy()[1:]), np.ones((2, 1, 4)))
        np.testing.assert_array_equal(gradients.dx, plain.dx)


def test_small_floats_of_numpy_are_inputs():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).normal(size=(2, 1, 3)).astype(ml_dtypes.bfloat16)
    lstm = LSTM.from_torch(small())
    np.testing.assert_array_equal(lstm(x)[0], lstm(x.astype(np.float64))[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "make, message",
    [
        (packed, "输入 x 是 PackedSequence：请用 pad_packed_sequence 展开，各序列的长度传给 lengths"),
        (lambda x: x.to("meta"), "输入 x 是 Tensor，变不成数组：meta 设备的张量，没有数"),
        (
            lambda x: torch.nested.nested_tensor([x[:, 0], x[:1, 0]]),
            "输入 x 是 Tensor，变不成数组：.*没有补齐",
        ),
        (lambda x: [[[1.0, 2, 3]], [[1.0, 2]]], "输入 x 是 list，变不成数组：各行长短不一"),
        (lambda x: x.to(torch.complex64), "输入 x 应是实数数组，得到 complex64"),
        (lambda x: x > 0, "输入 x 应是实数数组，得到 bool"),
        (lambda x: None, "输入 x 应是实数数组，得到 NoneType"),
        (lambda x: np.ma.masked_greater(x.numpy(), 0), "输入 x 有遮住的元素.*filled"),
    ],
)
def test_what_holds_no_numbers_is_refused(make, message):
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 1, 3)
    with pytest.raises(ValueError, match=message):
        LSTM.from_torch(small())(make(x))


def test_parameters_may_be_tensors_but_not_complex():
    lstm = LSTM.from_torch(small())
    weight = torch.ones(16, 3, dtype=torch.float64, requires_grad=True)
    assert (lstm.with_parameters({"weight_ih_l0": weight}).parameters["weight_ih_l0"] == 1).all()
    with pytest.raises(ValueError, match="参数 weight_ih_l0 应是实数数组，得到 complex128"):
        lstm.with_parameters({"weight_ih_l0": np.ones((16, 3), complex)})


def test_a_folder_is_no_missing_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="是文件夹，不是权重文件"):
        LSTM.load(tmp_path)


def test_empty_batch_like_torch():
    for batch_first, shape in ((False, (4, 0, 3)), (True, (0, 4, 3))):
        module = small(batch_first=batch_first)
        theirs, (h, c) = module(torch.zeros(shape, dtype=torch.float64))
        y, state = LSTM.from_torch(module)(np.zeros(shape))
        assert y.shape == theirs.shape and [a.shape for a in state] == [h.shape, c.shape]


@pytest.mark.parametrize(
    "x, state, message",
    [
        ((0, 1, 3), None, "序列长度是 0"),
        ((0, 3), None, "序列长度是 0"),
        ((2, 1, 4), None, "input_size=3，得到 4"),
        ((2, 1, 2), None, "input_size=3，得到 2"),
        ((3,), None, "2 维（不分批）或 3 维，得到 1 维"),
        ((1, 2, 1, 3), None, "得到 4 维"),
        ((2, 1, 3), ((1, 2, 4), (1, 1, 4)), r"初态 h 的形状应为 \(1, 1, 4\)，得到 \(1, 2, 4\)"),
        ((2, 1, 3), ((1, 1, 4), (2, 1, 4)), r"初态 c 的形状应为 \(1, 1, 4\)，得到 \(2, 1, 4\)"),
        ((2, 1, 3), ((1, 4), (1, 4)), r"初态 h 的形状应为 \(1, 1, 4\)"),
        ((2, 3), ((1, 1, 4), (1, 1, 4)), r"初态 h 的形状应为 \(1, 4\)"),
        ((2, 1, 3), ((1, 1, 4), (1, 1, 3)), r"初态 c 的形状"),
    ],
)
def test_wrong_shapes_are_refused_as_torch_does(x, state, message):
    module = small()
    tensors = None if state is None else tuple(torch.zeros(s, dtype=torch.float64) for s in state)
    with pytest.raises((RuntimeError, ValueError)):
        module(torch.zeros(x, dtype=torch.float64), tensors)
    with pytest.raises(ValueError, match=message):
        LSTM.from_torch(module)(np.zeros(x), as_numpy(tensors))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": np.zeros((2, 1, 3), complex)}, "输入 x 应是实数数组，得到 complex128"),
        ({"x": np.array([["a"]])}, "输入 x 应是实数数组"),
        ({"state": np.zeros((2, 1, 1, 4))}, "应是 .h, c. 两个数组"),
        ({"state": (np.zeros((1, 1, 4)),)}, "应是 .h, c. 两个数组"),
        ({"state": (np.zeros((1, 1, 4), complex),) * 2}, "初态 h 应是实数数组"),
        ({"lengths": [1, 1]}, "lengths 应是 1 个整数"),
        ({"lengths": [1.0]}, "lengths 应是 1 个整数，得到 float64"),
        ({"lengths": [0]}, "lengths 应在 1 与序列长度 2 之间，得到 .0"),
        ({"lengths": [3]}, "lengths 应在 1 与序列长度 2"),
    ],
)
def test_other_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LSTM.from_torch(small())(**({"x": np.zeros((2, 1, 3))} | arguments))


def test_wrong_parameters_are_named():
    lstm = LSTM.from_torch(small())
    with pytest.raises(ValueError, match=r"weight_hh_l0 的形状应为 \(16, 4\)，得到 \(16, 5\)"):
        lstm.with_parameters({"weight_hh_l0": np.zeros((16, 5))})
    with pytest.raises(ValueError, match="多出或缺少：bias_l1"):
        lstm.with_parameters({"bias_l1": np.zeros(16)})
    with pytest.raises(ValueError, match=r"多出或缺少：bias_l0、weight_hh_l0$"):
        LSTM(lstm.config, {"weight_ih_l0": np.zeros((16, 3))})


@pytest.mark.parametrize(
    "module, message",
    [
        (torch.nn.GRU(2, 3), "应给 torch.nn.LSTM，得到 GRU"),
        (torch.nn.Linear(2, 3), "得到 Linear"),
        (torch.nn.LSTMCell(2, 3), "得到 LSTMCell"),
        (None, "得到 NoneType"),
        (torch.nn.LSTM(2, 3, 2, dropout=0.5), "层间 dropout=0.5.*eval"),
    ],
)
def test_from_torch_refuses(module, message):
    with pytest.raises(ValueError, match=message):
        LSTM.from_torch(module)


def test_from_torch_other_modes():
    for module in (
        torch.nn.LSTM(2, 3, 2, dropout=0.5).eval(),
        torch.nn.LSTM(2, 3, 2),
        torch.nn.LSTM(2, 3).half(),
        torch.nn.LSTM(2, 3).bfloat16(),
    ):
        lstm = LSTM.from_torch(module)
        assert lstm.config.dtype == "float32"
        np.testing.assert_array_equal(
            lstm.parameters["weight_hh_l0"], module.weight_hh_l0.detach().float().numpy()
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert LSTM.from_torch(torch.nn.LSTM(2, 3, dropout=0.5)).config.num_layers == 1


def test_constant_gates_locate_every_block():
    """每个门一个常数：门顺序错了，哪个门错一目了然。"""
    module = small()
    value = {"i": 0.3, "f": 0.7, "g": -0.4, "o": 0.6}
    logit = {k: np.log(v / (1 - v)) if k != "g" else np.arctanh(v) for k, v in value.items()}
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module.bias_hh_l0.copy_(torch.tensor(np.repeat([logit[k] for k in "ifgo"], 4)))
    _, _, (gates,) = LSTM.from_torch(module)(np.zeros((1, 1, 3)), return_gates=True)
    for gate, want in value.items():
        np.testing.assert_allclose(getattr(gates, gate), want, atol=1e-15)


def test_reverse_only():
    forward = LSTM.from_torch(small())
    config = layouts.LSTMConfig(3, 4, direction="reverse", dtype="float64")
    reverse = LSTM(config, {name + "_reverse": a for name, a in forward.parameters.items()})
    x = np.random.default_rng(2).normal(size=(5, 2, 3))
    y, state = reverse(x)
    flipped, expected = forward(x[::-1])
    np.testing.assert_array_equal(y, flipped[::-1])
    np.testing.assert_array_equal(state, expected)
    assert LSTM.from_bytes(reverse.to_bytes()).config == config


@pytest.mark.parametrize("name", ["peepholes", "clip", "initial_state", "lengths"])
def test_what_the_file_cannot_hold_is_refused(name):
    value = {"peepholes": np.ones((1, 3, 4)), "clip": 1.0}.get(name, np.ones(1))
    lstm = LSTM.from_torch(small())
    label = {"peepholes": "窥视孔", "clip": "截幅", "initial_state": "缺省初态", "lengths": "各序列长度"}[
        name
    ]
    with pytest.raises(ValueError, match=f"^权重文件放不下 {label}（{name}），这个 LSTM 不能保存$"):
        LSTM(lstm.config, lstm.parameters, **{name: value}).to_bytes()


def test_lazy_import_and_repr():
    import subprocess
    import sys

    code = "import sys, lstm_lib; assert 'numpy' not in sys.modules; from lstm_lib import LSTM; LSTM.load"
    code += "; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'lstn'"):
        _ = lstm_lib.lstn
    assert "hidden_size=4" in repr(LSTM.from_torch(small()))


def test_every_combination_of_a_small_grid():
    """随机抽样之外，再把开关的全部组合走一遍。"""
    for layers, bi, bias, first, proj in itertools.product((1, 2), (0, 1), (0, 1), (0, 1), (0, 2)):
        module = small(
            num_layers=layers,
            bidirectional=bool(bi),
            bias=bool(bias),
            batch_first=bool(first),
            proj_size=proj,
        )
        x = torch.randn(4, 5, 3, dtype=torch.float64)
        theirs, state = module(x)
        y, (h, c) = LSTM.from_torch(module)(x.numpy())
        assert_same((y, h, c), (theirs, *state), 1e-13)
