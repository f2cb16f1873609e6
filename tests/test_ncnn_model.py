"""ncnn：转换、运行、解析 .param 与 .bin；坏文件只会得到指明行或字节的错误，不崩溃也不吃内存。"""

import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lstm_lib import LSTM
from lstm_lib.formats import ncnn_bin, ncnn_notes, ncnn_param, ncnn_run, onnx_graph
from lstm_lib.lstm import layouts


class Net(torch.nn.Module):
    def __init__(self, i=6, h=5, head=False, **options):
        super().__init__()
        self.mask = torch.nn.LSTM(i, h, batch_first=True, **options)
        width = (options.get("proj_size") or h) * (1 + options.get("bidirectional", False))
        self.head = torch.nn.Linear(width, 3) if head else torch.nn.Identity()

    def forward(self, x):
        return torch.sigmoid(self.head(self.mask(x)[0]))

    def forward_with_state(self, x, state):
        y, state = self.mask(x, state)
        return torch.sigmoid(self.head(y)), state


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ncnn 中文")
    net = Net().eval()
    return net, ncnn_run.convert(net, folder / "n", inputs=(torch.rand(1, 10, 6),))


def difference(net, model, frames=17):
    x = torch.rand(1, frames, net.mask.input_size)
    y = ncnn_run.NcnnRunner(model.param, model.bin)(x[0].numpy())
    return np.abs(np.squeeze(y) - np.squeeze(net(x)[0].detach().numpy())).max()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": True},
        {"num_layers": 2},
        {"bidirectional": True},
        {"num_layers": 2, "bidirectional": True},
        {"proj_size": 2},
        {"bias": False},
        {"i": 1, "h": 1},
        {"i": 33, "h": 17},
    ],
)
def test_conversion_matches_torch_and_the_file(options, tmp_path):
    torch.manual_seed(1)
    net = Net(**options).eval()
    x = torch.rand(1, 10, net.mask.input_size)
    full = ncnn_run.convert(net, tmp_path / "full", inputs=(x,))
    assert difference(net, full) < 1e-5
    layers = [layer.name for layer in ncnn_param.read_param(full.param).layers if layer.type == "LSTM"]
    both = 2 if options.get("bidirectional") else 1
    for k, name in enumerate(layers):
        lstm = ncnn_bin.read_lstm(full.param, full.bin, name)
        for d in range(both):
            suffix = f"_l{k}" + ("_reverse" if d else "")
            weight = {n: getattr(net.mask, f"weight_{n}{suffix}").detach().numpy() for n in ("ih", "hh")}
            for ours, theirs in ((lstm.weight_xc, weight["ih"]), (lstm.weight_hc, weight["hh"])):
                assert np.array_equal(layouts.reorder(ours[d], "ncnn", "torch"), theirs)
            if options.get("bias", True):
                biases = [getattr(net.mask, f"bias_{n}{suffix}").detach().numpy() for n in ("ih", "hh")]
                assert np.array_equal(layouts.reorder(lstm.bias[d], "ncnn", "torch"), sum(biases))
                assert not np.array_equal(layouts.reorder(lstm.bias[d], "ncnn", "torch"), biases[0])
        assert (lstm.weight_hr is not None) == bool(options.get("proj_size"))
    assert all(note.ok for note in ncnn_notes.annotate(full.param, full.bin))
    half = ncnn_run.convert(net, tmp_path / "half", inputs=(x,), fp16=True)
    stored = ncnn_bin.read_lstm(half.param, half.bin, layers[0])
    exact = ncnn_bin.read_lstm(full.param, full.bin, layers[0])
    assert stored.storage == "fp16" and exact.storage == "fp32"
    bound = np.maximum(2.0**-11 * np.abs(exact.weight_xc), 2.0**-14)
    assert (np.abs(stored.weight_xc - exact.weight_xc) <= bound).all()


def test_onnx_road_gives_the_same_bytes(converted, tmp_path):
    net, model = converted
    path = onnx_graph.export(net, (torch.rand(1, 10, 6),), tmp_path / "a.onnx")
    onnx_graph.simplify(path, tmp_path / "b.onnx")
    simple = ncnn_run.convert(tmp_path / "b.onnx", tmp_path / "b")
    assert simple.bin.read_bytes() == model.bin.read_bytes()
    raw = ncnn_run.convert(path, tmp_path / "c")
    assert len(ncnn_param.read_param(raw.param).layers) == 5 and difference(net, raw) < 1e-5


