"""convert：转换以后与原模型核对；pnnx 接错的线修得好就修，修不好就拒绝，什么也不写。"""

import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.formats import ncnn_check, ncnn_param, ncnn_run, ncnn_source, quiet

I, H = 6, 5


class Learned(torch.nn.Module):
    """初态是学来的参数（或模块里的普通张量）。"""

    def __init__(self, plain=False, **options):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True, **options)
        rows = self.lstm.num_layers * (1 + self.lstm.bidirectional)
        h, c = torch.rand(rows, 1, options.get("proj_size") or H), torch.rand(rows, 1, H)
        self.h, self.c = (h, c) if plain else (torch.nn.Parameter(h), torch.nn.Parameter(c))

    def forward(self, x):
        return self.lstm(x, (self.h, self.c))[0]


class Half(torch.nn.Module):
    """h 是输入，c 是参数。"""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True)
        self.c = torch.nn.Parameter(torch.rand(1, 1, H))

    def forward(self, x, h):
        return self.lstm(x, (h, self.c))[0]


class Zeros(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True, bidirectional=True, num_layers=2)

    def forward(self, x):
        h = torch.zeros(4, x.shape[0], H)
        return self.lstm(x, (h, h.clone()))[0]


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = torch.nn.Embedding(9, I), torch.nn.LSTM(I, H, batch_first=True)

    def forward(self, words, extra):
        return self.lstm(self.embed(words) + extra)[0]


class Last(torch.nn.Module):
    """只要末状态：pnnx 会把 y 当成它。"""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[1][0]


class Nested(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, batch_first=True, dropout=0.5, num_layers=2)

    def forward(self, x, *, state):
        y, state = self.lstm(x, state)
        return {"mask": torch.sigmoid(y), "state": state}


def squeezed(values):
    return [np.squeeze(value.detach().numpy()) for value in values]


def check(model, arrays, expected):
    """ncnn 的输出与 torch 的逐个相同。"""
    found = ncnn_run.NcnnRunner(model.param, model.bin)(*arrays)
    found = found if isinstance(found, tuple) else (found,)
    assert model.difference < 1e-5 and len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(np.squeeze(ours) - theirs).max() < 1e-5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3}, {"plain": True}],
    ids=["one", "four", "projected", "plain tensor"],
)
def test_learned_state(options, tmp_path):
    net = Learned(**options).eval()
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(torch.rand(1, 10, I),))
    x = torch.rand(1, 17, I)
    check(model, [x[0].numpy()], squeezed([net(x)]))
    layers = [layer for layer in ncnn_param.read_param(model.param).layers if layer.type == "LSTM"]
    first = LSTM.from_ncnn(model.param, model.bin, layers[0].name)
    for ours, theirs in zip(first.initial_state, (net.h, net.c), strict=True):
        assert np.array_equal(ours, theirs[: len(ours)].detach().numpy())
    if len(layers) == 1:
        assert np.abs(first(x[0].numpy())[0] - net(x)[0].detach().numpy()).max() < 1e-5
    assert not net.lstm._forward_pre_hooks


@pytest.mark.parametrize("kind", ["pt", "onnx"])
def test_learned_state_in_a_file(kind, tmp_path):
    """文件里的 LSTM 动不了，只能改 .param：次序，与双向时初态的形状。"""
    net, x = Learned(bidirectional=True).eval(), torch.rand(1, 10, I)
    path = tmp_path / f"m.{kind}"
    with quiet.quiet():
        if kind == "pt":
            torch.jit.trace(net, x).save(str(path))
        else:
            torch.onnx.export(net, (x,), path, dynamo=False)
    model = ncnn_run.convert(path, tmp_path / "n", inputs=(x,))
    assert "x、h、c" in model.notes[0]
    check(model, [x[0].numpy()], squeezed([net(x)]))
    lstm = LSTM.from_ncnn(model.param, model.bin)
    assert np.array_equal(lstm.initial_state[1], net.c.detach().numpy())


def test_one_state_given_and_one_learned(tmp_path):
    net, x, h = Half().eval(), torch.rand(1, 10, I), torch.rand(1, 1, H)
    with quiet.quiet():
        torch.jit.trace(net, (x, h)).save(str(tmp_path / "m.pt"))
    for source in (net, tmp_path / "m.pt"):
        model = ncnn_run.convert(source, tmp_path / "n", inputs=(x, torch.zeros(1, 1, H)))
        check(model, [x[0].numpy(), h[0].numpy()], squeezed([net(x, h)]))


