"""内核编译成 WebAssembly：与本机的内核一个比特不差，与 torch 一致；模块是什么样子，坏的输入怎么说。"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_enhancer import CONFIGS, encoded, make, wave

from lstm_lib import engines
from lstm_lib.engines import native_engine
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.native import NativeBuildError, NativeEnhancer, build, wasm
from lstm_lib.native.wasm import LEVELS, Instance, WasmEnhancer, WasmNetwork

wasmtime = pytest.importorskip("wasmtime", reason="要装 wasmtime")
SIZES = {**CONFIGS, "书中的尺寸": NetworkConfig()}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("name", SIZES)
def test_equals_the_native_kernel(name, dtype, level):
    """同一份 C，同样的块宽，都没有融合乘加：在 x86 上与本机的 portable 级一个比特不差。"""
    network = make(SIZES[name])
    x, data = wave(30 * network.config.hop_length), encoded(network, dtype)
    y = WasmEnhancer(data, level=level).process(x)
    np.testing.assert_allclose(y, NativeEnhancer(data).process(x), rtol=0, atol=1e-5)
    portable = NativeEnhancer(data, level="portable").process(x)
    if build.machine_levels() is build.X86:
        np.testing.assert_array_equal(y, portable)
    else:
        np.testing.assert_allclose(y, portable, rtol=0, atol=1e-6)
    expected = engines.chain(network, "numpy").process(x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.02)
    quantized = WasmEnhancer(encoded(network), dtype, level).process(x)  # 由 C 来量化，结果相同
    np.testing.assert_array_equal(quantized, y)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SIZES)
def test_half_equals_the_native_kernel(name, level):
    """没有半精度指令的 WebAssembly 用整数运算展宽，与本机各级别的结果相同。"""
    network = make(SIZES[name])
    x, data = wave(30 * network.config.hop_length), encoded(network)
    chain = WasmEnhancer(data, "float16", level)
    y = chain.process(x)
    assert chain.dtype == "float16"
    np.testing.assert_allclose(y, NativeEnhancer(data, "float16").process(x), rtol=0, atol=1e-5)
    portable = NativeEnhancer(data, "float16", level="portable").process(x)
    if build.machine_levels() is build.X86:
        np.testing.assert_array_equal(y, portable)
    np.testing.assert_allclose(y, engines.chain(network, "numpy").process(x), rtol=0, atol=2e-3)


@pytest.mark.parametrize("level", LEVELS)
def test_equals_torch_in_outputs_and_states(level):
    network = make(SIZES["书中的尺寸"])
    parts = engines.describe(network)
    fast = WasmNetwork(native_engine.encode(parts), 1, 256, 257, 257, "float32", level)
    x = np.abs(np.random.default_rng(0).standard_normal((100, 256))).astype(np.float32)
    with torch.no_grad():
        h, state = network.mask(torch.from_numpy(x)[None])
        mask = torch.sigmoid(network.head(h))[0].numpy()
    zeros = np.zeros((1, 257), np.float32)
    for pieces in ([100], [1, 48, 49, 2]):  # 整段，与接着上次的状态
        y, now = [], (zeros, zeros)
        for part in np.split(x, np.cumsum(pieces)[:-1]):
            one, *now = fast.run(part, *now)
            y.append(one)
        np.testing.assert_allclose(np.concatenate(y), mask, rtol=0, atol=1e-5)
        for mine, theirs in zip(now, state, strict=True):
            np.testing.assert_allclose(mine, theirs[:, 0].numpy(), rtol=0, atol=1e-5)


def test_the_two_modules_give_the_same_bits():
    network = make(SIZES["两层"])
    x = wave(100 * network.config.hop_length)
    for dtype in ("float32", "int8"):
        one, two = (WasmEnhancer(encoded(network, dtype), level=level).process(x) for level in LEVELS)
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("value", [-127, -1, 1, 127])
def test_extreme_weights_do_not_saturate(value):
    """relaxed 的点积在有的处理器上先把两个乘积加成 int16：127·127·2 也不许出界。"""
    from lstm_lib import LSTM
    from lstm_lib.lstm.layouts import LSTMConfig

    config = LSTMConfig(64, 8)
    sign = np.where(np.arange(64) % 3 == 0, -1, 1)
    weights = {k: np.full(s, value / 127, np.float32) for k, s in config.shapes().items()}
    weights["weight_ih_l0"] = np.broadcast_to(sign * value / 127 / 64, (32, 64)).astype(np.float32)
    lstm = LSTM(config, weights)
    x = np.stack([sign, -sign, np.ones(64), -np.ones(64)]).astype(np.float32)
    expected = engines.build(lstm, ["c-int8"])[0].sequence(x)
    data = native_engine.encode(engines.describe(lstm))
    for level in LEVELS:
        fast = WasmNetwork(data, 1, 64, 8, 8, "int8", level)
        y, _, _ = fast.run(x, *np.zeros((2, 1, 8), np.float32))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(y, lstm(x)[0], rtol=0, atol=0.02)


def test_the_modules_are_small_and_ask_for_nothing():
    for level in LEVELS:
        path = wasm.build_module(level)
        _, module = wasm.load_module(level)
        assert not list(module.imports), "浏览器要给它准备导入"
        names = {export.name for export in module.exports}
        assert {"memory", "allocate", "open", "process", "mask", "spectrum", "network_run"} <= names
        assert path.stat().st_size < 130_000
        assert Instance(level).nbytes < 2**20


def test_only_one_module_needs_relaxed_simd():
    config = wasmtime.Config()
    config.wasm_relaxed_simd = False
    engine = wasmtime.Engine(config)
    wasmtime.Module.validate(engine, wasm.build_module("wasm").read_bytes())
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module.validate(engine, wasm.build_module("wasm_relaxed").read_bytes())


def test_memory_stays_flat_and_the_state_can_be_forgotten():
    network = make(SIZES["两层"])
    chain, x = WasmEnhancer(encoded(network, "int8"), group=1), wave(160 * 50)
    expected, size = chain.process(x), chain.nbytes
    assert not np.array_equal(chain.process(x), expected), "第二遍该接着第一遍的状态"
    for _ in range(20):
        chain.reset()
        np.testing.assert_array_equal(chain.process(x), expected)
    assert chain.nbytes == size
    for group in (3, 16, 256):
        np.testing.assert_array_equal(
            WasmEnhancer(encoded(network, "int8"), group=group).process(x), expected
        )


def test_the_last_frame_can_be_looked_at():
    network = make(NetworkConfig())
    chain, x = WasmEnhancer(encoded(network), group=1), wave(256 * 8)
    chain.process(x)
    spectrum, mask = chain.last()
    window = np.sin(np.pi * np.arange(512) / 512)
    bins = np.abs(np.fft.rfft(x[-512:] * window))
    np.testing.assert_allclose(spectrum, bins[1:], rtol=0, atol=1e-4)
    assert mask.shape == (257,) and (mask > 0).all() and (mask < 1).all()


def test_bad_samples_leave_the_state_alone():
    network = make(SIZES["看直流"])
    chain, x = WasmEnhancer(encoded(network)), wave(14 * 20)
    expected = chain.process(x)
    chain.reset()
    first = chain.process(x[:140])
    for bad, words in (
        (np.append(x[:13], np.nan), "NaN"),
        (np.full(14, 1e20), "离谱"),
        (x[:13], "帧移 14"),
        (x[:28].reshape(2, 14), "一维"),
    ):
        with pytest.raises(ValueError, match=words):
            chain.process(bad)
    np.testing.assert_array_equal(np.concatenate([first, chain.process(x[140:])]), expected)


def test_bad_files_are_refused_with_a_place():
    network = make(SIZES["两层"])
    data = encoded(network)
    broken = bytearray(data)
    broken[-1] ^= 1
    alone = native_engine.encode(engines.describe(network))
    for bad, words in (
        (bytes(broken), "第 48 字节处，数据区的 CRC-32 不对"),
        (data[:1000], "文件在这里断了"),
        (b"", "文件在这里断了"),
        (b"RIFF" + data, "第 0 字节处，这不是本书的权重文件"),
        (alone, "不是语音增强网络"),
    ):
        with pytest.raises(ValueError, match=words):
            WasmEnhancer(bad)
    with pytest.raises(ValueError, match="变不回 float32"):
        WasmEnhancer(encoded(network, "int8"), "float32")
    with pytest.raises(ValueError, match="选项的值不合理"):
        WasmEnhancer(data, group=1000)
    with pytest.raises(ValueError, match="'avx2'"):
        WasmEnhancer(data, level="avx2")
    with pytest.raises(ValueError, match="dtype"):
        WasmEnhancer(data, dtype="int4")


def test_nan_is_not_hidden_by_the_gates():
    network = engines.describe(make(SIZES["书中的尺寸"]))
    for dtype in ("float32", "int8"):
        fast = WasmNetwork(native_engine.encode(network), 1, 256, 257, 257, dtype, "wasm_relaxed")
        x = np.ones((2, 256), np.float32)
        x[0, 7] = np.nan
        y, _, _ = fast.run(x, *np.zeros((2, 1, 257), np.float32))
        assert np.isnan(y).all(), "坏输入变成了好看的数"


def test_without_ziglang_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("LSTM_LIB_CACHE", str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ziglang" else found(name))
    with pytest.raises(NativeBuildError, match="pip install ziglang"):
        wasm.build_module("wasm")
    assert not list(tmp_path.rglob("*.wasm"))


def test_without_wasmtime_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    wasm.load_module.cache_clear()
    with pytest.raises(ImportError, match="pip install wasmtime"):
        wasm.load_module("wasm")


def test_a_broken_cache_is_rebuilt(monkeypatch, tmp_path):
    path, made = tmp_path / "坏.wasm", []
    good = wasm.build_module("wasm")
    path.write_bytes(b"\0asm")

    def build_module(level):
        made.append(level)
        return path if len(made) == 1 else good

    monkeypatch.setattr(wasm, "build_module", build_module)
    wasm.load_module.cache_clear()
    assert wasm.load_module("wasm")[1].exports and made == ["wasm", "wasm"] and not path.exists()
    wasm.load_module.cache_clear()


def test_leaving_python_is_quiet():
    """解释器退出时不往标准错误里写东西：笔记本里那是一格红字。"""
    code = "from lstm_lib.native.wasm import Instance; keep = Instance('wasm'); print(keep.nbytes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().isdigit() and not done.stderr
