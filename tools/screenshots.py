"""给建好的网站逐页拍照：各种窗口宽度，浅色与深色主题。"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import UNFOLD, add_site_option, browsing, pages_in_order, require_site

from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent


def widths(text: str) -> list[int]:
    values = text.split(",")
    if not all(value.isdecimal() and int(value) > 0 for value in values):
        raise argparse.ArgumentTypeError(f"要逗号分开的正整数，不能是 {text!r}")
    return [int(value) for value in values]


def themes(text: str) -> list[str]:
    if not set(text.split(",")) <= {"light", "dark"}:
        raise argparse.ArgumentTypeError(f"只有 light 与 dark，不能是 {text!r}")
    return text.split(",")


def main() -> int:
    parser = ChineseParser(prog="python tools/screenshots.py", description=__doc__)
    add_site_option(parser)
    parser.add_argument(
        "--out", metavar="文件夹", default=ROOT / "_build" / "screenshots", type=Path,
        help="照片放在哪里（默认 _build/screenshots）",
    )  # fmt: skip
    parser.add_argument(
        "--widths",
        metavar="像素",
        type=widths,
        default="1440,390",
        help="窗口宽度，逗号分开（默认 1440,390）",
    )
    parser.add_argument(
        "--themes", metavar="主题", type=themes, default="light,dark", help="逗号分开（默认 light,dark）"
    )
    parser.add_argument("pages", metavar="页名", nargs="*", help="如 chapters/gates；不给就拍全部")
    args = parser.parse_args()
    require_site(args.site)
    pages = args.pages or [*pages_in_order(ROOT), "search"]
    missing = [name for name in pages if not (args.site / f"{name}.html").is_file()]
    if missing:
        print(f"错误：{args.site} 里没有这些页：{'、'.join(missing)}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    with browsing(args.site) as (base, browser):
        for theme in args.themes:
            for width in args.widths:
                context = browser.new_context(viewport={"width": width, "height": 900})
                context.add_init_script(
                    f"localStorage.setItem('mode','{theme}');localStorage.setItem('theme','{theme}')"
                )
                page = context.new_page()
                for name in pages:
                    page.goto(f"{base}{name}.html", wait_until="load")
                    page.evaluate("window.MathJax?.startup?.promise ?? null")
                    page.evaluate(UNFOLD)
                    # 懒加载的图滚到才出现
                    page.evaluate(
                        "async () => { for (let y = 0; y < document.body.scrollHeight; y += 800) {"
                        " scrollTo(0, y); await new Promise(r => setTimeout(r, 30)); } scrollTo(0, 0); }"
                    )
                    page.wait_for_timeout(300)
                    target = args.out / f"{name.replace('/', '_')}-{width}-{theme}.png"
                    page.screenshot(path=str(target), full_page=True)
                    print(target)
                context.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
