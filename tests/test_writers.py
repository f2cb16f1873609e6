"""写出去的 ONNX 与 ncnn 文件：读回来一个比特不差；图合规范；放不下的拒绝。"""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lstm_lib import LSTM
from lstm_lib.formats import ncnn_bin, ncnn_run, onnx_graph, onnx_lstm, writers
from lstm_lib.lstm import layouts
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.native.quantize import quantize_rows

SIZES = [(6, 5, 1), (3, 7, 2), (1, 1, 3), (256, 257, 1)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
biases = pytest.mark.parametrize("bias", [True, False], ids=["有偏置", "没有偏置"])


def make(size, bias=True):
    config, rng = LSTMConfig(*size, bias=bias), np.random.default_rng(sum(size))
    return LSTM(config, {k: rng.normal(size=s).astype(np.float32) for k, s in config.shapes().items()})


def head(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, size[1])).astype(np.float32), rng.normal(size=4).astype(np.float32)


def same_layer(read, lstm, layer):
    """读回的单层 LSTM 与原来的第 ``layer`` 层逐位相等；原来没有偏置的，读回零或没有。"""
    for kind in ("weight_ih", "weight_hh", "bias"):
        wanted = lstm.parameters.get(f"{kind}_l{layer}")
        got = read.parameters.get(f"{kind}_l0")
        if wanted is None:
            assert got is None or not got.any()
        else:
            assert got.dtype == np.float32 and got.tobytes() == wanted.tobytes(), f"第 {layer} 层的 {kind}"


@sizes
@biases
def test_onnx_reads_back_bit_for_bit(tmp_path, size, bias):
    lstm, (weight, shift) = make(size, bias), head(size)
    path = tmp_path / "a.onnx"
    onnx.save(writers.onnx_model(lstm, weight, shift, sigmoid=True), path)
    onnx.checker.check_model(str(path), full_check=True)
    for layer in range(size[2]):
        read = LSTM.from_onnx(path, f"lstm{layer}")
        assert read.config.bias == bias
        same_layer(read, lstm, layer)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    assert tensors["head_weight"].T.tobytes() == weight.tobytes()
    assert tensors["head_bias"].tobytes() == shift.tobytes()
    counts = onnx_graph.operator_counts(path)
    assert counts["LSTM"] == size[2] and counts["Sigmoid"] == 1


def test_one_layer_alone_is_one_node():
    model = writers.onnx_model(make((6, 5, 1)))
    assert onnx_graph.operator_counts(model) == {"LSTM": 1}
    assert onnx_graph.axes(model) == {
        "x": ["T", 1, 6], "h": [1, 1, 5], "c": [1, 1, 5], "y": ["T", 1, 1, 5], "h1": [1, 1, 5], "c1": [1, 1, 5],
    }  # fmt: skip


@sizes
@biases
def test_ncnn_reads_back_bit_for_bit(tmp_path, size, bias):
    lstm, (weight, shift) = make(size, bias), head(size)
    paths = tmp_path / "a.param", tmp_path / "a.bin"
    assert writers.ncnn_files(lstm, *paths, weight, shift, sigmoid=True) == paths
    for layer in range(size[2]):
        same_layer(LSTM.from_ncnn(*paths, f"lstm{layer}"), lstm, layer)
    blocks = {(b.layer, b.label): b for b in ncnn_bin.bin_layout(*paths)}
    data = paths[1].read_bytes()
    block = blocks["head", "weight"]
    assert data[block.offset + 4 : block.offset + block.size] == weight.tobytes()
    block = blocks["head", "bias"]
    assert data[block.offset : block.offset + block.size] == shift.tobytes()


