"""ncnn 各层在 .bin 里存了什么：与 ncnn 自己的读法核对；哪些层不必认识；LSTM 的初态从哪里来。"""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.formats import ncnn_bin, ncnn_layers, ncnn_notes, ncnn_param, ncnn_run

# 每种存权重的层一行以上；权重全是零（标志 0 就是 float32），所以文件就是这么多个零
LAYERS = """
Convolution c 1 1 a b 0=4 1=3 5=1 6=72
Convolution c 1 1 a b 0=4 1=3 5=1 6=72 8=2
Convolution c 1 1 a b 0=4 1=3 5=0 6=72 8=102
Convolution c 2 1 a a2 b 0=4 1=3 5=0 6=72 19=1
ConvolutionDepthWise c 1 1 a b 0=4 1=3 5=1 6=36 7=4
ConvolutionDepthWise c 1 1 a b 0=4 1=3 5=1 6=36 7=4 8=1
ConvolutionDepthWise c 1 1 a b 0=4 1=3 5=1 6=36 7=4 8=2
ConvolutionDepthWise c 1 1 a b 0=4 1=3 5=1 6=36 7=4 8=101
Convolution1D c 1 1 a b 0=4 1=3 5=1 6=24
ConvolutionDepthWise1D c 1 1 a b 0=4 1=3 5=1 6=12 7=4
Convolution3D c 1 1 a b 0=4 1=3 5=1 6=108
ConvolutionDepthWise3D c 1 1 a b 0=4 1=3 5=1 6=108 7=4
DeformableConv2D c 2 1 a a2 b 0=4 1=3 5=1 6=72
Deconvolution c 1 1 a b 0=4 1=3 5=1 6=72 19=1
DeconvolutionDepthWise c 1 1 a b 0=4 1=3 5=1 6=36 7=4 18=1 19=1
Deconvolution1D c 1 1 a b 0=4 1=3 5=0 6=24
DeconvolutionDepthWise1D c 1 1 a b 0=4 1=3 5=1 6=12 7=4
Deconvolution3D c 1 1 a b 0=4 1=3 5=1 6=108
DeconvolutionDepthWise3D c 1 1 a b 0=4 1=3 5=1 6=108 7=4
InnerProduct c 1 1 a b 0=4 1=1 2=24
InnerProduct c 1 1 a b 0=4 1=0 2=24 8=2
Embed c 1 1 a b 0=6 1=9 2=0 3=54
Embed c 1 1 a b 0=6 1=9 2=1 3=54 18=2
LSTM c 1 1 a b 0=3 1=120 2=0 3=5
LSTM c 1 1 a b 0=5 1=240 2=2 8=2
GRU c 1 1 a b 0=5 1=90 2=0
GRU c 1 1 a b 0=5 1=180 2=2 8=2
RNN c 1 1 a b 0=5 1=60 2=2
RNN c 1 1 a b 0=5 1=30 2=1 8=2
Gemm c 1 1 a b 3=1 5=1 6=1 8=4 9=6 10=4
Gemm c 1 1 a b 2=1 4=1 6=1 7=3 9=6 10=3 8=4
Gemm c 1 1 a b 3=1 5=1 6=1 8=4 9=6 10=-1 18=2
Gemm c 1 1 a b 4=1 5=1 7=3 8=4 9=6 18=2
MultiHeadAttention c 1 1 a b 0=6 1=2 2=36
MultiHeadAttention c 3 1 a a2 a3 b 0=6 1=2 2=48 3=5 4=7 18=2
MemoryData c 0 1 b 0=5 1=2 2=3
MemoryData c 0 1 b 0=5 1=2 11=3 2=2 21=0
MemoryData c 0 1 b
BatchNorm c 1 1 a b 0=5
LayerNorm c 1 1 a b 0=5
LayerNorm c 1 1 a b 0=5 2=0
RMSNorm c 1 1 a b 0=5
GroupNorm c 1 1 a b 0=2 1=6
GroupNorm c 1 1 a b 0=2 1=6 3=0
InstanceNorm c 1 1 a b 0=5
PReLU c 1 1 a b 0=5
Scale c 1 1 a b 0=5 1=1
Scale c 2 1 a a2 b 0=-233
Bias c 1 1 a b 0=5
Normalize c 1 1 a b 3=5
Quantize c 1 1 a b
Dequantize c 1 1 a b 0=5 1=5
Requantize c 1 1 a b 0=5 1=1 2=5
Padding c 1 1 a b 0=1 6=5
""".strip().splitlines()
LOAD = """
import sys, ncnn
for case in range(int(sys.argv[2])):
    for size in ("whole", "short"):
        net = ncnn.Net()
        print(net.load_param(f"{sys.argv[1]}/{case}.param"), net.load_model(f"{sys.argv[1]}/{case}.{size}"), flush=True)
"""


