"""C 内核：与 NumPy 的 LSTM 一致、坏输入、线程、编译与缓存。"""

import dataclasses
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lstm_lib import LSTM, native
from lstm_lib.engines import timing
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.native import NativeLSTM, build, library

SHAPES = [  # I, H, 层, 方向, 投影, 批, 帧
    (256, 257, 1, "forward", 0, 1, 60),
    (256, 257, 1, "forward", 0, 1, 1),
    (1, 1, 1, "forward", 0, 1, 3),
    (3, 5, 1, "reverse", 0, 2, 50),
    (7, 16, 2, "bidirectional", 0, 3, 11),
    (5, 30, 2, "bidirectional", 7, 8, 7),
    (17, 33, 3, "forward", 0, 13, 2),
    (4, 12, 1, "forward", 3, 1, 100),
    (3, 9, 1, "forward", 0, 2, 20),  # 9 个单元刚过 16 的一半：宽块补零最多
]


def make(shape, **options):
    inputs, hidden, layers, direction, projection, *_ = shape
    config = LSTMConfig(inputs, hidden, layers, direction, proj_size=projection, **options)
    rng = np.random.default_rng(sum(shape[:3]))
    bound = 1 / np.sqrt(hidden)
    return LSTM(
        config, {k: rng.uniform(-bound, bound, s).astype(np.float32) for k, s in config.shapes().items()}
    )


def inputs(shape, lstm):
    config, (batch, frames) = lstm.config, shape[5:]
    rng = np.random.default_rng(1)
    rows = config.num_layers * config.num_directions
    x = rng.standard_normal((frames, batch, config.input_size)).astype(np.float32)
    h = rng.uniform(-1, 1, (rows, batch, config.output_size)).astype(np.float32)
    c = rng.uniform(-1, 1, (rows, batch, config.hidden_size)).astype(np.float32)
    return x, (h, c)


def to_half(lstm):
    """权重舍入成半精度，再当 float32 用；偏置与投影不动。"""
    halves = {
        k: w.astype(np.float16).astype(np.float32)
        for k, w in lstm.parameters.items()
        if k.startswith(native.HALF_NAMES)
    }
    return lstm.with_parameters(halves)


def worst(result, expected):
    (y, (h, c)), (y2, (h2, c2)) = result, expected
    assert y.shape == y2.shape and h.shape == h2.shape and c.shape == c2.shape
    return max(float(np.abs(a - b).max()) for a, b in ((y, y2), (h, h2), (c, c2)))


TILED = [  # 瓦片的各种零头：列数不满、刚满、超过 64；批刚够、刚满、超过 16；只有窄块；一帧（没有先做的投影）与多帧
    (256, 257, 1, "forward", 0, 1, 100),
    (256, 257, 1, "forward", 0, 16, 3),
    (64, 68, 2, "bidirectional", 0, 5, 1),
    (63, 200, 1, "reverse", 0, 17, 7),
    (130, 67, 2, "bidirectional", 65, 33, 4),
    (300, 4, 1, "forward", 0, 6, 5),
]


def with_tiles():
    if not native.load()[1].lstm_tiles_supported(build.LEVEL_NUMBERS["avx512"]):
        pytest.skip("这台机器没有 AMX，或操作系统不让用")


@pytest.mark.parametrize("shape", TILED, ids=str)
def test_tiles_change_no_bit(shape):
    with_tiles()
    lstm = make(shape)
    x, state = inputs(shape, lstm)
    fast, plain = (NativeLSTM(lstm, "int8", level="avx512", tiles=tiles) for tiles in (True, False))
    assert fast.tiles and not plain.tiles
    assert worst(plain(x, state), lstm(x, state)) < 0.05
    assert worst(fast(x, state), plain(x, state)) == 0
    x[0, 0, 1] = np.nan  # 坏的只有它那一行
    got, expected = fast(x, state)[0], plain(x, state)[0]
    assert np.array_equal(got, expected, equal_nan=True) and np.isnan(got).any()


def test_tiles_multiply_the_head_too():
    with_tiles()
    weight = np.random.default_rng(3).standard_normal((70, 100))
    fast, plain = (native.NativeNetwork(*network_with_head(weight), "int8", "avx512") for _ in range(2))
    assert fast.tiles
    plain._net.tiles = 0
    for rows in (1, 5, 16, 39):
        h = np.random.default_rng(rows).standard_normal((rows, 100)).astype(np.float32)
        assert np.array_equal(fast.head(h), plain.head(h)), rows
        assert np.abs(fast.head(h) - h @ weight.T).max() < 0.5


