"""笔记本：写法的规矩，以及每一章从别的目录、打乱的顺序单独运行都能跑通。"""

import ast
import os
import re
import statistics
from pathlib import Path

import nbformat
import pytest
import yaml
from compare_builds import compare
from conftest import ROOT
from nbclient import NotebookClient
from page_measures import assertions, code_lines, is_shown
from site_server import pages_in_order

NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
PARTS = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
NUMBERED = {chapter["file"] for part in PARTS if part.get("numbered") for chapter in part["chapters"]}
CHAPTERS = [path for path in NOTEBOOKS if f"chapters/{path.stem}" in NUMBERED]  # 一页通之类不编号，不算章
CHAPTER_IDS = [path.stem for path in CHAPTERS]
SETUP_TAG = "setup"


def load(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook, with_hidden=False):
    """读者看得见的代码单元格。"""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and (with_hidden or "remove-cell" not in tags):
            yield cell


def test_every_notebook_is_in_the_toc():
    listed = set(pages_in_order(ROOT))
    lost = [path.stem for path in NOTEBOOKS if f"chapters/{path.stem}" not in listed]
    assert not lost, f"没有列入 _toc.yml：{lost}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_format(path):
    notebook = load(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "要 nbformat 4.5，单元格才有固定的编号"
    spec = notebook.metadata.kernelspec
    assert (spec.name, spec.language) == ("python3", "python"), f"内核写成了 {spec}"
    for cell in code_cells(notebook, with_hidden=True):
        assert not cell.outputs and cell.execution_count is None, f"带着输出提交了：{cell.source[:60]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_cells_are_short(path):
    """不算空行与只有注释的行。"""
    cells = [cell.source.splitlines() for cell in code_cells(load(path))]
    lengths = [
        sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell) for cell in cells
    ]
    assert max(lengths) <= 25, f"最长的单元格有 {max(lengths)} 行"
    assert statistics.median(lengths) <= 8, f"单元格的中位长度是 {statistics.median(lengths)} 行"


@pytest.mark.parametrize("path", CHAPTERS, ids=CHAPTER_IDS)
def test_structure(path):
    text = "\n".join(cell.source for cell in load(path).cells if cell.cell_type == "markdown")
    assert text.startswith("# "), "第一格要以一级标题开头"
    for part in ("本节要点", "## 小结", "## 习题", "## 参考文献"):
        assert part in text, f"缺「{part}」"
    assert len(re.findall(r"\{exercise(?:-start)?\}", text)) >= 2, "习题少于两道"
    starts, ends = text.count("{solution-start}"), text.count("{solution-end}")
    assert starts == ends >= 2, f"解答 {starts} 处开头、{ends} 处结尾"
    assert ":class: dropdown" in text, "解答没有折叠"


def test_the_one_page_is_short_and_comes_first():
    """一页通排在第一章之前、不占章号；汉字不过一千五，看得见的代码不过四十行。"""
    assert pages_in_order(ROOT)[1] == "chapters/one_page" and "chapters/one_page" not in NUMBERED
    notebook = load(ROOT / "chapters" / "one_page.ipynb")
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(re.findall("[一-鿿]", prose)) <= 1500
    shown = [c for c in code_cells(notebook) if "hide-input" not in c.metadata.get("tags", [])]
    assert sum(len(cell.source.splitlines()) for cell in shown) <= 40
    figure = next(k for k, cell in enumerate(notebook.cells) if "```{figure}" in cell.source)
    assert figure == 0, "先看到图，再看到代码"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_assertions_can_fail_and_speak_chinese(path):
    found = [one for cell in code_cells(load(path), with_hidden=True) for one in assertions(cell)]
    assert found, "一个断言也没有"
    for node, message in found:
        assert message and re.search(r"[一-鿿]", message), f"断言没有中文消息：{ast.unparse(node)[:80]}"
        assert not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Constant), (
            f"断言不会失败：{ast.unparse(node)[:80]}"
        )


TO_THE_AUTHOR = re.compile(
    r"请改写|要改写|改写这|正文|文字里|这一段(?:话|文字)|这句话|本章.{0,6}说的|改一改文字|写的是"
)


