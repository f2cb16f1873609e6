"""onnx_graph：导出、化简、数算子、逐节点求值，读出 LSTM 节点；坏文件只会得到说得清的错误。"""

import itertools
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_lib.formats import onnx_graph, onnx_lstm
from lstm_lib.lstm import layouts


class Net(torch.nn.Module):
    def __init__(self, i=6, h=5, **options):
        super().__init__()
        self.mask = torch.nn.LSTM(i, h, batch_first=True, **options)

    def forward(self, x):
        return torch.sigmoid(self.mask(x)[0])

    def forward_with_state(self, x, state):
        y, state = self.mask(x, state)
        return torch.sigmoid(y), state


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """小网络与它的几种导出。"""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    net, x, zero = Net().eval(), torch.rand(1, 10, 6), torch.zeros(1, 1, 5)
    axes = {"x": {1: "T"}, "y": {1: "T"}}
    paths = {
        "torchscript": onnx_graph.export(net, (x,), folder / "a.onnx"),
        "dynamo": onnx_graph.export(net, (x,), folder / "b.onnx", exporter="dynamo"),
        "dynamic": onnx_graph.export(net, (x,), folder / "c.onnx", dynamic=axes),
        "dynamo_dynamic": onnx_graph.export(net, (x,), folder / "d.onnx", exporter="dynamo", dynamic=axes),
        "state": onnx_graph.export(
            onnx_graph.with_state(net), (x, zero, zero), folder / "e.onnx",
            input_names=("x", "h0", "c0"), output_names=("y", "h", "c"),
        ),
    }  # fmt: skip
    return net, x, paths


def test_operator_counts_equal_the_file(exported):
    _, _, paths = exported
    for path in paths.values():
        counted = Counter(node.op_type for node in onnx.load(path).graph.node)
        assert onnx_graph.operator_counts(path) == dict(counted)
    assert onnx_graph.operator_counts(paths["torchscript"])["Expand"] == 2
    assert "Expand" not in onnx_graph.operator_counts(paths["state"])


def test_every_export_reads_back_the_same_weights(exported):
    net, _, paths = exported
    for title, path in paths.items():
        lstm = onnx_lstm.read_lstm(path)
        assert lstm.hidden_size == 5 and lstm.W.shape == (1, 20, 6) and lstm.B.shape == (1, 40), title
        for ours, name in (
            (lstm.W[0], "weight_ih_l0"),
            (lstm.R[0], "weight_hh_l0"),
            (lstm.B[0][:20], "bias_ih_l0"),
        ):
            expected = getattr(net.mask, name).detach().numpy()
            matches = [
                order for order in map("".join, itertools.permutations("ifgo"))
                if np.array_equal(layouts.reorder(ours, order, "torch"), expected)
            ]  # fmt: skip
            assert matches == ["iofg"], (title, name)


@pytest.mark.parametrize("frames", [1, 2, 10, 33])
def test_dynamic_exports_match_torch_before_and_after_simplify(exported, frames):
    net, _, paths = exported
    x = torch.rand(1, frames, 6)
    expected = net(x).detach().numpy()
    for title in ("dynamic", "dynamo_dynamic"):
        model = onnx_graph.simplify(paths[title])
        assert onnx_graph.axes(model)["x"] == [1, "T", 6]
        for graph in (paths[title], model):
            assert np.abs(onnx_graph.run(graph, x.numpy())[0] - expected).max() < 1e-6


def test_simplify_really_compares_the_outputs(exported):
    """onnxsim 默认什么也不比；这里改坏一个算子，化简必须报错。"""

    def broken(model):
        for node in model.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "Tanh"
        return model

    for title in ("torchscript", "dynamic", "state"):
        with pytest.raises(ValueError, match="不一致"):
            onnx_graph.simplify(exported[2][title], custom_rewriter=broken)
        assert "Tanh" in onnx_graph.operator_counts(
            onnx_graph.simplify(exported[2][title], custom_rewriter=broken, check_n=0)
        )


