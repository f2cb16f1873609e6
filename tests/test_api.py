"""接口页：该有的都在，文档字符串都说得清；形状的表与代码里的一样，命令行照眼下的 argparse。"""

import argparse
import importlib
import inspect
import re

import api_page
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from docutils import nodes

import lstm_lib
from lstm_lib import cli
from lstm_lib.lstm import layouts

TEXT = (ROOT / "chapters" / "api.md").read_text(encoding="utf-8")
ENTRIES = {
    name: options
    for _, name, options in re.findall(r"^\.\. auto(class|function):: (\S+)\n((?:   :.+\n)*)", TEXT, re.M)
}
FRONT = [getattr(lstm_lib, name) for name in lstm_lib.__all__]
HAN = re.compile("[一-鿿]")


def found(name):
    """页面上的名字指的东西。"""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def members(name):
    """页面上列出的方法与属性。"""
    options, thing = ENTRIES[name], found(name)
    chosen = re.search(r":members: (.+)", options)
    if chosen:
        names = chosen[1].split(", ")
    elif ":members:" in options:
        every = inspect.classify_class_attrs(thing) if "inherited" in options else None
        names = [a.name for a in every] if every else list(vars(thing))
        names = [n for n in names if not n.startswith("_") and described(thing, n)]
    else:
        names = []
    special = re.search(r":special-members: (.+)", options)
    return names + (special[1].split(", ") if special else [])


def described(thing, name):
    value = inspect.getattr_static(thing, name)
    return callable(value) or isinstance(value, property | classmethod | staticmethod)


def own_doc(thing):
    """自己写的文档字符串；dataclass 与 NamedTuple 自动生成的（开头就是签名）不算。"""
    text = getattr(thing, "__doc__", None) or ""
    return "" if text.startswith(f"{getattr(thing, '__name__', '?')}(") else text


def parts_of(name, get):
    """页面上的一项连同它的各个方法：{完整的名字: 东西}。"""
    thing = found(name)
    return {name: thing} | {f"{name}.{m}": get(thing, m) for m in members(name)}


def test_every_entry_is_documented_in_chinese():
    assert len(ENTRIES) >= 40
    for name in ENTRIES:
        for path, part in parts_of(name, inspect.getattr_static).items():
            text = own_doc(getattr(part, "__func__", part))
            assert HAN.search(text), f"{path} 没有文档字符串"


def test_every_parameter_section_names_real_parameters():
    """「参数:」里写的，函数真有；写了这一节，就一个不少。"""
    for name in ENTRIES:
        for path, part in parts_of(name, getattr).items():
            parts = [part, part.__init__] if inspect.isclass(part) else [part]
            text = "\n".join(inspect.cleandoc(own_doc(p)) for p in parts if own_doc(p))
            section = re.search(r"^参数:\n((?:    .*\n?)+)", text, re.M)
            if not section:
                continue
            written = re.findall(r"^    (\w+): ", section[1], re.M)
            real = [n for n in inspect.signature(part).parameters if n != "self"]
            assert written == real, f"{path} 的「参数」与签名不一样：{written}，{real}"


def test_the_front_is_on_the_page():
    paths = {found(name): name for name in ENTRIES}
    for front in FRONT:
        assert front in paths, f"接口页上没有 {front.__name__}"
        public = {
            n
            for n, value in inspect.getmembers(front)
            if not n.startswith("_") and (callable(value) or isinstance(value, property))
        }
        missing = public - set(members(paths[front]))
        assert not missing, f"接口页上没有 {front.__name__} 的 {missing}"


# ---- 形状的表 ----


def table(heading):
    part = TEXT.split(f"### {heading}\n")[1].split("\n#")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows[2:]}


def shapes(cells, sizes):
    """``weight_ih`` (4H, I) 这样的格子 → {名字: 形状}。"""
    made = {}
    for cell in cells:
        for names, text in re.findall(r"((?:`\w+`、?)+) (\([^)]*\))", cell):
            value = eval(re.sub(r"(\d)([A-Z])", r"\1*\2", text.replace("·", "*")), {}, dict(sizes))
            made |= dict.fromkeys(re.findall(r"`(\w+)`", names), value)
    return made


