"""人们手里的 ONNX 图：转置在函数或分支外面、下面压着 GRU、打包过的序列、量化过的初态、写死的截取。"""

import re
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lstm_lib import LSTM
from lstm_lib.formats import onnx_graph

rng = np.random.default_rng(14)
I, H, T = 5, 4, 6
NODE = helper.make_node


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def int64(*values):
    return np.array(values, np.int64)


def weights(number, size=I, directions=1):
    return {
        f"W{number}": normal(directions, 4 * H, size),
        f"R{number}": normal(directions, 4 * H, H),
        f"B{number}": normal(directions, 8 * H),
    }


def lstm(number, x, y, h="", **options):
    names = [x, *(f"{k}{number}" for k in "WRB"), "", h, h]
    return NODE("LSTM", names, [y], name=f"L{number}", hidden_size=H, **options)


def value(name, shape=None):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make_model(nodes, constants, shape, functions=(), output="out", opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", shape)],
        [value(output)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=domains, functions=functions, ir_version=8)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def assert_reads(model, shape=(2, T, I), **options):
    """读成一个 LSTM，喂给它图的输入，得到图的输出。"""
    read, x = LSTM.from_onnx(model, **options), normal(*shape)
    np.testing.assert_allclose(read(x)[0], run(model, x), rtol=0, atol=1e-5)
    return read


SWAP = {"perm": [1, 0, 2]}
BTI = ("B", "T", I)
SQUEEZE = {"direction": int64(1)}


def function(inside):
    """一层 LSTM 的函数；``inside``：批与时间在函数里面对调。"""
    body = [lstm("", "t" if inside else "x", "y"), NODE("Constant", [], ["one"], value_ints=[1])]
    body.append(NODE("Squeeze", ["y", "one"], ["s" if inside else "r"]))
    if inside:
        swap = NODE("Transpose", ["x"], ["t"], **SWAP)
        body = [swap, *body, NODE("Transpose", ["s"], ["r"], **SWAP)]
    return helper.make_function("my", "Rnn", ["x", "W", "R", "B"], ["r"], body, [helper.make_opsetid("", 17)])


# ---------------------------------------------------------------- 批在前


def test_batch_first_inside_a_function():
    call = NODE("Rnn", ["x", "W0", "R0", "B0"], ["out"], domain="my", name="call")
    model = make_model([call], weights(0), BTI, [function(True)])
    assert assert_reads(model).config.batch_first


@pytest.mark.parametrize("name", ["a/L", "b/L"])
def test_batch_first_outside_the_functions(name):
    calls = [
        NODE("Transpose", ["x"], ["t"], **SWAP),
        NODE("Rnn", ["t", "W0", "R0", "B0"], ["s"], domain="my", name="a"),
        NODE("Rnn", ["s", "W1", "R1", "B1"], ["r"], domain="my", name="b"),
        NODE("Transpose", ["r"], ["out"], **SWAP),
    ]
    model = make_model(calls, weights(0) | weights(1, H), BTI, [function(False)])
    read = LSTM.from_onnx(model, name)
    assert read.config.batch_first
    assert "Transpose 节点 t 对调批与时间" in repr(read)


def branch(nodes, output):
    return helper.make_graph(nodes, "branch", [], [value(output)])


def choose(then_branch, else_branch):
    return [
        NODE("Size", ["x"], ["n"]),
        NODE("Greater", ["n", "none"], ["some"]),
        NODE("If", ["some"], ["chosen"], name="If_0", then_branch=then_branch, else_branch=else_branch),
    ]


def test_branches_that_use_the_same_names():
    swapped = [
        NODE("Transpose", ["x"], ["t"], **SWAP),
        lstm(0, "t", "y"),
        NODE("Squeeze", ["y", "direction"], ["s"]),
        NODE("Transpose", ["s"], ["r"], **SWAP),
    ]
    plain = [lstm(0, "x", "y"), NODE("Squeeze", ["y", "direction"], ["r"])]
    nodes = [*choose(branch(swapped, "r"), branch(plain, "r")), NODE("Identity", ["chosen"], ["out"])]
    model = make_model(nodes, weights(0) | SQUEEZE | {"none": np.int64(0)}, (None, None, I))
    assert LSTM.from_onnx(model, "If_0/then_branch/L0").config.batch_first
    other = LSTM.from_onnx(model, "If_0/else_branch/L0")
    assert not other.config.batch_first
    assert "；" not in repr(other)


class AfterAnother(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.below = kind(I, I, batch_first=True)
        self.lstm = torch.nn.LSTM(I, H, batch_first=True)

    def forward(self, x):
        return self.lstm(self.below(x)[0])[0]


@pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.RNN])
def test_batch_first_is_seen_through_other_recurrent_layers(tmp_path, kind):
    net, x = AfterAnother(kind).eval(), torch.rand(2, T, I)
    read = LSTM.from_onnx(onnx_graph.export(net, (x,), tmp_path / "m.onnx"))
    assert read.config.batch_first
    middle = net.below(x)[0].detach()
    np.testing.assert_allclose(read(middle.numpy())[0], net(x).detach().numpy(), rtol=0, atol=1e-5)