def test_simplify_with_the_batch_axis_free_or_pinned(tmp_path):
    torch.manual_seed(3)
    net, x = Net().eval(), torch.rand(2, 9, 6)
    both = {"x": {0: "B", 1: "T"}, "y": {0: "B", 1: "T"}}
    path = onnx_graph.export(net, (torch.rand(1, 10, 6),), tmp_path / "b.onnx", dynamic=both)
    free = onnx_graph.simplify(path)
    assert onnx_graph.axes(free)["x"] == ["B", "T", 6]
    assert np.abs(onnx_graph.run(free, x.numpy())[0] - net(x).detach().numpy()).max() < 1e-6
    pinned = onnx_graph.simplify(path, overwrite_input_shapes={"x": [2, 9, 6]})
    assert onnx_graph.axes(pinned)["x"] == [2, 9, 6]


def test_trace_shows_the_zero_state(exported):
    _, x, paths = exported
    lstm = onnx_lstm.read_lstm(paths["torchscript"])
    for name in lstm.inputs[5:7]:
        nodes = onnx_graph.ancestors(paths["torchscript"], name)
        value = onnx_graph.trace(paths["torchscript"], nodes, x.numpy())[name]
        assert value.shape == (1, 1, 5) and not value.any()
    with pytest.raises(ValueError, match="没有哪个节点"):
        onnx_graph.ancestors(paths["torchscript"], "没有这个")


@pytest.mark.parametrize(
    "options", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False}, {"i": 1, "h": 1}]
)
def test_other_networks(options, tmp_path):
    torch.manual_seed(1)
    net = Net(**options).eval()
    x = torch.rand(1, 7, net.mask.input_size)
    path = onnx_graph.export(net, (x,), tmp_path / "n.onnx", dynamic={"x": {1: "T"}, "y": {1: "T"}})
    x = torch.rand(1, 19, net.mask.input_size)
    assert (
        np.abs(onnx_graph.run(onnx_graph.simplify(path), x.numpy())[0] - net(x).detach().numpy()).max() < 1e-6
    )
    names = [onnx_graph.node_label(n) for n in onnx.load(path).graph.node if n.op_type == "LSTM"]
    assert len(names) == options.get("num_layers", 1)
    last = onnx_lstm.read_lstm(path, names[-1])
    assert last.direction == ("bidirectional" if options.get("bidirectional") else "forward")
    if len(names) > 1:
        with pytest.raises(ValueError, match="用 name 指定"):
            onnx_lstm.read_lstm(path)
        with pytest.raises(ValueError, match="没有名为"):
            onnx_lstm.read_lstm(path, "没有")


def lstm_model(w, r, b, **attributes):
    """手工拼一个只有 LSTM 的图。"""
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in (("W", w), ("R", r), ("B", b)) if v is not None]
    inputs = ["x", "W", "R"] + (["B"] if b is not None else [])
    node = onnx.helper.make_node("LSTM", inputs, ["y"], name="the_lstm", **attributes)
    value = [onnx.helper.make_tensor_value_info(n, 1, None) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), zeros(1, 16), hidden_size=3), "形状"),
        (lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), zeros(1, 8), hidden_size=2), "B 形状"),
        (lstm_model(zeros(2, 8, 3), zeros(2, 8, 2), None, hidden_size=2), "W 形状"),
        (lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=0), "正整数"),
        (lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=2, direction="sideways"), "direction"),
        (lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=2, direction=["forward"]), "direction"),
        (lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=[2]), "hidden_size"),
        (
            lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=2, activations=[1, 2, 3]),
            "activations",
        ),
        (lstm_model(zeros(1, 8, 3, dtype=np.int32), zeros(1, 8, 2), None, hidden_size=2), "浮点"),
    ],
)
def test_wrong_nodes_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        onnx_lstm.read_lstm(model)


def test_computed_weights_are_refused_not_folded_into_gigabytes():
    model = lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=2)
    model.graph.node[0].input[1] = "big0"
    previous = "W"
    for k in reversed(range(40)):  # 每拼一次加一倍，40 次就是 24 TB
        node = onnx.helper.make_node("Concat", [previous, previous], [f"big{k}"], axis=1)
        model.graph.node.insert(0, node) if k == 39 else model.graph.node.insert(39 - k, node)
        previous = f"big{k}"
    with pytest.raises(ValueError, match="过大"):
        onnx_lstm.read_lstm(model)
    model = lstm_model(zeros(1, 8, 3), zeros(1, 8, 2), None, hidden_size=2)
    model.graph.node[0].input[1] = "x"
    with pytest.raises(ValueError, match="不是常量"):
        onnx_lstm.read_lstm(model)


