"""引擎：每一家都与手写的 LSTM 一致；一个新文件就是一个新引擎；秒表；由导出的文件造引擎。"""

import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from lstm_lib import LSTM, cli, engines, threads
from lstm_lib.engines import Network, timing
from lstm_lib.enhance import irm
from lstm_lib.formats import ncnn_run, network_file, onnx_graph, writers
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.native.quantize import quantize_rows
from lstm_lib.training import export

NAMES = engines.available()
EXACT = [name for name in NAMES if engines.offers()[name].dtype == "float32"]
QUANTIZED = [name for name in NAMES if engines.offers()[name].dtype == "int8"]
HALF = [name for name in NAMES if engines.offers()[name].dtype == "float16"]


def make(inputs=6, hidden=5, layers=1, bias=True, head=0, head_bias=True, sigmoid=False, seed=0):
    rng = np.random.default_rng(seed)
    config = LSTMConfig(inputs, hidden, layers, bias=bias)
    bound = 1 / np.sqrt(hidden)
    lstm = LSTM(
        config, {k: rng.uniform(-bound, bound, s).astype(np.float32) for k, s in config.shapes().items()}
    )
    if not head:
        return Network(lstm, sigmoid=sigmoid)
    weight = rng.normal(size=(head, hidden)).astype(np.float32)
    return Network(lstm, weight, rng.normal(size=head).astype(np.float32) if head_bias else None, sigmoid)


CASES = {
    "一层": make(),
    "一层，没有偏置": make(bias=False),
    "两层": make(3, 9, 2),
    "两层，没有偏置": make(layers=2, bias=False),
    "一层与线性层": make(head=7, sigmoid=True),
    "线性层没有偏置": make(bias=False, head=7, head_bias=False, sigmoid=True),
    "两层与线性层，没有 sigmoid": make(5, 7, 2, head=3),
    "两层与 sigmoid": make(1, 17, 2, sigmoid=True),
    "三层": make(4, 3, 3, head=1, sigmoid=True),
    "书里的尺寸": make(256, 257, head=257, sigmoid=True),
    "两层 128": make(256, 128, 2, head=257, sigmoid=True),
}
cases = pytest.mark.parametrize("network", CASES.values(), ids=CASES)


def frames(network, count=30, seed=1):
    shape = (count, network.lstm.config.input_size)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference(network, x):
    """float64 的 LSTM 与线性层。"""
    y, _ = network.lstm.astype("float64")(x.astype(np.float64))
    if network.weight is not None:
        y = y @ network.weight.T.astype(np.float64) + (0 if network.bias is None else network.bias)
    return 1 / (1 + np.exp(-y)) if network.sigmoid else y


def four_ways(engine, x, other):
    """整段；逐帧；清零之后再逐帧；两路交错着用 ``advance``，另一路的输入是 ``other``。"""
    yield "sequence", engine.sequence(x)
    yield "step", np.stack([engine.step(row) for row in x])
    engine.reset()
    yield "reset 之后的 step", np.stack([engine.step(row) for row in x])
    one, two, mine, theirs = None, None, [], []
    for a, b in zip(x, other, strict=True):
        y, one = engine.advance(a, one)
        mine.append(y)
        y, two = engine.advance(b, two)
        theirs.append(y)
    yield "advance", np.stack(mine)
    engine.reset()
    again = np.stack([engine.step(row) for row in other])
    np.testing.assert_allclose(np.stack(theirs), again, rtol=0, atol=1e-6, err_msg="另一路串了状态")


@cases
@pytest.mark.parametrize("name", EXACT)
def test_float_engines_equal_the_lstm(name, network):
    x, other = frames(network), frames(network, seed=2)
    [engine] = engines.build(network, [name])
    for way, y in four_ways(engine, x, other):
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, reference(network, x), rtol=0, atol=1e-5, err_msg=f"{name}，{way}")