def write_param(path, *rows):
    blobs = {word for row in rows for word in row.split()[4 : 4 + sum(map(int, row.split()[2:4]))]}
    path.write_text("\n".join(["7767517", f"{len(rows)} {len(blobs)}", *rows]) + "\n")
    return path


def test_block_rules_are_ncnns_own(tmp_path):
    """每层后面再接一个 PReLU：照我们数的字节正好读完，少 4 个字节 ncnn 就读不到它的最后一个数。"""
    for k, row in enumerate(LAYERS):
        inputs = [f"Input {b} 0 1 {b}" for b in row.split()[4 : 4 + int(row.split()[2])]]
        path = write_param(tmp_path / f"{k}.param", *inputs, row, "PReLU p 1 1 b out 0=3")
        sizes = []
        for layer in ncnn_param.read_param(path).layers:
            assert ncnn_layers.known(layer), row
            sizes += [4 * count + 4 * flagged for _, count, flagged in ncnn_layers.blocks(layer)]
        (tmp_path / f"{k}.whole").write_bytes(bytes(sum(sizes)))
        (tmp_path / f"{k}.short").write_bytes(bytes(sum(sizes) - 4))
        assert sum(block.size for block in ncnn_bin.bin_layout(path, tmp_path / f"{k}.whole")) == sum(sizes)
    command = [sys.executable, "-c", LOAD, str(tmp_path), str(len(LAYERS))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = result.stdout.splitlines()
    for k, row in enumerate(LAYERS):
        assert said[2 * k : 2 * k + 2] == ["0 0", "0 -1"], (row, result.stderr[-500:])


def test_every_built_in_layer_is_known():
    """ncnn 给自带的层从 0 起编号；我们认得的名字正好占满。"""
    import ncnn

    names = set(ncnn_layers._BLOCKS) | ncnn_layers._WEIGHTLESS
    assert set(ncnn_layers._BLOCKS) == {row.split()[0] for row in LAYERS}
    numbers = {name: ncnn.layer_to_index(name) for name in names}
    assert -1 not in numbers.values(), [name for name, k in numbers.items() if k < 0]
    assert set(numbers.values()) == set(range(len(names)))


class Before(torch.nn.Module):
    """LSTM 前面放一层别的。"""

    def __init__(self, layer, forward):
        super().__init__()
        self.layer, self.run, self.lstm = layer, forward, torch.nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        return self.lstm(self.run(self.layer, x))[0]


def swap(layer, x):
    return layer(x.transpose(1, 2)).transpose(1, 2)


BEFORE = {
    "depthwise": (
        lambda: torch.nn.Sequential(
            torch.nn.Conv1d(6, 6, 3, padding=1, groups=6), torch.nn.BatchNorm1d(6), torch.nn.PReLU()
        ),
        swap,
    ),
    "gru": (lambda: torch.nn.GRU(6, 6, batch_first=True), lambda layer, x: layer(x)[0]),
    "attention": (
        lambda: torch.nn.MultiheadAttention(6, 2, batch_first=True),
        lambda layer, x: layer(x, x, x)[0],
    ),
    "norms": (
        lambda: torch.nn.Sequential(torch.nn.LayerNorm(6), torch.nn.Linear(6, 6), torch.nn.Mish()),
        lambda layer, x: layer(x),
    ),
    "transposed": (lambda: torch.nn.ConvTranspose1d(6, 6, 3, padding=1), swap),
}


@pytest.mark.parametrize(("name", "fp16"), [*((name, False) for name in BEFORE), ("depthwise", True)])
def test_lstm_behind_other_layers_is_read_exactly(name, fp16, tmp_path):
    torch.manual_seed(0)
    make, forward = BEFORE[name]
    net = Before(make(), forward).eval()
    model = ncnn_run.convert(net, tmp_path / "m", inputs=(torch.rand(1, 10, 6),), fp16=fp16)
    ours, theirs = LSTM.from_ncnn(model.param, model.bin), LSTM.from_torch(net.lstm)
    for key, value in theirs.parameters.items():
        bound = np.maximum(2.0**-11 * np.abs(value), 2.0**-14) if fp16 else 0
        assert (np.abs(ours.parameters[key] - value) <= bound).all(), key


def plain_lstm(folder, rng, *extra):
    """一个 LSTM 层（6 → 5），后面还可以有别的字节；返回 .bin 的路径与写进去的三块。"""
    blocks = [rng.standard_normal(n).astype("<f4") for n in (120, 20, 100)]
    data = b"".join(bytes(4) + block.tobytes() for block in blocks)
    (folder / "m.bin").write_bytes(data + b"".join(extra))
    return folder / "m.bin", blocks


def test_layers_behind_the_lstm_need_not_be_known(tmp_path):
    """自定义层在后面：照读；在前面：说清是哪一层、为什么不行；名字带点的不说成是 pnnx 的。"""
    rng = np.random.default_rng(0)
    weights, blocks = plain_lstm(tmp_path, rng, b"whatever the custom layer keeps")
    lstm = "LSTM l 1 1 {} y 0=5 1=120"
    behind = write_param(
        tmp_path / "behind.param", "Input x 0 1 x", lstm.format("x"), "rife.Warp w 1 1 y z 0=1"
    )
    assert np.array_equal(ncnn_bin.read_lstm(behind, weights).weight_hc.ravel(), blocks[2])
    before = write_param(
        tmp_path / "before.param", "Input x 0 1 x", "rife.Warp w 1 1 x z 0=1", lstm.format("z")
    )
    with pytest.raises(ValueError, match=r"before\.param：第 4 行的 rife\.Warp.*自带.*LSTM 层 l") as caught:
        ncnn_bin.read_lstm(before, weights)
    assert "pnnx" not in str(caught.value)


def test_pnnx_operators_are_told_from_unfinished_conversions(tmp_path):
    path = write_param(tmp_path / "m.pnnx.param", "pnnx.Input x 0 1 x", "nn.LSTM l 1 1 x y bias=True")
    with pytest.raises(ValueError, match=r"第 3 行的 pnnx\.Input 是 pnnx 的算子；请给 \.ncnn\.param"):
        ncnn_param.read_param(path)
    path = write_param(tmp_path / "m.ncnn.param", "Input x 0 1 x", "nn.MaxPool2d l 1 1 x y ceil_mode=False")
    with pytest.raises(ValueError, match=r"第 4 行的 nn\.MaxPool2d .*ncnn 也载入不了"):
        ncnn_param.read_param(path)


def test_looked_up_weights(tmp_path):
    """别的标志是旧工具的查表量化：字节数正好对上才信。"""
    rng = np.random.default_rng(0)
    table, index = rng.standard_normal(256).astype("<f4"), rng.integers(0, 256, 119, np.uint8)
    flag = b"\x01\x00\x00\x00"
    rest = [rng.standard_normal(n).astype("<f4") for n in (20, 100)]
    data = flag + table.tobytes() + index.tobytes() + b"\x07"
    data += b"".join(bytes(4) + block.tobytes() for block in rest)
    path = write_param(tmp_path / "m.param", "Input x 0 1 x", "LSTM l 1 1 x y 0=5 1=120")
    (tmp_path / "m.bin").write_bytes(data)
    lstm = ncnn_bin.read_lstm(path, tmp_path / "m.bin")
    assert lstm.storage == "table"
    assert np.array_equal(lstm.weight_xc.ravel(), table[np.append(index, 7)])
    assert np.array_equal(lstm.weight_hc.ravel(), rest[1])
    (tmp_path / "m.bin").write_bytes(data + bytes(4))
    with pytest.raises(ValueError, match="0x00000001 不认识"):
        ncnn_bin.read_lstm(path, tmp_path / "m.bin")


def test_counts_that_ncnn_tolerates(tmp_path):
    rng = np.random.default_rng(0)
    weights, blocks = plain_lstm(tmp_path, rng)
    rows = ["Input x 0 1 x", "LSTM l 1 1 x y 0=5 1=120"]
    path = tmp_path / "m.param"
    cases = {
        "2 9": (rows, "声明 9 个数据块"),
        "2 2": ([*rows, "Sigmoid s 1 1 y z"], "声明 2 层，后面却有 3 行"),
        "1 2": (rows[1:], "'x' 没有哪一层产生"),
    }
    for counts, (lines, said) in cases.items():
        path.write_text("\n".join(["7767517", counts, *lines]) + "\n")
        (note,) = ncnn_param.read_param(path).notes
        assert said in note
        assert np.array_equal(ncnn_bin.read_lstm(path, weights).bias.ravel(), blocks[1])
        runner = ncnn_run.NcnnRunner(path, weights)
        assert runner.inputs == ["x"] and runner(np.zeros((3, 6))).shape == (3, 5)
    path.write_text("\n".join(["7767517", "2 9", *rows]) + "\n")
    assert [note.text for note in ncnn_notes.annotate(path, weights) if not note.ok] == ["9"]


# ---- 初态 ----

H, C = np.float32([1, 2, 3, 4, 5]) / 10, np.float32([-5, 4, -3, 2, -1]) / 10
FEED = "MemoryData h 0 1 h 0=5 1=1"
KEEP = "MemoryData c 0 1 c 0=5 1=1 2=1"


def lstm_with_state(folder, *rows, memory=(H, C)):
    """MemoryData 的数先存，LSTM 的在后面；返回 (LSTM, 随机的权重)。"""
    rng = np.random.default_rng(0)
    path = write_param(folder / "m.param", "Input x 0 1 x", *rows)
    weights, _ = plain_lstm(folder, rng)
    weights.write_bytes(b"".join(np.float32(a).tobytes() for a in memory) + weights.read_bytes())
    return LSTM.from_ncnn(path, weights)


@pytest.mark.parametrize(
    ("rows", "h", "c"),
    [
        ([FEED, KEEP, "LSTM l 3 1 x h c y 0=5 1=120"], H, C),
        ([FEED, KEEP, "LSTM l 3 1 h c x y 0=5 1=120"], H, C),  # pnnx 写的次序
        (["MemoryData m 0 1 m 0=5 1=2", "Slice s 1 2 m h c -23300=2,-233,-233 1=0",
          "LSTM l 3 1 x h c y 0=5 1=120"], H, C),
        ([FEED, KEEP, "BinaryOp b 1 1 h h2 0=2 1=1 2=0.5", "TanH t 1 1 c c2",
          "LSTM l 3 1 x h2 c2 y 0=5 1=120"], H / 2, np.tanh(C)),
        (["MemoryData a 0 1 a 0=5", "MemoryData b 0 1 b 0=5", "Split s 1 2 a a1 a2",
          "BinaryOp d 2 1 a1 b d 0=1", "Reshape r 1 1 d h 0=5 1=1", "ExpandDims e 1 1 a2 c -23303=1,0",
          "LSTM l 3 1 x h c y 0=5 1=120"], H - C, H),
    ],
)  # fmt: skip
def test_constant_state_is_read(rows, h, c, tmp_path):
    lstm = lstm_with_state(tmp_path, *rows)
    x = np.random.default_rng(1).standard_normal((7, 6))
    state = (np.float32(h)[None], np.float32(c)[None])
    y, (last_h, last_c) = lstm(x)
    expected, (wanted_h, wanted_c) = lstm(x, state)
    assert np.allclose(y, expected, atol=1e-5) and np.allclose(last_h, wanted_h, atol=1e-6)
    assert np.allclose(last_c, wanted_c, atol=1e-5)
    assert np.abs(y - lstm(x, (np.zeros((1, 5)),) * 2)[0]).max() > 0.01


def test_state_from_inputs_is_required(tmp_path):
    """图的输入、随 x 而变的：不给 state 就拒绝，给了照算。"""
    cases = (
        ["Input h 0 1 h", "Input c 0 1 c", "LSTM l 3 1 x h c y 0=5 1=120"],
        ["Split s 1 3 x x1 x2 x3", "LSTM l 3 1 x1 x2 x3 y 0=5 1=120"],
    )
    for rows in cases:
        lstm = lstm_with_state(tmp_path, *rows, memory=())
        x, zero = np.ones((3, 6)), np.zeros((1, 5))
        with pytest.raises(ValueError, match=r"初态.*state 传入"):
            lstm(x)
        assert lstm(x, (zero, zero))[0].shape == (3, 5)


@pytest.mark.parametrize(
    ("rows", "memory"),
    [
        ([FEED, KEEP, "LSTM l 3 1 x h c y 0=5 1=120"], (H * 0, C * 0)),
        (["Split s 1 3 x x1 x2 x3", "BinaryOp a 1 1 x2 h 0=2 1=1 2=0.0",
          "BinaryOp b 1 1 x3 c 0=2 1=1 2=0.0", "LSTM l 3 1 x1 h c y 0=5 1=120"], ()),
    ],
)  # fmt: skip
def test_provable_zero_needs_no_state(rows, memory, tmp_path):
    lstm = lstm_with_state(tmp_path, *rows, memory=memory)
    assert lstm.initial_state is None and lstm(np.ones((3, 6)))[0].shape == (3, 5)


def test_state_of_the_wrong_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"m\.param：第 7 行（l） 的初态 h 有 10 个数，应有 1×5"):
        lstm_with_state(
            tmp_path, "MemoryData h 0 1 h 0=5 1=2", KEEP, "Noop n 1 1 x x2",
            "LSTM l 3 1 x2 h c y 0=5 1=120", memory=(H, H, C),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([FEED, KEEP, "LSTM l 3 1 h c x y 0=5 1=120"], "第 6 行（l） 的输入里常量排在 x 前面"),
        ([FEED, "GRU l 2 1 h x y 0=5 1=90"], "第 5 行（l） 的输入里常量排在 x 前面"),
        (["MemoryData h 0 1 h 0=5 1=1 2=2", "Split s 1 2 h h1 h2",
          "LSTM l 3 1 x h1 h2 y 0=5 1=240 2=2"], "第 4 行（h） 是 LSTM 的初态，写成了三维"),
    ],
)  # fmt: skip
def test_runner_refuses_what_would_crash_ncnn(rows, said, tmp_path):
    path = write_param(tmp_path / "m.param", "Input x 0 1 x", *rows)
    layers = ncnn_param.read_param(path).layers
    size = sum(4 * n + 4 * flag for layer in layers for _, n, flag in ncnn_layers.blocks(layer))
    (tmp_path / "m.bin").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=said):
        ncnn_run.NcnnRunner(path, tmp_path / "m.bin")
