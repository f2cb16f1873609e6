"""从 ONNX 与 ncnn 文件读来的 LSTM：与 onnxruntime、ONNX 标准自带的算例、ncnn 对照。"""

import importlib
import itertools
import warnings
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lstm_lib import LSTM
from lstm_lib.lstm import layouts

torch.set_num_threads(1)
RANDOM = np.random.default_rng(4)
STEPS, BATCH, INPUT, HIDDEN = 6, 3, 4, 5


def normal(*shape, dtype=np.float32):
    return RANDOM.normal(size=shape).astype(dtype)


def make_model(tensors, feeds=("x",), dtype=np.float32, **attributes):
    """只有一个 LSTM 节点的图；tensors 里的是常量，feeds 里的是图的输入。"""
    order = ("x", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    names = [n if n in tensors or n in feeds else "" for n in order]
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], name="我的", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT32 if n == "sequence_lens" else kind, None)
        for n in feeds
    ]
    outputs = [helper.make_tensor_value_info(n, kind, None) for n in node.output]
    constants = [numpy_helper.from_array(a, n) for n, a in tensors.items() if a is not None]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def weights(directions=1, bias=True, dtype=np.float32):
    tensors = {
        "W": normal(directions, 4 * HIDDEN, INPUT, dtype=dtype),
        "R": normal(directions, 4 * HIDDEN, HIDDEN, dtype=dtype),
    }
    return tensors | ({"B": normal(directions, 8 * HIDDEN, dtype=dtype)} if bias else {})


def onnx_outputs(y, state, directions=1, layout=0):
    """把 torch 的约定换成 ONNX 的 Y、Y_h、Y_c。"""
    h, c = state
    y = y.reshape(*y.shape[:2], directions, -1)
    return (y, h.swapaxes(0, 1), c.swapaxes(0, 1)) if layout else (y.swapaxes(1, 2), h, c)


def assert_same(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [None, [6, 6, 6], [6, 1, 3]])
def test_equals_onnxruntime(direction, bias, lengths):
    directions = 1 + (direction == "bidirectional")
    for peepholes, clip, h0, c0 in itertools.product(
        [False, True], [None, 0.3], [False, True], [False, True]
    ):
        tensors = weights(directions, bias)
        if peepholes:
            tensors["P"] = normal(directions, 3 * HIDDEN)
        if lengths:
            tensors["sequence_lens"] = np.array(lengths, np.int32)
        if h0:
            tensors["initial_h"] = normal(directions, BATCH, HIDDEN)
        if c0:
            tensors["initial_c"] = normal(directions, BATCH, HIDDEN)
        options = {} if clip is None else {"clip": clip}
        model = make_model(tensors, hidden_size=HIDDEN, direction=direction, **options)
        x = normal(STEPS, BATCH, INPUT)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        lstm = LSTM.from_onnx(model)
        assert_same(onnx_outputs(*lstm(x), directions), session.run(None, {"x": x}))
        assert lstm.config.direction == direction and lstm.config.bias == bias


def test_given_state_and_lengths_replace_the_constants():
    tensors = weights() | {"initial_h": normal(1, 3, HIDDEN), "sequence_lens": np.array([6, 2, 3], np.int32)}
    model = make_model(tensors, hidden_size=HIDDEN)
    plain = make_model({k: tensors[k] for k in "WRB"}, hidden_size=HIDDEN)
    x, state = normal(STEPS, BATCH, INPUT), (normal(1, 3, HIDDEN), normal(1, 3, HIDDEN))
    y, last = LSTM.from_onnx(model)(x, state, lengths=[6, 6, 6])
    expected, expected_last = LSTM.from_onnx(plain)(x, state)
    assert_same((y, *last), (expected, *expected_last), 0)


def test_constant_state_of_one_sequence_also_fits_unbatched_input():
    tensors = weights() | {"initial_c": normal(1, 1, HIDDEN)}
    lstm = LSTM.from_onnx(make_model(tensors, hidden_size=HIDDEN))
    x = normal(STEPS, 1, INPUT)
    np.testing.assert_array_equal(lstm(x[:, 0])[0], lstm(x)[0][:, 0])
    with pytest.raises(ValueError, match=r"初态 h 的形状应为 \(1, 2, 5\)，得到 \(1, 1, 5\)"):
        lstm(normal(STEPS, 2, INPUT))