# ---- 半精度与 int8 的界：把“int8”一章的推导逐帧、逐层传下去 ----


def rounding(weight, peak, total):
    """一行点积因取整而差多少：输入的步长 peak/127，权重的步长逐行取，两头各差半步。"""
    columns, steps = weight.shape[1], quantize_rows(weight)[1]
    s = peak / 127
    return s / 2 * np.abs(weight).sum(1) + steps / 2 * total + columns * s * steps / 4


def half_rounding(weight):
    """权重舍入成半精度各差多少：11 位有效数字，就近，相对 2⁻¹¹；非规格化数一格 2⁻²⁴，差半格。"""
    return np.maximum(2.0**-11 * np.abs(weight), 2.0**-25)


def limit(network, x, dtype, whole=False):
    """与精确值最多差多少，(T, O)。``whole``：整段共用一个输入步长（onnxruntime 的 int8 sequence）。"""
    p, error = network.lstm.parameters, np.zeros_like(x)
    y = x.astype(np.float64)
    for layer in range(network.lstm.config.num_layers):
        w, r = p[f"weight_ih_l{layer}"], p[f"weight_hh_l{layer}"]
        b = p.get(f"bias_l{layer}", np.zeros(len(w)))
        inputs, before, size = y, error, network.lstm.config.hidden_size
        h, c, eh, ec = (np.zeros(size) for _ in range(4))
        y, error = np.empty((len(x), size)), np.empty((len(x), size))
        for t, (v, ev) in enumerate(zip(inputs, before, strict=True)):
            peak = (np.abs(inputs) + before).max() if whole else (np.abs(v) + ev).max()
            hidden = np.minimum(np.abs(h) + eh, 1)
            ez = np.abs(w) @ ev + np.abs(r) @ eh
            if dtype == "float16":
                ez += half_rounding(w) @ (np.abs(v) + ev) + half_rounding(r) @ hidden
            else:
                ez += rounding(w, peak, (np.abs(v) + ev).sum())
                ez += rounding(r, hidden.max(), hidden.sum())
            i, f, g, o = np.split(w @ v + r @ h + b, 4)
            ei, ef, eg, eo = np.split(ez, 4)
            i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
            g = np.tanh(g)
            # σ 的斜率最多 1/4，tanh 最多 1；差了之后的门仍在 (0, 1) 里
            ec = np.minimum(f + ef / 4, 1) * ec + np.abs(c) * ef / 4
            ec += np.minimum(i + ei / 4, 1) * eg + np.abs(g) * ei / 4
            c = f * c + i * g
            eh = np.minimum(o + eo / 4, 1) * ec + np.abs(np.tanh(c)) * eo / 4
            h = o * np.tanh(c)
            y[t], error[t] = h, eh
    if network.weight is not None:
        rounded = (np.abs(y) + error) @ half_rounding(network.weight).T if dtype == "float16" else 0
        error = error @ np.abs(network.weight).T + rounded
    return error / 4 if network.sigmoid else error


def saturates(name):
    """没有 VNNI 的 x86 上，onnxruntime 的 8 位乘加会饱和（“int8”一章的坑），上面的界不管它。"""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return name == "onnxruntime-int8" and "vnni" not in flags


@cases
@pytest.mark.parametrize("name", QUANTIZED)
def test_int8_engines_stay_within_the_derived_bound(name, network):
    x, other = frames(network, 12), frames(network, 12, seed=2)
    exact = reference(network, x)
    [engine] = engines.build(network, [name])
    for way, y in four_ways(engine, x, other):
        gap = np.abs(y - exact)
        assert gap.max() > 1e-6, "一点差别也没有：真的量化了吗？"
        if saturates(name):
            assert gap.mean() < 0.1, f"{name}，{way}"
            continue
        most = limit(network, x, "int8", name == "onnxruntime-int8" and way == "sequence")
        assert (gap <= most + 1e-5).all(), f"{name}，{way}：差 {gap.max():.2g}，界 {most.max():.2g}"


