"""给每一页拍照：1440 与 390 像素宽，浅色与深色主题。

用法：python tools/screenshots.py [--site _build/html] [--out _build/screenshots] [页名 …]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import BROWSER_ARGS, find_chromium, pages_in_order, serve

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", default=ROOT / "_build" / "html", type=Path)
    parser.add_argument("--out", default=ROOT / "_build" / "screenshots", type=Path)
    parser.add_argument("--widths", default="1440,390")
    parser.add_argument("--themes", default="light,dark")
    parser.add_argument("pages", nargs="*")
    args = parser.parse_args()
    browser_path = find_chromium()
    if not browser_path:
        print("错误：找不到 Chromium；Debian 上用 apt-get install chromium 安装", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    args.out.mkdir(parents=True, exist_ok=True)
    pages = args.pages or [*pages_in_order(ROOT), "search"]
    with serve(args.site) as base, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=BROWSER_ARGS)
        for theme in args.themes.split(","):
            for width in map(int, args.widths.split(",")):
                context = browser.new_context(viewport={"width": width, "height": 900})
                context.add_init_script(
                    f"localStorage.setItem('mode','{theme}');localStorage.setItem('theme','{theme}')"
                )
                page = context.new_page()
                for name in pages:
                    page.goto(f"{base}{name}.html", wait_until="load")
                    page.evaluate("window.MathJax?.startup?.promise ?? null")
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
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