@pytest.mark.parametrize("lengths", [[6, 0, 3], [6, -1, 3]])
def test_lengths_below_one_are_refused_when_read(lengths):
    model = make_model(weights() | {"sequence_lens": np.array(lengths, np.int32)}, hidden_size=HIDDEN)
    with pytest.raises(ValueError, match=r"LSTM 节点 我的 的 sequence_lens（sequence_lens）是 \[6, .*小于 1"):
        LSTM.from_onnx(model)


def test_constant_lengths_that_do_not_fit_say_whose_they_are():
    model = make_model(weights() | {"sequence_lens": np.array([6, 7, 3], np.int32)}, hidden_size=HIDDEN)
    lstm = LSTM.from_onnx(model)
    for batch, words in ((3, "应在 1 与序列长度 6 之间"), (2, "应是 2 个整数")):
        with pytest.raises(
            ValueError, match=rf"自带的 lengths.*文件里的 sequence_lens.*{words}.*请用 lengths"
        ):
            lstm(normal(STEPS, batch, INPUT))
    assert lstm(normal(7, 3, INPUT))[0].shape == (7, 3, HIDDEN)
    with pytest.raises(ValueError, match=r"^lengths 应在 1 与序列长度 6 之间"):
        lstm(normal(STEPS, 3, INPUT), lengths=[6, 7, 3])


def test_sequence_lens_from_the_graph_must_be_given():
    model = make_model(weights(), feeds=("x", "sequence_lens"), hidden_size=HIDDEN)
    lstm, x, lengths = LSTM.from_onnx(model), normal(STEPS, BATCH, INPUT), np.array([1, 6, 4], np.int32)
    with pytest.raises(ValueError, match=r"sequence_lens 由图的输入给出.*lengths"):
        lstm(x)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": x, "sequence_lens": lengths})
    assert_same(onnx_outputs(*lstm(x, lengths=lengths)), theirs)


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_half_precision_weights_are_widened_exactly(kind):
    """bfloat16 也是浮点数；先放宽，两个偏置再相加。"""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.bfloat16 if kind == TensorProto.BFLOAT16 else np.float16
    narrow = {name: a.astype(dtype) for name, a in weights().items()}
    model = make_model({name: a.astype(np.float32) for name, a in narrow.items()}, hidden_size=HIDDEN)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            helper.make_tensor(tensor.name, kind, tensor.dims, narrow[tensor.name].tobytes(), raw=True)
        )
    wide = make_model({name: a.astype(np.float32) for name, a in narrow.items()}, hidden_size=HIDDEN)
    lstm, expected = LSTM.from_onnx(model), LSTM.from_onnx(wide)
    assert lstm.config == expected.config
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(lstm.parameters[name], array)


def test_zero_state_is_no_state():
    tensors = weights() | {"initial_h": np.zeros((1, 1, HIDDEN), np.float32)}
    assert LSTM.from_onnx(make_model(tensors, hidden_size=HIDDEN)).initial_state is None


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_layout_1(direction):
    from onnx.reference import ReferenceEvaluator

    directions = 1 + (direction == "bidirectional")
    tensors = weights(directions)
    flat = LSTM.from_onnx(make_model(tensors, hidden_size=HIDDEN, direction=direction))
    tensors["initial_h"], tensors["initial_c"] = normal(3, directions, HIDDEN), normal(3, directions, HIDDEN)
    model = make_model(tensors, hidden_size=HIDDEN, direction=direction, layout=1)
    x = normal(BATCH, STEPS, INPUT)
    y, state = LSTM.from_onnx(model)(x)
    expected, last = flat(
        x.swapaxes(0, 1), tuple(tensors[n].swapaxes(0, 1) for n in ("initial_h", "initial_c"))
    )
    assert_same((y, *state), (expected.swapaxes(0, 1), *last), 1e-6)
    if directions == 1:
        reference = ReferenceEvaluator(model).run(None, {"x": x})
        assert_same(onnx_outputs(y, state, 1, layout=1), reference)