@cases
@pytest.mark.parametrize("name", HALF)
def test_half_engines_stay_within_the_derived_bound(name, network):
    x, other = frames(network, 12), frames(network, 12, seed=2)
    exact, most = reference(network, x), limit(network, x, "float16")
    [engine] = engines.build(network, [name])
    for way, y in four_ways(engine, x, other):
        gap = np.abs(y - exact)
        assert gap.max() > 1e-6, "一点差别也没有：真的存成半精度了吗？"
        assert (gap <= most + 2e-6).all(), f"{name}，{way}：差 {gap.max():.2g}，界 {most.max():.2g}"


def test_half_engines_name_the_weight_that_does_not_fit():
    good = CASES["一层与线性层"]
    head = good.weight.copy()
    head[3, 2] = 1e5
    with pytest.raises(ValueError, match="权重 线性层的 weight 里有 100000，float16 放不下"):
        engines.build(Network(good.lstm, head, good.bias, True), ["c-float16"])
    w = good.lstm.parameters["weight_hh_l0"] * np.float32(1e6)
    with pytest.raises(ValueError, match="权重 weight_hh_l0 里有"):
        engines.build(good.lstm.with_parameters({"weight_hh_l0": w}), ["c-float16"])


def test_the_int8_bound_is_tight_enough_to_catch_a_wrong_gate():
    """界不能大到什么都放过：两个门换了位置，就该越界。"""
    network = CASES["一层"]
    p = {k: v.copy() for k, v in network.lstm.parameters.items()}
    for value in p.values():
        value[:10] = np.roll(value[:10], 5, axis=0)
    wrong = Network(LSTM(network.lstm.config, p))
    x = frames(network, 12)
    gap = np.abs(reference(wrong, x) - reference(network, x))
    assert (gap > limit(network, x, "int8", whole=True)).any()


# ---- 状态 ----


@cases
@pytest.mark.parametrize("name", EXACT)
def test_state_goes_in_and_out_as_arrays(name, network):
    config, rng = network.lstm.config, np.random.default_rng(3)
    h, c = rng.uniform(-1, 1, (2, config.num_layers, config.hidden_size)).astype(np.float32)
    [engine] = engines.build(network, [name])
    state = engine.to_state(h, c)
    for given, back in zip((h, c), engine.from_state(state), strict=True):
        np.testing.assert_array_equal(given, back)
    x = frames(network, 1)
    y, (h1, c1) = network.lstm(x, (h, c))
    got, after = engine.advance(x[0], state)
    np.testing.assert_allclose(got, network.after(y[0]), rtol=0, atol=1e-5)
    for wanted, back in zip((h1, c1), engine.from_state(after), strict=True):
        np.testing.assert_allclose(back, wanted, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="状态 h"):
        engine.to_state(h[:, :-1], c)


def batch_first(network):
    lstm = LSTM(replace(network.lstm.config, batch_first=True), network.lstm.parameters)
    return Network(lstm, network.weight, network.bias, network.sigmoid)


