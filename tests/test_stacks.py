"""几个单层的 LSTM 首尾直接相接：读成一个多层的；不相接的、另有用处的，说明哪里不是。"""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lstm_lib import LSTM
from lstm_lib.formats import ncnn_run, onnx_graph, stacks
from lstm_lib.lstm.layouts import LSTMConfig

rng = np.random.default_rng(5)
I, H = 6, 5


class Net(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True, **options)

    def forward(self, x):
        return self.lstm(x)[0]


OPTIONS = [
    {"num_layers": 2},
    {"num_layers": 3, "bidirectional": True},
    {"num_layers": 2, "bias": False},
]


def same(read, module):
    wanted = LSTM.from_torch(module)
    assert (read.config.num_layers, read.config.direction) == (
        wanted.config.num_layers,
        wanted.config.direction,
    )
    for name, value in wanted.parameters.items():
        assert read.parameters[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("options", [*OPTIONS, {"num_layers": 2, "proj_size": 3}], ids=str)
def test_a_converted_torch_stack_is_read_whole(tmp_path, options):
    net = Net(**options).eval()
    made = ncnn_run.convert(net, tmp_path / "n", inputs=(torch.rand(1, 9, I),))
    read = LSTM.from_ncnn(made.param, made.bin)
    same(read, net.lstm)
    x = rng.normal(size=(11, I)).astype(np.float32)
    np.testing.assert_allclose(ncnn_run.NcnnRunner(made.param, made.bin)(x), read(x)[0], rtol=0, atol=1e-5)
    one = LSTM.from_ncnn(made.param, made.bin, "lstm_1")
    assert one.config.num_layers == 1
    np.testing.assert_array_equal(one.parameters["weight_hh_l0"], read.parameters["weight_hh_l1"])


def exported(folder, options, exporter, dynamic):
    net, axes = Net(**options).eval(), {"x": {1: "T"}} if dynamic else None
    x = torch.rand(1, 9, I)
    return net, onnx_graph.export(net, (x,), folder / "n.onnx", dynamic=axes, exporter=exporter)


@pytest.mark.parametrize("dynamic", [True, False], ids=["可变", "写死"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_exported_torch_stack_is_read_whole(tmp_path, options, dynamic):
    net, path = exported(tmp_path, options, "torchscript", dynamic)
    same(LSTM.from_onnx(path), net.lstm)
    onnx_graph.simplify(path, path)
    same(LSTM.from_onnx(path), net.lstm)


@pytest.mark.parametrize("given", [None, True, False])
def test_batch_first_of_a_stack_is_seen_from_both_ends(tmp_path, given):
    path = exported(tmp_path, {"num_layers": 2}, "torchscript", True)[1]
    lstm = LSTM.from_onnx(path, batch_first=given)
    assert lstm.config.num_layers == 2 and lstm.config.batch_first is (given is not False)
    assert "batch_first" in repr(lstm) and ("指定" in repr(lstm)) == (given is not None)


@pytest.mark.parametrize("dynamic", [True, False], ids=["可变", "写死"])
def test_the_other_exporter_too(tmp_path, dynamic):
    net, path = exported(tmp_path, OPTIONS[1], "dynamo", dynamic)
    same(LSTM.from_onnx(path), net.lstm)


# ---------------------------------------------------------------- 手写的 .param


def write(folder, rows, blob_count=None):
    """``rows`` 是 .param 的各行；LSTM 的权重按行随机填，宽度照行里写的。"""
    data = []
    for row in rows:
        fields = row.split()
        keys = dict(f.split("=") for f in fields if "=" in f)
        if fields[0] == "LSTM":
            output, total = int(keys["0"]), int(keys["1"])
            hidden, both = int(keys.get("3", output)), 2 if keys.get("2") == "2" else 1
            sizes = [total, 4 * hidden * both, 4 * hidden * output * both]
            sizes += [hidden * output * both] if hidden != output else []
            data += [b"\0\0\0\0" + rng.normal(size=n).astype("<f4").tobytes() for n in sizes]
    count = sum(int(row.split()[3]) for row in rows)
    paths = folder / "m.param", folder / "m.bin"
    paths[0].write_text("\n".join(["7767517", f"{len(rows)} {count}", *rows, ""]))
    paths[1].write_bytes(b"".join(data))
    return paths


def lstm(name, x, y, inputs=4, output=4, extra="", more_in="", more_out=""):
    bottoms, tops = [x, *more_in.split()], [y, *more_out.split()]
    ends = f"0={output} 1={4 * output * inputs} 2=0{extra}"
    return f"LSTM {name} {len(bottoms)} {len(tops)} {' '.join(bottoms + tops)} {ends}"


INPUT = "Input in0 0 1 in0"


@pytest.mark.parametrize(
    "between",
    [
        [],
        ["Dropout d 1 1 a a1"],
        ["Noop n 1 1 a a0", "Dropout d 1 1 a0 a1 0=1.0"],
    ],
    ids=["直接", "Dropout", "Noop 与 Dropout"],
)
def test_what_hands_the_numbers_on_may_stand_between(tmp_path, between):
    x = "a1" if between else "a"
    paths = write(tmp_path, [INPUT, lstm("一", "in0", "a"), *between, lstm("二", x, "b")])
    whole, first, second = (LSTM.from_ncnn(*paths, name) for name in (None, "一", "二"))
    assert whole.config.num_layers == 2
    value = rng.normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(whole(value)[0], second(first(value)[0])[0])
    np.testing.assert_allclose(whole(value)[0], ncnn_run.NcnnRunner(*paths)(value), rtol=0, atol=1e-5)
    named = LSTM.from_ncnn(*paths, ["一", "二"])
    np.testing.assert_array_equal(named(value)[0], whole(value)[0])


SPLIT = "Split s 1 2 a a1 a2"
BROKEN = {
    "隔着别的层": (
        [lstm("一", "in0", "a"), "ReLU r 1 1 a a1", lstm("二", "a1", "b")],
        "二 的输入来自 ReLU 层 r 的 a1，不是 一 的输出",
    ),
    "Dropout 改了数": (
        [lstm("一", "in0", "a"), "Dropout d 1 1 a a1 0=0.5", lstm("二", "a1", "b")],
        "Dropout 层 d",
    ),
    "并排": ([SPLIT.replace(" a ", " in0 "), lstm("一", "a1", "b"), lstm("二", "a2", "c")], "Input 层 in0"),
    "接的是末态": ([lstm("一", "in0", "a", more_out="h c"), lstm("二", "h", "b")], "LSTM 层 一 的 h"),
    "下层另有用处": (
        [lstm("一", "in0", "a"), SPLIT, lstm("二", "a1", "b"), "BinaryOp plus 2 1 b a2 out 0=0"],
        "一 的输出也送给了 BinaryOp 层 plus",
    ),
    "下层也是输出": ([lstm("一", "in0", "a"), SPLIT, lstm("二", "a1", "b")], r"（a2）也是整个模型的输出"),
    "初态由下层算出": (
        [
            lstm("一", "in0", "a", more_out="h c"),
            lstm("二", "a", "b", more_in="h c", more_out="h2 c2"),
        ],
        "二 的初态由 一 算出",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_not_a_stack_says_where(tmp_path, case):
    rows, words = BROKEN[case]
    paths = write(tmp_path, [INPUT, *rows])
    with pytest.raises(ValueError, match=rf"m\.param：有 2 个 LSTM 层（一、二），.*{words}.*请用 name"):
        LSTM.from_ncnn(*paths)
    assert LSTM.from_ncnn(*paths, "二").config.num_layers == 1


def test_named_layers_may_have_other_uses_but_must_join(tmp_path):
    paths = write(tmp_path, [INPUT, *BROKEN["下层另有用处"][0]])
    assert LSTM.from_ncnn(*paths, ["一", "二"]).config.num_layers == 2
    for names, words in (
        (["二", "一"], "不是 二 的输出"),
        (["一", "三"], "没有名为 '三'"),
        (["一", "一"], "不同的"),
        ([], "自下而上"),
    ):
        with pytest.raises(ValueError, match=words):
            LSTM.from_ncnn(*paths, names)


@pytest.mark.parametrize(
    ("upper", "words"),
    [
        (lstm("二", "a", "b", 4, 3), "hidden_size是 3，第 0 层的是 4"),
        (lstm("二", "a", "b", 4, 4).replace("2=0", "2=1"), "方向是 reverse，第 0 层的是 forward"),
        (lstm("二", "a", "b", 4, 3, " 3=4").replace("1=48", "1=64"), "proj_size是 3"),
        (lstm("二", "a", "b", 5, 4), "输入宽 5，下面一层却输出 4 个数"),
    ],
)
def test_layers_that_differ_do_not_make_one(tmp_path, upper, words):
    paths = write(tmp_path, [INPUT, lstm("一", "in0", "a"), upper])
    with pytest.raises(ValueError, match=rf"m\.param.*第 1 层（从 0 数起）.*{words}.*请用 name"):
        LSTM.from_ncnn(*paths)


# ---------------------------------------------------------------- 叠的规矩


def single(**options):
    config = LSTMConfig(4, 4, bias=options.pop("bias", True), dtype=options.pop("dtype", "float32"))
    return LSTM(config, {k: rng.normal(size=s) for k, s in config.shapes().items()}, **options)


def test_states_and_biases_are_stacked():
    state = tuple(rng.normal(size=(1, 2, 4)).astype(np.float32) for _ in range(2))
    made = stacks.stack([single(bias=False), single(initial_state=state, dtype="float64")], "文件")
    assert made.config.bias and made.config.dtype == "float64"
    assert not made.parameters["bias_l0"].any()
    h, c = made.initial_state
    assert h.shape == c.shape == (2, 2, 4) and not h[0].any()
    np.testing.assert_array_equal(c[1:], state[1])


def test_a_state_for_any_batch_meets_one_for_a_given_batch():
    any_batch = tuple(rng.normal(size=(1, 4)).astype(np.float32) for _ in range(2))
    two = tuple(rng.normal(size=(1, 2, 4)).astype(np.float32) for _ in range(2))
    h, _ = stacks.stack([single(initial_state=any_batch), single()], "文件").initial_state
    np.testing.assert_array_equal(h, np.stack([any_batch[0][0], np.zeros(4)]))
    _, c = stacks.stack([single(initial_state=two), single(initial_state=any_batch)], "文件").initial_state
    np.testing.assert_array_equal(c, np.stack([two[1][0], np.repeat(any_batch[1], 2, 0)]))


def test_a_required_state_stays_required():
    one, other = single(), single()
    other.initial_state = "初态由图的输入给出"
    assert stacks.stack([one, other], "文件").initial_state == "初态由图的输入给出"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"peepholes": np.ones((1, 3, 4))}, "窥视孔"),
        ({"clip": 2.0}, "clip 是 2.0"),
        ({"lengths": np.array([3])}, "各序列长度"),
    ],
)
def test_options_that_differ_are_refused(options, words):
    with pytest.raises(ValueError, match=f"文件.*第 1 层.*{words}"):
        stacks.stack([single(), single(**options)], "文件")


def test_states_of_different_batches_are_refused():
    states = [tuple(rng.normal(size=(1, b, 4)) for _ in range(2)) for b in (1, 2)]
    with pytest.raises(ValueError, match="批大小"):
        stacks.stack([single(initial_state=state) for state in states], "文件")


# ---------------------------------------------------------------- 手写的 ONNX 图


def onnx_stack(nodes, directions=1, outputs=("y",)):
    """两个节点 one、two 与中间的 ``nodes``：one 的 Y 是 a，two 的 X 是 b。"""
    bidirectional = {"direction": "bidirectional"} if directions == 2 else {}

    def node(name, x, y, width):
        tensors = {
            f"W_{name}": rng.normal(size=(directions, 4 * H, width)),
            f"R_{name}": rng.normal(size=(directions, 4 * H, H)),
        }
        made = helper.make_node("LSTM", [x, *tensors], y, name=name, hidden_size=H, **bidirectional)
        return made, [numpy_helper.from_array(a.astype(np.float32), k) for k, a in tensors.items()]

    one, first = node("one", "x", ["a", "a_h", "a_c"], I)
    two, second = node("two", "b", ["y"], H * directions)
    constants = {"axis1": [1], "flat": [0, 0, -1], "half": [0], "one": [1]}
    tensors = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()]
    graph = helper.make_graph(
        [one, *nodes, two],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", I])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [*first, *second, *tensors],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def between(*steps):
    """一串单输入的节点，a → b；每步是 (类型, 另外的输入, 属性)。"""
    names = ["a", *(f"m{k}" for k in range(len(steps) - 1)), "b"]
    return [
        helper.make_node(kind, [x, *more], [y], name=f"{kind.lower()}_{y}", **attributes)
        for (kind, more, attributes), x, y in zip(steps, names[:-1], names[1:], strict=True)
    ]


SQUEEZE = ("Squeeze", ["axis1"], {})
SWAP = ("Transpose", [], {"perm": [1, 0, 2]})
FLAT = [("Transpose", [], {"perm": [0, 2, 1, 3]}), ("Reshape", ["flat"], {})]


@pytest.mark.parametrize(
    ("steps", "directions"),
    [
        ([SQUEEZE], 1),
        ([SQUEEZE, ("Dropout", [], {})], 1),
        ([SQUEEZE, SWAP, SWAP], 1),
        (FLAT, 1),
        (FLAT, 2),
    ],
)
def test_ways_of_joining_two_nodes(steps, directions):
    model = onnx_stack(between(*steps), directions)
    x = rng.normal(size=(7, 3, I)).astype(np.float32)
    (y,) = onnx_graph.run(model, x)
    whole = LSTM.from_onnx(model)
    assert whole.config.num_layers == 2
    np.testing.assert_allclose(whole(x)[0], y.transpose(0, 2, 1, 3).reshape(7, 3, -1), rtol=0, atol=1e-5)
    assert LSTM.from_onnx(model, ["one", "two"]).config == whole.config


@pytest.mark.parametrize(
    ("steps", "directions", "words"),
    [
        ([SQUEEZE, SWAP], 1, "two 的输入不是 one 各方向输出的拼接"),
        ([SQUEEZE, ("Relu", [], {})], 1, "隔着 Relu 节点 relu"),
        ([("Reshape", ["flat"], {})], 2, "不是 one 各方向输出的拼接"),
    ],
)
def test_nodes_that_do_not_join(steps, directions, words):
    model = onnx_stack(between(*steps), directions)
    with pytest.raises(ValueError, match=f"2 个 LSTM 节点（one、two），.*{words}.*请用 name"):
        LSTM.from_onnx(model)
    assert LSTM.from_onnx(model, "one").config.num_layers == 1


def test_the_lower_output_used_elsewhere():
    extra = helper.make_node("Relu", ["a"], ["r"], name="另")
    model = onnx_stack([*between(SQUEEZE), extra], outputs=("y", "r"))
    with pytest.raises(ValueError, match="one 的 Y 也送给了 Relu 节点 另"):
        LSTM.from_onnx(model)
    with pytest.raises(ValueError, match="也是图的输出（a）"):
        LSTM.from_onnx(onnx_stack(between(SQUEEZE), outputs=("y", "a")))
    assert LSTM.from_onnx(model, ["one", "two"]).config.num_layers == 2
    for names, words in (
        (["two", "one"], "one 的输入不是由 two 算出的"),
        (["one", "无"], "没有名为 '无'"),
        (["one", "one"], "两次"),
        ([], "空的"),
    ):
        with pytest.raises(ValueError, match=words):
            LSTM.from_onnx(model, names)


def test_hidden_size_is_optional():
    """规范里 hidden_size 可有可无：不写就看 R。"""
    model, x = onnx_stack(between(SQUEEZE)), rng.normal(size=(7, 3, I)).astype(np.float32)
    (y,) = onnx_graph.run(model, x)
    for node in model.graph.node:
        node.ClearField("attribute")
    np.testing.assert_allclose(LSTM.from_onnx(model)(x)[0], y[:, 0], rtol=0, atol=1e-5)
    model.graph.node[0].input[2] = "r"
    model.graph.input.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4 * H, H]))
    with pytest.raises(ValueError, match="one 没有写 hidden_size，R 又不是常量"):
        LSTM.from_onnx(model)


def test_nodes_without_names_are_told_apart():
    model = onnx_stack(between(SQUEEZE))
    for node in model.graph.node:
        node.name = ""
    assert LSTM.from_onnx(onnx.load_from_string(model.SerializeToString())).config.num_layers == 2
