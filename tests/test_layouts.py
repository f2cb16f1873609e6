"""门顺序、形状、权重文件的格式。"""

import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_lib import LSTM
from lstm_lib.lstm import layouts, weight_file
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.lstm.weight_file import WeightFileError

H = 3
GATES = {gate: np.full((H, 2), value) for gate, value in zip("ifgo", (1, 2, 3, 4), strict=True)}


def stacked(order):
    return np.concatenate([GATES[gate] for gate in order])


def example(**changes):
    """一个小 LSTM，参数是 0、1、2……，位置错了就认得出。"""
    config = LSTMConfig(**({"input_size": 2, "hidden_size": 3} | changes))
    parameters, start = {}, 0
    for name, shape in config.shapes().items():
        count = int(np.prod(shape))
        parameters[name] = np.arange(start, start + count).reshape(shape) / 64
        start += count
    return LSTM(config, parameters)


# ---------------------------------------------------------------- 门顺序


def test_order_table_is_the_documented_one():
    assert layouts.GATE_ORDERS == {"torch": "ifgo", "onnx": "iofg", "ncnn": "ifog"}


@pytest.mark.parametrize("source", [*layouts.GATE_ORDERS, "gofi"])
@pytest.mark.parametrize("target", [*layouts.GATE_ORDERS, "ogif"])
def test_reorder_between_any_two(source, target):
    a, b = stacked(layouts.gate_order(source)), stacked(layouts.gate_order(target))
    np.testing.assert_array_equal(layouts.reorder(a, source, target), b)
    np.testing.assert_array_equal(layouts.reorder(a.T, source, target, axis=1), b.T)
    np.testing.assert_array_equal(layouts.reorder(a.T[None], source, target, axis=-1), b.T[None])


def test_reorder_over_all_permutations_is_invertible():
    a = np.random.default_rng(0).normal(size=(8, 3))
    for p, q in itertools.product(map("".join, itertools.permutations("ifgo")), repeat=2):
        np.testing.assert_array_equal(layouts.reorder(layouts.reorder(a, p, q), q, p), a)


def test_split_gates_gives_views_in_reading_order():
    a = stacked("iofg")
    blocks = layouts.split_gates(a, "onnx")
    assert list(blocks) == list("ifgo")
    for gate, block in blocks.items():
        np.testing.assert_array_equal(block, GATES[gate])
        assert np.shares_memory(block, a)
    np.testing.assert_array_equal(layouts.split_gates(stacked("ifgo"))["g"], GATES["g"])
    np.testing.assert_array_equal(layouts.join_gates(GATES), stacked("ifgo"))


@pytest.mark.parametrize("bad", ["keras", "ifg", "iifo", "", None, 3])
def test_unknown_order_is_named(bad):
    with pytest.raises(ValueError, match=r"不认识的门顺序.*torch、onnx、ncnn"):
        layouts.gate_order(bad)


def test_gates_need_a_multiple_of_four():
    with pytest.raises(ValueError, match=r"第 1 维长 6，不是 4 的倍数"):
        layouts.reorder(np.zeros((4, 6)), "torch", "onnx", axis=1)


def test_biases():
    a, b = np.array([1.0, 2.0]), np.array([0.25, -4.0])
    np.testing.assert_array_equal(layouts.merge_bias(a, b), [1.25, -2.0])
    first, second = layouts.split_bias(a)
    np.testing.assert_array_equal(first, a)
    np.testing.assert_array_equal(second, [0.0, 0.0], strict=True)
    assert not np.shares_memory(first, a)
    with pytest.raises(ValueError, match=r"两个偏置的形状不同：\(2,\) 与 \(1,\)"):
        layouts.merge_bias(a, b[:1])


# ---------------------------------------------------------------- 形状


