"""各页的重量：打开一页（不点播放、不开结构图）时经网络传多少，gzip 之后，单位 kB；装有 Chromium 时还量多久看得见字。

有一页超过 1.5 MB 就以 1 退出。首次绘制用空缓存、从本机的服务器打开，取三次的中位数；时间只打印，不作判断。
"""

import gzip
import re
import statistics
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import (
    BROWSER_ARGS,
    COMPRESSIBLE,
    add_site_option,
    find_chromium,
    pages_in_order,
    require_site,
    serve,
)

from lstm_lib.book.tables import aligned
from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1_500_000  # 字节
REFERENCE = re.compile(r'<(script|link|img|iframe|audio|source)\b[^>]*?\b(?:src|href)="([^"]+)"([^>]*)>')
CSS_URL = re.compile(r"url\([\"']?([^)\"']+)[\"']?\)")


def transfer_size(path: Path) -> int:
    data = path.read_bytes()
    return len(gzip.compress(data, 6)) if path.suffix in COMPRESSIBLE else len(data)


def resources(page: Path) -> set[Path]:
    """打开这一页就会去取的本地文件：样式、脚本、图片（懒加载的也算，读者会滚到）；播放器与 iframe 不算。"""
    found = {page}
    for tag, address, _ in REFERENCE.findall(page.read_text(encoding="utf-8")):
        if tag in ("iframe", "audio", "source") or re.match(r"[a-z]+:|//", address):
            continue
        target = (page.parent / unquote(urldefrag(address.split("?")[0]).url)).resolve()
        if target.is_file() and target.suffix not in (".html",):
            found.add(target)
            if target.suffix == ".css" and "vendor" not in target.parts:
                for inner in CSS_URL.findall(target.read_text(encoding="utf-8")):
                    extra = (target.parent / inner.split("?")[0].split("#")[0]).resolve()
                    if extra.is_file() and extra.suffix in (".svg", ".png"):
                        found.add(extra)
    return found


def weigh(site: Path, name: str) -> tuple[int, int]:
    """（本页 HTML，首次打开时的全部传输）字节数。"""
    page = site / f"{name}.html"
    return transfer_size(page), sum(transfer_size(path) for path in resources(page))


def first_paint(site: Path, names: list[str], repeats: int = 3) -> dict[str, float]:
    """各页从打开到第一次画出文字（First Contentful Paint）的毫秒数；没有浏览器时是空字典。"""
    chromium = find_chromium()
    if chromium is None:
        return {}
    from playwright.sync_api import sync_playwright

    entry = "() => performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
    found = {}
    with serve(site) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        for name in names:
            times = []
            for _ in range(repeats):
                page = browser.new_page()  # 每次都是新的上下文，缓存是空的
                page.goto(f"{address}{name}.html", wait_until="load", timeout=60_000)
                page.wait_for_function(f"({entry})().length > 0", timeout=10_000)
                times += page.evaluate(entry)
                page.close()
            found[name] = statistics.median(times)
        browser.close()
    return found


def main() -> int:
    parser = ChineseParser(prog="python tools/page_weights.py", description=__doc__)
    add_site_option(parser)
    args = parser.parse_args()
    require_site(args.site)
    heavy, names = 0, pages_in_order(ROOT)
    paint = first_paint(args.site, names)
    rows = [["页", "HTML", "首次打开", "首次绘制", ""]]
    for name in names:
        html, total = weigh(args.site, name)
        heavy += total > LIMIT
        shown = f"{paint[name]:.0f}" if name in paint else "未量"
        rows.append(
            [name, f"{html / 1000:.0f}", f"{total / 1000:.0f}", shown, "超重" if total > LIMIT else ""]
        )
    print("大小是 gzip 后的 kB，首次绘制是毫秒")
    print("\n".join(aligned(rows, [False, True, True, True, False])))
    return 1 if heavy else 0


if __name__ == "__main__":
    raise SystemExit(main())
