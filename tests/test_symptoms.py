"""对症表：每一行检查都跑两遍，有病的得 True，没病的得 False；引用的坑与小节都真有。"""

import re
from functools import cache

import nbformat
import numpy as np
import onnx
import pytest
import soundfile
import torch
from conftest import ROOT

from lstm_lib import LSTM, native
from lstm_lib.enhance import irm
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.formats import onnx_graph
from lstm_lib.lstm import layouts

TEXT = (ROOT / "chapters" / "symptoms.md").read_text(encoding="utf-8")
SETUP = re.search(r"## 先备好几个名字\n.*?```python\n(.*?)```", TEXT, re.S)[1]
ENTRIES = {
    title: (
        re.sub(r"```.*?```", "", body, flags=re.S).strip(),
        re.findall(r"```python\n(.*?)\n```", body, re.S),
    )
    for title, body in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.S | re.M)
}
INPUT, HIDDEN, FRAMES = 3, 4, 24
CASES = {}  # 症状 → 造名字的函数：sick 为真时照着病造，为假时照对的造


def case(title):
    return lambda make: CASES.setdefault(title, make)


@cache
def module(**options):
    torch.manual_seed(5)
    return torch.nn.LSTM(INPUT, HIDDEN, **options).requires_grad_(False).eval()


def names(reference=None, **more):
    """页首那张表里的名字；``y`` 缺省是对的。"""
    reference = reference or module()
    x = np.random.default_rng(2).normal(size=(FRAMES, INPUT)).astype(np.float32)
    y, (h, c) = LSTM.from_torch(reference)(x)
    want = reference(torch.tensor(x))[0].numpy()
    weights = [p.numpy() for p in reference.parameters()]
    base = {"module": reference, "x": x, "y": y, "want": want, "H": reference.hidden_size}
    return base | {"weights": weights, "h": h[0], "c": c[0]} | more


def changed(**arrays):
    """抄错几个数组之后的 LSTM。"""
    right = LSTM.from_torch(module())
    return right.with_parameters(
        {f"{k}_l0": change(right.parameters[f"{k}_l0"]) for k, change in arrays.items()}
    )


def wrong(sick, lstm):
    given = names()
    return given | {"y": lstm(given["x"])[0]} if sick else given


@case("从第一步起，每个单元都错")
def _(sick, folder):
    def swap(a):
        return layouts.reorder(a, "torch", "onnx")

    return wrong(sick, changed(weight_ih=swap, weight_hh=swap, bias=swap))


@case("每一步都偏一点，像整体挪了位置")
def _(sick, folder):
    return wrong(sick, changed(bias=lambda b: 2 * b))


@case("第一步对，第二步起全错")
def _(sick, folder):
    given = wrong(sick, changed(weight_hh=lambda a: np.concatenate([b.T for b in np.split(a, 4)])))
    assert np.allclose(given["y"][0], given["want"][0], atol=1e-6)
    assert np.allclose(given["y"][1], given["want"][1], atol=1e-3) != sick
    return given


@case("从头走是对的，接着上一段走就错")
def _(sick, folder):
    h0, c0 = np.random.default_rng(3).uniform(-0.9, 0.9, size=(2, 1, HIDDEN)).astype(np.float32)
    given = names(h0=h0, c0=c0)
    state = (c0, h0) if sick else (h0, c0)
    return given | {"y": LSTM.from_torch(module())(given["x"], state)[0]}


@case("形状、趋势都像，就是错开一格")
def _(sick, folder):
    given = names()
    late = np.concatenate([np.zeros((1, HIDDEN), np.float32), given["y"][:-1]])
    return given | {"y": late} if sick else given


@case("双向的前一半对，后一半不对")
def _(sick, folder):
    given = names(module(bidirectional=True))
    y = given["y"].copy()
    if sick:
        y[:, HIDDEN:] = y[::-1, HIDDEN:]
    return given | {"y": y}


