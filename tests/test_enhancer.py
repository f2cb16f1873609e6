"""整条增强链在 C 里：与 NumPy 的链一致，怎么切块都一样；整个网络的文件写得出、读得回、坏了说得清。"""

import struct
import zlib

import numpy as np
import pytest

from lstm_lib import LSTM, AnyRateEnhancer, StreamingEnhancer, engines, native
from lstm_lib.enhance import irm
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.formats import network_file
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.lstm.weight_file import WeightFileError
from lstm_lib.native import NativeEnhancer
from lstm_lib.native.quantize import quantize_rows

CONFIGS = {  # 窗长的因子：全是 4 与 2；有 5；有 7；最小的；有大的质数 73
    "两层": NetworkConfig.for_stft(320, 160, num_layers=2, hidden_size=24),
    "书中的尺寸，四分之一帧移": NetworkConfig.for_stft(512, 128, hidden_size=20),
    "没有线性层": NetworkConfig.for_stft(64, 32, head=False),
    "看直流": NetworkConfig.for_stft(28, 14, input_size=15, hidden_size=7),
    "最短的窗": NetworkConfig.for_stft(2, 1, hidden_size=3),
    "大的质数": NetworkConfig.for_stft(292, 146, hidden_size=5),
}


def make(config):
    import torch

    torch.manual_seed(0)
    return irm.IRMNetwork(config).eval()


def encoded(network, dtype=None):
    parts = engines.describe(network)
    stft = engines.conventions(network.config)
    return network_file.encode(parts.lstm, parts.weight, parts.bias, parts.sigmoid, stft, dtype)


def widened(data):
    """文件的字节 → 同一个网络、权重存成 float32 的字节。"""
    found = network_file.decode(data)
    return network_file.encode(
        found.lstm, found.weight, found.bias, found.sigmoid, found.stft, dtype="float32"
    )