@pytest.mark.parametrize("proj_size", [0, 2])
def test_the_weight_table_is_true(proj_size):
    rows, both = table("权重"), {"bidirectional": True}
    sizes = {"I": 3, "H": 5, "D": 2, "P": proj_size or 5}
    orders = {name: cells[0] for name, cells in rows.items()}
    made = {name: shapes(cells, sizes) for name, cells in rows.items()}

    def row(start):
        [name] = [n for n in rows if n.startswith(start)]
        return name

    def without_projection(table):
        return {k: v for k, v in table.items() if proj_size or k != "weight_hr"}

    torch_names = {
        k.removesuffix("_l0"): v
        for k, v in layouts.torch_shapes(3, 5, bidirectional=True, proj_size=proj_size).items()
        if k.endswith("_l0")
    }
    assert without_projection(made[row("PyTorch")]) == torch_names
    assert without_projection(made[row("ncnn")]) == layouts.ncnn_shapes(3, 5, **both, proj_size=proj_size)
    ours = layouts.LSTMConfig(3, 5, direction="bidirectional", proj_size=proj_size).shapes()
    ours = {k.removesuffix("_l0"): v for k, v in ours.items() if k.endswith("_l0")}
    assert without_projection(made[row("本书的")]) == ours
    if not proj_size:
        assert made[row("ONNX")] == layouts.onnx_shapes(3, 5, **both)
    for start, key in {"PyTorch": "torch", "本书的": "torch", "ONNX": "onnx", "ncnn": "ncnn"}.items():
        assert orders[row(start)].replace(" ", "").replace("c", "g") == layouts.GATE_ORDERS[key]


@pytest.mark.parametrize("proj_size", [0, 2])
def test_the_state_table_is_true(proj_size):
    """本书的三行，用真的 LSTM 走一遍；ncnn 与 ONNX 的由各自的测试守着。"""
    import torch

    from lstm_lib import LSTM

    sizes = {"T": 6, "B": 3, "I": 4, "H": 5, "L": 2, "D": 2, "P": proj_size or 5}
    module = {"num_layers": 2, "bidirectional": True, "proj_size": proj_size}
    rows = list(table("序列与状态").values())
    for k, batch_first in ((0, False), (1, True), (2, False)):
        x, *wanted = (eval(cell.replace("·", "*"), {}, dict(sizes)) for cell in rows[k])
        lstm = LSTM.from_torch(torch.nn.LSTM(4, 5, batch_first=batch_first, **module))
        y, (h, c) = lstm(torch.zeros(x).numpy())
        assert [y.shape, h.shape, c.shape] == wanted


# ---- 命令行 ----


def test_every_command_is_on_the_page_with_every_option():
    _, commands, missing = cli.make_parser()
    assert not missing
    listed = re.findall(r"^```\{command-options\} (\w+)$", TEXT, re.M)
    assert sorted(listed) == sorted(commands), "命令行一节列的命令与真有的不一样"
    for command, parser in commands.items():
        made = nodes.container("", *api_page.options(command, parser))
        terms = [term.astext() for term in made.findall(nodes.term)]
        words = {word for term in terms for word in re.findall(r"[^\s,\[\]…]+", term)}
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            names = action.option_strings or [action.metavar]
            assert set(names) <= words, f"{command} 的 {names} 不在页面上"
            assert action.help and HAN.search(action.help), f"{command} 的 {names} 没有说明"
        ids = [i for term in made.findall(nodes.term) for i in term["ids"]]
        assert len(set(ids)) == len(ids) == len(parser._actions) - 1


def test_long_help_is_set_as_paragraphs():
    parts = api_page.prose("一句话，\n接着说 abc\ndef。\n\n  onnx  一格\n  ncnn  一格\n又一段 --to")
    assert [type(p).__name__ for p in parts] == ["paragraph", "literal_block", "paragraph"]
    assert parts[0].astext() == "一句话，接着说 abc def。" and parts[1].astext() == "onnx  一格\nncnn  一格"
    assert [n.astext() for n in parts[2].findall(nodes.literal)] == ["--to"]


def test_names_on_the_page_are_short():
    for path, name in {
        "lstm_lib.LSTM": "LSTM",
        "lstm_lib.lstm.step": "step",
        "lstm_lib.lstm.layouts.reorder": "layouts.reorder",
        "lstm_lib.formats.onnx_graph.export": "onnx_graph.export",
        "lstm_lib.engines.chain": "engines.chain",
        "lstm_lib.native.levels": "native.levels",
    }.items():
        assert api_page.short(path) == name


# ---- 成书 ----


def test_the_built_page(book_site):
    soup = BeautifulSoup((book_site / "chapters" / "api.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    ids = {tag["id"] for tag in article.find_all(id=True)}
    wanted = {path for name in ENTRIES for path in (name, *(f"{name}.{m}" for m in members(name)))}
    assert wanted <= ids, f"成书的接口页上没有 {sorted(wanted - ids)}"
    assert {"train-speech", "enhance-engine", "export-int8"} <= ids
    labels = {dt.get_text(strip=True).rstrip(":：") for dt in article.select("dl.field-list > dt")}
    assert labels <= {"参数", "返回", "抛出"}, f"栏目还有 {labels}"
    for pre in article.find_all(["pre", "code"]):
        pre.decompose()
    text = article.get_text()
    for leftover in ("``", ":func:", ":class:", ":attr:", "<factory>", "Bases", "lstm_lib.formats."):
        assert leftover not in text, f"接口页上露出了 {leftover}"