@case("误差不大，却怎么也降不到舍入那么小")
def _(sick, folder):
    from lstm_lib.formats import ncnn_run

    made = ncnn_run.convert(module(), folder / "net", inputs=(torch.zeros(7, INPUT),), fp16=sick)
    return names(param=made.param, bin=made.bin)


@case("逐帧跑，效果比整段差一截")
def _(sick, folder):
    given, lstm = names(), LSTM.from_torch(module())
    rows, state = [], None
    for frame in given["x"]:
        row, state = lstm(frame[None], None if sick else state)
        rows.append(row)
    return given | {"y": np.concatenate(rows)}


@case("训练照样收敛，网络却像没有记忆")
def _(sick, folder):
    return names(
        module(batch_first=not sick),
        batch=torch.from_numpy(np.random.default_rng(4).normal(size=(3, FRAMES, INPUT)).astype(np.float32)),
    )


def network():
    torch.manual_seed(0)
    return irm.IRMNetwork(NetworkConfig(hidden_size=8)).eval()


@case("ONNX 模型逐帧跑，每一帧都像第一帧")
def _(sick, folder):
    path, made = folder / "net.onnx", network()
    x, states = torch.rand(1, 1, made.config.input_size), [torch.zeros(1, 1, 8) for _ in "hc"]
    if sick:
        onnx_graph.export(made, (x,), path)
    else:
        model = onnx_graph.with_state(made)
        onnx_graph.export(
            model, (x, *states), path, input_names=["x", "h", "c"], output_names=["y", "h1", "c1"]
        )
    return names(onnx_file=path)


@case("遗忘门的偏置设成了 1，记的时间却对不上")
def _(sick, folder):
    made = torch.nn.LSTM(INPUT, HIDDEN).requires_grad_(False)
    forget = slice(HIDDEN, 2 * HIDDEN)
    made.bias_ih_l0[forget], made.bias_hh_l0[forget] = 1, int(sick)
    return names(made)


@case("忽然全是 NaN，重启才好")
def _(sick, folder):
    given, lstm = names(), LSTM.from_torch(module())
    x = given["x"].copy()
    if sick:
        x[3] = np.nan
    _, (h, c) = lstm(x)
    return given | {"h": h[0], "c": c[0]}


@case("明明拦了 NaN，还是漏进来")
def _(sick, folder):
    ffi, traps = native.load_traps("-ffast-math" if sick else "-fno-fast-math")
    return names(bad=lambda a: bool(traps.trap_bad(ffi.cast("float *", a.ctypes.data), len(a))))


@case("前半分钟正常，后来有些单元不动了")
def _(sick, folder):
    c = np.zeros(HIDDEN, np.float16 if sick else np.float32)
    for _ in range(2100):  # 遗忘门全开、输入门全开、候选值是 1
        c = (c + c.dtype.type(1)).astype(c.dtype)
    return names(c=c)


@case("一静音，CPU 反而高了")
def _(sick, folder):
    torch.manual_seed(0)
    lstm = LSTM.from_torch(torch.nn.LSTM(INPUT, HIDDEN, bias=not sick))
    _, state = lstm(names()["x"])
    tiny = np.finfo(np.float32).tiny
    for _ in range(400):
        _, state = lstm(np.zeros((1, INPUT), np.float32), state)
        if sick and any(((s != 0) & (abs(s) < tiny)).any() for s in state):
            break
    return names(h=state[0][0], c=state[1][0])


@case("平时很快，偶尔一帧慢几十倍")
def _(sick, folder):
    torch.set_num_threads(2 if sick else 1)
    return names()


@case("声音炸了，或者几乎没有变化")
def _(sick, folder):
    wave = 0.3 * np.sin(np.arange(1600) / 5)
    return names(wave=(wave * 32768).astype(np.int16) if sick else wave.astype(np.float32))


@case("换了一份录音，效果就差一大截")
def _(sick, folder):
    path = folder / "a.wav"
    soundfile.write(path, np.zeros(4800, np.float32), 48000 if sick else 16000)
    return names(wav_file=path)