@pytest.mark.parametrize("input_size, hidden_size, layers", [(256, 257, 1), (3, 5, 2), (1, 2, 3)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("proj_size", [0, 1])
def test_torch_shapes(input_size, hidden_size, layers, bidirectional, bias, proj_size):
    import torch

    module = torch.nn.LSTM(
        input_size, hidden_size, layers, bias, bidirectional=bidirectional, proj_size=proj_size
    )
    expected = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    shapes = layouts.torch_shapes(input_size, hidden_size, layers, bidirectional, bias, proj_size)
    assert list(shapes.items()) == expected


def test_torch_shapes_defaults():
    assert list(layouts.torch_shapes(256, 257).values()) == [(1028, 256), (1028, 257), (1028,), (1028,)]


def test_onnx_and_ncnn_shapes():
    assert layouts.onnx_shapes(5, 7) == {"W": (1, 28, 5), "R": (1, 28, 7), "B": (1, 56)}
    assert layouts.onnx_shapes(5, 7, True, False) == {"W": (2, 28, 5), "R": (2, 28, 7)}
    assert layouts.ncnn_shapes(5, 7) == {"weight_xc": (1, 28, 5), "bias": (1, 28), "weight_hc": (1, 28, 7)}
    assert layouts.ncnn_shapes(5, 7, True, 3) == {
        "weight_xc": (2, 28, 5),
        "bias": (2, 28),
        "weight_hc": (2, 28, 3),
        "weight_hr": (2, 3, 7),
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input_size": 0}, "input_size 应在 1 与"),
        ({"hidden_size": -1}, "hidden_size 应在 1 与.*得到 -1"),
        ({"num_layers": 0}, "num_layers 应在 1"),
        ({"num_layers": 2**32}, "num_layers 应在 1"),
        ({"proj_size": -1}, "proj_size 应在 0"),
        ({"input_size": 2.0}, "input_size 应为整数"),
        ({"hidden_size": True}, "hidden_size 应为整数"),
        ({"direction": "both"}, "direction 应为"),
        ({"dtype": "float16"}, "dtype 应为"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        LSTMConfig(**({"input_size": 2, "hidden_size": 3} | changes))


def test_config_properties():
    config = LSTMConfig(np.int64(2), 3, 2, "bidirectional", proj_size=1)
    assert type(config.input_size) is int
    assert (config.num_directions, config.output_size, config.suffixes) == (2, 1, ("", "_reverse"))
    assert [config.layer_input_size(k) for k in (0, 1)] == [2, 2]
    defaults = LSTMConfig(2, 3)
    assert (defaults.num_layers, defaults.direction, defaults.bias, defaults.batch_first) == (
        1,
        "forward",
        True,
        False,
    )
    assert (defaults.proj_size, defaults.dtype, defaults.output_size) == (0, "float32", 3)
    assert LSTMConfig(2, 3, direction="reverse").suffixes == ("_reverse",)


# ---------------------------------------------------------------- 权重文件：写


def independent_reader(data):
    """不用被测代码，按文档重新读一遍。"""
    version, header, flags, i, h, layers, p, kind = struct.unpack_from("<8I", data, 8)
    size, crc = struct.unpack_from("<QI", data, 40)
    assert data[:8] == b"\x89LSTM\r\n\x1a" and version == 1 and header == 64 and data[52:60] == bytes(8)
    assert struct.unpack_from("<I", data, 60)[0] == zlib.crc32(data[:60]) and crc == zlib.crc32(data[64:])
    assert len(data) == 64 + size
    values, arrays = np.frombuffer(data, {1: "<f4", 2: "<f8"}[kind], offset=64), {}
    directions = {0: [""], 4: ["", "_reverse"], 8: ["_reverse"]}[flags & 12]

    def take(name, *shape):
        nonlocal values
        count = int(np.prod(shape))
        arrays[name], values = values[:count].reshape(shape), values[count:]

    for layer in range(layers):
        for suffix in directions:
            take(f"weight_ih_l{layer}{suffix}", 4 * h, len(directions) * (p or h) if layer else i)
            take(f"weight_hh_l{layer}{suffix}", 4 * h, p or h)
            if flags & 1:
                take(f"bias_l{layer}{suffix}", 4 * h)
            if p:
                take(f"weight_hr_l{layer}{suffix}", p, h)
    assert not len(values)
    return arrays


CONFIGS = [
    {},
    {"bias": False},
    {"batch_first": True},
    {"direction": "bidirectional", "num_layers": 3},
    {"direction": "reverse"},
    {"proj_size": 2, "num_layers": 2},
    {"dtype": "float64", "proj_size": 1, "direction": "bidirectional", "num_layers": 2, "bias": False},
]


@pytest.mark.parametrize("changes", CONFIGS)
def test_file_round_trip_and_independent_reader(changes):
    lstm = example(**changes)
    data = lstm.to_bytes()
    assert len(data) == weight_file.file_size(lstm.config)
    back = LSTM.from_bytes(data)
    assert back.config == lstm.config
    arrays = independent_reader(data)
    assert list(arrays) == list(lstm.parameters)
    for name, value in lstm.parameters.items():
        np.testing.assert_array_equal(back.parameters[name], value)
        np.testing.assert_array_equal(arrays[name], value)
        assert back.parameters[name].dtype == lstm.config.dtype
    for name, offset, shape in weight_file.array_layout(lstm.config):
        stored = np.frombuffer(data, lstm.config.dtype, int(np.prod(shape)), offset)
        np.testing.assert_array_equal(stored.reshape(shape), lstm.parameters[name])


def test_first_bytes_are_the_documented_ones():
    data = example(input_size=1, hidden_size=1, batch_first=True).to_bytes()
    assert data[:52].hex(" ", 4) == (
        "894c5354 4d0d0a1a 01000000 40000000 03000000 01000000 01000000 01000000 00000000 01000000"
        " 30000000 00000000 " + zlib.crc32(data[64:]).to_bytes(4, "little").hex()
    )
    assert len(data) == 64 + 4 * (4 + 4 + 4)


def test_header_fields_table_covers_the_header():
    at = 0
    for offset, size, fmt, name, label in weight_file.HEADER_FIELDS:
        assert offset == at and struct.calcsize("<" + fmt) == size and name and label
        at += size
    assert at == weight_file.HEADER_SIZE


def test_encode_checks_shapes():
    lstm = example()
    with pytest.raises(ValueError, match=r"参数 bias_l0 的形状应为 \(12,\)，得到 \(11,\)"):
        weight_file.encode(lstm.config, lstm.parameters | {"bias_l0": np.zeros(11)})


def test_encode_converts_to_the_stored_type():
    lstm = example()
    wide = {name: a.astype(np.float64) for name, a in lstm.parameters.items()}
    assert weight_file.encode(lstm.config, wide) == lstm.to_bytes()


def test_file_size_of_an_absurd_layer_count_is_instant():
    config = LSTMConfig(2, 3, 2**32 - 1)
    assert weight_file.file_size(config) > 2**32 * 100


# ---------------------------------------------------------------- 权重文件：拒绝

GOOD = example(num_layers=2).to_bytes()


def fix_header(data):
    return data[:60] + struct.pack("<I", zlib.crc32(data[:60])) + data[64:]


def patched(offset, fmt, value):
    data = bytearray(GOOD)
    struct.pack_into("<" + fmt, data, offset, value)
    return fix_header(bytes(data))


def refused(data, offset, message):
    with pytest.raises(WeightFileError, match=message) as caught:
        LSTM.from_bytes(data)
    assert caught.value.offset == offset
    assert str(caught.value).startswith(f"权重数据：第 {offset} 字节处，")
    with pytest.raises(WeightFileError) as named:
        weight_file.decode(data, "某.lstm")
    assert str(named.value) == str(caught.value).replace("权重数据", "权重文件 某.lstm", 1)


def test_truncated_anywhere():
    for length in range(len(GOOD)):
        refused(GOOD[:length], length, "文件在这里断了")
    refused(GOOD[:8], 8, "连版本号都不全（共 8 字节）$")
    refused(GOOD[:63], 63, "文件头应有 64 字节$")
    refused(GOOD[:-3], len(GOOD) - 3, f"应有 {len(GOOD)} 字节，还缺 3 字节$")


def test_every_flipped_byte_is_noticed():
    for at in range(len(GOOD)):
        bad = bytearray(GOOD)
        bad[at] ^= 0x10
        with pytest.raises(WeightFileError):
            LSTM.from_bytes(bytes(bad))


@pytest.mark.parametrize(
    "data, offset, message",
    [
        (GOOD + b"x", len(GOOD), "多出 1 字节"),
        (
            GOOD[:-1] + b"\x7f",
            48,
            r"数据区 CRC-32 是 [0-9a-f]{8}.*第 64–\d+ 字节.*某处已损坏（CRC 查不出具体位置）",
        ),
        (GOOD[:20] + b"\x07" + GOOD[21:], 60, "文件头的 CRC-32 记的是.*文件头已损坏"),
        (
            patched(8, "I", 2),
            8,
            "版本号是 2，这里只认版本 1；版本 2 是整个网络的文件，请用 .*network_file.load 读$",
        ),
        (patched(8, "I", 3), 8, "版本号是 3，这里只认版本 1；它由更新的程序写成，请升级本程序$"),
        (patched(8, "I", 0), 8, "版本号是 0，这里只认版本 1；这个版本号从未用过，文件已损坏$"),
        (patched(12, "I", 128), 12, "文件头长度是 128"),
        (patched(16, "I", 16 | 1), 16, "标志位 0x11"),
        (patched(16, "I", 12), 16, "标志位 0xc"),
        (patched(16, "I", 13), 16, "标志位 0xd"),
        (patched(16, "I", 16), 16, "标志位 0x10 里有版本 1 没有的组合$"),
        (patched(20, "I", 0), 20, "input_size 是 0"),
        (patched(24, "I", 0), 24, "hidden_size 是 0"),
        (patched(28, "I", 0), 28, "num_layers 是 0"),
        (patched(36, "I", 3), 36, "数的类型是 3"),
        (patched(36, "I", 0), 36, "数的类型是 0"),
        (patched(40, "Q", 4), 40, r"数据区长度记为 4，按各尺寸应为 \d+"),
        (patched(28, "I", 2**32 - 1), 40, "数据区长度"),
        (patched(52, "I", 1), 52, "处，保留字节不全为 0$"),
        (patched(8, "I", 2**32 - 1), 8, "版本号是 4294967295"),
        (patched(56, "I", 1), 52, "保留字节"),
        (b"PK\x03\x04" + GOOD, 0, "魔数应为 0x89，读到 0x50，这不是本书的权重文件"),
        (b"\x08\x08\x12\x07pytorch", 0, "不是本书的权重文件"),
        (GOOD.replace(b"\r\n", b"\n"), 5, "魔数应为 0x0d，读到 0x0a；换行符被改过"),
        (GOOD.replace(b"\n", b"\r\n", 1), 6, "换行符被改过"),
        (GOOD[:7] + b"x" + GOOD[8:], 7, "不是本书的权重文件"),
        (GOOD[:4] + b"x" + GOOD[5:], 4, "不是本书的权重文件"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), 1, "魔数应为 0x4c，读到 0x50，这不是"),
        (b"", 0, "只有 0 字节"),
        (b"x", 0, "不是本书的权重文件"),
    ],
)
def test_refusals_say_which_byte_and_why(data, offset, message):
    refused(data, offset, message)


def test_huge_sizes_are_refused_without_allocating():
    data = bytearray(GOOD)
    struct.pack_into("<5I", data, 20, 2**31, 2**31, 1, 0, 1)
    size = 4 * 4 * 2**31 * (2**31 + 2**31 + 1)
    if size < 2**64:
        struct.pack_into("<Q", data, 40, size)
    refused(fix_header(bytes(data)), 40, "数据区长度")
    struct.pack_into("<5I", data, 20, 2**20, 2**20, 1, 0, 1)
    struct.pack_into("<Q", data, 40, 4 * (2**22 * (2**21 + 1)))
    refused(fix_header(bytes(data)), len(GOOD), "文件在这里断了：应有")


def test_crc_message_shows_both_sums():
    bad = GOOD[:64] + bytes([GOOD[64] ^ 1]) + GOOD[65:]
    stored, computed = zlib.crc32(GOOD[64:]), zlib.crc32(bad[64:])
    refused(bad, 48, f"CRC-32 是 {stored:08x}，按第 64–{len(GOOD) - 1} 字节算出 {computed:08x}")


@given(st.binary(max_size=200), st.integers(0, 70))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_random_bytes_never_crash(tail, keep):
    with pytest.raises(WeightFileError):
        LSTM.from_bytes(GOOD[:keep] + tail)


def test_file_name_is_in_the_message(tmp_path):
    path = tmp_path / "坏.bin"
    path.write_bytes(GOOD[:70])
    with pytest.raises(WeightFileError, match=r"权重文件 .*坏\.bin：第 70 字节处，文件在这里断了"):
        LSTM.load(path)
    path.write_bytes(b"")
    with pytest.raises(WeightFileError, match=r"坏\.bin：第 0 字节处"):
        LSTM.load(str(path))
    with pytest.raises(FileNotFoundError, match=r"找不到权重文件：.*没有\.bin"):
        LSTM.load(tmp_path / "没有.bin")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} 是文件夹，不是权重文件"):
        LSTM.load(tmp_path)
    with pytest.raises(WeightFileError, match=r"^权重数据：第 0 字节处"):
        LSTM.from_bytes(b"")


def test_saving_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "w.bin"
    lstm = example()
    lstm.save(path)
    before = path.read_bytes()
    assert before == lstm.to_bytes()

    def broken(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError("磁盘满了")

    monkeypatch.setattr("pathlib.Path.write_bytes", broken)
    with pytest.raises(OSError, match="磁盘满了"):
        example(bias=False).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.bin"]