def test_written_out_zero_state_of_two_directions(tmp_path):
    """pnnx 把 [4, 1, H] 的零写成三维，ncnn 会读到别处去。"""
    net, x = Zeros().eval(), torch.rand(1, 10, I)
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(x,))
    check(model, [x[0].numpy()], squeezed([net(x)]))
    assert LSTM.from_ncnn(model.param, model.bin, "lstm_0").initial_state is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers_and_two_inputs(dtype, tmp_path):
    net, words, extra = Words().eval(), torch.randint(9, (1, 7), dtype=dtype), torch.rand(1, 7, I)
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(words, extra))
    expected = squeezed([net(words, extra)])
    check(model, [words[0].numpy(), extra[0].numpy()], expected)
    check(model, [words[0].numpy().astype(float), extra[0].numpy()], expected)
    with pytest.raises(ValueError, match="in0 是 Embed 的编号，应是整数"):
        ncnn_run.NcnnRunner(model.param, model.bin)(words[0].numpy() + 0.5, extra[0].numpy())


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_bare_module(kind, tmp_path):
    net = getattr(torch.nn, kind)(I, H, batch_first=True, bidirectional=True)
    x = torch.rand(1, 10, I)
    model = ncnn_run.convert(net, tmp_path / "m", inputs=x)  # 单独一个张量也行
    y, state = net(x)
    check(model, [x[0].numpy()], squeezed([y, *(state if kind == "LSTM" else [state])]))
    assert net.training


def test_nested_outputs_and_keywords(tmp_path):
    """字典与嵌套的元组依次成为 out0、out1……；训练状态原样放回。"""
    net, x = Nested(), torch.rand(1, 10, I)
    state = (torch.rand(2, 1, H), torch.rand(2, 1, H))
    model = ncnn_run.convert(net, tmp_path / "空 格", inputs={"x": x, "state": state})
    assert net.training and net.lstm.training
    made = net.eval()(x, state=state)
    arrays = [x[0].numpy(), *(s[:, 0].numpy() for s in state)]
    check(model, arrays, squeezed([made["mask"], *made["state"]]))


def test_time_first_and_larger_batches(tmp_path):
    net = torch.nn.LSTM(I, H)
    x = torch.rand(10, 1, I)
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(x,))
    check(model, [x[:, 0].numpy()], squeezed([net(x)[0], *net(x)[1]]))
    assert not model.notes
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(torch.rand(10, 3, I),))
    assert "批是 3" in model.notes[0]


