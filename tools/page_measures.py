"""各章读起来怎样：文字、图、表、代码在桌面宽度（1440）上各占多高，手机（390×844）上打开时与全部展开后各有几屏，第一句话在不在第一屏。

断言那一列数的是看得见的代码行里断言占几成，汉字那一列是每行看得见的代码有多少汉字的正文。只打印，不作判断；
看得见的断言至多一成，由 tests/test_notebooks.py 管。折起来的代码与答案不算高。
"""

import ast
import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import UNFOLD, add_site_option, browsing, pages_in_order

from lstm_lib.book.tables import aligned
from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = {"remove-cell", "remove-input", "hide-input", "hide-cell"}  # 有其一，代码就不直接看得见
KINDS = {"文字": "prose", "图与声音": "figures", "表": "tables", "代码": "code", "输出": "output"}
MEASURE = """() => {
  const article = document.querySelector("article");
  const sum = { prose: 0, figures: 0, tables: 0, code: 0, output: 0 };
  const kind = (block) => {
    if (block.matches(".cell_input")) return "code";
    if (block.matches(".cell_output")) {
      if (block.querySelector("table")) return "tables";
      return block.querySelector("figure, img, canvas, svg, audio") ? "figures" : "output";
    }
    if (block.matches("table, .pst-scrollable-table-container") || block.querySelector(":scope > table")) return "tables";
    if (block.matches("figure, .lstm-live")) return "figures";
    if (block.matches("div[class*=highlight]")) return "code";
    return "prose";
  };
  const walk = (block) => {
    if (!block.getClientRects().length) return;
    if (block.matches("section, .cell, .cell_outputs")) return void [...block.children].forEach(walk);
    if (block.matches("details.hide, script, style, template")) return;
    sum[kind(block)] += block.getBoundingClientRect().height;
  };
  walk(article.querySelector("section"));
  return sum;
}"""
FIRST = """() => { const first = document.querySelector("article section > p");
  return first ? first.getBoundingClientRect().top + 24 <= innerHeight : false; }"""
SCREENS = "() => document.documentElement.scrollHeight / innerHeight"


def plain_source(cell):
    """去掉 IPython 的魔法与 shell 行之后的源码。"""
    return re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.M)


def assertions(cell):
    """一格里的断言：（语法节点，消息的源码）。``check(差, 界, 去哪里看)`` 也是断言，第三个参数是消息。"""
    for node in ast.walk(ast.parse(plain_source(cell))):
        if isinstance(node, ast.Assert):
            yield node, node.msg and ast.unparse(node.msg)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "check":
            yield node, ast.unparse(node.args[2]) if len(node.args) == 3 else None


def is_shown(cell) -> bool:
    """这一格的代码在页面上不点开就看得见。"""
    return cell.cell_type == "code" and not HIDDEN & set(cell.metadata.get("tags", []))


def code_lines(notebook) -> tuple[int, int]:
    """看得见的代码有多少行，其中断言占多少行。"""
    shown = asserted = 0
    for cell in filter(is_shown, notebook.cells):
        shown += sum(bool(line.strip()) for line in cell.source.splitlines())
        asserted += len({n for node, _ in assertions(cell) for n in range(node.lineno, node.end_lineno + 1)})
    return shown, asserted


def measure(desktop, phone, base: str, name: str) -> list[str]:
    """一章的一行。"""
    seen = []
    for page in (desktop, phone):
        page.goto(f"{base}{name}.html", wait_until="load")
        seen.append(page.evaluate(FIRST))
    heights = desktop.evaluate(MEASURE)
    whole = sum(heights.values())
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    shown, asserted = code_lines(notebook)
    screens = [phone.evaluate(SCREENS)]
    phone.evaluate(UNFOLD)
    screens.append(phone.evaluate(SCREENS))
    told = (heights["prose"] + heights["figures"]) / whole
    shares = [
        f"{value:.0%}"
        for value in (*(heights[kind] / whole for kind in KINDS.values()), told, asserted / shown)
    ]
    return [
        Path(name).name,
        *shares,
        f"{len(re.findall('[一-鿿]', prose)) / shown:.0f}",
        *(f"{count:.0f}" for count in screens),
        "是" if all(seen) else "否",
    ]


def main() -> int:
    parser = ChineseParser(prog="python tools/page_measures.py", description=__doc__)
    add_site_option(parser)
    args = parser.parse_args()
    rows = [["章", *KINDS, "文字与图", "断言", "汉字/行", "手机屏数", "全展开", "首屏有话"]]
    with browsing(args.site) as (base, browser):
        desktop = browser.new_page(viewport={"width": 1440, "height": 900})
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        for name in pages_in_order(ROOT):
            if (ROOT / f"{name}.ipynb").exists():
                rows.append(measure(desktop, phone, base, name))
    print("\n".join(aligned(rows, [False, *[True] * 10, False])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