def wave(samples, seed=0):
    return (0.3 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_numpy_chain(name, level):
    network = make(CONFIGS[name])
    x = wave(40 * network.config.hop_length)
    expected = engines.chain(network, "numpy").process(x)
    np.testing.assert_allclose(NativeEnhancer(encoded(network), level=level).process(x), expected, atol=2e-6)
    small = NativeEnhancer(encoded(network, "int8"), level=level)
    assert small.dtype == "int8" and np.abs(small.process(x) - expected).max() < 0.02
    quantized = NativeEnhancer(encoded(network), "int8", level=level)
    np.testing.assert_array_equal(quantized.process(x), small.reset() or small.process(x))
    half = NativeEnhancer(encoded(network), "float16", level=level)
    assert half.dtype == "float16" and np.abs(half.process(x) - expected).max() < 2e-3
    stored = encoded(network, "float16")  # 文件里就是半精度：结果与打开时才舍入的逐位相同
    for asked, other in ((None, half), ("int8", NativeEnhancer(widened(stored), "int8", level=level))):
        other.reset()
        chain = NativeEnhancer(stored, asked, level=level)
        np.testing.assert_array_equal(chain.process(x), other.process(x))
        assert chain.dtype == other.dtype
    whole = NativeEnhancer(widened(stored), level=level)
    np.testing.assert_array_equal(NativeEnhancer(stored, level=level).process(x), whole.process(x))
    with pytest.raises(ValueError, match="存的是 int8，变不回 float16"):
        NativeEnhancer(encoded(network, "int8"), "float16", level=level)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_blocks_groups_forks_and_reset_change_no_bit(dtype):
    network = make(CONFIGS["两层"])
    data, hop = encoded(network, dtype), network.config.hop_length
    x, other = wave(50 * hop), wave(50 * hop, 1)
    one = NativeEnhancer(data, group=1)
    expected, second = one.process(x), one.fork().process(other)
    assert np.abs(expected - second).max() > 0.01
    for group in (3, 16, 256):
        np.testing.assert_array_equal(NativeEnhancer(data, group=group).process(x), expected)
    a, b, pieces = NativeEnhancer(data), one.fork(), ([], [])
    for start in range(0, len(x), 5 * hop):  # 两路交替着走
        pieces[0].append(a.process(x[start : start + 5 * hop]))
        pieces[1].append(b.process(other[start : start + 5 * hop]))
    np.testing.assert_array_equal(np.concatenate(pieces[0]), expected)
    np.testing.assert_array_equal(np.concatenate(pieces[1]), second)
    a.reset()
    np.testing.assert_array_equal(a.process(x), expected)


def test_levels_with_fused_arithmetic_agree_to_the_bit():
    fused = [level for level in native.levels() if level != "portable"]
    for config in CONFIGS.values():
        network, x = make(config), wave(20 * config.hop_length)
        for dtype in ("float32", "int8"):
            results = [NativeEnhancer(encoded(network, dtype), level=level).process(x) for level in fused]
            assert all(np.array_equal(results[0], other) for other in results[1:])


def test_a_unit_mask_gives_the_sound_back():
    """掩蔽恒为 1：只剩分析与合成，来回两次变换应当还原。"""
    config = NetworkConfig.for_stft(320, 160, hidden_size=4)
    zeros = {k: np.zeros(s, np.float32) for k, s in LSTMConfig(160, 4).shapes().items()}
    ones = np.full(161, 40, np.float32)  # σ(40) = 1
    stft = engines.conventions(config)
    data = network_file.encode(LSTM(LSTMConfig(160, 4), zeros), np.zeros((161, 4)), ones, True, stft)
    x = wave(5000)
    np.testing.assert_allclose(StreamingEnhancer(NativeEnhancer(data))(x), x, atol=1e-6)


def test_streaming_and_any_rate_through_c():
    network = make(CONFIGS["两层"])
    x = wave(7001)
    whole = StreamingEnhancer(engines.chain(network, "c"))(x)
    np.testing.assert_allclose(whole, irm.enhance(network, x), atol=2e-6)
    enhancer = AnyRateEnhancer(engines.chain(network, "c"), 16000, 2)
    both = np.concatenate([enhancer.process(np.stack([x, -x], 1)), enhancer.flush()])
    np.testing.assert_array_equal(both[:, 0], whole)
    assert enhancer.latency == 320
    slow = AnyRateEnhancer(engines.chain(network, "c"), 44100, 1)
    quick = AnyRateEnhancer(engines.chain(network, "c"), 44100, 1, quality="LQ")
    assert 44100 * 0.02 < quick.latency < slow.latency < 44100 * 0.3


def test_bad_samples_and_sizes_leave_the_state_alone():
    network = make(CONFIGS["看直流"])
    chain, x = NativeEnhancer(encoded(network)), wave(14 * 20)
    expected = chain.process(x)
    chain.reset()
    first = chain.process(x[:140])
    for bad, words in (
        (np.full(14, np.nan, np.float32), "NaN"),
        (np.full(14, 1e20, np.float32), "离谱"),
        (x[:13], "帧移 14"),
        (x[:28].reshape(2, 14), "一维"),
    ):
        with pytest.raises(ValueError, match=words):
            chain.process(bad)
    np.testing.assert_array_equal(np.concatenate([first, chain.process(x[140:])]), expected)


# ---- 整个网络的文件 ----


@pytest.mark.parametrize("name", CONFIGS)
def test_files_read_back(name, tmp_path):
    parts = engines.describe(make(CONFIGS[name]))
    stft = engines.conventions(CONFIGS[name])
    path = tmp_path / "网络.lstm"
    network_file.save(path, parts.lstm, parts.weight, parts.bias, parts.sigmoid, stft)
    found = network_file.load(path)
    assert found.stft == stft and found.sigmoid and found.dtype == "float32"
    for key, value in parts.lstm.parameters.items():
        np.testing.assert_array_equal(found.lstm.parameters[key], value)
    np.testing.assert_array_equal(found.weight, parts.weight)
    small = network_file.decode(encoded(make(CONFIGS[name]), "int8"))
    q, step = quantize_rows(parts.lstm.parameters["weight_ih_l0"])
    np.testing.assert_array_equal(small.integers["weight_ih_l0"][0], q)
    np.testing.assert_array_equal(small.integers["weight_ih_l0"][1], step)
    half = network_file.decode(encoded(make(CONFIGS[name]), "float16"))
    assert half.dtype == "float16"
    for key, value in parts.lstm.parameters.items():
        kept = value if key.startswith("bias") else value.astype(np.float16)
        np.testing.assert_array_equal(half.lstm.parameters[key], kept.astype(np.float32))


def test_version_one_is_an_lstm_not_a_network():
    lstm = engines.describe(make(CONFIGS["没有线性层"])).lstm
    assert network_file.decode(lstm.to_bytes()).stft is None
    with pytest.raises(ValueError, match=r"不是语音增强网络.*export --to bin"):
        NativeEnhancer(lstm.to_bytes())
    with pytest.raises(WeightFileError, match="network_file"):
        LSTM.from_bytes(encoded(make(CONFIGS["没有线性层"])))


def patched(data, offset, value, fmt="<I"):
    """改一个字段，两处 CRC 都补对：看的是字段本身的检查。"""
    made = bytearray(data)
    struct.pack_into(fmt, made, offset, value)
    made[48:52] = struct.pack("<I", zlib.crc32(bytes(made[128:])))
    made[124:128] = struct.pack("<I", zlib.crc32(bytes(made[:124])))
    return bytes(made)


def damaged():
    data = encoded(make(CONFIGS["看直流"]), "int8")
    yield from ((data[:size], min(size, len(data))) for size in (0, 5, 11, 60, 127, 128, 300, len(data) - 1))
    yield data + b"x", len(data)
    for at in (0, 9, 40, 124, 130, len(data) - 1):  # 翻一个比特，CRC 不补
        made = bytearray(data)
        made[at] ^= 4
        yield bytes(made), None
    for offset in (12, 16, 20, 24, 28, 32, 36, 52, 56, 60, 64, 68, 72, 76, 80, 84, 120):
        for value in (0, 1, 2, 3, 2**31, 2**32 - 1):
            if struct.unpack_from("<I", data, offset)[0] != value:
                yield patched(data, offset, value), None
    yield patched(data, 128, -128, "<b"), 128
    yield patched(data, 128 + 28 * 15, np.nan, "<f"), 128 + 28 * 15  # 第一个步长
    yield patched(data, 128 + 28 * 15, -1.0, "<f"), 128 + 28 * 15
    half = encoded(make(CONFIGS["看直流"]), "float16")
    for value in (0x7C00, 0xFC00, 0x7E01):  # 正负无穷、NaN
        yield patched(half, 130, value, "<H"), 130
    at = len(half) - 4 * 15 - 2  # 线性层是 15 × 7，奇数个：后面补两个字节
    yield patched(half, at, 1, "<H"), at
    yield patched(half, 36, 5), 36


def test_damaged_files_are_refused_by_both_readers():
    """Python 与 C 都要拒绝，不许崩溃；指得出位置的，两边指同一个字节。"""
    good = encoded(make(CONFIGS["看直流"]), "int8")
    legal = {16, 60, 64}  # 换个值仍合规格的字段：标志位、帧移、采样率
    for data, offset in damaged():
        changed = [
            k for k in range(12, 124, 4) if data[k : k + 4] != good[k : k + 4] and k not in (40, 44, 48)
        ]
        try:
            network_file.decode(data)
        except WeightFileError as error:
            assert offset is None or error.offset == offset
        else:
            assert set(changed) <= legal, changed
            continue
        with pytest.raises(
            ValueError, match=r"第 \d+ 字节处，" if offset is None else f"第 {offset} 字节处，"
        ):
            NativeEnhancer(data)


def test_what_a_file_cannot_hold_is_refused():
    parts = engines.describe(make(CONFIGS["看直流"]))
    arguments = (parts.lstm, parts.weight, parts.bias, True)
    with pytest.raises(ValueError, match="对不上"):
        network_file.encode(*arguments, network_file.STFT(32, 16, 16000, 1))
    with pytest.raises(ValueError, match="dtype"):
        network_file.encode(*arguments, dtype="int4")
    for dtype in ("float32", "int8"):
        with pytest.raises(ValueError, match="NaN"):
            network_file.encode(parts.lstm, np.full_like(parts.weight, np.nan), dtype=dtype)
    big = parts.weight.copy()
    big[3, 2] = 65520
    with pytest.raises(ValueError, match=r"head\.weight 里有 65520，float16 放不下"):
        network_file.encode(parts.lstm, big, dtype="float16")
    small = encoded(make(CONFIGS["看直流"]), "int8")
    for file in (small, encoded(make(CONFIGS["看直流"]), "float16")):
        with pytest.raises(ValueError, match="变不回 float32"):
            NativeEnhancer(file, "float32")
    with pytest.raises(ValueError, match="选项"):
        NativeEnhancer(small, group=1000)