def test_tiles_are_for_int8_on_avx512_only():
    lstm = make(SHAPES[3])
    for level in native.levels():
        for dtype in ("float32", "float16", "int8"):
            fast = NativeLSTM(lstm, dtype, level=level)
            assert not fast.tiles or (dtype, level) == ("int8", "avx512")


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_numpy_lstm(shape, level):
    lstm = make(shape)
    x, state = inputs(shape, lstm)
    expected = lstm(x, state)
    before = [a.copy() for a in state]
    assert worst(NativeLSTM(lstm, level=level)(x, state), expected) < 1e-5
    assert worst(NativeLSTM(lstm, "int8", level=level)(x, state), expected) < 0.05
    halves = NativeLSTM(lstm, "float16", level=level)(x, state)
    assert worst(halves, to_half(lstm)(x, state)) < 1e-5, "应与权重舍入成半精度的 NumPy 一致"
    assert worst(halves, expected) < 1e-3
    assert all(np.array_equal(a, b) for a, b in zip(before, state, strict=True)), "初态不该被改写"


def test_each_gate_is_in_its_place():
    """四个门各是不同的常数：门顺序错了，这里会指出来。"""
    config = LSTMConfig(2, 3)
    bias = np.repeat(np.array([0.5, -1, 2, 3], np.float32), 3)  # i f g o
    zeros = {k: np.zeros(s, np.float32) for k, s in config.shapes().items()}
    lstm = LSTM(config, zeros | {"bias_l0": bias})
    for dtype in ("float32", "float16", "int8"):
        assert worst(NativeLSTM(lstm, dtype)(np.zeros((4, 2))), lstm(np.zeros((4, 2)))) < 1e-6


def test_no_bias_batch_first_and_other_inputs():
    shape = (6, 9, 2, "bidirectional", 0, 3, 5)
    lstm = make(shape, bias=False, batch_first=True)
    x, state = inputs(shape, lstm)
    x = x.swapaxes(0, 1)
    fast = NativeLSTM(lstm)
    assert worst(fast(x, state), lstm(x, state)) < 1e-5  # 不连续的输入
    assert worst(fast(x.astype(np.float64)), lstm(x)) < 1e-5
    assert worst(fast(x[0]), lstm(x[0])) < 1e-5  # 不分批
    assert fast(x[:0])[0].shape == (0, 5, 18)


def test_sources_of_weights(tmp_path):
    lstm = make(SHAPES[3])
    x, _ = inputs(SHAPES[3], lstm)
    path = tmp_path / "权重.lstm"
    lstm.save(path)
    for source in (lstm, path, str(path), lstm.to_bytes(), lstm.astype("float64")):
        assert worst(NativeLSTM(source)(x), lstm(x)) < 1e-5