@pytest.mark.parametrize("network", [batch_first(CASES["一层"]), CASES["两层与线性层，没有 sigmoid"]])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_sequences(name, network):
    [engine] = engines.build(network, [name])
    x = np.stack([frames(network, 12, seed) for seed in range(5)], axis=1)
    alone = np.stack([engine.sequence(x[:, b]) for b in range(5)], axis=1)
    y = engine.batch(x)
    assert y.shape == alone.shape == (12, 5, alone.shape[-1])
    if name.startswith("c"):
        assert np.array_equal(y, alone), "本书的 C：求和次序不变，一个比特也不差"
    # onnxruntime 的 int8 用整批的最大值定输入的步长
    np.testing.assert_allclose(y, alone, rtol=0, atol=0.1 if name == "onnxruntime-int8" else 1e-5)
    for wrong in (x[:, 0], x[:, :0], x[..., :-1]):
        with pytest.raises(ValueError, match="几段输入"):
            engine.batch(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_works_on_one_thread(name):
    network = make(inputs=64, hidden=128)
    [engine] = engines.build(network, [name])
    x = frames(network, 300)
    with threadpool_limits(1):
        engine.sequence(x)
        time.sleep(0.3)  # 别的用例开过的 BLAS 线程还在空转，等它们睡下
        assert threads.workers(lambda: [engine.sequence(x) for _ in range(5)]) in (1, None)


@pytest.mark.parametrize("network", [CASES["一层"], CASES["两层与线性层，没有 sigmoid"]])
@pytest.mark.parametrize("name", NAMES)
def test_advance_is_pure(name, network):
    """从同一个状态走两遍，结果一样；改写输出不改状态；旧状态还能回头再用。"""
    x = frames(network, 6)
    [engine] = engines.build(network, [name])
    _, state = engine.advance(x[0])
    first, after = engine.advance(x[1], state)
    kept = first.copy()
    second, _ = engine.advance(x[2], after)
    np.testing.assert_array_equal(first, kept, err_msg="返回的数组被下一帧改写了")
    again, after_again = engine.advance(x[1], state)
    np.testing.assert_array_equal(again, kept, err_msg="从同一个状态再走一遍，结果不同")
    again[:] = 7
    np.testing.assert_array_equal(engine.advance(x[2], after_again)[0], second, err_msg="改写输出改到了状态")
    np.testing.assert_array_equal(engine.advance(x[2], after)[0], second)


@pytest.mark.parametrize("name", NAMES)
def test_threads_share_one_engine(name):
    network = CASES["书里的尺寸"]
    [engine] = engines.build(network, [name])
    voices = [frames(network, 10, seed) for seed in range(8)]

    def run(voice):
        state, rows = None, []
        for row in voice:
            y, state = engine.advance(row, state)
            rows.append(y)
        return np.stack(rows)

    alone = [run(voice) for voice in voices]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(alone, pool.map(run, voices), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input_is_refused_before_it_reaches_the_library(name):
    network = CASES["两层"]
    [engine] = engines.build(network, [name])
    good = frames(network, 4)
    for bad in (np.zeros(2, np.float32), np.zeros((1, 3), np.float32), np.zeros(3, complex), np.float32(1)):
        with pytest.raises(ValueError, match="x"):
            engine.advance(bad)
        with pytest.raises(ValueError, match="x"):
            engine.step(bad)
    for bad in (np.zeros((4, 2), np.float32), np.zeros((0, 3), np.float32), good[0]):
        with pytest.raises(ValueError, match="x"):
            engine.sequence(bad)
    wanted = engine.sequence(good)
    engine.reset()
    odd = [good[0].astype(np.float64), list(good[1]), np.repeat(good[2], 2)[::2], np.asfortranarray(good)[3]]
    got = np.stack([engine.step(x) for x in odd])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 if name in EXACT else 0.1)
    np.testing.assert_array_equal(engine.sequence(np.asfortranarray(good)), wanted)


# ---- 从哪里来 ----


class Net(torch.nn.Module):
    """``IRMNetwork`` 的样子，尺寸任意。"""

    def __init__(self, inputs, hidden, layers, head):
        super().__init__()
        self.mask = torch.nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.head = torch.nn.Linear(hidden, head) if head else torch.nn.Identity()

    def forward_with_state(self, x, state=None):
        y, state = self.mask(x, state)
        return torch.sigmoid(self.head(y)), state

    def forward(self, x):
        return self.forward_with_state(x)[0]


@pytest.mark.parametrize("sizes", [(256, 257, 1, 257), (256, 257, 1, 0), (5, 8, 2, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_mask_step_gives_torchs_mask_for_two_streams(name, sizes):
    torch.manual_seed(0)
    network = Net(*sizes).eval()
    x = np.abs(np.random.default_rng(0).normal(0, 0.1, (30, sizes[0]))).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)[None])[0].numpy()
    step, one, two = engines.mask_step(network, name), None, None
    limit = 1e-5 if name in EXACT else 5e-3
    for frame, row in zip(x, expected, strict=True):
        mask, one = step(frame, one)
        assert mask.shape == (sizes[3] or sizes[1],)
        np.testing.assert_allclose(mask, row, rtol=0, atol=limit)
        mask, two = step(frame, two)  # 另一路音频，不许串
        np.testing.assert_allclose(mask, row, rtol=0, atol=limit)


def test_the_books_network_is_understood():
    torch.manual_seed(0)
    network = irm.IRMNetwork().eval()
    described = engines.describe(network)
    np.testing.assert_array_equal(described.weight, network.head.weight.detach())
    assert described.sigmoid and described.lstm.config.hidden_size == 257
    assert engines.describe(described) is described


@pytest.mark.parametrize(
    "bad, words",
    [
        (LSTMConfig(3, 4, direction="bidirectional"), "单向"),
        (LSTMConfig(3, 4, direction="reverse"), "单向"),
        (LSTMConfig(3, 4, proj_size=2), "投影"),
    ],
)
def test_networks_that_no_engine_can_stream_are_refused(bad, words):
    lstm = LSTM(bad, {k: np.zeros(s) for k, s in bad.shapes().items()})
    with pytest.raises(ValueError, match=words):
        engines.build(lstm, ["numpy"])


def test_other_bad_sources_are_refused():
    lstm = CASES["一层"].lstm
    clipped = LSTM(lstm.config, lstm.parameters, clip=1.0)
    with pytest.raises(ValueError, match="截幅"):
        engines.build(clipped)
    with pytest.raises(ValueError, match="IRMNetwork"):
        engines.build(torch.nn.Linear(2, 2))
    network = Net(3, 4, 1, 0)
    network.head = torch.nn.Tanh()
    with pytest.raises(ValueError, match="Tanh"):
        engines.mask_step(network)
    for weight, bias in ((np.zeros((7, 4)), None), (np.zeros((7, 5)), np.zeros(5)), (None, np.zeros(5))):
        with pytest.raises(ValueError, match="线性层"):
            Network(lstm, weight, bias)
    with pytest.raises(ValueError, match=r"numpy.*torch"):
        engines.mask_step(lstm, "没有的")
    with pytest.raises(ValueError, match="没有名为"):
        engines.build(lstm, ["本书 C"])


def test_a_float64_lstm_is_taken_as_float32():
    lstm = CASES["一层"].lstm
    x = frames(CASES["一层"])
    for engine in engines.build(lstm.astype("float64"), EXACT):
        np.testing.assert_allclose(engine.sequence(x), lstm(x)[0], rtol=0, atol=1e-5)


# ---- 发现 ----

NEW_ENGINE = '''
"""测试用的引擎：不存状态，输出是输入的平均。"""
import numpy as np
from lstm_lib.engines import Engine, Offer

class MeanEngine(Engine):
    def __init__(self, network):
        config = network.lstm.config
        super().__init__(config.input_size, (config.num_layers, config.hidden_size))
        self.outputs = config.hidden_size if network.weight is None else len(network.weight)

    def advance(self, x, state=None):
        count = 0 if state is None else state
        return np.full(self.outputs, self.frame(x).mean(), np.float32), count + 1

OFFERS = [
    Offer("mean", "平均", MeanEngine),
    Offer("absent", "缺包的", MeanEngine, packages=("no_such_package_anywhere",)),
]
'''


@pytest.fixture
def dropped_in(tmp_path, monkeypatch):
    """往引擎的文件夹旁边丢一个新文件。"""
    (tmp_path / "mean_engine.py").write_text(NEW_ENGINE, encoding="utf-8")
    (tmp_path / "notes.py").write_text("raise RuntimeError('名字不以 _engine 结尾，不该被导入')")
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("lstm_lib.engines.mean_engine", None)


def test_one_new_file_is_one_new_engine(dropped_in, capsys):
    assert "mean" in engines.available() and "absent" not in engines.available()
    with pytest.raises(SystemExit):
        cli.main(["enhance", "--help"])
    shown = "".join(capsys.readouterr().out.split())
    assert "mean" in shown and "no_such_package_anywhere" in shown
    network = CASES["一层"]
    x = frames(network, 4)
    racers = engines.build(network.lstm, ["numpy", "mean"])
    results = timing.race(racers, x, rounds=2, calls=2)
    assert [row[0] for row in timing.rows(racers, results["step"], 1e-6)] == ["本书 NumPy", "平均"]
    assert np.isnan(results["sequence"][1]).all(), "不会一次算整段的，不该参加整段赛"
    np.testing.assert_allclose(racers[1].sequence(x)[:, 0], x.mean(1), atol=1e-6)
    mask, state = engines.mask_step(irm.IRMNetwork().eval(), "mean")(np.ones(256, np.float32), None)
    assert mask.shape == (257,) and state == 1


def test_a_missing_package_is_a_reason_not_a_crash(dropped_in, tmp_path, capsys):
    with pytest.raises(ImportError, match="pip install no_such_package_anywhere"):
        engines.build(CASES["一层"].lstm, ["absent"])
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.float32), 16000)
    arguments = ["enhance", str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "--engine", "absent"]
    assert cli.main(arguments) == 1
    assert "pip install no_such_package_anywhere" in capsys.readouterr().err
    assert not (tmp_path / "b.wav").exists()


