"""各章读起来怎样：文字、图、表、代码在桌面宽度（1440）上各占多高，手机（390×844）上有几屏，第一句话在不在第一屏。

断言那一列数的是看得见的代码行里断言占几成，汉字那一列是每行看得见的代码有多少汉字的正文。只打印，不作判断；
看得见的断言至多一成，由 tests/test_notebooks.py 管。折起来的代码与答案不算高。
"""

import ast
import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import BROWSER_ARGS, add_site_option, find_chromium, pages_in_order, require_site, serve

from lstm_lib.book.tables import aligned
from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
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


def source_measures(path: Path) -> tuple[float, float]:
    """看得见的代码行里断言的份额，每行看得见的代码配多少汉字的正文。"""
    shown = asserted = characters = 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            characters += len(re.findall("[一-鿿]", cell.source))
        hidden = {"remove-cell", "remove-input", "hide-input", "hide-cell"} & set(
            cell.metadata.get("tags", [])
        )
        if cell.cell_type != "code" or hidden:
            continue
        shown += sum(bool(line.strip()) for line in cell.source.splitlines())
        for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.M))):
            call = isinstance(node, ast.Call) and getattr(node.func, "id", None) == "check"
            if call or isinstance(node, ast.Assert):
                asserted += node.end_lineno - node.lineno + 1
    return asserted / max(shown, 1), characters / max(shown, 1)


def measure(desktop, phone, base: str, name: str) -> list[str]:
    """一章的一行。"""
    seen = []
    for page in (desktop, phone):
        page.goto(f"{base}{name}.html", wait_until="load")
        seen.append(page.evaluate(FIRST))
    heights = desktop.evaluate(MEASURE)
    whole = sum(heights.values())
    asserted, characters = source_measures(ROOT / f"{name}.ipynb")
    told = (heights["prose"] + heights["figures"]) / whole
    shares = [
        f"{value:.0%}" for value in (*(heights[kind] / whole for kind in KINDS.values()), told, asserted)
    ]
    return [
        Path(name).name,
        *shares,
        f"{characters:.0f}",
        f"{phone.evaluate(SCREENS):.0f}",
        "是" if all(seen) else "否",
    ]


def main() -> int:
    parser = ChineseParser(prog="python tools/page_measures.py", description=__doc__)
    add_site_option(parser)
    args = parser.parse_args()
    require_site(args.site)
    chromium = find_chromium()
    if chromium is None:
        print("错误：找不到 Chromium；Debian 上用 apt-get install chromium 安装", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    rows = [["章", *KINDS, "文字与图", "断言", "汉字/行", "手机屏数", "首屏有话"]]
    with serve(args.site) as base, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        desktop = browser.new_page(viewport={"width": 1440, "height": 900})
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        for name in pages_in_order(ROOT):
            if (ROOT / f"{name}.ipynb").exists():
                rows.append(measure(desktop, phone, base, name))
        browser.close()
    print("\n".join(aligned(rows, [False, *[True] * 9, False])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