@pytest.mark.parametrize("damage", ["truncate", "flip", "magic", "empty"])
def test_corrupt_weights_never_reach_c(tmp_path, damage, monkeypatch):
    data = bytearray(make(SHAPES[3]).to_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "magic":
        data[0] = 0
    data = {"truncate": data[:-1], "empty": b""}.get(damage, data)
    path = tmp_path / "坏.lstm"
    path.write_bytes(data)
    monkeypatch.setattr(native, "load", lambda *a: pytest.fail("坏文件到了 C"))
    with pytest.raises(ValueError, match=r"坏\.lstm"):
        NativeLSTM(path)


def test_wrong_arguments_are_refused_in_chinese():
    lstm = make(SHAPES[3])
    fast = NativeLSTM(lstm)
    zeros = np.zeros((4, 3), np.float32)
    for call in (
        lambda: fast(np.zeros((4, 4))),
        lambda: fast(np.zeros(3)),
        lambda: fast(np.zeros((0, 3))),
        lambda: fast(zeros.astype(complex)),
        lambda: fast(zeros, (np.zeros((1, 5)),)),
        lambda: fast(zeros, (np.zeros((1, 4)), np.zeros((1, 5)))),
        lambda: NativeLSTM(lstm, "int4"),
        lambda: NativeLSTM(lstm, level="mmx"),
        lambda: NativeLSTM(3),
        fast.stream,  # 反向的 LSTM 不能流式
        lambda: NativeLSTM(make(SHAPES[2])).stream().step(np.zeros(2, np.float32)),
    ):
        with pytest.raises(ValueError, match=r"[一-鿿]"):
            call()


def with_defaults(shape, lengths=None, state=True, **options):
    """自带缺省初态与各序列长度的 LSTM（ONNX 节点常见）。"""
    lstm = make(shape, **options)
    _, start = inputs(shape, lstm)
    return LSTM(lstm.config, lstm.parameters, initial_state=start if state else None, lengths=lengths)


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float16", 1e-3), ("int8", 0.05)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lengths_and_default_states(direction, dtype, bound):
    shape = (5, 7, 2, direction, 0, 4, 6)
    lstm = with_defaults(shape, [6, 2, 1, 2], batch_first=True)
    fast, (x, state) = NativeLSTM(lstm, dtype), inputs(shape, lstm)
    x, other = x.swapaxes(0, 1), tuple(0.3 * a for a in state)
    for arguments in ((), (other,), (other, [1, 6, 6, 3]), (None, np.array([6, 6, 6, 6]))):
        result, expected = fast(x, *arguments), lstm(x, *arguments)
        assert worst(result, expected) < bound
        np.testing.assert_array_equal(result[0] == 0, expected[0] == 0)  # 走完之后的输出恰好是零
    bare = make(shape, batch_first=True)
    assert worst(NativeLSTM(bare, dtype)(x, None, [2, 6, 1, 6]), bare(x, None, [2, 6, 1, 6])) < bound
    for bad, message in (([7, 1, 1, 1], "lengths 应在 1 与"), ([1, 1], "lengths 应是 4 个整数")):
        with pytest.raises(ValueError, match=message):
            fast(x, None, bad)


def test_streams_begin_at_the_default_state():
    shape = (5, 7, 2, "forward", 0, 1, 6)
    lstm = with_defaults(shape)
    x = inputs(shape, lstm)[0][:, 0]
    stream, expected = NativeLSTM(lstm).stream(), lstm(x)[0]
    for _ in range(2):
        np.testing.assert_allclose([stream.step(row) for row in x], expected, rtol=0, atol=1e-5)
        stream.reset()
    with pytest.raises(ValueError, match="限定了各序列的长度（lengths）"):
        NativeLSTM(with_defaults(shape, [3])).stream()
    with pytest.raises(ValueError, match=r"sequence_lens 由图的输入给出"):
        NativeLSTM(with_defaults(shape, "sequence_lens 由图的输入给出"))(x)


@pytest.mark.parametrize("name, label", [("peepholes", "窥视孔"), ("clip", "截幅")])
def test_what_the_kernel_lacks_is_the_reason(name, label):
    plain, value = make(SHAPES[3]), {"peepholes": np.ones((1, 3, 5)), "clip": 1.0}[name]
    with pytest.raises(ValueError, match=f"^C 内核没有{label}（{name}）") as caught:
        NativeLSTM(LSTM(plain.config, plain.parameters, **{name: value}))
    assert "保存" not in str(caught.value)


def test_foreign_classes_of_the_same_name_are_told_apart():
    import torch

    with pytest.raises(ValueError, match=r"得到 LSTM（torch\.nn\.modules\.rnn\.LSTM）；.*LSTM\.from_torch"):
        NativeLSTM(torch.nn.LSTM(2, 3))


def test_int8_counts_only_the_columns_there_are(monkeypatch):
    monkeypatch.setattr(native, "INT8_COLUMNS", 10)
    NativeLSTM(make((3, 7, 1, "bidirectional", 0)), "int8")  # 14 列要到第 1 层才有
    with pytest.raises(ValueError, match="有 14 列"):
        NativeLSTM(make((3, 7, 2, "bidirectional", 0)), "int8")


def test_int8_refuses_bad_weights():
    lstm = make(SHAPES[2])
    bad = lstm.with_parameters({"weight_ih_l0": np.full((4, 1), np.nan, np.float32)})
    with pytest.raises(ValueError, match="NaN"):
        NativeLSTM(bad, "int8")
    assert np.isnan(NativeLSTM(bad)(np.ones((2, 1)))[0]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_not_hidden(dtype, bad):
    fast = NativeLSTM(make(SHAPES[0]), dtype)
    x = np.zeros((3, 256), np.float32)
    x[1, 7] = bad
    y, _ = fast(x)
    assert np.isfinite(y[0]).all()
    if dtype == "int8" or np.isnan(bad):
        assert np.isnan(y[1:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_extreme_inputs(dtype):
    lstm = make(SHAPES[0])
    fast = NativeLSTM(lstm, dtype)
    for scale in (0, 1e-45, 1e-38, 1e-31, 1e-20, 1e6, 1e30):
        x = np.full((5, 256), scale, np.float32)
        x[:, ::2] *= -1
        y, (_, c) = fast(x)
        assert np.isfinite(y).all() and np.isfinite(c).all(), scale
        if scale <= 1e-20:
            assert np.abs(y - lstm(x)[0]).max() < 5e-2
    assert np.abs(fast(np.zeros((1, 256)))[0] - lstm(np.zeros((1, 256)))[0]).max() < 1e-6


def test_denormal_mode_is_restored():
    import torch

    torch.set_flush_denormal(False)  # 同一个进程里别的测试可能打开过
    NativeLSTM(make(SHAPES[2]))(np.ones((3, 1)))
    assert np.float32(1e-40) * np.float32(0.5) > 0, "内核出来之后，非规格化数应照常"


def test_stream_takes_any_kind_of_frame():
    """列表、float64、隔一个取一个的视图都与连续的 float32 同样结果；标量不会被铺满一帧。"""
    lstm = make((6, 5, 1, "forward", 0))
    x = np.random.default_rng(3).standard_normal(12).astype(np.float32)
    fast = NativeLSTM(lstm)
    expected = fast.stream().step(x[::2].copy())
    for frame in (x[::2], x[::2].astype(np.float64), x[::2].tolist(), x[::2].astype(">f4")):
        np.testing.assert_array_equal(fast.stream().step(frame), expected)
    for bad in (np.float32(1.0), 1.0, x, x[::2].astype(complex), x[None, ::2]):
        with pytest.raises(ValueError, match="x"):
            fast.stream().step(bad)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[6], SHAPES[7]], ids=str)
def test_stream_equals_whole(shape, dtype):
    lstm = make(shape)
    x = inputs(shape, lstm)[0][:, 0]
    fast = NativeLSTM(lstm, dtype)
    y, (h, c) = fast(x)
    stream = fast.stream()
    for _ in range(2):
        stepped = np.stack([stream.step(row) for row in x])
        assert np.array_equal(stepped, y), "逐帧与整段的求和次序一样，一个比特也不该差"
        assert all(np.array_equal(a, b) for a, b in zip(stream.state, (h, c), strict=True))
        stream.reset()
    first = stream.step(x[0])
    kept = first.copy()
    stream.step(list(x[0]))  # 列表、float64、不连续的也行
    stream.step(x[0].astype(np.float64)[::-1][::-1])
    assert np.array_equal(first, kept), "返回的数组不该被下一帧改写"
    stream.reset((h, c))
    assert all(np.array_equal(a, b) for a, b in zip(stream.state, (h, c), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("level", native.levels())
def test_a_batch_equals_its_rows_run_alone(dtype, level):
    """几段一起：分组（6、4、2、1）与成对的块都只改读权重的次序，一个比特也不差。"""
    lstm = make((7, 41, 2, "forward", 0, 1, 1))
    fast = NativeLSTM(lstm, dtype, level)
    x = np.random.default_rng(3).standard_normal((30, 17, 7)).astype(np.float32)
    alone = np.stack([fast(x[:, b])[0] for b in range(17)], axis=1)
    for count in range(1, 18):
        assert np.array_equal(fast(x[:, :count])[0], alone[:, :count]), count


def test_big_arrays_are_aligned_zeros_of_the_asked_size():
    for size in (1, library.HUGE - 1, library.HUGE, library.HUGE + 5):
        array = library.aligned(size, np.uint8)
        assert array.shape == (size,) and array.ctypes.data % 64 == 0 and not array.any()
        array[:] = 1  # 写得进去，也写不到别处
        assert array.sum() == size
    if hasattr(library.mmap, "MADV_HUGEPAGE"):
        assert library.aligned((library.HUGE // 4 + 1,), np.float32).ctypes.data % library.HUGE == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_threads_share_one_set_of_weights(dtype):
    lstm = make(SHAPES[0])
    fast = NativeLSTM(lstm, dtype)
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((16, 40, 256)).astype(np.float32)

    def run(voice):
        stream = fast.stream()
        return np.stack([stream.step(row) for row in voice]), fast(voice)[0]

    alone = [run(voice) for voice in voices]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, voices))
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    streams = [fast.stream() for _ in range(1000)]
    assert sum(s.nbytes for s in streams) / 1000 < 16 * 1024 < fast.nbytes


def test_the_global_lock_is_released():
    """一个线程在 C 里算的时候，主线程照常往前走。"""
    stream, x, stamps = NativeLSTM(make(SHAPES[0])).stream(), np.ones(256, np.float32), []

    def busy():
        begin = timing.clock()
        stream.repeat(x, 5000)
        return begin, timing.clock()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(busy)
        while not future.done():
            stamps.append(timing.clock())
            time.sleep(1e-4)
    begin, end = future.result()
    assert sum(begin < stamp < end for stamp in stamps) > 10


@pytest.mark.parametrize("level", native.levels())
def test_activations(level):
    x = np.concatenate([np.linspace(-12, 12, 400_001), [0, 1e-30, -1e-30, 1e-40, np.inf, -np.inf]]).astype(
        np.float32
    )
    y = native.activation("tanh", x, level)
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 4e-7 and np.abs(y).max() <= 1
    small = np.float32(2) ** np.linspace(-120, -12, 10_001, dtype=np.float32)
    assert np.array_equal(native.activation("tanh", small, level), small), "很小的 x，tanh 就是 x 自己"
    assert np.isnan(native.activation("sigmoid", [np.nan], level)).all()


def test_levels_with_fused_arithmetic_agree_to_the_bit():
    """每个数的求和次序与寄存器的宽度无关：有融合乘加的级别，结果逐位相同。"""
    fused = [level for level in native.levels() if level != "portable"]
    for shape in SHAPES:
        lstm = make(shape)
        x, state = inputs(shape, lstm)
        for dtype in ("float32", "float16", "int8"):
            results = [NativeLSTM(lstm, dtype, level=level)(x, state) for level in fused]
            assert all(worst(results[0], other) == 0 for other in results[1:]), (shape, dtype)


def test_c_quantizes_like_python():
    lstm = make((5, 3, 1, "forward", 0))
    small = NativeLSTM(lstm, "int8", level="portable").cells[0]
    for part, name in enumerate(("weight_ih_l0", "weight_hh_l0")):
        q, step = native.quantize_rows(lstm.parameters[name])
        order = [0, 1, 3, 2]  # 内核的 I F O G 在 i f g o 里的位置
        scale = small.scale.reshape(2, 4, 4)[part, :, :3]
        np.testing.assert_array_equal(scale, step.reshape(4, 3)[order])
        columns = -(-q.shape[1] // 4)
        start = 0 if part == 0 else 8 * 16  # x 有 5 列，补到 8
        block = small.weight[start : start + columns * 64].reshape(columns, 4, 4, 4)
        unpacked = block.transpose(1, 2, 0, 3).reshape(4, 4, -1)[:, :3, : q.shape[1]]
        np.testing.assert_array_equal(unpacked, q.reshape(4, 3, -1)[order])


def test_quantize_rows():
    w = np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32)
    w[3] = 0
    q, step = native.quantize_rows(w)
    assert q.dtype == np.int8 and step[3] == 0 and (q[3] == 0).all() and np.abs(q).max() == 127
    assert (np.abs(q * step[:, None] - w) <= step[:, None] * 0.5001).all()


# ---------------------------------------------------------------- 半精度

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)
HALVES = HALVES[np.isfinite(HALVES)].astype(np.float32)  # 63,488 个，正零与负零、非规格化数都在


def network_with_head(weight):
    """末尾的线性层是 ``weight``，没有偏置、没有 sigmoid 的网络，写成文件。"""
    from lstm_lib.formats import network_file

    lstm = make((1, weight.shape[1], 1, "forward", 0))
    return network_file.encode(lstm, weight.astype(np.float32), None, False), lstm.config


@pytest.mark.parametrize("shape", SHAPES)
def test_the_head_takes_what_the_lstm_gives(shape):
    """双向的 LSTM 一帧给两份 h：线性层照收；宽度不对的、另一个网络的 config，进 C 之前就拒绝。"""
    from lstm_lib.formats import network_file

    lstm = make(shape)
    x, state = inputs(shape, lstm)
    y, _ = lstm(x, state)
    weight = np.random.default_rng(2).uniform(-1, 1, (5, y.shape[-1])).astype(np.float32) / y.shape[-1]
    data = network_file.encode(lstm, weight, None, False)
    fast = native.NativeNetwork(data, lstm.config)
    for h in (y, y[:, 0], y[0, 0], y[::-1].astype(float)):  # 不连续的、float64 的也收
        np.testing.assert_allclose(fast.head(h), h @ weight.T, atol=1e-5)
    for wrong in (y[..., 1:], np.concatenate([y, y], -1)):
        with pytest.raises(ValueError, match=f"最后一维应为 {y.shape[-1]}"):
            fast.head(wrong)
    for change in ({"hidden_size": 64}, {"num_layers": 4}, {"input_size": 9}, {"proj_size": 1}):
        other = dataclasses.replace(lstm.config, **change)
        if other != lstm.config:
            with pytest.raises(ValueError, match="与给的 config 不是一个"):
                native.NativeNetwork(data, other)


@pytest.mark.parametrize("level", native.levels())
def test_every_half_is_widened_exactly(level):
    """输入是单位矩阵，线性层的输出就是它的权重：63,488 个半精度数，一个比特也不差。"""
    weight = HALVES.reshape(-1, 31)
    fast = native.NativeNetwork(*network_with_head(weight), "float16", level)
    np.testing.assert_array_equal(fast.head(np.eye(31, dtype=np.float32)), weight.T)


def test_weights_are_rounded_like_numpy():
    """就近取偶：每两个相邻的半精度数的中点、中点两旁、随机数，都与 NumPy 一样；65520 以下的最大到 65504。"""
    up = np.unique(HALVES)
    middle = ((up[:-1].astype(np.float64) + up[1:]) / 2).astype(np.float32)  # float32 里是精确的
    edge = np.float32(65520)
    beside = [np.nextafter(middle, np.float32(s)) for s in (-np.inf, np.inf)]
    noise = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    small = np.float32(1e-40), np.float32(2) ** -25, np.float32(2) ** -24, np.nextafter(edge, np.float32(0))
    values = np.concatenate([middle, *beside, noise, 1e-5 * noise, 1e-7 * noise, small]).astype(np.float32)
    values = np.resize(values, (-(-values.size // 31), 31))
    fast = native.NativeNetwork(*network_with_head(values), "float16", "portable")
    expected = values.astype(np.float16).astype(np.float32)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(fast.head(np.eye(31, dtype=np.float32)), expected.T)


@pytest.mark.parametrize("level", native.levels())
def test_denormal_halves_count(level):
    """权重全是半精度的非规格化数（小于 2⁻¹⁴），输入很大：当成零就差得远了。"""
    shape = (40, 21, 1, "forward", 0, 1, 6)
    rng = np.random.default_rng(4)
    tiny = {
        k: (rng.integers(-1023, 1024, w.shape) * 2.0**-24).astype(np.float32)
        for k, w in make(shape).parameters.items()
    }
    lstm, x = LSTM(make(shape).config, tiny), 2.0**13 * inputs(shape, make(shape))[0]
    assert np.abs(to_half(lstm).parameters["weight_ih_l0"] - tiny["weight_ih_l0"]).max() == 0
    expected = lstm(x)
    assert np.abs(expected[0]).max() > 0.1
    assert worst(NativeLSTM(lstm, "float16", level=level)(x), expected) < 1e-5


def test_half_takes_half_the_memory():
    lstm = make(SHAPES[0])
    fast, small = NativeLSTM(lstm), NativeLSTM(lstm, "float16")
    assert small.cells[0].weight.dtype == np.float16
    assert small.cells[0].weight.nbytes * 2 == fast.cells[0].weight.nbytes
    assert sorted(small.cells[0].weight.tolist()) == sorted(fast.cells[0].weight.astype(np.float16).tolist())


@pytest.mark.parametrize("value", [65520, -7e4, 1e30])
def test_weights_that_overflow_half_are_refused_by_name(value):
    lstm = make((4, 3, 2, "bidirectional", 2))
    name, weight = "weight_hh_l1_reverse", lstm.parameters["weight_hh_l1_reverse"].copy()
    weight[5, 1] = value
    with pytest.raises(
        ValueError, match=rf"权重 {name} 里有 {value:g}，float16 放不下（最大 65504）".replace("+", r"\+")
    ):
        NativeLSTM(lstm.with_parameters({name: weight}), "float16")
    weight[5, 1] = np.copysign(65519.9, value)  # 舍入到 65504，放得下
    NativeLSTM(lstm.with_parameters({name: weight}), "float16")
    big = {k: np.full(lstm.parameters[k].shape, 1e5, np.float32) for k in ("bias_l0", "weight_hr_l0")}
    y, _ = NativeLSTM(lstm.with_parameters(big), "float16")(np.ones((3, 4)))
    assert np.isfinite(y).all(), "偏置与投影仍是 float32，不受这个限制"


def test_bad_weights_are_refused_in_half_too():
    lstm = make(SHAPES[2])
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"weight_ih_l0 里有 (nan|inf).*请检查训练"):
            NativeLSTM(lstm.with_parameters({"weight_ih_l0": np.full((4, 1), bad, np.float32)}), "float16")
    head = np.ones((5, 31), np.float32)
    head[2, 3] = 7e4
    data, config = network_with_head(head)
    with pytest.raises(ValueError, match=r"第 \d+ 字节处，权重太大，float16 最大到 65504") as caught:
        native.NativeNetwork(data, config, "float16")
    where = int(str(caught.value).split()[1])
    assert np.frombuffer(data[where : where + 4], "<f4") == 7e4, "位置应指着那个数"


def test_level_from_the_environment(monkeypatch):
    monkeypatch.setenv("LSTM_LIB_NATIVE_LEVEL", "portable")
    assert NativeLSTM(make(SHAPES[2])).level == "portable"
    monkeypatch.setenv("LSTM_LIB_NATIVE_LEVEL", "没有")
    with pytest.raises(ValueError, match="portable"):
        NativeLSTM(make(SHAPES[2]))


# ---------------------------------------------------------------- 编译


def test_without_any_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "compilers", list)
    with pytest.raises(build.NativeBuildError, match="ziglang"):
        build.build(directory=tmp_path)
    monkeypatch.setattr(build, "compilers", lambda: [["false"]])
    with pytest.raises(OSError, match="编译失败"):
        build.build(directory=tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".so", ".dll")], "失败时不该留下半个文件"


def test_the_cache_is_used_until_the_flags_change(tmp_path, monkeypatch):
    made = []

    def compile_library(compiler, jobs, target, extra=()):
        made.append(target)
        target.write_bytes(b"x")

    monkeypatch.setattr(build, "compile_library", compile_library)
    monkeypatch.setattr(build, "compilers", lambda: [["true"]])
    path = build.build(directory=tmp_path)
    assert build.build(directory=tmp_path) == path and len(made) == 1, "第二次应当直接用缓存"
    assert build.build(("-DCHUNK=1",), tmp_path) != path, "选项变了应当另编一份"


def test_a_broken_library_in_the_cache_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_LIB_CACHE", str(tmp_path))
    flags = ("-O0", "-DCHUNK=2")
    build.build(flags, only="portable").write_bytes(b"\x7fELF")
    _, lib = library.load(flags, "portable")
    assert lib.lstm_level_supported(0)


def case_file(path, level):
    """把各种尺寸写成案例文件，给不带 Python 的测试程序读。"""

    def array(a):
        raw = b"" if a is None else np.ascontiguousarray(a).tobytes()
        return len(raw).to_bytes(8, "little") + raw

    chunks, cases = [], [(s, kind) for s in SHAPES for kind in build.KINDS]
    for shape, kind in cases:
        lstm = make(shape)
        x, (h, c) = inputs(shape, lstm)
        y, (h1, c1) = (to_half(lstm) if kind == "float16" else lstm)(x, (h, c))
        chunks.append(np.array([build.LEVEL_NUMBERS[level], build.KINDS[kind], *shape[5:]], "<i4").tobytes())
        chunks.append(array(np.frombuffer(lstm.to_bytes(), np.uint8)))
        chunks.extend(map(array, (x, h, c, y, h1, c1)))
    path.write_bytes(np.array([len(cases)], "<i4").tobytes() + b"".join(chunks))
    return len(cases)


def compile_harness(folder, compiler, levels, flags):
    """内核各级别 + 测试程序 → 可执行文件。"""
    have = [f"-DHAVE_{name.upper()}" for name in levels]
    here = os.path.dirname(__file__)
    jobs = [(build.HERE / "kernel.c", [*options, f"-DLEVEL={name}"]) for name, options in levels.items()]
    jobs += [(build.HERE / "dispatch.c", have), (build.HERE / "model.c", [])]
    jobs += [(build.HERE / "enhancer.c", []), (f"{here}/native_harness.c", [f"-I{build.HERE}"])]
    base = [*compiler, *(option for option in build.COMPILE if option != "-fPIC"), *flags]
    objects = [f"{folder}/{number}.o" for number in range(len(jobs))]
    commands = [
        [*base, *build.dialect(compiler, options), "-c", str(source), "-o", output]
        for (source, options), output in zip(jobs, objects, strict=True)
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(build.run, commands))
    build.run([*compiler, *flags, *objects, "-o", f"{folder}/harness", "-lm"])
    return f"{folder}/harness"


def check_harness(command, cases):
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == cases
    for kind, *errors in lines:
        assert max(map(float, errors)) < (0.05 if int(kind) == build.KINDS["int8"] else 1e-5), lines


@pytest.mark.skipif(not library.levels(), reason="没有可用的级别")
def test_address_and_undefined_sanitizers(tmp_path):
    compiler = build.compilers()[0]
    if "ziglang" in compiler:
        pytest.skip("AddressSanitizer 要用系统的编译器")
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    levels = {name: options for name, options in build.machine_levels().items() if name in native.levels()}
    harness = compile_harness(tmp_path, compiler, levels, flags)
    for level in levels:
        cases = case_file(tmp_path / "cases", level)
        check_harness([harness, str(tmp_path / "cases")], cases)


def test_neon_under_qemu(tmp_path):
    import shutil

    pytest.importorskip("ziglang")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("没有 qemu-user（apt install qemu-user-static）")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    harness = compile_harness(tmp_path, compiler, build.ARM, [])
    for level in build.ARM:
        cases = case_file(tmp_path / "cases", level)
        check_harness([qemu, "-cpu", "max", harness, str(tmp_path / "cases")], cases)


def test_ziglang_alone_is_enough(tmp_path):
    pytest.importorskip("ziglang")
    code = (
        "import numpy as np; from lstm_lib import LSTM; from lstm_lib.lstm.layouts import LSTMConfig;"
        "from lstm_lib.native import NativeLSTM, build; config = LSTMConfig(4, 6);"
        "assert all('ziglang' in c for c in build.compilers()), build.compilers();"
        "lstm = LSTM(config, {k: np.full(s, 0.1, np.float32) for k, s in config.shapes().items()});"
        "x = np.ones((5, 4), np.float32); assert np.abs(NativeLSTM(lstm)(x)[0] - lstm(x)[0]).max() < 1e-6"
    )
    environment = os.environ | {"PATH": str(tmp_path), "LSTM_LIB_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_compiled_programs_are_kept_until_the_sources_change(tmp_path, monkeypatch):
    from lstm_lib.native import program

    made = []

    def build_program(target, out):
        made.append(out)
        out.write_bytes(b"")
        return out

    monkeypatch.setenv("LSTM_LIB_CACHE", str(tmp_path))
    monkeypatch.setattr(program, "build_program", build_program)
    first = program.cached_program("native")
    assert program.cached_program("native") == first and made == [first]
    assert program.cached_program("aarch64-linux") != first
    changed = program.release() | {"enhancer.c": "/* 改过 */"}
    monkeypatch.setattr(program, "release", lambda: changed)
    assert program.cached_program("native") not in made[:2] and len(made) == 3
    assert program.cached_program("x86_64-windows").suffix == ".exe"


def test_lesson_fft_equals_numpy():
    """“上设备”一章单独取出的 FFT 与链里的是同一份；别的窗长也对。"""
    from lstm_lib.formats import network_file

    ffi, lib = native.load_lesson()
    for n_fft in (2, 4, 6, 14, 30, 256, 292, 320, 512, 882, 1022, 2048):
        bins, rng = n_fft // 2 + 1, np.random.default_rng(n_fft)
        lstm, stft = make((bins, 3, 1, "forward", 0)), network_file.STFT(n_fft, n_fft // 2, 16000, 0)
        data = network_file.encode(lstm, np.zeros((bins, 3), np.float32), None, True, stft)
        opened = lib.lesson_open(ffi.from_buffer(data), len(data))
        x = rng.standard_normal(n_fft).astype(np.float32)
        re, im, back = (np.empty(n, np.float32) for n in (bins, bins, n_fft))
        lib.lesson_fft(opened, *(ffi.cast("float *", a.ctypes.data) for a in (x, re, im, back)), 1)
        lib.lesson_close(opened)
        exact = np.fft.rfft(x.astype(np.float64))
        np.testing.assert_allclose(re + 1j * im, exact, atol=1e-6 * np.abs(exact).max())
        np.testing.assert_allclose(back / n_fft, x, atol=1e-6 * np.abs(x).max())