@pytest.mark.parametrize("bidirectional", [False, True])
def test_state_in_and_out(bidirectional, tmp_path):
    torch.manual_seed(2)
    net = Net(bidirectional=bidirectional).eval()
    d = 1 + bidirectional
    state = tuple(torch.rand(d, 1, 5) for _ in range(2))
    model = ncnn_run.convert(
        onnx_graph.with_state(net), tmp_path / "s", inputs=(torch.rand(1, 10, 6), *state)
    )
    runner = ncnn_run.NcnnRunner(model.param, model.bin)
    x = torch.rand(1, 9, 6)
    expected, (h, c) = net.forward_with_state(x, state)
    start = tuple(s[:, 0].numpy() for s in state)
    y, *last = runner(x[0].numpy(), *start) if bidirectional else ncnn_run.run_streaming(runner, x[0], start)
    last = last if bidirectional else last[0]
    for ours, theirs in ((y, expected[0]), (last[0], h[:, 0]), (last[1], c[:, 0])):
        assert np.abs(ours - theirs.detach().numpy()).max() < 1e-5
    for frames, value, message in (
        (x[0, :0], start, r"至少一帧，得到 \(0, 6\)"),
        (x, start, r"frames 的形状应为 \(T, 特征\)"),
        (x[0], None, r"state 应是 \(h, c\) 两个数组"),
        (x[0], start[:1], r"state 应是 \(h, c\) 两个数组"),
    ):
        with pytest.raises(ValueError, match=message):
            ncnn_run.run_streaming(runner, frames, value)