def test_missing_external_data_and_missing_file(exported, tmp_path):
    _, _, paths = exported
    (tmp_path / "alone.onnx").write_bytes(paths["dynamo"].read_bytes())
    with pytest.raises(ValueError, match=r"alone\.onnx.*外部数据"):
        onnx_graph.load_model(tmp_path / "alone.onnx")
    with pytest.raises(FileNotFoundError, match="没有这个"):
        onnx_graph.load_model(tmp_path / "没有这个.onnx")


def test_names_that_are_not_text_are_refused(exported, tmp_path):
    content = exported[2]["torchscript"].read_bytes()
    name = onnx.load_from_string(content).graph.node[0].output[0].encode()
    assert content.count(name) >= 1
    (tmp_path / "坏.onnx").write_bytes(content.replace(name, b"\x80" * len(name)))
    with pytest.raises(ValueError, match=r"坏\.onnx"):
        onnx_graph.load_model(tmp_path / "坏.onnx")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_an_error_or_an_answer(exported, tmp_path, data):
    good = exported[2]["torchscript"].read_bytes()
    kind = data.draw(st.sampled_from(["random", "cut", "flip"]))
    if kind == "random":
        content = data.draw(st.binary(max_size=200))
    elif kind == "cut":
        content = good[: data.draw(st.integers(0, len(good)))]
    else:
        broken = bytearray(good)
        for position, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=8)
        ):
            broken[position] = value
        content = bytes(broken)
    path = tmp_path / "fuzz.onnx"
    path.write_bytes(content)
    try:
        lstm = onnx_lstm.read_lstm(path)
    except (ValueError, OSError) as error:
        assert str(path) in str(error)
    else:
        assert lstm.W.shape[1] == 4 * lstm.hidden_size == lstm.R.shape[1]


def test_wrong_gate_order_changes_the_output(exported):
    net, x, paths = exported
    model = onnx_graph.simplify(paths["torchscript"])
    lstm = onnx_lstm.read_lstm(model)
    for tensor in model.graph.initializer:
        if tensor.name in lstm.inputs[1:3]:
            value = onnx.numpy_helper.to_array(tensor)
            swapped = layouts.reorder(value[0], "onnx", "torch")[None]
            tensor.CopyFrom(onnx.numpy_helper.from_array(swapped, tensor.name))
    assert np.abs(onnx_graph.run(model, x.numpy())[0] - net(x).detach().numpy()).max() > 1e-3


def test_the_refusal_of_onnxruntime_is_quoted_up_to_its_reason(exported):
    """它的话以源文件的长路径开头，缘故在后面：不许截掉。"""
    _, x, paths = exported
    model = onnx.load(paths["torchscript"])
    cell = next(n for n in model.graph.node if n.op_type == "LSTM")
    cell.attribute.append(onnx.helper.make_attribute("layout", 1))
    with pytest.raises(ValueError, match=r"layout == 1.* not supported"):
        onnx_graph.run(model, x.numpy())


def test_empty_inputs_are_refused_before_onnxruntime_ends_the_process(exported):
    _, _, paths = exported
    for shape in ((1, 0, 6), (0, 10, 6)):
        with pytest.raises(ValueError, match=r"c\.onnx：输入 x 是空的.*至少要有一帧"):
            onnx_graph.run(paths["dynamic"], np.zeros(shape, np.float32))


# ---------------------------------------------------------------- 可变的轴真的可变


class Shaped(torch.nn.Module):
    """LSTM（或 GRU）之后再动形状的小网络。"""

    def __init__(self, kind="plain", first=False, **options):
        super().__init__()
        self.kind, rnn = kind, torch.nn.GRU if kind == "gru" else torch.nn.LSTM
        self.rnn = rnn(4, 5, batch_first=first, **options)

    def forward(self, x):
        y = self.rnn(x)[0]
        if self.kind == "flatten":
            return torch.sigmoid(y.flatten(0, 1)).view(*y.shape)
        if self.kind == "python":  # 老导出器把 len 的结果写死
            return y + torch.arange(len(y), dtype=y.dtype)[:, None, None] if len(y) else y
        if self.kind == "loop":
            return torch.stack([y[t] * (t + 1) for t in range(len(y))])
        if self.kind == "view":
            return y.view(7, 3, 5)
        return y