@case("什么都不改，还原出来也有细微的起伏")
def _(sick, folder):
    from scipy.signal import get_window

    return names(window=get_window("hann", 512, fftbins=not sick))


@case("噪声小了，却总压不干净")
def _(sick, folder):
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(8, 16), torch.nn.Linear(16, 16)
    with torch.no_grad():
        h = lstm(20 * torch.randn(200, 8))[0]
        mask = torch.sigmoid(h if sick else 20 * linear(h)).numpy()
    return names(mask=mask)


@case("换一段长一点的输入就报错，或者少还几帧")
def _(sick, folder):
    made = network()
    x = torch.rand(1, 10, made.config.input_size)
    onnx_graph.export(made, (x,), folder / "net.onnx", dynamic=None if sick else {"x": {1: "T"}})
    return names(onnx_file=folder / "net.onnx")


@case("读回来的网络，把一段话当成一帧")
def _(sick, folder):
    reference = module(batch_first=True)
    path = onnx_graph.export(reference, (torch.rand(1, 10, INPUT),), folder / "net.onnx")
    return names(reference, lstm=LSTM.from_onnx(path, batch_first=False if sick else None))


@case("自己机器上好好的，同事打不开")
def _(sick, folder):
    path = onnx_graph.export(network(), (torch.rand(1, 10, 256),), folder / "net.onnx", exporter="dynamo")
    if not sick:
        path = folder / "one.onnx"
        onnx.save(onnx.load(folder / "net.onnx"), path)
    return names(onnx_file=path)


@case("ncnn 的形状对，数是乱的")
def _(sick, folder):
    x = names()["x"]
    return names(x=np.asfortranarray(x) if sick else np.ascontiguousarray(x, np.float32))


def test_every_symptom_has_a_case_and_a_check():
    assert list(ENTRIES) == list(CASES), "对症表里的症状与这里的病例不是一一对应、次序相同"
    for title, (prose, checks) in ENTRIES.items():
        assert len(checks) == 1 and "\n" not in checks[0], f"「{title}」的检查应是一行"
        assert len(checks[0]) <= 100, f"「{title}」的检查太长，页面上放不下"
        assert "见" in prose and ("{ref}" in prose or "{doc}" in prose), f"「{title}」没有说去哪里看"


@pytest.mark.parametrize("sick", [True, False], ids=["有病", "没病"])
@pytest.mark.parametrize("title", ENTRIES)
def test_the_check_tells_the_sick_from_the_sound(title, sick, tmp_path):
    threads = torch.get_num_threads()
    try:
        space = CASES[title](sick, tmp_path)
        exec(SETUP, space)
        answer = eval(ENTRIES[title][1][0], space)
    finally:
        torch.set_num_threads(threads)
    assert isinstance(answer, bool | np.bool_), f"检查应得出真或假，得到 {answer!r}"
    assert bool(answer) == sick, f"{'有病却没查出来' if sick else '没病却说有病'}：{title}"


def test_the_places_it_points_to_exist():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "chapters").glob("*.md")}
    for path in (ROOT / "chapters").glob("*.ipynb"):
        pages[path.stem] = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    everything = "\n".join(pages.values())
    boxes = re.findall(r"\{admonition\} (.+)\n:class: warning pitfall\n:name: (\S+)", everything)
    titles = {label: title for title, label in boxes}
    pitfalls = re.findall(r"\{ref\}`([^<`]*) <([\w-]+)>`", TEXT)
    assert len(pitfalls) > 10
    for title, label in pitfalls:
        assert titles[label] == title, f"坑 {label} 的名字是「{titles[label]}」，对症表里写的是「{title}」"
    for page, section in re.findall(r"\{doc\}`(\w+)`的“([^”]+)”", TEXT):
        assert re.search(rf"^#+ {re.escape(section)}$", pages[page], re.M), f"{page} 里没有「{section}」一节"