def test_two_engines_may_not_share_a_name(dropped_in):
    (dropped_in / "other_engine.py").write_text(NEW_ENGINE, encoding="utf-8")
    importlib.invalidate_caches()
    try:
        with pytest.raises(ValueError, match="mean"):
            engines.offers()
    finally:
        sys.modules.pop("lstm_lib.engines.other_engine", None)


def test_offers_say_what_the_tables_show():
    titles = {name: offer.title for name, offer in engines.offers().items()}
    assert titles == {
        "numpy": "本书 NumPy",
        "torch": "torch LSTM",
        "torch-cell": "torch LSTMCell",
        "onnxruntime": "onnxruntime",
        "onnxruntime-int8": "onnxruntime int8",
        "ncnn": "ncnn",
        "ncnn-int8": "ncnn int8",
        "openvino": "OpenVINO",
        "c": "本书 C",
        "c-float16": "本书 C float16",
        "c-int8": "本书 C int8",
        "wasm": "本书 C，WebAssembly",
        "wasm-int8": "本书 C int8，WebAssembly",
    }
    for name, engine in zip(NAMES, engines.build(CASES["一层"].lstm), strict=True):
        offer = engines.offers()[name]
        assert (engine.name, engine.title, engine.dtype, engine.ours) == (
            name,
            offer.title,
            offer.dtype,
            offer.ours,
        )
        assert engine.threads >= 1 and engine.dtype == next(
            (d for d in ("int8", "float16") if name.endswith(d)), "float32"
        )
    assert [name for name in NAMES if engines.offers()[name].ours] == [
        *("c", "numpy", "wasm", "c-float16", "c-int8", "wasm-int8")
    ]