def every(first):
    return {0: "B", 1: "T"} if first else {0: "T", 1: "B"}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", ["plain", "bidirectional", "layers", "gru", "flatten"])
@pytest.mark.parametrize("first", [False, True])
def test_declared_axes_are_really_variable(tmp_path, exporter, kind, first):
    options = {"bidirectional": {"bidirectional": True}, "layers": {"num_layers": 2}}.get(kind, {})
    net, path = Shaped(kind, first, **options).eval(), tmp_path / "m.onnx"
    for wanted in ("T", "TB") if kind == "plain" else ("TB",):
        names = {axis: name for axis, name in every(first).items() if name in wanted}
        example = (3, 7, 4) if first else (7, 3, 4)
        onnx_graph.export(
            net, (torch.rand(example),), path, exporter=exporter, dynamic={"x": names, "y": names}
        )
        for graph in (path, onnx_graph.simplify(path)):
            for value in onnx_graph.axes(graph).values():
                assert [value[axis] for axis in names] == [*names.values()], exporter
            for steps, batch in ((1, 3), (7, 3), (19, 3), (4, 1), (5, 6))[: 5 if "B" in wanted else 3]:
                x = torch.rand(batch, steps, 4) if first else torch.rand(steps, batch, 4)
                y = onnx_graph.run(graph, x.numpy())[0]
                np.testing.assert_allclose(y, net(x).detach().numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_example_of_length_one_stays_variable(tmp_path, exporter):
    net, path = Shaped(first=True).eval(), tmp_path / "m.onnx"
    axes = {"x": {0: "B", 1: "帧"}, "y": {0: "B", 1: "帧"}}
    onnx_graph.export(net, (torch.rand(1, 1, 4),), path, exporter=exporter, dynamic=axes)
    assert onnx_graph.axes(path) == {"x": ["B", "帧", 4], "y": ["B", "帧", 5]}
    x = torch.rand(2, 9, 4)
    np.testing.assert_allclose(onnx_graph.run(path, x.numpy())[0], net(x).detach().numpy(), rtol=0, atol=1e-5)


def test_a_second_dynamo_export_stays_variable(tmp_path):
    net, x = Shaped().eval(), torch.rand(7, 3, 4)
    torch.export.export(net, (x,))  # 长度固定的先来一次
    for k in range(2):
        path = onnx_graph.export(
            net, (x,), tmp_path / f"{k}.onnx", exporter="dynamo", dynamic={"x": {0: "T"}}
        )
        assert onnx_graph.axes(path) == {"x": ["T", 3, 4], "y": ["T", 3, 5]}
        assert onnx_graph.run(path, np.zeros((11, 3, 4), np.float32))[0].shape == (11, 3, 5)


@pytest.mark.parametrize(
    ("exporter", "kind", "message"),
    [
        ("torchscript", "loop", r"输入 x 的第 0 轴（T）可变，导出的图却只认示例的长度（7）.*dynamo"),
        ("torchscript", "python", r"输入 x 的第 0 轴（T）可变.*只认示例的长度.*没有写文件"),
        ("dynamo", "loop", r"x 的第 0 轴（T）可变.*torchscript"),
        ("torchscript", "view", r"输入 x 的第 0 轴（T）可变，可 torch 自己换了长度就算不下去"),
        ("dynamo", "view", r"x 的第 0 轴（T）可变"),
    ],
)
def test_an_axis_that_cannot_vary_is_refused(tmp_path, exporter, kind, message):
    net, x = Shaped(kind).eval(), torch.rand(7, 3, 4)
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        onnx_graph.export(net, (x,), tmp_path / "m.onnx", exporter=exporter, dynamic={"x": {0: "T"}})
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_undeclared_outputs_do_not_keep_the_length_of_the_example(tmp_path):
    net, x = Shaped().eval(), torch.rand(7, 3, 4)
    for exporter in ("torchscript", "dynamo"):
        path = onnx_graph.export(net, (x,), tmp_path / "m.onnx", exporter=exporter, dynamic={"x": {0: "T"}})
        assert onnx_graph.axes(path)["y"][0] != 7 and onnx_graph.axes(path)["y"][1:] == [3, 5]
        written = onnx.load(path).graph.value_info
        assert not any(d.dim_value == 7 for v in written for d in v.type.tensor_type.shape.dim)


def test_what_torch_alone_writes_is_repaired_or_refused(tmp_path, monkeypatch):
    """不用我们的捕获，torch 2.13 自己写的图：批在前的只是声明过时，时间在前的 Reshape 写死了示例的长度。"""
    monkeypatch.setattr(onnx_graph.onnx_dynamic, "_lstm_by_shape_only", lambda: 1 / 0)
    path = tmp_path / "m.onnx"
    how = {"exporter": "dynamo", "dynamic": {"x": {1: "T"}}}
    onnx_graph.export(Shaped(first=True).eval(), (torch.rand(3, 7, 4),), path, **how)
    assert onnx_graph.axes(path) == {"x": [3, "T", 4], "y": [3, "T", 5]}
    assert not onnx.load(path).graph.value_info
    how["dynamic"] = {"x": {0: "T"}}
    with pytest.raises(ValueError, match=r"第 0 轴（T）可变，导出的图却只认.*Reshape 节点.*torchscript"):
        onnx_graph.export(Shaped().eval(), (torch.rand(7, 3, 4),), tmp_path / "t.onnx", **how)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith("m.")]