def test_mismatch_leaves_the_old_files(tmp_path):
    for kind in ("param", "bin"):
        (tmp_path / f"m.{kind}").write_text("old")
    with pytest.raises(ValueError, match=r"Last .*不符.*第 4 行的 LSTM 层 lstm_0 .*out0.*连 y 一起返回"):
        ncnn_run.convert(Last(), tmp_path / "m", inputs=(torch.rand(1, 10, I),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.param"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    model = ncnn_run.convert(Last(), tmp_path / "m", inputs=(torch.rand(1, 10, I),), compare=False)
    assert model.difference is None and model.param.read_text() != "old"


def test_a_crash_names_the_layer(tmp_path):
    """TorchScript 里多层 LSTM 的常量初态：pnnx 把线全接错，ncnn 崩溃；只是一个错误。"""
    net, x = Learned(num_layers=2, bidirectional=True).eval(), torch.rand(1, 10, I)
    with quiet.quiet():
        torch.jit.trace(net, x).save(str(tmp_path / "m.pt"))
    with pytest.raises(ValueError, match=r"m\.pt .*不符.*LSTM 层 lstm_\d"):
        ncnn_run.convert(tmp_path / "m.pt", tmp_path / "n", inputs=(x,))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_crash_is_caught_and_swapped_states_are_seen(tmp_path):
    """手工接错的 .param：h、c、x 的次序让 ncnn 崩溃；h 与 c 对换，数不对。"""
    net = Learned().eval()
    x = torch.rand(1, 10, I)
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(x,))
    reference = ncnn_check.Reference([x.numpy()], [net(x).detach().numpy()])
    text = model.param.read_text()
    (layer,) = [layer for layer in ncnn_param.read_param(model.param).layers if layer.type == "LSTM"]
    assert ncnn_check.compare(model.param, model.bin, reference, False)[0] < 1e-5
    a, h, c = layer.bottoms
    for order, said in (((h, c, a), "崩溃|相差|形状|算不下去"), ((a, c, h), "相差")):
        model.param.write_text(text.replace(f" {a} {h} {c} ", f" {' '.join(order)} "))
        with pytest.raises(ncnn_check.Mismatch, match=f"LSTM 层 lstm_0.*({said})"):
            ncnn_check.compare(model.param, model.bin, reference, False)
        texts = ncnn_check.repair(model.param)
        assert len(texts) == (3 if order[0] != a else 1)


def test_refusals_say_what_is_left(tmp_path):
    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    with pytest.raises(ValueError, match=r"没能把 Noisy 全换成 ncnn 的层.*aten::rand_like") as caught:
        ncnn_run.convert(Noisy(), tmp_path / "m", inputs=(torch.rand(1, 4, I),))
    assert "pnnx.param" not in str(caught.value)
    with pytest.raises(ValueError, match=r"权重是 torch\.float16.*fp16=True"):
        ncnn_run.convert(torch.nn.LSTM(I, H).half(), tmp_path / "m", inputs=(torch.rand(4, 1, I).half(),))
    with pytest.raises(ValueError, match="第 0 个是 complex64"):
        ncnn_run.convert(
            torch.nn.Linear(I, H), tmp_path / "m", inputs=(torch.rand(1, I, dtype=torch.complex64),)
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="Linear 在示例输入上跑不起来"):
        ncnn_run.convert(torch.nn.Linear(I, H), tmp_path / "m", inputs=(torch.rand(1, I + 1),))
    net = torch.nn.LSTM(I, H)
    with pytest.raises(ValueError, match=r"应给 torch 模块.*得到 OrderedDict"):
        ncnn_run.convert(net.state_dict(), tmp_path / "m", inputs=(torch.rand(1, I),))


class Given(torch.nn.Module):
    """一层线性层与一层 LSTM，前向由外面给。"""

    def __init__(self, run, name="lstm"):
        super().__init__()
        self.head, self.run = torch.nn.Linear(I, H), run
        self.add_module(name, torch.nn.LSTM(I, H, batch_first=True))

    def forward(self, x):
        return self.run(self, x)


def same_state(net, x):
    h = torch.tanh(net.head(x[:, 0]))[None]
    return net.lstm(x, (h, h))[0]


def test_one_tensor_for_both_states(tmp_path):
    net, x = Given(same_state), torch.rand(1, 4, I)
    check(ncnn_run.convert(net, tmp_path / "m", inputs=x), [x[0]], squeezed([net(x)]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["weight_norm", "compile"])
def test_wrapped_and_parametrized_modules(kind, tmp_path):
    x, net = torch.rand(1, 4, I), Given(lambda net, x: net.lstm(x)[0])
    if kind == "weight_norm":
        torch.nn.utils.parametrizations.weight_norm(net.lstm, "weight_hh_l0")
    given = torch.compile(net, backend="eager") if kind == "compile" else net
    check(ncnn_run.convert(given, tmp_path / "m", inputs=x), [x[0]], squeezed([net(x)]))
    assert hasattr(net.lstm, "parametrizations") == (kind == "weight_norm")  # 给来的模块原样不动


@pytest.mark.filterwarnings("ignore")
def test_the_stated_reason_is_the_true_one(tmp_path):
    def chained(net, x):
        return net.lstm(x, net.lstm(x)[1])[0]

    def inner(net, x):
        return torch.compile(net.lstm, backend="eager")(x)[0]

    quantized = torch.ao.quantization.quantize_dynamic(Given(lambda net, x: net.lstm(x)[0]), {torch.nn.LSTM})
    for net, message in (
        (Given(lambda net, x: net.层(x)[0], name="层"), "不认 ASCII 以外的名字，模块里有 层"),
        (Given(chained), "末状态交给另一个作初态"),
        (Given(lambda net, x: net.lstm(x)[1][0][-1]), r"单向时可以改取 y\[:, -1\]"),
        (quantized, "Given 的 lstm 是 torch.ao 量化用的模块.*量化之前的"),
        (Given(chained).to("meta"), "head.weight 在 meta 设备上"),
        (Given(inner), "Given 不能用 torch.jit.trace 追踪"),
    ):
        with pytest.raises(ValueError, match=message):
            ncnn_run.convert(net, tmp_path / "m", inputs=torch.rand(1, 4, I))
    assert not list(tmp_path.iterdir())


def test_placeholders_become_random_for_the_comparison():
    """占位的零看不出 h 与 c 接反；编号不能乱换。"""
    zero, words, x = torch.zeros(1, 1, H), torch.zeros(1, 4, dtype=torch.int64), torch.rand(1, I)
    first, second, third = ncnn_source.probes((zero, (words, x)))
    assert first.std() > 0.1 and torch.equal(second, words) and torch.equal(third, x)


def test_outputs_are_in_numeric_order(tmp_path):
    """out10 在 out9 后面。"""
    rows = ["Input in0 0 1 in0", "Split s 1 12 in0 " + " ".join(f"a{k}" for k in range(12))]
    rows += [f"BinaryOp b{k} 1 1 a{k} out{k} 0=0 1=1 2={k}.0" for k in range(12)]
    path = tmp_path / "m.param"
    path.write_text("\n".join(["7767517", "14 25", *rows]) + "\n")
    (tmp_path / "m.bin").write_bytes(b"")
    found = ncnn_run.NcnnRunner(path, tmp_path / "m.bin")(np.zeros(3))
    assert [float(y[0]) for y in found] == list(range(12))
