"""房子的样子：依赖只朝一个方向，没有圈；``lstm`` 只用 NumPy；模块都在该在的屋子里。"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name

from conftest import ROOT

# 从地面往上：只许导入同一层或更低的层
STOREYS = (
    ("files", "threads", "waves"),
    ("lstm",),
    ("book",),
    ("formats", "native", "corpus"),
    ("enhance",),
    ("engines",),
    ("training",),
    ("cli", "front", "__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(STOREYS) for room in rooms}
PACKAGE = ROOT / "lstm_lib"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(name, path):
    """一个模块导入的本书模块（函数里面的也算）。"""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            )
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return {n for n in found if n == "lstm_lib" or n.startswith("lstm_lib.")} - {name}


def room(name):
    """模块在哪间屋子：``lstm_lib.formats.quiet`` 在 formats；门面自己是 ``__init__``。"""
    return name.split(".")[1] if "." in name else "__init__"


GRAPH = {name: imported(name, path) for name, path in MODULES.items()}


def sorted_without_circle(graph):
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(f"依赖绕成了圈：{' → '.join(error.args[1])}") from None


def test_every_room_is_on_the_plan():
    rooms = {room(name) for name in MODULES}
    assert rooms == set(LEVEL), f"图纸上没有的或已经拆掉的：{sorted(rooms ^ set(LEVEL))}"


def test_arrows_never_point_upward():
    upward = [
        f"{name} → {other}"
        for name, others in GRAPH.items()
        for other in others
        if LEVEL[room(other)] > LEVEL[room(name)]
    ]
    assert not upward, f"低层的模块导入了高层的：{upward}"


def test_no_circle_among_modules():
    sorted_without_circle(GRAPH)


def test_no_circle_among_packages():
    rooms = {}
    for name, others in GRAPH.items():
        rooms.setdefault(room(name), set()).update({room(o) for o in others} - {room(name)})
    sorted_without_circle(rooms)


def test_a_circle_or_an_upward_arrow_is_seen():
    """这些检查自己会不会失败。"""
    try:
        sorted_without_circle({"a": {"b"}, "b": {"a"}})
    except AssertionError as error:
        assert "绕成了圈" in str(error)
    else:
        raise AssertionError("圈没有被发现")
    assert LEVEL["lstm"] < LEVEL["formats"] < LEVEL["training"] < LEVEL["cli"]
    assert "lstm_lib.lstm.layouts" in GRAPH["lstm_lib.formats.onnx_lstm"], "依赖图是空的"


def test_lstm_needs_numpy_alone_and_stays_short():
    lines = 0
    for name, path in MODULES.items():
        if room(name) != "lstm":
            continue
        text = path.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            outside = {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"numpy", "lstm_lib"}
            assert not outside, f"{name} 用到了 {outside}"
    assert lines <= 1100, f"lstm/ 有 {lines} 行，一眼读不完了"


def test_notebooks_import_no_private_names():
    import json
    import re

    for path in (ROOT / "chapters").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            text = "".join(cell["source"])
            private = re.findall(r"from lstm_lib[\w.]* import [^\n]*\b(_\w+)", text)
            assert not private, f"{path.name} 导入了私有的 {private}"