def test_float64_and_float16():
    lstm = LSTM.from_onnx(make_model(weights(dtype=np.float64), dtype=np.float64, hidden_size=HIDDEN))
    assert lstm.config.dtype == "float64"
    tensors = weights(dtype=np.float16)
    lstm = LSTM.from_onnx(make_model(tensors, dtype=np.float16, hidden_size=HIDDEN))
    assert lstm.config.dtype == "float32"
    bias = tensors["B"][0].astype(np.float32)  # 先升到 float32 再相加，不在 float16 里丢位
    expected = layouts.reorder(bias[:20] + bias[20:], "onnx", "torch")
    np.testing.assert_array_equal(lstm.parameters["bias_l0"], expected)


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"input_forget": 1}, "属性 input_forget=1 没有实现"),
        ({"activations": ["Relu", "Tanh", "Tanh"]}, "属性 activations=.*Relu.*没有实现"),
        ({"activations": ["Sigmoid", "Tanh"]}, "属性 activations="),
        ({"activation_alpha": [0.5]}, "属性 activation_alpha=.*没有实现"),
        ({"clip": 0.0}, "属性 clip=0.0，应为正数"),
        ({"clip": -1.0}, "属性 clip=-1.0"),
        ({"layout": 2}, "属性 layout=2 不认识"),
        ({"future_option": 3}, "属性 future_option=3 没有实现"),
    ],
)
def test_unknown_attributes_are_refused_by_name(attributes, message):
    with pytest.raises(ValueError, match="LSTM 节点 我的 的" + message):
        LSTM.from_onnx(make_model(weights(), hidden_size=HIDDEN, **attributes))


def test_spelled_out_defaults_are_accepted():
    model = make_model(
        weights(2),
        hidden_size=HIDDEN,
        direction="bidirectional",
        activations=["Sigmoid", "tanh", "Tanh"] * 2,
        input_forget=0,
        layout=0,
    )
    assert LSTM.from_onnx(model).config.num_directions == 2


def onnx_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node

        # 只载入 LSTM 的：全部算子的算例要现算几秒，而每个测试进程都要收集一遍
        only = lambda package: importlib.import_module(f"{package.__name__}.lstm")  # noqa: E731
        with mock.patch.object(node, "import_recursive", only):
            return [case for case in node.collect_testcases("LSTM") if "lstm" in case.name]


CASES = onnx_cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_standards_own_cases(case):
    """ONNX 标准自带的 LSTM 算例：除 X 外的输入变成常量，结果与标准给的一致。"""
    for inputs, outputs in case.data_sets:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        graph = model.graph
        values = dict(zip([i.name for i in graph.input], inputs, strict=True))
        graph.initializer.extend(numpy_helper.from_array(values[n], n) for n in values if n != "X")
        del graph.input[1:]
        lstm = LSTM.from_onnx(model)
        node, x = graph.node[0], values["X"]
        result = onnx_outputs(*lstm(x), lstm.config.num_directions, layout=lstm.config.batch_first)
        named = dict(zip(("Y", "Y_h", "Y_c"), result, strict=True))
        wanted = [slot for slot, name in zip(named, node.output, strict=False) if name]
        assert_same([named[slot] for slot in wanted], outputs)


def test_the_standard_has_the_cases_we_think():
    names = {case.name for case in CASES}
    assert {"test_lstm_defaults", "test_lstm_with_initial_bias", "test_lstm_with_peepholes"} <= names


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_exported_by_torch(tmp_path, bidirectional, batch_first):
    module = torch.nn.LSTM(INPUT, HIDDEN, bidirectional=bidirectional, batch_first=batch_first)
    x, path = torch.randn(BATCH, STEPS, INPUT), tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=False)
    ours, theirs = LSTM.from_onnx(path), LSTM.from_torch(module)
    assert ours.config == theirs.config
    for name, value in theirs.parameters.items():
        np.testing.assert_array_equal(ours.parameters[name], value)


# ---------------------------------------------------------------- 批在前还是时间在前