def test_the_native_step_is_the_streams_own():
    [engine] = engines.build(CASES["一层"].lstm, ["c"])
    assert engine.step.__func__.__qualname__ == "Stream.step", "一微秒也不该多花"


# ---- 由导出的文件造引擎 ----


def torch_pair(network, x, h, c):
    with torch.inference_mode():
        given = tuple(torch.from_numpy(a)[:, None] for a in (h, c))
        mask, (h1, c1) = network.forward_with_state(torch.from_numpy(x)[None], given)
    return mask[0].numpy(), h1[:, 0].numpy(), c1[:, 0].numpy()


READERS = {"onnxruntime": "onnx", "ncnn": "ncnn", "openvino": "onnx"}


@pytest.mark.parametrize("name", [name for name in READERS if name in NAMES])
def test_engines_from_exported_files(tmp_path, name):
    to = READERS[name]
    torch.manual_seed(0)
    network = irm.IRMNetwork().eval()
    config = engines.describe(network).lstm.config
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(9, config.input_size))).astype(np.float32)
    h, c = rng.uniform(-0.5, 0.5, (2, config.num_layers, config.hidden_size)).astype(np.float32)
    zero = np.zeros_like(h)
    expected, *_ = torch_pair(network, x, zero, zero)

    def load(stem):
        return engines.load(name, *(tmp_path / f"{stem}{end}" for end in engines.offers()[name].suffixes))

    export.export(network, to, tmp_path / "whole")
    whole = load("whole")
    assert whole.whole and whole.input_size == config.input_size and whole.name == name
    np.testing.assert_allclose(whole.sequence(x), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="sequence"):
        whole.advance(x[0])
    with pytest.raises(ValueError, match="x"):
        whole.sequence(x[:, :-1])

    export.export(network, to, tmp_path / "streaming", streaming=True)
    streaming = load("streaming")
    np.testing.assert_allclose(streaming.sequence(x), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.stack([streaming.step(row) for row in x]), expected, rtol=0, atol=1e-5)
    mask, after = streaming.advance(x[0], streaming.to_state(h, c))
    wanted = torch_pair(network, x[:1], h, c)
    for one, other in zip((mask[None], *streaming.from_state(after)), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_engines_from_files_made_by_the_converters(tmp_path, layers):
    """torch 的导出器、onnxsim 与 pnnx 写的带状态的模型，多层的也认得。"""
    torch.manual_seed(0)
    network = Net(6, 5, layers, 7).eval()
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)[None])[0].numpy()
    module, zero = onnx_graph.with_state(network), torch.zeros(layers, 1, 5)
    inputs = (torch.zeros(1, 1, 6), zero, zero.clone())
    path = tmp_path / "a.onnx"
    onnx_graph.export(module, inputs, path, input_names=("x", "h", "c"), output_names=("mask", "h1", "c1"))
    onnx_graph.simplify(path, path)
    made = ncnn_run.convert(module, tmp_path / "a", inputs=inputs)
    for engine in (engines.load("onnxruntime", path), engines.load("ncnn", made.param, made.bin)):
        got = np.stack([engine.step(row) for row in x])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=engine.name)