def test_runner_copes_with_strides_types_and_wrong_counts(converted):
    _, model = converted
    runner = ncnn_run.NcnnRunner(model.param, model.bin)
    x = np.random.default_rng(0).random((6, 20), dtype=np.float32)
    expected = runner(np.ascontiguousarray(x.T))
    assert np.array_equal(runner(x.T), expected)  # 不连续
    assert np.array_equal(runner(x.T.astype(np.float64)), expected)  # float64
    y = torch.from_numpy(np.ascontiguousarray(x.T))
    for value in (y.clone().requires_grad_(), y.to_sparse(), list(y.clone().requires_grad_())):
        assert np.array_equal(runner(value), expected)
    assert np.array_equal(runner(y.bfloat16()), runner(y.bfloat16().float()))
    with pytest.raises(ValueError, match="1 个输入"):
        runner(x, x)
    for value, message in (
        (y.to("meta"), "输入 in0 是 Tensor，变不成数组：meta 设备"),
        (torch.nn.utils.rnn.pack_sequence([y]), "输入 in0 是 PackedSequence.*pad_packed_sequence"),
        (np.ma.masked_greater(x.T, 0.5), "输入 in0 有遮住的元素"),
        ([[1, 2], [3]], "输入 in0 是 list，变不成数组：各行长短不一"),
        (None, "输入 in0 应是实数（float32），得到 NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            runner(value)


def test_missing_files_and_folders_are_named(converted, tmp_path):
    _, model = converted
    for read in (ncnn_run.NcnnRunner, LSTM.from_ncnn, ncnn_bin.bin_layout):
        with pytest.raises(FileNotFoundError, match=r"找不到 \.param 文件：.*x\.param"):
            read(tmp_path / "x.param", model.bin)
        with pytest.raises(FileNotFoundError, match=r"找不到 \.bin 文件：.*x\.bin"):
            read(model.param, tmp_path / "x.bin")
        with pytest.raises(IsADirectoryError, match=r"是文件夹，不是 \.param 文件"):
            read(tmp_path, model.bin)
        with pytest.raises(IsADirectoryError, match=r"是文件夹，不是 \.bin 文件"):
            read(model.param, tmp_path)


WRONG_SHAPES = {  # 数组的形状 → 报错里应有的话；第一组送给 x → y，第二组送给 x、h、c → y、h、c
    "full": {
        ((20, 5),): "输入 in0 的形状应为 (T, 6)，得到 (20, 5)：最后一维应为 6",
        ((6, 20),): "最后一维应为 6，是不是转置了？",
        ((1, 20, 6),): "ncnn 没有批这一维",
        ((6,),): "frame[None]",
        ((0, 6),): "一帧也没有",
    },
    "state": {
        ((1, 6), (2, 4), (2, 5)): "输入 in1 的形状应为 (2, 3)，得到 (2, 4)：最后一维应为 3",
        ((1, 6), (2, 3), (2, 3)): "输入 in2 的形状应为 (2, 5)，得到 (2, 3)",
        ((1, 6), (1, 3), (2, 5)): "第一维（方向数）应为 2",
        ((1, 6), (2, 3), (0, 5)): "输入 in2 的形状应为 (2, 5)，得到 (0, 5)",
    },
}
SCRIPT = """
import sys
import numpy as np
from lstm_lib.formats.ncnn_run import NcnnRunner
runner = NcnnRunner(sys.argv[1], sys.argv[2])
for shapes in eval(sys.argv[3]):
    try:
        runner(*(np.zeros(shape, np.float32) for shape in shapes))
    except ValueError as error:
        print(error, flush=True)
    else:
        print("没有报错", flush=True)
"""


def test_wrong_shapes_are_refused_before_ncnn_reads_past_them(converted, tmp_path):
    """在子进程里试：ncnn 自己不查状态的宽，越界会让整个进程死掉，不留一句话。"""
    net = Net(bidirectional=True, proj_size=3).eval()
    state = (torch.rand(2, 1, 3), torch.rand(2, 1, 5))
    stateful = ncnn_run.convert(
        onnx_graph.with_state(net), tmp_path / "s", inputs=(torch.rand(1, 10, 6), *state)
    )
    for title, model in (("full", converted[1]), ("state", stateful)):
        cases = WRONG_SHAPES[title]
        command = [sys.executable, "-c", SCRIPT, str(model.param), str(model.bin), repr(list(cases))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{title}：子进程的返回码是 {result.returncode}\n{result.stderr}"
        said = result.stdout.splitlines()
        assert len(said) == len(cases), f"{title}：{said}"
        for message, (shapes, wanted) in zip(said, cases.items(), strict=True):
            assert wanted in message, f"{shapes}：应说“{wanted}”，说的是“{message}”"


def test_only_inputs_that_reach_an_lstm_are_checked(tmp_path):
    """送进 LSTM 之前隔着 Split 的也查；没有 LSTM 的模型，任何形状都放行。"""
    weights = np.zeros(3 + 120 + 20 + 100, np.float32).tobytes()  # 每块前有 4 字节的标志 0
    split = GOOD.replace("3 3", "4 5").replace("LSTM l 1 1 in0 1", "Split s0 1 2 in0 a b\nLSTM l 1 1 a 1")
    (tmp_path / "split.param").write_text(split)
    (tmp_path / "split.bin").write_bytes(weights)
    runner = ncnn_run.NcnnRunner(tmp_path / "split.param", tmp_path / "split.bin")
    with pytest.raises(ValueError, match="最后一维应为 6"):
        runner(np.zeros((4, 7), np.float32))
    assert [y.shape for y in runner(np.zeros((4, 6), np.float32))] == [(4, 6), (4, 5)]
    (tmp_path / "plain.param").write_text("7767517\n2 2\nInput in0 0 1 in0\nSigmoid s 1 1 in0 out0\n")
    (tmp_path / "plain.bin").write_bytes(b"")
    plain = ncnn_run.NcnnRunner(tmp_path / "plain.param", tmp_path / "plain.bin")
    assert plain(np.zeros((2, 3, 4), np.float32)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="复数的谱要先取幅度"):
        plain(np.zeros((2, 3), complex))


def test_conversion_errors_name_the_file(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"bad\.onnx"):
        ncnn_run.convert(tmp_path / "bad.onnx", tmp_path / "x")
    (tmp_path / "bad.pt").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="pnnx 转换"):
        ncnn_run.convert(tmp_path / "bad.pt", tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="找不到"):
        ncnn_run.convert(tmp_path / "none.onnx", tmp_path / "x")
    assert not list(tmp_path.glob("x.*"))


GOOD = "7767517\n3 3\nInput in0 0 1 in0\nLSTM l 1 1 in0 1 0=5 1=120 2=0 3=5\nSigmoid s 1 1 1 out0\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767518", "第 1 行"),
        ("3 3", "4 3", "第 2 行.*4 层"),
        ("3 3", "3 2", "第 2 行.*2 个数据块"),
        ("LSTM l 1 1 in0", "LSTM l 1 1 nothing", "第 4 行.*nothing"),
        ("LSTM l 1 1", "LSTM l 9 1", "第 4 行.*9 个输入"),
        ("1=120", "1=121", "第 4 行.*121"),
        ("0=5", "0=-5", "第 4 行.*0=-5"),
        ("0=5", "0=5.5", "第 4 行.*应是整数"),
        ("2=0", "2=7", "第 4 行.*方向"),
        ("3=5", "99=5", "第 4 行.*99"),
        ("1=120", "1=99999999999", "第 4 行.*32 位"),
        ("1=120", "1=2000000000", "字节"),
        ("LSTM l", "nn.LSTM l", "pnnx"),
        ("Sigmoid s", "LSTM s", "用 name 指定"),
        ("LSTM l 1 1 in0 1", "Sigmoid l 1 1 in0 1", "没有 LSTM"),
        ("Input in0 0 1 in0", "Wavelet in0 0 1 in0", "Wavelet"),
    ],
)
def test_broken_param_is_refused_with_the_line(converted, tmp_path, old, new, message):
    _, model = converted
    assert old in GOOD
    path = tmp_path / "x.param"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        ncnn_bin.read_lstm(path, model.bin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "第 648 字节|只有"),
        (lambda b: b[:3], "只有 3 字节"),
        (lambda b: b"", "只有 0 字节"),
        (lambda b: b + b"\0", "多出 1 字节"),
        (lambda b: b"\x47\x6b\x30\x02" + b[4:], "0x02306B47"),
        (lambda b: b"\x38\x4b\x0d\x00" + b[4:], "字节|8="),
    ],
)
def test_broken_bin_is_refused_with_the_byte(converted, tmp_path, change, message):
    _, model = converted
    (tmp_path / "x.bin").write_bytes(change(model.bin.read_bytes()))
    with pytest.raises(ValueError, match=message):
        ncnn_bin.read_lstm(model.param, tmp_path / "x.bin")