class Around(torch.nn.Module):
    """LSTM 前后各种写法的小网络；``kind`` 见 forward。"""

    def __init__(self, kind, **options):
        super().__init__()
        self.kind, self.pre = kind, torch.nn.Linear(INPUT, INPUT)
        self.lstm = torch.nn.LSTM(INPUT, HIDDEN, **options)
        self.conv = torch.nn.Conv1d(INPUT, INPUT, 3, padding=1)

    def forward(self, x):
        if self.kind == "layers":
            return torch.sigmoid(self.lstm(torch.relu(self.pre(x)))[0])
        if self.kind == "last":
            return self.lstm(x)[1][0][-1]
        if self.kind == "conv":  # 卷积要 (B, I, T)
            x = self.conv(x)
            return self.lstm(x.transpose(1, 2) if self.lstm.batch_first else x.permute(2, 0, 1))[0]
        return self.lstm(x)[0]


def exported(network, x, path, exporter):
    from lstm_lib.formats import onnx_graph

    return onnx.load(onnx_graph.export(network.eval(), (x,), path, exporter=exporter))


def simplified(model, how, path):
    import onnxsim
    import onnxslim

    if how == "onnxsim":
        return onnxsim.simplify(model)[0]
    return onnxslim.slim(str(path)) if how == "onnxslim" else model


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", ["bare", "layers", "last", "conv"])
@pytest.mark.parametrize("first", [False, True])
def test_batch_first_is_recognised(tmp_path, exporter, kind, first):
    cases = ((1, {}), (BATCH, {"bidirectional": True}), (1, {"num_layers": 2}))
    for batch, options in cases if kind == "bare" or exporter == "torchscript" else cases[:1]:
        network, path = Around(kind, batch_first=first, **options), tmp_path / "m.onnx"
        shape = (batch, STEPS) if first else (STEPS, batch)
        x = torch.rand(batch, INPUT, STEPS) if kind == "conv" else torch.rand(*shape, INPUT)
        raw = exported(network, x, path, exporter)
        for how in ("原样", "onnxsim", "onnxslim"):
            model = simplified(raw, how, path)
            nodes = [n for n in model.graph.node if n.op_type == "LSTM"]
            assert len(nodes) == options.get("num_layers", 1)
            for node in nodes:
                lstm = LSTM.from_onnx(model, next(o for o in node.output if o))
                assert lstm.config.batch_first == first, (how, options, lstm)
                assert ("batch_first=True 认自图" in repr(lstm)) == first
            if len(nodes) == 1:  # 三维的输入，数对得上
                x = normal(batch, STEPS, INPUT) if first else normal(STEPS, batch, INPUT)
                expected = LSTM.from_torch(network.lstm)(x)[0]
                np.testing.assert_allclose(lstm(x)[0], expected, rtol=0, atol=1e-6)


def transposed(before=(), after=(), lstm_outputs=("Y",), **attributes):
    """x →（before 里的节点）→ LSTM →（after 里的节点）→ out；各节点是 (算子, 属性, 另外的常量)。"""
    nodes, tensors, current = [], [*weights().items()], "x"
    for k, (kind, options, *extra) in enumerate(before):
        tensors += [(f"b{k}{j}", a) for j, a in enumerate(extra)]
        nodes.append(
            helper.make_node(kind, [current, *(f"b{k}{j}" for j in range(len(extra)))], [f"x{k}"], **options)
        )
        current = f"x{k}"
    nodes.append(
        helper.make_node("LSTM", [current, "W", "R", "B"], [*lstm_outputs], hidden_size=HIDDEN, **attributes)
    )
    current = next(o for o in lstm_outputs if o)
    for k, (kind, options, *extra) in enumerate(after):
        tensors += [(f"a{k}{j}", a) for j, a in enumerate(extra)]
        nodes.append(
            helper.make_node(kind, [current, *(f"a{k}{j}" for j in range(len(extra)))], [f"y{k}"], **options)
        )
        current = f"y{k}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, INPUT])],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in tensors],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


SWAP = ("Transpose", {"perm": [1, 0, 2]})
SQUEEZE = ("Squeeze", {}, np.array([1]))