def test_dynamic_must_name_an_input_or_output(tmp_path):
    with pytest.raises(ValueError, match="dynamic 里的 z 不是输入或输出的名字"):
        onnx_graph.export(Shaped(), (torch.rand(7, 3, 4),), tmp_path / "m.onnx", dynamic={"z": {0: "T"}})
    with pytest.raises(FileNotFoundError, match="没有"):
        onnx_graph.export(Shaped(), (torch.rand(7, 3, 4),), tmp_path / "没有" / "m.onnx")


# ---------------------------------------------------------------- 化简：长度


def graph_of(nodes, shapes, constants=(), output=("y", None)):
    inputs = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in shapes.items()]
    outputs = [onnx.helper.make_tensor_value_info(output[0], 1, output[1])]
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in dict(constants).items()]
    made = [onnx.helper.make_node(kind, names.split(), [out], **o) for kind, names, out, o in nodes]
    graph = onnx.helper.make_graph(made, "g", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)


@pytest.mark.parametrize("kind", ["Add", "Concat"])
def test_simplify_axes_that_have_different_names_but_one_length(kind):
    options = {"axis": 1} if kind == "Concat" else {}
    model = graph_of(
        [(kind, "a b", "c", options), ("Identity", "c", "y", {})],
        {"a": ["unk__187", 4], "b": ["unk__188", 4]},
        output=("y", ["unk__189", 8 if options else 4]),
    )
    assert onnx_graph.operator_counts(onnx_graph.simplify(model)) == {kind: 1}


def test_simplify_says_test_input_shapes_when_no_length_fits():
    model = graph_of(
        [("Reshape", "a s", "y", {})], {"a": ["N", 1]}, {"s": np.array([-1, 8])}, ("y", ["M", 8])
    )
    with pytest.raises(ValueError, match=r"a \['N', 1\].*test_input_shapes"):
        onnx_graph.simplify(model)
    assert onnx_graph.operator_counts(onnx_graph.simplify(model, test_input_shapes={"a": [16, 1]}))


def test_simplify_compares_at_a_second_length():
    """改写把长度 3 写死：恰好是试算的第一种长度，换一种才看得出。"""

    def baked(model):
        graph = model.graph
        if len(graph.node) > 1:
            return False
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 4]), "s"))
        graph.node[0].output[0] = "c"
        graph.node.append(onnx.helper.make_node("Reshape", ["c", "s"], ["y"]))
        return model

    model = graph_of([("Sigmoid", "a", "y", {})], {"a": ["T", 4]}, output=("y", ["T", 4]))
    with pytest.raises(ValueError, match="不一致"):
        onnx_graph.simplify(model, custom_rewriter=baked)
    given = {"a": [3, 4]}
    with pytest.raises(ValueError, match="不一致"):
        onnx_graph.simplify(model, custom_rewriter=baked, test_input_shapes=given)
    onnx_graph.simplify(model, custom_rewriter=baked, check_n=0)


def test_simplify_says_when_onnxsim_itself_cannot():
    with pytest.raises(ValueError, match=r"onnxsim 处理不了这张图.*test_input_shapes 也不行"):
        onnx_graph.simplify(
            graph_of([("MatMul", "a w", "y", {})], {"a": None}, {"w": np.ones((4, 4), np.float32)})
        )