@pytest.mark.parametrize("path", CHAPTERS, ids=CHAPTER_IDS)
def test_the_page_belongs_to_the_reader(path):
    """看得见的代码里断言至多占一成，话都说给读者听；替文字把关的断言藏在标着 claim 的格子里。"""
    notebook = load(path)
    for cell in code_cells(notebook, with_hidden=True):
        tags = set(cell.metadata.get("tags", []))
        found = list(assertions(cell))
        if "claim" in tags:
            assert "remove-cell" in tags and found, f"claim 格要藏起来，并且有断言：{cell.source[:60]}"
        for _node, message in found if is_shown(cell) else ():
            assert not TO_THE_AUTHOR.search(message), f"这句话是说给作者听的：{message}"
    shown, asserted = code_lines(notebook)
    assert asserted <= 0.1 * shown, f"看得见的 {shown} 行代码里有 {asserted} 行是断言"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_private_names_and_machine_paths_stay_out(path):
    for cell in load(path).cells:
        if cell.cell_type == "code":
            assert not re.search(r"from lstm_lib[\w.]* import .*\b_\w", cell.source), (
                "从 lstm_lib 导入了私有名字"
            )
        assert not re.search(r"/home/|/work/|/opt/|/root/|C:\\\\", cell.source), (
            f"有本机路径：{cell.source[:80]}"
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_chinese_and_latin_are_spaced(path):
    """汉字与拉丁字母之间有空格（代码、公式、链接除外）。"""
    bad = []
    for cell in load(path).cells:
        if cell.cell_type != "markdown":
            continue
        text = re.sub(
            r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\{[^}]*\}|\([^)]*\)|https?://\S+",
            "",
            cell.source,
            flags=re.S,
        )
        bad += re.findall(r"[一-鿿][A-Za-z]{2,}|[A-Za-z]{2,}[一-鿿]", text)
    assert not bad, f"中西文之间缺空格：{bad[:8]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_setup_cell_is_uniform(path):
    """每一章都有同一个准备单元格：在 Colab 里装上缺的包，本机什么也不做。"""
    from colab_cells import setup_source

    cells = [c for c in load(path).cells if SETUP_TAG in c.metadata.get("tags", [])]
    assert len(cells) == 1, "运行 python tools/colab_cells.py 补上准备单元格"
    assert cells[0].source == setup_source(ROOT), "准备单元格不是最新的：运行 python tools/colab_cells.py"
    assert "remove-cell" in cells[0].metadata.tags


def needs_data(notebook) -> bool:
    """要不要内置语料或训练好的网络。"""
    text = "\n".join(cell.source for cell in code_cells(notebook, with_hidden=True))
    return bool(re.search(r"load_trained|training_history|import .*\bcorpus\b|lstm_lib\.corpus", text))


def execute(notebook, folder):
    """单独、在空目录里运行。"""
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    left = [p.name for p in folder.iterdir()]
    assert not left, f"在当前目录留下了文件：{left}"
    return notebook


@pytest.mark.notebooks
@pytest.mark.parametrize("path", list(reversed(NOTEBOOKS)), ids=list(reversed(IDS)))
def test_runs_alone_from_any_directory(path, tmp_path, request):
    """单独、在空目录里、按相反的次序运行；输出与建书时的相同。

    ``BOOK_SECOND`` 给出 ``BOOK_ALONE=1`` 建的第二本书：那里已经这样执行过，不必再来一遍。
    """
    second = os.environ.get("BOOK_SECOND")
    book_site = request.getfixturevalue("book_site") if second or needs_data(load(path)) else None
    if second:
        notebook = load(Path(second) / "jupyter_execute" / "chapters" / path.name)
    else:
        notebook = execute(load(path), tmp_path)
    noise = [o.text for c in code_cells(notebook, True) for o in c.outputs if o.get("name") == "stderr"]
    assert not noise, f"写到了标准错误：{noise[:2]}"
    if book_site is not None:
        built = load(book_site.parent / "jupyter_execute" / "chapters" / path.name)
        for cell in (*code_cells(built, True), *code_cells(notebook, True)):
            # 打印的字何时送到要看时机，这里只比图表
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream"]
        differences = compare(built, notebook)
        assert not differences, "与建书时的输出不同：\n" + "\n".join(differences)