@pytest.mark.parametrize(
    ("graph", "first", "said"),
    [
        (transposed([SWAP], [SQUEEZE, SWAP]), True, "Transpose 节点 x0"),  # tf2onnx 写的 Keras
        (transposed([SWAP, ("Identity", {}), ("Dropout", {}), ("Cast", {"to": 1})]), True, "认自图"),
        (transposed([SWAP], [("Squeeze", {}, np.array([0]))], ("", "Y_h")), True, "认自图"),  # 只要末状态
        (transposed([SWAP], [SQUEEZE]), True, "输出侧是时间在前"),
        (transposed([], [SQUEEZE, SWAP]), False, "输出侧是批在前"),
        (transposed([], [SQUEEZE]), False, ""),
        (transposed([("Transpose", {"perm": [0, 1, 2]})], [SQUEEZE]), False, ""),
        (transposed([("Transpose", {"perm": [2, 0, 1]})], [SQUEEZE, SWAP]), True, "认自图"),
        (transposed([("Transpose", {"perm": [2, 0, 1]})], [SQUEEZE]), False, "不对就用 batch_first= 指定"),
        (transposed([SWAP, ("Relu", {})], [SQUEEZE]), False, "不对就用 batch_first= 指定"),
        (transposed([SWAP, ("Relu", {})], [SQUEEZE, SWAP]), True, "认自图"),
        (transposed([], [("Transpose", {"perm": [2, 0, 1, 3]})]), False, "输出侧是批在前"),
        (transposed(layout=1), True, "layout=1"),
        (transposed([SWAP], layout=1), False, "layout=1"),
    ],
)  # fmt: skip
def test_transposes_around_the_node(graph, first, said):
    name = next(o for n in graph.graph.node if n.op_type == "LSTM" for o in n.output if o)
    lstm = LSTM.from_onnx(graph, name)
    assert lstm.config.batch_first == first
    assert said in repr(lstm) and (said or not lstm.note)
    assert lstm.astype("float64").note == lstm.note == lstm.with_parameters({}).note


def test_the_caller_decides_batch_first():
    graph = transposed([SWAP], [SQUEEZE, SWAP])
    lstm = LSTM.from_onnx(graph, batch_first=False)
    assert not lstm.config.batch_first
    assert "batch_first=False 是调用者指定的，而照图认是 True" in repr(lstm)
    lstm = LSTM.from_onnx(transposed([], [SQUEEZE]), batch_first=True)
    assert lstm.config.batch_first and "调用者指定" in repr(lstm)
    with pytest.raises(ValueError, match="batch_first 应为 True、False 或 None"):
        LSTM.from_onnx(graph, batch_first="是")


# ---------------------------------------------------------------- ncnn


def run_ncnn(param, binary, x, state=()):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(param)) == 0 and net.load_model(str(binary)) == 0
    extractor, kept = net.create_extractor(), [np.ascontiguousarray(a, np.float32) for a in (x, *state)]
    mats = [ncnn.Mat(a).clone() for a in kept]
    for k, mat in enumerate(mats):
        extractor.input(f"in{k}", mat)
    outputs = []
    for k in range(1 + len(state)):
        code, mat = extractor.extract(f"out{k}")
        assert code == 0
        outputs.append(np.array(mat))
    return outputs


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("fp16", [False, True])
def test_written_by_pnnx(tmp_path, bidirectional, proj_size, fp16, capfd):
    import pnnx

    torch.manual_seed(5)
    module = torch.nn.LSTM(
        INPUT, HIDDEN, batch_first=True, bidirectional=bidirectional, proj_size=proj_size
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pnnx.export(
            Only(module), str(tmp_path / "m.pt"), (torch.rand(1, STEPS, INPUT),), fp16=fp16, check_trace=False
        )
    capfd.readouterr()
    param, binary = tmp_path / "m.ncnn.param", tmp_path / "m.ncnn.bin"
    lstm, expected = LSTM.from_ncnn(param, binary), LSTM.from_torch(module)
    for name, value in expected.parameters.items():
        tolerance = np.abs(value) * 2.0**-11 + 1e-7 if fp16 else 1e-7  # pnnx 连偏置也存成 fp16
        assert (np.abs(lstm.parameters[name] - value) <= tolerance).all(), name
    x = normal(STEPS, INPUT)
    np.testing.assert_allclose(lstm(x)[0], run_ncnn(param, binary, x)[0], rtol=0, atol=1e-3 if fp16 else 1e-5)


class Only(torch.nn.Module):
    """pnnx 要的是返回一个张量的网络。"""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x):
        return self.lstm(x)[0]


