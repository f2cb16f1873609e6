"""检查建好的网站里的链接：站内的链接与锚点总是查，站外的用 --external 才查。

有坏链接就列出来，以 1 退出。
"""

import concurrent.futures
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import add_site_option, require_site

from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
SKIP_FOLDERS = {"_static", "_sources", "netron"}


class Page(HTMLParser):
    """一页里的锚点、链接与资源。"""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.external = {"", "top"}, [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        for key in ("href", "src"):
            address = values.get(key)
            if not address or address.startswith(("data:", "mailto:", "javascript:")):
                continue
            if address.startswith(("http:", "https:", "//")):
                self.external.add(address)
            else:
                self.links.append(address)


def check_internal(site: Path) -> tuple[list[str], set[str]]:
    """（坏链接的清单，站外链接）。"""
    pages = {
        path.resolve(): Page(path)
        for path in sorted(site.rglob("*.html"))
        if not SKIP_FOLDERS.intersection(path.relative_to(site).parts)
    }
    broken, external = [], set()
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        external |= page.external
        for address in page.links:
            plain, fragment = urldefrag(address)
            target = (path.parent / unquote(plain.split("?")[0])).resolve() if plain else path
            if plain.startswith("/") and name == Path("404.html"):
                target = (site / unquote(plain).lstrip("/")).resolve()  # 404 页在哪一层都会出现，只好从根写起
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                broken.append(f"{name}：{address} 没有这个文件")
            elif target in pages and unquote(fragment) not in pages[target].anchors:
                broken.append(f"{name}：{address} 没有这个锚点")
    return broken, external


def check_external(address: str) -> str | None:
    """打不开时给出原因。403、429 之类是对方不欢迎程序，不算坏。"""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403, 418, 429, 503) else f"{address}：HTTP {error.code}"
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        return f"{address}：{error}"


def main() -> int:
    parser = ChineseParser(prog="python tools/check_links.py", description=__doc__)
    add_site_option(parser)
    parser.add_argument("--external", action="store_true", help="站外的链接也查，要联网（每周的工作流用）")
    args = parser.parse_args()
    require_site(args.site)
    broken, external = check_internal(args.site)
    if args.external:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            broken += filter(None, pool.map(check_external, sorted({urldefrag(a).url for a in external})))
    for line in broken:
        print(line)
    print(f"站外链接 {len(external)} 个{'' if args.external else '（未查）'}，坏链接 {len(broken)} 个")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