@pytest.mark.parametrize("case", ["一层", "两层与线性层，没有 sigmoid"])
def test_engines_from_our_own_files(tmp_path, case):
    import onnx

    network = CASES[case]
    x = frames(network)
    arguments = (network.lstm, network.weight, network.bias, network.sigmoid)
    onnx.save(writers.onnx_model(*arguments), tmp_path / "a.onnx")
    paths = tmp_path / "a.param", tmp_path / "a.bin"
    writers.ncnn_files(network.lstm, *paths, network.weight, network.bias, network.sigmoid)
    network_file.save(tmp_path / "a.lstm", *arguments)
    others = [engines.load(name, tmp_path / "a.lstm") for name in ("numpy", "c")]
    for engine in (
        engines.load("onnxruntime", tmp_path / "a.onnx"), engines.load("ncnn", *paths), *others
    ):  # fmt: skip
        for way, y in four_ways(engine, x, frames(network, seed=2)):
            np.testing.assert_allclose(y, reference(network, x), rtol=0, atol=1e-5, err_msg=way)


def test_files_that_are_not_such_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="会读的有"):
        engines.load("torch", "a.onnx")
    (tmp_path / "bad.lstm").write_bytes(b"x" * 200)
    with pytest.raises(ValueError, match=r"bad\.lstm.*第 0 字节"):
        engines.load("c", tmp_path / "bad.lstm")
    with pytest.raises(ValueError, match="2 个文件"):
        engines.load("ncnn", "a.param")
    with pytest.raises(FileNotFoundError, match="没有这个"):
        engines.load("onnxruntime", tmp_path / "没有这个.onnx")
    module = torch.nn.LSTM(3, 4, batch_first=True)
    onnx_graph.export(module, (torch.zeros(1, 5, 3),), tmp_path / "fixed.onnx", output_names=("y", "h", "c"))
    with pytest.raises(ValueError, match="三个输入"):
        engines.load("onnxruntime", tmp_path / "fixed.onnx")
    onnx_graph.export(torch.nn.Sigmoid(), (torch.zeros(1, 5, 3),), tmp_path / "frames.onnx")
    with pytest.raises(ValueError, match="T 可变"):
        engines.load("onnxruntime", tmp_path / "frames.onnx")
    (tmp_path / "s.param").write_text("7767517\n2 2\nInput in0 0 1 in0\nSigmoid s 1 1 in0 out0\n")
    (tmp_path / "s.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="LSTM"):
        engines.load("ncnn", tmp_path / "s.param", tmp_path / "s.bin")


# ---- 秒表 ----


@pytest.fixture
def fake_clock(monkeypatch):
    """一只只在被叫的时候才走的钟：时间由测试的函数自己拨。"""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

        def work(self, seconds, calls=None):
            def function(*_):
                self.now += seconds
                if calls is not None:
                    calls.append(seconds)
                return 0, None

            return function

    clock = Clock()
    monkeypatch.setattr(timing, "clock", clock)
    return clock


def test_alternate_takes_turns(fake_clock):
    calls = []
    times = timing.alternate([fake_clock.work(1, calls), fake_clock.work(3, calls)], rounds=2, calls=2)
    np.testing.assert_array_equal(times, [[1, 1], [3, 3]])
    assert calls == [1, 3] + [1, 1, 1, 3, 3, 3] * 2, "先热身，再轮流；每次计时之前先跑一遍"


def test_repeat_and_each_frame(fake_clock):
    np.testing.assert_array_equal(timing.repeat(fake_clock.work(2), 3), [2, 2, 2])
    assert len(timing.repeat(fake_clock.work(2), seconds=7)) == 4, "要满 7 秒"
    states = []

    def advance(x, state):
        states.append(state)
        fake_clock.now += x
        return x, x

    np.testing.assert_array_equal(timing.each_frame(advance, [1, 2, 4], fake_clock.work(100)), [1, 2, 4])
    assert states == [None, 1, 2], "状态没有传下去，或没有从零开始"
    assert timing.levels(np.arange(101)) == (50, 99, 100)


def test_medians_spread_and_ratios():
    racers = engines.build(CASES["一层"].lstm, ["numpy", "torch", "onnxruntime", "torch-cell"])
    times = np.array([[1, 2, 3], [8, 4, 6], [4, 4, 4], [np.nan] * 3], float)
    assert timing.rows(racers, times, 2.0)[0] == ["本书 NumPy", "float32", 1.0, "0.75–1.25"]
    assert len(timing.rows(racers, times, 1.0)) == 3
    assert timing.fastest(racers, times, "float32") == 2
    assert timing.fastest(racers, times, "float32", ours=True) == 0
    assert timing.speedup(times, 1, 0) == (2.0, 2.0, 5.0)
    with pytest.raises(ValueError, match="int8"):
        timing.fastest(racers, times, "int8")
    [note] = timing.unrest(["稳的", "散的", "没参加的"], np.array([[10, 10, 11], [8, 4, 6], [np.nan] * 3]))
    assert note.startswith("散的：") and "33%" in note