def notes_of(path, *bins):
    return {note.text: note for note in ncnn_notes.annotate(path, *bins)}


def test_notes_tick_only_what_was_compared(converted, tmp_path):
    _, model = converted
    path = tmp_path / "x.param"
    path.write_text(GOOD.replace("2=0 3=5", "2=7"))
    notes = notes_of(path)  # 没有 .bin
    assert not notes["2=7"].ok and "0、1、2" in notes["2=7"].check
    assert notes["（没有 3=）"].check == "" and notes["0=5"].check == ""
    path.write_text(GOOD.replace(" 3=5", ""))
    notes = notes_of(path, model.bin)
    assert notes["（没有 3=）"].ok and "20 行" in notes["（没有 3=）"].check
    assert notes["7767517"].ok and notes["2=0"].check == "" and "正向" in notes["2=0"].meaning


def test_notes_are_one_table(converted):
    """页面与终端里是同一张表：一行 .param 合成一组，每个词都在。"""
    _, model = converted
    notes = ncnn_notes.annotate(model.param, model.bin)
    page, text = notes._repr_html_(), repr(notes)
    spans = [int(n) for n in re.findall(r'rowspan="(\d+)"', page)]
    lines = [note.line for note in notes]
    assert spans == [lines.count(k) for k in sorted(set(lines)) if lines.count(k) > 1]
    assert all(f"<code>{note.text}</code>" in page and note.meaning in text for note in notes)
    assert page.count("✓") == sum(bool(note.check) for note in notes) > 5 and "✗" not in page


def test_int8_file(tmp_path):
    """手工写一个 int8 文件：整数 ÷ scale 就是权重。"""
    rng = np.random.default_rng(0)
    xc, hc = rng.integers(-127, 128, (20, 6), np.int8), rng.integers(-127, 128, (20, 5), np.int8)
    bias, sx, sh = (rng.random(20, dtype=np.float32) + 1 for _ in range(3))
    flag = ncnn_bin.FLAG_INT8.to_bytes(4, "little")
    parts = [flag, xc.tobytes(), bytes(4), bias.tobytes(), flag, hc.tobytes(), sx.tobytes(), sh.tobytes()]
    (tmp_path / "q.bin").write_bytes(b"".join(parts))
    (tmp_path / "q.param").write_text(GOOD.replace("3=5", "3=5 8=2"))
    lstm = ncnn_bin.read_lstm(tmp_path / "q.param", tmp_path / "q.bin")
    assert lstm.storage == "int8" and np.array_equal(lstm.weight_hc_int8[0], hc)
    assert np.allclose(lstm.weight_xc[0], xc / sx[:, None]) and np.array_equal(lstm.bias[0], bias)


WORDS = st.sampled_from(
    "7767517 3 5 LSTM Input Split Gemm MemoryData Sigmoid in0 out0 0=5 1=120 2=0 3=5 8=1 -23303=2,1,2"
    ' 0=2147483647 1=2147483647 6="5,0h" 21=0 -1 1 0 2 = 0= =1 0="abc 0=1e9 0=nan 99999999999999'.split()
)
TEXTS = st.one_of(
    st.binary(max_size=120),
    st.lists(st.lists(WORDS, max_size=12).map(" ".join), max_size=6).map(
        lambda rows: "\n".join(rows).encode()
    ),
    st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=4)).map(
        lambda p: GOOD.encode()[: p[0]] + p[1] + GOOD.encode()[p[0] + 1 :]
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, weights=st.binary(max_size=60), swap=st.booleans())
@example(text=GOOD.replace("0=5 1=120", "0=2147483647 1=2147483644").encode(), weights=b"", swap=True)
def test_any_bytes_give_an_error_or_an_answer(converted, tmp_path, text, weights, swap):
    _, model = converted
    (tmp_path / "f.param").write_bytes(text)
    (tmp_path / "f.bin").write_bytes(weights if swap else model.bin.read_bytes())
    tracemalloc.start()
    try:
        lstm = ncnn_bin.read_lstm(tmp_path / "f.param", tmp_path / "f.bin")
        assert lstm.weight_xc.shape[1:] == (4 * lstm.hidden_size, lstm.input_size)
    except ValueError as error:
        assert "f.param" in str(error) or "f.bin" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5_000_000, f"读一个小文件用了 {peak} 字节"
