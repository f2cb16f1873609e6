"""ONNX 里不显眼的 LSTM 与初态：算得出来的、铺开的、要运行才知道的初态；体与函数里的节点；没有 LSTM 的图。"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from lstm_lib import LSTM
from lstm_lib.formats import onnx_graph, onnx_lstm, onnx_scopes, writers

RANDOM = np.random.default_rng(14)
STEPS, INPUT, HIDDEN = 6, 4, 5
NODE, FLOAT = helper.make_node, onnx.TensorProto.FLOAT


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def int64(*values):
    return np.array(values, np.int64)


def value(name, shape=None, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def tensors(**arrays):
    return [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]


def make(graph, opset=17, functions=(), domains=()):
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    return model


def weights(directions=1):
    shapes = {"W": (4 * HIDDEN, INPUT), "R": (4 * HIDDEN, HIDDEN), "B": (8 * HIDDEN,)}
    return {name: normal(directions, *shape) for name, shape in shapes.items()}


def lstm_node(h="", c="", lens="", name="L", x="x", outputs=("Y", "Yh", "Yc"), **attributes):
    attributes.setdefault("hidden_size", HIDDEN)
    return NODE("LSTM", [x, "W", "R", "B", lens, h, c], list(outputs), name=name, **attributes)


def with_state(nodes=(), constants=None, h="h0", c="", lens="", directions=1, x=("T", "B", INPUT), more=()):
    """一个 LSTM，初态由 nodes 与 constants 造出来。"""
    node = lstm_node(h, c, lens, direction="bidirectional" if directions == 2 else "forward")
    return make(
        helper.make_graph(
            [*nodes, node], "g", [value("x", x), *more], [value(o) for o in ("Y", "Yh", "Yc")],
            tensors(**weights(directions), **(constants or {})),
        )
    )  # fmt: skip


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def assert_equals_onnxruntime(lstm, model, batch, **feeds):
    """不另给初态，与 onnxruntime 一样。"""
    x = normal(STEPS, batch, INPUT)
    y, (h, c) = lstm(x)
    expected = run(model, {"x": x} | feeds)
    y = y.reshape(STEPS, batch, lstm.config.num_directions, HIDDEN).swapaxes(1, 2)
    for ours, theirs in zip((y, h, c), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


# 从 x 的形状取出 B，再拼成 [d, B, H]
BATCH = [
    NODE("Shape", ["x"], ["shape"]),
    NODE("Gather", ["shape", "one"], ["b"]),
    NODE("Unsqueeze", ["b", "zero"], ["b1"]),
]
TO_BATCH = [*BATCH, NODE("Concat", ["d", "b1", "h"], ["dbh"], axis=0)]
CONSTANTS = {"one": np.int64(1), "zero": int64(0), "d": int64(1), "h": int64(HIDDEN)}
TENTHS = numpy_helper.from_array(np.array([0.9], np.float32))

ANY_BATCH = {
    "ConstantOfShape": ([*TO_BATCH, NODE("ConstantOfShape", ["dbh"], ["h0"], value=TENTHS)], {}),
    "Expand": ([*TO_BATCH, NODE("Expand", ["l", "dbh"], ["h0"])], {"l": normal(1, 1, HIDDEN)}),
    "Tile": (
        [*BATCH, NODE("Concat", ["d", "b1", "d"], ["r"], axis=0), NODE("Tile", ["l", "r"], ["h0"])],
        {"l": normal(1, 1, HIDDEN)},
    ),
    "Mul": (
        [*TO_BATCH, NODE("Expand", ["l", "dbh"], ["e"]), NODE("Mul", ["e", "k"], ["m"]), NODE("Tanh", ["m"], ["h0"])],
        {"l": normal(1, 1, HIDDEN), "k": np.float32(0.5)},
    ),
    "torch 的 Expand": (
        [
            *TO_BATCH, NODE("Shape", ["dbh"], ["n"]),
            NODE("ConstantOfShape", ["n"], ["ones"], value=numpy_helper.from_array(int64(1))),
            NODE("Mul", ["ones", "k"], ["minus"]), NODE("Equal", ["dbh", "minus"], ["free"]),
            NODE("Where", ["free", "ones", "dbh"], ["to"]), NODE("Expand", ["l", "to"], ["h0"]),
        ],
        {"l": normal(1, 1, HIDDEN), "k": np.int64(-1)},
    ),
    "多层的一层": (
        [*TO_BATCH, NODE("Expand", ["l", "dbh"], ["e"]), NODE("Slice", ["e", "from", "to", "zero"], ["h0"])],
        {"d": int64(3), "l": normal(3, 1, HIDDEN), "from": int64(1), "to": int64(2)},
    ),
    "批在前再转置": (
        [
            *BATCH, NODE("Concat", ["b1", "d", "h"], ["bdh"], axis=0),
            NODE("Expand", ["row", "bdh"], ["e"]), NODE("Transpose", ["e"], ["h0"], perm=[1, 0, 2]),
        ],
        {"row": normal(HIDDEN)},
    ),
    "Reshape": (
        [
            *BATCH, NODE("Concat", ["b1", "h"], ["bh"], axis=0), NODE("Expand", ["row", "bh"], ["e"]),
            NODE("Concat", ["d", "b1", "h"], ["dbh"], axis=0), NODE("Reshape", ["e", "dbh"], ["h0"]),
        ],
        {"row": normal(1, HIDDEN)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ANY_BATCH)
@pytest.mark.parametrize("shape", [("T", "B", INPUT), None])
def test_a_state_spread_along_the_batch(form, shape):
    nodes, constants = ANY_BATCH[form]
    model = with_state(nodes, CONSTANTS | constants, x=shape)
    lstm = LSTM.from_onnx(model)
    assert lstm.initial_state[0].shape == (1, HIDDEN)
    for batch in (1, 2, 3):
        assert_equals_onnxruntime(lstm, model, batch)
    x = normal(STEPS, INPUT)
    np.testing.assert_array_equal(lstm(x)[0], lstm(x[:, None])[0][:, 0])
    given = (np.zeros((1, 2, HIDDEN)), np.zeros((1, 2, HIDDEN)))
    x = normal(STEPS, 2, INPUT)
    np.testing.assert_array_equal(lstm(x, given)[0], LSTM(lstm.config, lstm.parameters)(x)[0])


@pytest.mark.parametrize("unbatched", [False, True])
def test_backward_uses_the_same_state(unbatched):
    nodes, constants = ANY_BATCH["Expand"]
    lstm = LSTM.from_onnx(with_state(nodes, CONSTANTS | constants))
    x = normal(STEPS, INPUT) if unbatched else normal(STEPS, 2, INPUT)
    h = lstm.initial_state[0] if unbatched else np.repeat(lstm.initial_state[0][:, None], 2, 1)
    dy = normal(*lstm(x)[0].shape)
    ours, theirs = lstm.backward(x, None, dy), lstm.backward(x, (h, np.zeros_like(h)), dy)
    np.testing.assert_array_equal(ours.dh0, theirs.dh0)
    np.testing.assert_array_equal(ours.parameters["weight_hh_l0"], theirs.parameters["weight_hh_l0"])


def test_both_directions_and_both_states():
    nodes = [
        *TO_BATCH, NODE("Expand", ["f", "dbh"], ["ef"]), NODE("Expand", ["g", "dbh"], ["eg"]),
        NODE("Concat", ["ef", "eg"], ["h0"], axis=0), NODE("Tanh", ["h0"], ["c0"]),
    ]  # fmt: skip
    constants = CONSTANTS | {"f": normal(1, 1, HIDDEN), "g": normal(1, 1, HIDDEN)}
    model = with_state(nodes, constants, c="c0", directions=2)
    for batch in (1, 3):
        assert_equals_onnxruntime(LSTM.from_onnx(model), model, batch)


def test_one_state_spread_and_the_other_fixed():
    nodes, constants = ANY_BATCH["Expand"]
    model = with_state(nodes, CONSTANTS | constants | {"c0": normal(1, 3, HIDDEN)}, c="c0")
    lstm = LSTM.from_onnx(model)
    assert_equals_onnxruntime(lstm, model, 3)
    with pytest.raises(ValueError, match="初态 h"):
        lstm(normal(STEPS, 2, INPUT))


FIXED = {
    "Gather": (1, [NODE("Gather", ["table", "k"], ["h0"])], {"table": normal(7, 1, HIDDEN), "k": int64(3)}),
    "ScatterND": (
        2,
        [NODE("ScatterND", ["base", "where", "new"], ["h0"])],
        {"base": np.zeros((1, 2, HIDDEN), np.float32), "where": int64([0, 1]), "new": normal(1, HIDDEN)},
    ),
    "Where": (
        2,
        [NODE("Where", ["m", "l", "r"], ["h0"])],
        {"m": np.array([[[True, False, True, False, True]]]), "l": normal(1, 2, HIDDEN), "r": normal(1, 2, HIDDEN)},
    ),
    "Range": (
        1,
        [NODE("Range", ["a", "b", "s"], ["r"]), NODE("Reshape", ["r", "to"], ["h0"])],
        {"a": np.float32(0), "b": np.float32(5), "s": np.float32(1), "to": int64(1, 1, HIDDEN)},
    ),
    "Shape": (
        2,
        [NODE("Shape", ["W"], ["s"]), NODE("Cast", ["s"], ["f"], to=FLOAT),
         NODE("ReduceSum", ["f"], ["q"], keepdims=0), NODE("Expand", ["q", "to"], ["h0"])],
        {"to": int64(1, 2, HIDDEN)},
    ),
    "If": (
        1,
        [NODE("If", ["yes"], ["h0"],
              then_branch=helper.make_graph([NODE("Neg", ["l"], ["t"])], "t", [], [value("t")]),
              else_branch=helper.make_graph([NODE("Identity", ["x"], ["e"])], "e", [], [value("e")]))],
        {"yes": np.array(True), "l": normal(1, 1, HIDDEN)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FIXED)
def test_a_constant_state_is_computed(form):
    batch, nodes, constants = FIXED[form]
    model = with_state(nodes, constants)
    lstm = LSTM.from_onnx(model)
    assert lstm.initial_state[0].shape == (1, batch, HIDDEN) and lstm.initial_state[0].any()
    assert_equals_onnxruntime(lstm, model, batch)


ZERO = {
    "ConstantOfShape": ([*TO_BATCH, NODE("ConstantOfShape", ["dbh"], ["h0"])], {}),
    "Expand": ([*TO_BATCH, NODE("Expand", ["z", "dbh"], ["h0"])], {"z": np.zeros((1, 1, 1), np.float32)}),
    "x 的一部分乘零": (
        [
            NODE("Slice", ["x", "zero", "d", "zero"], ["x0"]), NODE("ReduceSum", ["x0", "two"], ["s"]),
            NODE("Expand", ["s", "to"], ["e"]), NODE("Mul", ["e", "z"], ["h0"]),
        ],
        {"two": int64(2), "to": int64(1, 1, HIDDEN), "z": np.float32(0)},
    ),
    "两支都是零": (
        [
            *TO_BATCH, NODE("ReduceMax", ["x"], ["top"], keepdims=0), NODE("Greater", ["top", "z"], ["yes"]),
            NODE("ConstantOfShape", ["dbh"], ["zeros"]),
            NODE("If", ["yes"], ["h0"],
                 then_branch=helper.make_graph([NODE("Identity", ["zeros"], ["t"])], "t", [], [value("t")]),
                 else_branch=helper.make_graph([NODE("Neg", ["zeros"], ["e"])], "e", [], [value("e")])),
        ],
        {"z": np.float32(0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ZERO)
@pytest.mark.parametrize("shape", [("T", "B", INPUT), None])
def test_a_state_that_is_provably_zero_is_no_state(form, shape):
    nodes, constants = ZERO[form]
    model = with_state(nodes, CONSTANTS | constants, x=shape)
    lstm = LSTM.from_onnx(model)
    assert lstm.initial_state is None
    for batch in (1, 3):
        assert_equals_onnxruntime(lstm, model, batch)


UNKNOWN = {
    "由图的输入给出": ([], {}, [value("h0", (1, "B", HIDDEN))]),
    "由图的输入 x 算出": (
        [NODE("ReduceMean", ["x"], ["m"], axes=[0, 2], keepdims=1), NODE("Expand", ["m", "to"], ["h0"])],
        {"to": int64(1, 1, HIDDEN)}, [],
    ),
    r"由节点 h0（RandomNormal）算出": ([NODE("RandomNormal", [], ["h0"], shape=[1, 1, HIDDEN])], {}, []),
    r"由节点 r（Range）算出": (  # 各序列的初态不同
        [
            *BATCH, NODE("Range", ["i", "b", "one"], ["r"]), NODE("Cast", ["r"], ["f"], to=FLOAT),
            NODE("Reshape", ["f", "s"], ["g"]), NODE("Expand", ["g", "to"], ["h0"]),
        ],
        {"i": np.int64(0), "s": int64(1, -1, 1), "to": int64(1, 1, HIDDEN)}, [],
    ),
    "的值由输入的形状算出": (
        [*BATCH, NODE("Cast", ["b"], ["f"], to=FLOAT), NODE("Mul", ["f", "k"], ["m"]), NODE("Expand", ["m", "to"], ["h0"])],
        {"k": np.float32(0.1), "to": int64(1, 1, HIDDEN)}, [],
    ),
    r"由节点 t（Tile）算出": (  # 沿宽度重复：宽几个要看批
        [*BATCH, NODE("Concat", ["d", "d", "b1"], ["r"], axis=0), NODE("Tile", ["l", "r"], ["t"]),
         NODE("Slice", ["t", "zero", "h", "two"], ["h0"])],
        {"l": normal(1, 1, HIDDEN), "two": int64(2)}, [],
    ),
    "由图的输入 x 算出（h0）.*": (  # 两支不一样：一支是零，一支是学来的
        [NODE("ReduceMax", ["x"], ["m"], keepdims=0), NODE("Greater", ["m", "z"], ["yes"]),
         NODE("If", ["yes"], ["h0"],
              then_branch=helper.make_graph([NODE("Sub", ["l", "l"], ["t"])], "t", [], [value("t")]),
              else_branch=helper.make_graph([NODE("Neg", ["l"], ["e"])], "e", [], [value("e")]))],
        {"l": normal(1, 1, HIDDEN), "z": np.float32(0)}, [],
    ),
    r"由节点 h0（my.Custom）算出": ([NODE("Custom", ["one"], ["h0"], domain="my")], {}, []),
}  # fmt: skip


@pytest.mark.parametrize("reason", UNKNOWN)
def test_an_unknown_state_must_be_given(reason):
    nodes, constants, more = UNKNOWN[reason]
    model = with_state(nodes, CONSTANTS | constants, more=more)
    lstm, x = LSTM.from_onnx(model), normal(STEPS, 2, INPUT)
    for call in (
        lambda: lstm(x),
        lambda: lstm(x[:, 0]),
        lambda: lstm.backward(x, None, np.ones((STEPS, 2, HIDDEN))),
    ):
        with pytest.raises(ValueError, match=rf"节点 L 的初态.*initial_h {reason}.*state"):
            call()
    state = normal(1, 2, HIDDEN), normal(1, 2, HIDDEN)
    plain = LSTM(lstm.config, lstm.parameters)
    np.testing.assert_array_equal(lstm(x, state)[0], plain(x, state)[0])
    np.testing.assert_array_equal(lstm.astype("float32")(x, state)[0], plain(x, state)[0])
    with pytest.raises(ValueError, match="initial_state"):
        lstm.to_bytes()
    with pytest.raises(ValueError, match=r"初态由调用者给.*lstm\.parameters"):
        writers.check_writable(lstm)


def test_the_books_streaming_export_asks_for_the_state(tmp_path):
    torch.manual_seed(2)
    net = Net().eval()
    zero = torch.zeros(1, 1, HIDDEN)
    path = onnx_graph.export(
        onnx_graph.with_state(net), (torch.rand(STEPS, 1, INPUT), zero, zero), tmp_path / "s.onnx",
        input_names=("x", "h", "c"), output_names=("y", "h1", "c1"),
    )  # fmt: skip
    lstm = LSTM.from_onnx(path)
    with pytest.raises(ValueError, match=r"initial_h 由图的输入给出（h）.*initial_c 由图的输入给出（c）"):
        lstm(normal(STEPS, 1, INPUT))


class Net(torch.nn.Module):
    """初态是学来的：一份参数按批铺开。"""

    def __init__(self, repeat=False, layers=1):
        super().__init__()
        self.mask = torch.nn.LSTM(INPUT, HIDDEN, layers)
        self.h0, self.c0 = (torch.nn.Parameter(torch.randn(layers, 1, HIDDEN)) for _ in range(2))
        self.repeat = repeat

    def forward(self, x):
        batch = x.shape[1]
        if self.repeat:
            return self.mask(x, (self.h0.repeat(1, batch, 1), torch.tanh(self.c0).repeat(1, batch, 1)))[0]
        return self.mask(x, tuple(s.expand(-1, batch, -1).contiguous() for s in (self.h0, self.c0)))[0]

    def forward_with_state(self, x, state):
        return self.mask(x, state)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("repeat", [False, True])
def test_a_learned_state_exported_by_torch(tmp_path, exporter, repeat):
    torch.manual_seed(3)
    net = Net(repeat, layers=2).eval()
    path = onnx_graph.export(
        net, (torch.rand(STEPS, 2, INPUT),), tmp_path / "m.onnx", exporter=exporter, dynamic={"x": {1: "B"}}
    )
    names = [onnx_scopes.node_label(n) for n in onnx.load(path).graph.node if n.op_type == "LSTM"]
    layers = [LSTM.from_onnx(path, name) for name in names]
    for batch in (1, 2, 4):
        x = torch.rand(STEPS, batch, INPUT)
        y = layers[1](layers[0](x)[0])[0]
        np.testing.assert_allclose(y, net(x).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("constants", "inputs", "message"),
    [
        ({"h0": np.zeros((1, 1, HIDDEN + 1), np.float32)}, {}, r"initial_h（h0）的形状是 \(1, 1, 6\)，应为 \(1, B, 5\)"),
        ({"h0": np.zeros((2, 1, HIDDEN), np.float32)}, {}, r"形状是 \(2, 1, 5\)"),
        ({"h0": np.zeros((1, HIDDEN), np.float32)}, {}, r"形状是 \(1, 5\)"),
        ({"h0": np.zeros((1, 1, HIDDEN))}, {}, "initial_h（h0）是 float64，应为 float32"),
        ({"h0": np.zeros((1, 1, HIDDEN), np.int64)}, {}, "是 int64"),
        (
            {"h0": np.zeros((1, 2, HIDDEN), np.float32), "c0": np.zeros((1, 3, HIDDEN), np.float32)},
            {"c": "c0"}, "initial_h 是 2、initial_c 是 3",
        ),
        ({"q": np.array([3], np.int64)}, {"h": "", "lens": "q"}, r"sequence_lens（q）是 int64，应为 int32"),
        ({"q": np.array([[3]], np.int32)}, {"h": "", "lens": "q"}, r"sequence_lens（q）的形状是 \(1, 1\)"),
        (
            {"q": np.array([3], np.int32), "h0": np.zeros((1, 2, HIDDEN), np.float32)},
            {"lens": "q"}, "sequence_lens 是 1、initial_h 是 2",
        ),
    ],
)  # fmt: skip
def test_the_shapes_are_checked_even_when_all_zero(constants, inputs, message):
    with pytest.raises(ValueError, match=message):
        LSTM.from_onnx(with_state([], constants, **inputs))


def test_the_declared_shapes_of_inputs_and_spread_zeros_are_checked():
    with pytest.raises(ValueError, match=r"应为 \(1, B, 5\)"):
        LSTM.from_onnx(with_state(more=[value("h0", (1, "B", HIDDEN + 1))]))
    nodes, constants = ZERO["ConstantOfShape"]
    with pytest.raises(ValueError, match=r"形状是 \(1, B, 7\)"):
        LSTM.from_onnx(with_state(nodes, CONSTANTS | constants | {"h": int64(7)}))


def test_lengths_spread_along_the_batch():
    nodes = [*BATCH, NODE("Expand", ["q1", "b1"], ["q"])]
    model = with_state(nodes, CONSTANTS | {"q1": np.array([3], np.int32)}, h="", lens="q")
    for batch in (1, 3):
        assert_equals_onnxruntime(LSTM.from_onnx(model), model, batch)


def test_a_state_too_large_to_fold_is_refused():
    nodes = [NODE("ConstantOfShape", ["big"], ["g"]), NODE("Slice", ["g", "zero", "d", "d"], ["h0"])]
    model = with_state(nodes, CONSTANTS | {"big": int64(1, 1 << 20, 1 << 20)})
    with pytest.raises(ValueError, match=r"g（ConstantOfShape）的常量过大"):
        LSTM.from_onnx(model)


def test_weights_computed_from_constants_are_read():
    """只有权重量化成 int8 的图：反量化之后就是普通的 LSTM。"""
    model = with_state(h="")
    original = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scale = np.float32(np.abs(original["W"]).max() / 127)
    model.graph.initializer.extend(tensors(W8=np.round(original["W"] / scale).astype(np.int8), scale=scale))
    model.graph.node.insert(0, NODE("DequantizeLinear", ["W8", "scale"], ["Wf"]))
    model.graph.node[1].input[1] = "Wf"
    assert_equals_onnxruntime(LSTM.from_onnx(model), model, 2)
    model.graph.node[0].CopyFrom(NODE("Custom", ["W8", "scale"], ["Wf"], domain="my"))
    with pytest.raises(ValueError, match=r"W（Wf）不是常量：它由节点 Wf（my\.Custom）算出"):
        LSTM.from_onnx(model)


def computed_weights(nodes, opset, **constants):
    """W 由 ``nodes`` 从常量 w 算出。"""
    model = with_state(nodes, constants, h="")
    next(t for t in model.graph.initializer if t.name == "W").name = "w"
    model.opset_import[0].version = opset
    return model


PER_CHANNEL = {
    key: np.full(4 * HIDDEN, number, np.float32) for key, number in {"a": 2, "b": 1, "m": 0.3, "v": 4}.items()
}
MISCOUNTED = {  # ONNX 的参考实现不报错却算错的
    "Softmax，缺省的轴": (NODE("Softmax", ["w"], ["W"]), 11, {}),
    "Softmax，第 0 轴": (NODE("Softmax", ["w"], ["W"], axis=0), 12, {}),
    "LogSoftmax": (NODE("LogSoftmax", ["w"], ["W"]), 9, {}),
    "Hardmax": (NODE("Hardmax", ["w"], ["W"]), 11, {}),
    "BatchNormalization": (NODE("BatchNormalization", ["w", *"abmv"], ["W"]), 11, PER_CHANNEL),
    "LpNormalization": (NODE("LpNormalization", ["w"], ["W"], p=1), 17, {}),
    "LRN": (NODE("LRN", ["w"], ["W"], size=3, alpha=1.0), 17, {"w": normal(1, 4 * HIDDEN, 2, 2)}),
    "LpPool": (
        NODE("LpPool", ["w"], ["W"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 18, {"w": normal(1, 2, 6, 6)},
    ),
    "Unsqueeze，axes 倒着": (NODE("Unsqueeze", ["w"], ["W"], axes=[2, 0]), 11, {"w": normal(4 * HIDDEN, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", [k for k, (*_, constants) in MISCOUNTED.items() if "w" not in constants])
def test_weights_from_operators_the_reference_gets_wrong(kind):
    node, opset, constants = MISCOUNTED[kind]
    model = computed_weights([node], opset, **constants)
    assert_equals_onnxruntime(LSTM.from_onnx(model), model, 2)


@pytest.mark.parametrize("kind", MISCOUNTED)
def test_constants_are_those_of_onnxruntime(kind):
    node, opset, constants = MISCOUNTED[kind]
    constants = {"w": normal(1, 4 * HIDDEN, INPUT)} | constants
    model = make(helper.make_graph([node], "g", [], [value("W")], tensors(**constants)), opset)
    (expected,) = run(model, {})
    np.testing.assert_allclose(onnx_graph.constants(model)("W"), expected, rtol=0, atol=1e-7, strict=True)


def in_bfloat16(kind, **attributes):
    """onnxruntime 的 CPU 上没有 bfloat16 的这些算子。"""
    return [
        NODE("Cast", ["w"], ["n"], to=onnx.TensorProto.BFLOAT16),
        NODE(kind, ["n"], ["l"], **attributes),
        NODE("Cast", ["l"], ["W"], to=FLOAT),
    ]


def test_what_only_the_reference_can_compute():
    weight = LSTM.from_onnx(computed_weights(in_bfloat16("Softmax"), 13)).parameters["weight_ih_l0"]
    np.testing.assert_allclose(weight.sum(1), 1, rtol=0, atol=0.02)
    model = computed_weights(in_bfloat16("LpNormalization", p=1), 22)
    with pytest.raises(
        ValueError, match=r"节点 l（LpNormalization）.*onnxruntime 算不了它.*参考实现.*得数却不对"
    ):
        LSTM.from_onnx(model)
    old = NODE("Add", ["w", "row"], ["W"], axis=0, broadcast=1)  # opset 7 之前的广播
    model = computed_weights([old], 6, row=normal(1, 4 * HIDDEN, 1))
    with pytest.raises(ValueError, match=r"节点 W（Add）.*得数却不对"):
        LSTM.from_onnx(model)


@pytest.mark.parametrize("layers", [1, 2])
def test_numbers_left_in_the_external_file_are_asked_for(tmp_path, layers):
    nodes = [NODE("LSTM", ["x", "W", "R"], ["Y"], name="L")]  # 没有写 hidden_size：认一叠也要看 R
    if layers == 2:
        nodes += [NODE("Squeeze", ["Y", "one"], ["s"]), NODE("LSTM", ["s", "W", "R"], ["Z"], name="M")]
    arrays = {"W": normal(1, 4 * HIDDEN, HIDDEN), "R": normal(1, 4 * HIDDEN, HIDDEN), "one": int64(1)}
    graph = helper.make_graph(nodes, "g", [value("x", ("T", "B", HIDDEN))], [value("Y")], tensors(**arrays))
    path = tmp_path / "外.onnx"
    onnx.save(make(graph), path, save_as_external_data=True, location="外.data", size_threshold=64)
    model = onnx.load(path, load_external_data=False)
    where = "LSTM 节点 L .*常量 W" if layers == 1 else "（L、M），.*常量 R"
    with pytest.raises(ValueError, match=rf"{where} 的数在外部数据文件里，没有载入；请直接给 \.onnx 的路径"):
        LSTM.from_onnx(model)
    names = None if layers == 1 else ["L"]
    assert LSTM.from_onnx(path, names).config.hidden_size == HIDDEN


# ---------------------------------------------------------------- 投影


class Projected(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.LSTM(INPUT, HIDDEN, proj_size=2)

    def forward(self, x):
        return self.inner(x)[0]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_export_refuses_projections(tmp_path, exporter):
    path = tmp_path / "p.onnx"
    with pytest.raises(ValueError, match=r"inner 带投影（proj_size=2）.*没有投影"):
        onnx_graph.export(Projected(), (torch.rand(6, 1, INPUT),), path, exporter=exporter)
    assert not path.exists()


@pytest.mark.parametrize("free", [False, True])
def test_a_projection_written_by_the_exporter_is_refused_by_its_reason(tmp_path, free):
    from lstm_lib.formats.quiet import quiet

    shapes = ({1: torch.export.Dim("B")},) if free else None
    with quiet():
        torch.onnx.export(
            Projected().eval(),
            (torch.rand(6, 2, INPUT),),
            tmp_path / "p.onnx",
            dynamo=True,
            dynamic_shapes=shapes,
        )
    with pytest.raises(ValueError, match=r"带投影的.*proj_size=2、hidden_size=5"):
        LSTM.from_onnx(tmp_path / "p.onnx")


# ---------------------------------------------------------------- 体与函数里的节点


def branch(name, node):
    return helper.make_graph([node], name, [], [value(node.output[0])])


def nested():
    """两层 If，四支各一个 LSTM；W 在最外层，R 在中间层，B 在最里层。"""
    constants, inner = {"W": weights()["W"]}, {}
    for side in ("then", "else"):
        nodes = []
        for deep in ("then", "else"):
            node = lstm_node(name=f"{side}_{deep}", outputs=(f"{side}_{deep}_y",))
            graph = branch(f"{side}_{deep}", node)
            graph.initializer.extend(tensors(B=weights()["B"]))
            nodes.append(graph)
        choose = NODE("If", ["two"], [f"{side}_y"], name="inner", then_branch=nodes[0], else_branch=nodes[1])
        graph = branch(side, choose)
        graph.initializer.extend(tensors(R=weights()["R"]))
        inner[f"{side}_branch"] = graph
    node = NODE("If", ["one"], ["y"], name="If_5", **inner)
    inputs = [value("x", ("T", "B", INPUT)), *(value(n, (), onnx.TensorProto.BOOL) for n in ("one", "two"))]
    return make(helper.make_graph([node], "g", inputs, [value("y")], tensors(**constants)))


def test_lstms_inside_nested_branches():
    model, x = nested(), normal(STEPS, 2, INPUT)
    assert onnx_graph.operator_counts(model) == {"If": 3, "LSTM": 4}
    with pytest.raises(ValueError, match=r"4 个 LSTM 节点（.*If_5/then_branch/inner/then_branch/then_then"):
        LSTM.from_onnx(model)
    for one in (True, False):
        for two in (True, False):
            plain = f"{'then' if one else 'else'}_{'then' if two else 'else'}"
            path = "If_5/{}_branch/inner/{}_branch/".format(*plain.split("_")) + plain
            expected = run(model, {"x": x, "one": np.array(one), "two": np.array(two)})[0]
            for name in (plain, path, f"{plain}_y"):
                lstm = onnx_lstm.read_lstm(model, name)
                assert lstm.name == path
                y = LSTM.from_onnx(model, name)(x)[0]
                np.testing.assert_allclose(y, expected[:, 0], rtol=0, atol=1e-5)


def test_two_nodes_of_one_name_need_the_path():
    model = nested()
    for _, graph in onnx_scopes.bodies(model.graph.node[0]):
        for _, deep in onnx_scopes.bodies(graph.node[0]):
            deep.node[0].name = "同名"
    with pytest.raises(ValueError, match=r"有 4 个 LSTM 节点都叫 '同名'，请用全名.*inner/else_branch/同名"):
        LSTM.from_onnx(model, "同名")
    assert LSTM.from_onnx(model, "If_5/else_branch/inner/then_branch/同名").config.hidden_size == HIDDEN


def test_ancestors_follow_what_a_body_captures():
    body = [branch("t", NODE("Add", ["p", "q"], ["t"])), branch("e", NODE("Neg", ["q"], ["e"]))]
    nodes = [
        NODE("Exp", ["x"], ["p"], name="P"), NODE("Abs", ["x"], ["q"], name="Q"), NODE("Sin", ["x"], ["r"], name="R"),
        NODE("If", ["yes"], ["y"], name="I", then_branch=body[0], else_branch=body[1]),
        NODE("Relu", ["y"], ["z"], name="Z"),
    ]  # fmt: skip
    inputs = [value("x", (2,)), value("yes", (), onnx.TensorProto.BOOL)]
    model = make(helper.make_graph(nodes, "g", inputs, [value("z")]))
    assert [n.name for n in onnx_graph.ancestors(model, "z")] == ["P", "Q", "I", "Z"]
    assert [n.op_type for n in onnx_graph.ancestors(model, "t")] == ["Exp", "Abs", "Add"]
    assert [n.op_type for n in onnx_graph.ancestors(model, "I/else_branch/e")] == ["Abs", "Neg"]
    assert onnx_graph.operator_counts(model) == {
        "Exp": 1,
        "Abs": 1,
        "Sin": 1,
        "If": 1,
        "Add": 1,
        "Neg": 1,
        "Relu": 1,
    }
    with pytest.raises(ValueError, match=r"节点 t 在 If、Loop 之类的体或函数里"):
        onnx_graph.trace(model, onnx_graph.ancestors(model, "t"), np.ones(2, np.float32), np.array(True))


def loop(carried):
    """每一圈整段走一遍 LSTM；h 每圈传下去，或从不改变。"""
    step = lstm_node("h", "", name="inside", outputs=("y", "h_next"))
    body = helper.make_graph(
        [
            step,
            NODE("Identity", ["go"], ["go_on"]),
            NODE("Identity", ["h_next" if carried else "h"], ["h_out"]),
        ],
        "body",
        [value("k", (), onnx.TensorProto.INT64), value("go", (), onnx.TensorProto.BOOL), value("h")],
        [value("go_on", (), onnx.TensorProto.BOOL), value("h_out"), value("y")],
    )
    nodes = [NODE("Loop", ["count", "yes", "h0"], ["last", "all"], name="rounds", body=body)]
    constants = weights() | {"count": np.int64(2), "yes": np.array(True), "h0": normal(1, 2, HIDDEN)}
    inputs, outputs = [value("x", ("T", "B", INPUT))], [value("last"), value("all")]
    return make(helper.make_graph(nodes, "g", inputs, outputs, tensors(**constants)))


def test_lstm_inside_a_loop():
    x = normal(STEPS, 2, INPUT)
    model = loop(carried=True)
    lstm = LSTM.from_onnx(model, "rounds/body/inside")
    with pytest.raises(ValueError, match=r"rounds/body/inside 的初态.*由 Loop 节点 rounds 一圈圈带来"):
        lstm(x)
    h = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "h0"))
    zero, (_, expected) = np.zeros_like(h), run(model, {"x": x})
    for k in range(2):
        y, (h, _) = lstm(x, (h, zero))
        np.testing.assert_allclose(y, expected[k][:, 0], rtol=0, atol=1e-5)
    assert onnx_graph.operator_counts(model) == {"Loop": 1, "LSTM": 1, "Identity": 2}
    assert [n.op_type for n in onnx_graph.ancestors(model, "h_next")] == ["LSTM", "Identity", "Identity"]
    model = loop(carried=False)
    np.testing.assert_allclose(
        LSTM.from_onnx(model)(x)[0], run(model, {"x": x})[1][1][:, 0], rtol=0, atol=1e-5
    )


def test_lstm_inside_a_scan():
    """Scan 把批里的序列一条条取出来；权重从外面取。"""
    nodes = [
        NODE("Unsqueeze", ["one_x", "axis"], ["xb"]),
        lstm_node("h", "", name="inside", x="xb", outputs=("y4",)),
        NODE("Identity", ["h"], ["h_out"]),
    ]
    body = helper.make_graph(
        nodes, "body", [value("h"), value("one_x", (STEPS, INPUT))], [value("h_out"), value("y4")]
    )
    scan = NODE("Scan", ["h0", "x"], ["last", "all"], name="scan", body=body, num_scan_inputs=1)
    constants = tensors(**weights(), h0=normal(1, 1, HIDDEN), axis=int64(1))
    graph = helper.make_graph(
        [scan], "g", [value("x", ("B", STEPS, INPUT))], [value("last"), value("all")], constants
    )
    model, x = make(graph), normal(3, STEPS, INPUT)
    lstm, expected = LSTM.from_onnx(model, "inside"), run(make(graph), {"x": x})[1]
    for k in range(3):
        np.testing.assert_allclose(lstm(x[k])[0], expected[k][:, 0, 0], rtol=0, atol=1e-5)


def with_functions():
    """函数 Outer 调用函数 Encoder，里面是 LSTM：权重是实参，宽度与初态是属性。"""
    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "h"], ["y"], name="inner")
    for name, reference in (("hidden_size", "size"), ("direction", "way")):
        attribute = node.attribute.add()
        attribute.name, attribute.ref_attr_name = name, reference
        attribute.type = onnx.AttributeProto.INT if name == "hidden_size" else onnx.AttributeProto.STRING
    fill = helper.make_node("Constant", [], ["v"])
    attribute = fill.attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = "value_float", "fill", onnx.AttributeProto.FLOAT
    encoder = helper.make_function(
        "my", "Encoder", ["x", "w", "r", "b", "to"], ["y"], [fill, NODE("Expand", ["v", "to"], ["h"]), node],
        [helper.make_opsetid("", 17)], ["size", "fill"], [helper.make_attribute("way", "reverse")],
    )  # fmt: skip
    call = NODE(
        "Encoder", ["a", "w", "r", "b", "to"], ["out"], name="call", domain="my", size=HIDDEN, fill=0.25
    )
    outer = helper.make_function(
        "my", "Outer", ["a", "w", "r", "b", "to"], ["out"], [call],
        [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)],
    )  # fmt: skip
    both = [weights(), weights()]
    constants = {f"{name}{k}": array for k in range(2) for name, array in both[k].items()}
    nodes = [
        NODE("Outer", ["x", f"W{k}", f"R{k}", f"B{k}", "to"], [f"y{k}"], name=f"enc_{k}", domain="my")
        for k in range(2)
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", ("T", 2, INPUT))], [value("y0"), value("y1")],
        tensors(**constants, to=int64(1, 2, HIDDEN)),
    )  # fmt: skip
    return make(graph, functions=[encoder, outer], domains=["my"])


def test_lstms_inside_local_functions():
    model, x = with_functions(), normal(STEPS, 2, INPUT)
    assert onnx_graph.operator_counts(model) == {
        "Outer": 2,
        "Encoder": 2,
        "Constant": 2,
        "Expand": 2,
        "LSTM": 2,
    }
    expected = run(model, {"x": x})
    for k in range(2):
        lstm = LSTM.from_onnx(model, f"enc_{k}/call/inner")
        assert lstm.config.direction == "reverse" and (lstm.initial_state[0] == 0.25).all()
        np.testing.assert_allclose(lstm(x)[0], expected[k][:, 0], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="都叫 'inner'"):
        LSTM.from_onnx(model, "inner")
    assert [n.op_type for n in onnx_graph.ancestors(model, "y1")] == ["Outer"]
    assert [n.op_type for n in onnx_graph.ancestors(model, "enc_0/call/h")] == ["Constant", "Expand"]


def test_a_function_that_calls_itself_is_refused():
    model = with_functions()
    model.functions[0].node.append(NODE("Outer", ["x"], ["z"], domain="my"))
    with pytest.raises(ValueError, match="调用了自己"):
        LSTM.from_onnx(model)


def test_functions_that_multiply_without_end_are_refused():
    functions = [
        helper.make_function(
            "my", f"F{k}", ["a"], ["b"],
            [NODE(f"F{k + 1}", ["a"], ["m"], domain="my"), NODE(f"F{k + 1}", ["m"], ["b"], domain="my")],
            [helper.make_opsetid("my", 1)],
        )
        for k in range(40)
    ]  # fmt: skip
    graph = helper.make_graph([NODE("F0", ["x"], ["y"], domain="my")], "g", [value("x")], [value("y")])
    with pytest.raises(ValueError, match="拒绝展开"):
        LSTM.from_onnx(make(graph, functions=functions, domains=["my"]))


# ---------------------------------------------------------------- 没有 LSTM 的图


def only(*nodes, domains=()):
    graph = helper.make_graph(list(nodes), "g", [value("x")], [value("y")])
    return make(graph, domains=domains)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (only(NODE("GRU", ["x", "w", "r"], ["y"], hidden_size=2)), "有 1 个 GRU"),
        (only(NODE("RNN", ["x", "w", "r"], ["y"], hidden_size=2)), "有 1 个 RNN"),
        (only(NODE("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft")), "DynamicQuantizeLSTM.*量化之前"),
        (only(NODE("lstm", ["x"], ["y"], domain="aten")), "有 1 个 aten.lstm：不是 ONNX 标准的"),
        (only(NODE("Conv", ["x", "w"], ["m"]), NODE("Relu", ["m"], ["y"])), "有的是：Conv 1 个、Relu 1 个"),
        (
            only(NODE("If", ["x"], ["y"], then_branch=branch("t", NODE("GRU", ["x", "w", "r"], ["t"], hidden_size=2)))),
            "有 1 个 GRU",
        ),
    ],
)  # fmt: skip
def test_without_lstm_the_message_says_what_there_is(model, message):
    with pytest.raises(ValueError, match="图里没有 LSTM 节点。.*" + message):
        LSTM.from_onnx(model)


def test_a_quantized_model_says_so():
    lstm = LSTM.from_onnx(with_state(h=""))
    with pytest.raises(ValueError, match="1 个 DynamicQuantizeLSTM"):
        LSTM.from_onnx(writers.quantize_onnx(writers.onnx_model(lstm)))


class Cells(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(INPUT, HIDDEN)

    def forward(self, x, h, c):
        for t in range(3):
            if isinstance(self.cell, torch.nn.GRUCell):
                h = self.cell(x[t], h)
            else:
                h, c = self.cell(x[t], (h, c))
        return h, c


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", [torch.nn.LSTMCell, torch.nn.GRUCell])
def test_an_lstm_taken_apart_is_recognised(tmp_path, exporter, kind):
    state = torch.rand(2, HIDDEN)
    path = onnx_graph.export(
        Cells(kind).eval(), (torch.rand(3, 2, INPUT), state, state + 1), tmp_path / "c.onnx", exporter=exporter,
        input_names=("x", "h", "c"), output_names=("h1", "c1"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="没有 LSTM 节点") as error:
        LSTM.from_onnx(path)
    assert ("看上去是拆开的 LSTM：有 3 处" in str(error.value)) == (kind is torch.nn.LSTMCell)