def test_the_last_state_alone_says_nothing_about_the_output():
    """Keras 的两层，只取最后一步：中间的一对 Transpose 不是图的输出侧。"""
    nodes = [
        NODE("Transpose", ["x"], ["t"], **SWAP),
        lstm(0, "t", "y0"),
        NODE("Squeeze", ["y0", "direction"], ["s0"]),
        NODE("Transpose", ["s0"], ["s1"], **SWAP),
        NODE("Transpose", ["s1"], ["s2"], **SWAP),
        NODE("LSTM", ["s2", "W1", "R1", "B1"], ["", "h"], name="L1", hidden_size=H),
        NODE("Squeeze", ["h", "zero"], ["out"]),
    ]
    model = make_model(nodes, weights(0) | weights(1, H) | SQUEEZE | {"zero": int64(0)}, BTI)
    read, x = LSTM.from_onnx(model), normal(2, T, I)
    assert repr(read).endswith("X 之前有 Transpose 节点 t 对调批与时间)")
    np.testing.assert_allclose(read(x)[0][:, -1], run(model, x), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- 一叠


@pytest.mark.parametrize("bounds", [(0, 5), (0, 100), (-100, 2**62)])
def test_a_cut_between_two_layers_is_no_stack(bounds):
    nodes = [
        lstm(0, "x", "y0"),
        NODE("Squeeze", ["y0", "direction"], ["s"]),
        NODE("Slice", ["s", "from", "to"], ["part"]),
        lstm(1, "part", "y1"),
        NODE("Squeeze", ["y1", "direction"], ["out"]),
    ]
    cut = {"from": int64(bounds[0]), "to": int64(bounds[1])}
    model = make_model(nodes, weights(0) | weights(1, H) | SQUEEZE | cut, ("T", "B", I))
    with pytest.raises(ValueError, match="L1 的输入不是 L0 各方向输出的拼接"):
        LSTM.from_onnx(model)
    with pytest.raises(ValueError, match="L1 的输入不是 L0 各方向输出的拼接"):
        LSTM.from_onnx(model, ["L0", "L1"])


def test_a_slice_that_keeps_all_is_still_a_stack():
    nodes = [
        lstm(0, "x", "y0"),
        NODE("Squeeze", ["y0", "direction"], ["s"]),
        NODE("Slice", ["s", "from", "to"], ["all"]),
        lstm(1, "all", "y1"),
        NODE("Squeeze", ["y1", "direction"], ["out"]),
    ]
    cut = {"from": int64(0), "to": int64(2**63 - 1)}
    model = make_model(nodes, weights(0) | weights(1, H) | SQUEEZE | cut, ("T", "B", I))
    assert assert_reads(model, (T, 2, I)).config.num_layers == 2


STACKED = [
    lstm(0, "t", "y0"),
    NODE("Squeeze", ["y0", "direction"], ["s"]),
    lstm(1, "s", "y1"),
    NODE("Squeeze", ["y1", "direction"], ["r"]),
]


@pytest.mark.parametrize(
    "name", [None, ["L0", "L1"], ["If_0/then_branch/L0", "If_0/then_branch/L1"], ["y0", "y1"]]
)
def test_a_stack_inside_a_branch(name):
    same = branch([NODE("Tile", ["t", "once"], ["r"])], "r")
    nodes = [
        NODE("Transpose", ["x"], ["t"], **SWAP),
        *choose(branch(STACKED, "r"), same),
        NODE("Transpose", ["chosen"], ["out"], **SWAP),
    ]
    more = {"none": np.int64(0), "once": int64(1, 1, 1)}
    model = make_model(nodes, weights(0) | weights(1, H) | SQUEEZE | more, BTI)
    read = assert_reads(model, name=name)
    assert (read.config.num_layers, read.config.batch_first) == (2, True)


def test_nodes_without_names_in_two_branches():
    """两支里的输出同名：报错里给的全名，照抄就能用。"""
    inside = branch(STACKED, "r")
    for node in inside.node:
        node.name = ""
    nodes = [NODE("Identity", ["x"], ["t"]), *choose(inside, inside)]
    constants = weights(0) | weights(1, H) | SQUEEZE | {"none": np.int64(0)}
    model = make_model(nodes, constants, ("T", "B", I), output="chosen")
    names = ["If_0/then_branch/y0", "If_0/then_branch/y1"]
    with pytest.raises(ValueError, match=f"有 4 个 LSTM 节点（.*{'、'.join(names)}"):
        LSTM.from_onnx(model)
    assert assert_reads(model, (T, 2, I), name=names).config.num_layers == 2


def two_with_lengths(*nodes, given=TensorProto.INT64, constants=()):
    """两层各用 n0、n1 作 sequence_lens，由 ``nodes`` 从图的输入 n 造出来。"""
    layers = [lstm(0, "x", "y0"), NODE("Squeeze", ["y0", "direction"], ["s"]), lstm(1, "s", "y1")]
    layers[0].input[4], layers[2].input[4] = "n0", "n1"
    nodes = [*nodes, *layers, NODE("Squeeze", ["y1", "direction"], ["out"])]
    model = make_model(nodes, weights(0) | weights(1, H) | SQUEEZE | dict(constants), ("T", "B", I))
    model.graph.input.append(helper.make_tensor_value_info("n", given, ["B"]))
    return model


def test_one_length_by_two_casts_is_one():
    cast = {"to": TensorProto.INT32}
    model = two_with_lengths(
        NODE("Cast", ["n"], ["n0"], **cast),
        NODE("Identity", ["n"], ["m"]),
        NODE("Cast", ["m"], ["n1"], **cast),
    )
    read, x, lengths = LSTM.from_onnx(model), normal(T, 3, I), int64(T, 2, 4)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x, "n": lengths})[0]
    np.testing.assert_allclose(read(x, lengths=lengths)[0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"L0 的 sequence_lens .*lengths"):
        read(x)


@pytest.mark.parametrize(
    "nodes",
    [
        [NODE("Cast", ["n"], ["n0"], to=6), NODE("Add", ["n0", "k"], ["n1"])],
        [NODE("Cast", ["n"], ["n0"], to=6), NODE("Cast", ["n"], ["b"], to=3), NODE("Cast", ["b"], ["n1"], to=6)],
        [NODE("Cast", ["n"], ["n0"], to=6), NODE("Identity", ["n1"], ["n1"])],
    ],
    ids=["另算", "过一遍 int8", "绕成一圈"],
)  # fmt: skip
def test_lengths_that_cannot_be_told_apart_say_so(nodes):
    model = two_with_lengths(*nodes, constants={"k": np.int32(0)})
    with pytest.raises(ValueError, match=r"第 1 层.*要运行才知道，看不出与第 0 层的是不是同一个"):
        LSTM.from_onnx(model)


def test_layers_in_different_places_are_no_stack():
    below = [lstm(0, "x", "y0"), NODE("Squeeze", ["y0", "direction"], ["s"])]
    above = [lstm(1, "s", "y1"), NODE("Squeeze", ["y1", "direction"], ["r"])]
    nodes = [*below, *choose(branch(above, "r"), branch([NODE("Identity", ["s"], ["r"])], "r"))]
    model = make_model(
        nodes, weights(0) | weights(1, H) | SQUEEZE | {"none": np.int64(0)}, ("T", "B", I), output="chosen"
    )
    with pytest.raises(ValueError, match=r"有 2 个 LSTM 节点（L0、If_0/then_branch/L1）"):
        LSTM.from_onnx(model)
    with pytest.raises(ValueError, match="不在同一个图"):
        LSTM.from_onnx(model, ["L0", "L1"])
    with pytest.raises(ValueError, match=r"没有名为 'L7' 的.*有的是：L0、If_0/then_branch/L1"):
        LSTM.from_onnx(model, ["L0", "L7"])


class Packed(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True, **options)

    def forward(self, x, lengths):
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}])
def test_packed_sequences(tmp_path, options):
    """导出时声明可变的时间轴：torch 只铺到最长的那一条，图铺到 T，多出来的是零，不算不一致。"""
    net, lengths = Packed(**options).eval(), torch.tensor([7, 5, 2])
    x, free = torch.rand(3, 7, I), {"x": {0: "B", 1: "T"}, "n": {0: "B"}}
    path = onnx_graph.export(net, (x, lengths), tmp_path / "m.onnx", input_names=["x", "n"], dynamic=free)
    read = LSTM.from_onnx(path)
    assert read.config.num_layers == options.get("num_layers", 1)
    with pytest.raises(ValueError, match=r"sequence_lens 由图的输入 n .*lengths"):
        read(x.numpy())
    y = read(x.numpy(), lengths=lengths.numpy())[0]
    np.testing.assert_allclose(y, net(x, lengths).detach().numpy(), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- 初态

B = [NODE("Shape", ["x"], ["b"], start=1, end=2)]
TO = [*B, NODE("Concat", ["one", "b", "one"], ["times"], axis=0)]
ROW = normal(1, 1, H)

STATES = {
    "铺开以后再量化": (
        [
            *TO, NODE("Tile", ["row", "times"], ["e"]), NODE("QuantizeLinear", ["e", "scale", "point"], ["q"]),
            NODE("DequantizeLinear", ["q", "scale", "point"], ["h0"]),
        ],
        {"row": ROW, "scale": np.float32(0.02), "point": np.int8(3)},
        1,
    ),
    "铺开的 int8，一列一个 scale": (
        [*TO, NODE("Tile", ["row", "times"], ["e"]), NODE("DequantizeLinear", ["e", "scale", "point"], ["h0"], axis=2)],
        {
            "row": rng.integers(-99, 99, (1, 1, H)).astype(np.int8),
            "scale": np.float32([0.01, 0.02, 0.005, 0.03]),
            "point": np.zeros(H, np.int8),
        },
        1,
    ),
    "各条都取表的同一行": (
        [
            *B, NODE("ConstantOfShape", ["b"], ["k"], value=numpy_helper.from_array(int64(2))),
            NODE("Gather", ["table", "k"], ["e"]), NODE("Unsqueeze", ["e", "zero"], ["h0"]),
        ],
        {"table": normal(5, H), "zero": int64(0)},
        1,
    ),
    "一行里装着两个方向": (
        [
            *B, NODE("Concat", ["b", "one"], ["times"], axis=0), NODE("Tile", ["row", "times"], ["e"]),
            NODE("Reshape", ["e", "to"], ["bdh"]), NODE("Transpose", ["bdh"], ["h0"], **SWAP),
        ],
        {"row": normal(1, 2 * H), "to": int64(-1, 2, H)},
        2,
    ),
    "用空的铺零": (
        [*B, NODE("Concat", ["none", "zero", "b", "zero"], ["pads"], axis=0), NODE("Pad", ["dot", "pads"], ["h0"])],
        {"none": int64(0, 0, 0), "zero": int64(0), "dot": np.zeros((1, 0, H), np.float32)},
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", STATES)
def test_states_that_are_the_same_in_every_row(form):
    nodes, constants, directions = STATES[form]
    end = [NODE("Transpose", ["y"], ["z"], perm=[0, 2, 1, 3]), NODE("Reshape", ["z", "flat"], ["out"])]
    direction = "bidirectional" if directions == 2 else "forward"
    constants = weights(0, directions=directions) | constants | {"one": int64(1), "flat": int64(0, 0, -1)}
    model = make_model([*nodes, lstm(0, "x", "y", "h0", direction=direction), *end], constants, ("T", "B", I))
    for batch in (1, 3):
        assert_reads(model, (T, batch, I))


def test_rows_that_mix_are_not_taken_for_the_same():
    """[B, 2H] 直接换成 [2, B, H]：各条的初态不同，要调用时给。"""
    nodes = [
        *B, NODE("Concat", ["b", "one"], ["times"], axis=0), NODE("Tile", ["row", "times"], ["e"]),
        NODE("Reshape", ["e", "to"], ["h0"]), lstm(0, "x", "out", "h0", direction="bidirectional"),
    ]  # fmt: skip
    constants = {"row": normal(1, 2 * H), "to": int64(2, -1, H), "one": int64(1)}
    read = LSTM.from_onnx(make_model(nodes, weights(0, directions=2) | constants, ("T", "B", I)))
    with pytest.raises(ValueError, match=r"节点 h0（Reshape）算出.*state"):
        read(normal(T, 2, I))


class Repeated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, 2)
        self.h, self.c = (torch.nn.Parameter(torch.randn(2, 1, H)) for _ in "hc")

    def forward(self, x):
        state = tuple(s.repeat_interleave(x.shape[1], 1) for s in (self.h, self.c))
        return self.lstm(x, state)[0]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_learned_state_by_repeat_interleave(tmp_path, exporter):
    net, free = Repeated().eval(), {"x": {1: "B"}}
    path = onnx_graph.export(
        net, (torch.rand(T, 3, I),), tmp_path / "m.onnx", exporter=exporter, dynamic=free
    )
    read = LSTM.from_onnx(path)
    for batch in (1, 4):
        x = torch.rand(T, batch, I)
        np.testing.assert_allclose(read(x.numpy())[0], net(x).detach().numpy(), rtol=0, atol=1e-5)


def test_a_state_for_another_batch_says_whose_it_is():
    model = make_model([lstm(0, "x", "out", "h0")], weights(0) | {"h0": normal(1, 5, H)}, ("T", "B", I))
    read = LSTM.from_onnx(model)
    for x in (normal(T, 3, I), normal(T, I)):
        with pytest.raises(ValueError, match=r"自带的缺省初态，给 5 条一批用的；请用 state"):
            read(x)


def test_attributes_that_change_nothing():
    options = {
        "activations": ["Sigmoid", "Tanh", "Tanh"],
        "activation_alpha": [0.5],
        "activation_beta": [0.1],
    }
    node = lstm(0, "x", "y", **options)
    squeeze = NODE("Squeeze", ["y", "direction"], ["out"])
    assert_reads(make_model([node, squeeze], weights(0) | SQUEEZE, ("T", "B", I)), (T, 2, I))
    old = make_model([lstm(0, "x", "out", output_sequence=1)], weights(0), ("T", "B", I), opset=1)
    assert LSTM.from_onnx(old).config.hidden_size == H


# ---------------------------------------------------------------- 给错的参数


@pytest.mark.parametrize(
    ("source", "message"),
    [(None, "得到 NoneType"), (b"\x08\x07", "得到 bytes（.*load_from_string"), (3, "得到 int")],
)
def test_what_is_no_model_is_refused(source, message):
    with pytest.raises(ValueError, match=r"应给 \.onnx 文件的路径.*" + message):
        LSTM.from_onnx(source)


def test_names_of_the_wrong_type_are_refused():
    model = make_model([lstm(0, "x", "out")], weights(0), ("T", "B", I))
    for name in (3, [0]):
        with pytest.raises(ValueError, match=r"name 应是一个 LSTM 节点的名字.*得到 " + re.escape(repr(name))):
            LSTM.from_onnx(model, name)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H)

    def forward(self, x):
        return self.lstm(x)[0]


X = torch.rand(T, 2, I)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (X, {}, r"inputs 应是示例输入的元组，如 \(x,\)，得到 Tensor"),
        ((X[..., :3],), {}, "模块自己在示例输入上就算不下去.*inputs"),
        ((X.numpy(),), {}, "模块自己在示例输入上就算不下去"),
        ((X,), {"input_names": "x"}, r"input_names 应是几个名字，如 \['x'\]"),
        ((X,), {"dynamic": {"x": {5: "T"}}}, "x 的第 5 轴不存在：示例的 x 只有 3 轴"),
        ((X,), {"dynamic": {"y": {9: "T"}, "x": {0: "T"}}}, "y 的第 9 轴不存在|导出器导不出"),
        ((X,), {"dynamic": {"x": [0, 1]}}, r"dynamic 里 x 的写法应为.*得到 \[0, 1\]"),
    ],
)
def test_wrong_arguments_of_export(tmp_path, exporter, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        onnx_graph.export(Net(), inputs, tmp_path / "m.onnx", exporter=exporter, **options)
    assert not list(tmp_path.iterdir())


def test_export_refuses_other_things(tmp_path):
    with pytest.raises(ValueError, match=r"要导出的应是 torch\.nn\.Module，得到 str"):
        onnx_graph.export("m", (X,), tmp_path / "m.onnx")
    with pytest.raises(IsADirectoryError, match="是文件夹，请给"):
        onnx_graph.export(Net(), (X,), tmp_path)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_export_counts_axes_from_the_end_and_keeps_the_mode(tmp_path, exporter):
    net = Net().train()
    net.lstm.eval()
    path = onnx_graph.export(
        net, (X,), tmp_path / "m.onnx", exporter=exporter, dynamic={"x": {-3: "T"}, "y": {-3: "T"}}
    )
    assert onnx_graph.axes(path)["x"][0] == "T"
    assert (net.training, net.lstm.training) == (True, False)


class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_a_branch_on_the_data_is_said(tmp_path):
    with pytest.warns(UserWarning, match="把张量当成真假来分支"):
        onnx_graph.export(Branching().eval(), (X,), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="看着数据分支的 if"):
        onnx_graph.export(Branching().eval(), (X,), tmp_path / "d.onnx", exporter="dynamo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnx_graph.export(Net().eval(), (X,), tmp_path / "n.onnx")


def test_run_and_simplify_say_what_the_graph_wants(tmp_path):
    path = onnx_graph.export(Net().eval(), (X,), tmp_path / "m.onnx")
    for wrong in (np.zeros((T, I), np.float32), np.zeros((T, 2, I)), np.zeros((T + 1, 2, I), np.float32)):
        with pytest.raises(
            ValueError, match=r"m\.onnx：onnxruntime 没能跑完.*图的输入是 x tensor\(float\)\[6, 2, 5\]"
        ):
            onnx_graph.run(path, wrong)
    for shapes in ({"q": [1, 2, 3]}, [1, 2]):
        with pytest.raises(ValueError, match=r"test_input_shapes 应为 \{输入名: 形状\}，图的输入是 x"):
            onnx_graph.simplify(path, test_input_shapes=shapes)
    with pytest.raises(FileNotFoundError, match="找不到要写进去的文件夹"):
        onnx_graph.simplify(path, tmp_path / "没有" / "b.onnx")
    assert onnx_graph.trace(path, [], X.numpy()) == {}
    broken = onnx.load(path)
    broken.graph.node[-1].op_type = "Nothing"
    with pytest.raises(ValueError, match="onnxruntime 读不了这张图"):
        onnx_graph.run(broken, X.numpy())