@sizes
def test_ncnn_int8_reads_back_as_quantize_rows_says(tmp_path, size):
    lstm = make(size)
    paths = writers.ncnn_files(lstm, tmp_path / "a.param", tmp_path / "a.bin", int8=True)
    for layer in range(size[2]):
        read = ncnn_bin.read_lstm(*paths, f"lstm{layer}")
        assert read.storage == "int8"
        for mine, theirs in (("weight_ih", "weight_xc"), ("weight_hh", "weight_hc")):
            wanted, steps = quantize_rows(
                layouts.reorder(lstm.parameters[f"{mine}_l{layer}"], "torch", "ncnn")
            )
            np.testing.assert_array_equal(getattr(read, f"{theirs}_int8")[0], wanted)
            np.testing.assert_allclose(1 / getattr(read, f"{theirs}_scales")[0], steps, rtol=1e-6)
        bias = layouts.reorder(lstm.parameters[f"bias_l{layer}"], "torch", "ncnn")
        assert read.bias.tobytes() == bias.tobytes(), "偏置不量化"


def test_an_all_zero_row_can_be_quantized(tmp_path):
    lstm = make((6, 5, 1))
    weight = lstm.parameters["weight_ih_l0"].copy()
    weight[3] = 0
    lstm = lstm.with_parameters({"weight_ih_l0": weight})
    paths = writers.ncnn_files(lstm, tmp_path / "a.param", tmp_path / "a.bin", int8=True)
    np.testing.assert_array_equal(LSTM.from_ncnn(*paths).parameters["weight_ih_l0"][3], 0)


@sizes
def test_quantized_onnx_keeps_the_head_in_float32(size):
    made = writers.quantize_onnx(writers.onnx_model(make(size), *head(size), sigmoid=True))
    counts = onnx_graph.operator_counts(made)
    assert counts["DynamicQuantizeLSTM"] == size[2] and "LSTM" not in counts
    assert counts["MatMul"] == 1, "线性层也被量化了"


@pytest.mark.parametrize("size", SIZES[:2], ids=str)
def test_ncnn_files_stream_through_the_runner(tmp_path, size):
    """块的名字同 pnnx 写的，``NcnnRunner`` 与 ``run_streaming`` 直接能用。"""
    lstm, (weight, shift) = make(size), head(size)
    runner = ncnn_run.NcnnRunner(
        *writers.ncnn_files(lstm, tmp_path / "a.param", tmp_path / "a.bin", weight, shift)
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, size[0])).astype(np.float32)
    state = rng.uniform(-1, 1, (2, size[2], size[1])).astype(np.float32)
    y, (h, c) = lstm(x, tuple(state))
    got, (h1, c1) = ncnn_run.run_streaming(runner, x, state)
    for one, other in ((got, y @ weight.T + shift), (h1, h), (c1, c)):
        np.testing.assert_allclose(one, other.reshape(one.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", ["onnx", "ncnn"])
def test_what_the_formats_cannot_hold_is_refused(tmp_path, write):
    def attempt(lstm, *arguments):
        if write == "onnx":
            writers.onnx_model(lstm, *arguments)
        else:
            writers.ncnn_files(lstm, tmp_path / "a.param", tmp_path / "a.bin", *arguments)

    for options, words in (({"direction": "reverse"}, "单向"), ({"proj_size": 2}, "投影")):
        config = LSTMConfig(3, 4, **options)
        with pytest.raises(ValueError, match=words):
            attempt(LSTM(config, {k: np.zeros(s) for k, s in config.shapes().items()}))
    lstm = make((3, 4, 1))
    with pytest.raises(ValueError, match="窥视孔"):
        attempt(LSTM(lstm.config, lstm.parameters, peepholes=np.zeros((1, 3, 4))))
    with pytest.raises(ValueError, match=r"\(输出数, 4\)"):
        attempt(lstm, np.zeros((5, 3)))
    with pytest.raises(ValueError, match="bias"):
        attempt(lstm, np.zeros((5, 4)), np.zeros(4))
    with pytest.raises(ValueError, match="weight"):
        attempt(lstm, None, np.zeros(4))
    assert not list(tmp_path.iterdir()), "拒绝之后不该留下文件"


def test_the_reader_refuses_an_unnamed_choice():
    with pytest.raises(ValueError, match="lstm0、lstm1"):
        onnx_lstm.read_lstm(writers.onnx_model(make((3, 7, 2))))