def write_ncnn(folder, direction, *, hidden_key=True, state=False, int8=False):
    """按 ncnn 的格式手写一对文件，返回路径与应读出的权重（i f o g 次序）。"""
    directions = 2 if direction == 2 else 1
    xc, hc = normal(directions, 4 * HIDDEN, INPUT), normal(directions, 4 * HIDDEN, HIDDEN)
    bias = normal(directions, 4 * HIDDEN)
    end = f" 3={HIDDEN}" * hidden_key + " 8=2" * int8
    tops = 3 if state else 1
    names = " ".join([f"in{k}" for k in range(tops)] + [f"out{k}" for k in range(tops)])
    lines = ["7767517", f"{tops + 1} {2 * tops}", *(f"Input in{k} 0 1 in{k}" for k in range(tops))]
    lines.append(f"LSTM lstm {tops} {tops} {names} 0={HIDDEN} 1={xc.size} 2={direction}{end}")
    (folder / "m.param").write_text("\n".join(lines) + "\n")
    blocks = [(xc, b"\0\0\0\0"), (bias, b"\0\0\0\0"), (hc, b"\0\0\0\0")]
    tail = b""
    if int8:
        scales = [127 / np.abs(a).max(axis=-1) for a in (xc, hc)]
        q = [np.round(a * s[..., None]).astype(np.int8) for a, s in zip((xc, hc), scales, strict=True)]
        flag = (0x000D4B38).to_bytes(4, "little")
        blocks = [(q[0], flag), (bias, b"\0\0\0\0"), (q[1], flag)]
        xc, hc = (a / s[..., None] for a, s in zip(q, scales, strict=True))
        tail = b"".join(s.astype("<f4").tobytes() for s in scales)
    data = b"".join(flag + a.tobytes() + bytes(-a.nbytes % 4) for a, flag in blocks)
    (folder / "m.bin").write_bytes(data + tail)
    return folder / "m.param", folder / "m.bin", {"weight_ih": xc, "weight_hh": hc, "bias": bias}


@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("hidden_key", [False, True])
@pytest.mark.parametrize("int8", [False, True])
def test_hand_written_ncnn_files(tmp_path, direction, hidden_key, int8):
    param, binary, expected = write_ncnn(tmp_path, direction, hidden_key=hidden_key, int8=int8)
    lstm = LSTM.from_ncnn(param, binary)
    assert lstm.config.direction == ("forward", "reverse", "bidirectional")[direction]
    for d, suffix in enumerate(lstm.config.suffixes):
        for name, value in expected.items():
            want = layouts.reorder(value[d], "ifog", "ifgo")
            np.testing.assert_allclose(lstm.parameters[f"{name}_l0{suffix}"], want, rtol=1e-6)
    if not int8:
        x = normal(STEPS, INPUT)
        np.testing.assert_allclose(lstm(x)[0], run_ncnn(param, binary, x)[0], rtol=0, atol=1e-5)


def test_the_name_chooses_the_layer(tmp_path):
    param, binary, _ = write_ncnn(tmp_path, 0)
    model = make_model(weights(), hidden_size=HIDDEN)
    assert LSTM.from_ncnn(param, binary, "lstm").config == LSTM.from_onnx(model, "我的").config
    for load, sources in ((LSTM.from_ncnn, (param, binary)), (LSTM.from_onnx, (model,))):
        with pytest.raises(ValueError, match="别的"):
            load(*sources, "别的")


@pytest.mark.parametrize("direction", [0, 2])
def test_ncnn_with_state(tmp_path, direction):
    param, binary, _ = write_ncnn(tmp_path, direction, state=True)
    lstm, x = LSTM.from_ncnn(param, binary), normal(STEPS, INPUT)
    state = normal(lstm.config.num_directions, HIDDEN), normal(lstm.config.num_directions, HIDDEN)
    y, last = lstm(x, state)
    for ours, theirs in zip((y, *last), run_ncnn(param, binary, x, state), strict=True):
        np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-5)
