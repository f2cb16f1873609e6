"""检查建好的网站里站内的链接与锚点；有坏链接就列出来，以 1 退出。

``jupyter-book build -W -n`` 查的是源文件里的引用；这里查它之后才有的：主题的导航、笔记本的输出、另存的声音与图、404 页。
站外的链接由 Sphinx 的 linkcheck 查：jupyter-book build . --builder custom --custom-builder linkcheck
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import add_site_option, require_site

from lstm_lib.cli import ChineseParser

SKIP_FOLDERS = {"_static", "_sources", "netron"}
OUTSIDE = ("http:", "https:", "//", "data:", "mailto:", "javascript:")


class Page(HTMLParser):
    """一页里的锚点、链接与资源。"""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = {"", "top"}, []
        self.root = "/"  # 网站在域名下的路径，404 页上写着
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "html":
            self.root = values.get("data-content_root") or "/"
        self.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        for key in ("href", "src"):
            address = values.get(key)
            if address and not address.startswith(OUTSIDE):
                self.links.append(address)


def check_internal(site: Path) -> list[str]:
    """坏链接的清单。"""
    pages = {
        path.resolve(): Page(path)
        for path in sorted(site.rglob("*.html"))
        if not SKIP_FOLDERS.intersection(path.relative_to(site).parts)
    }
    broken = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for address in page.links:
            plain, fragment = urldefrag(address)
            plain = plain.split("?")[0]
            target = (path.parent / unquote(plain)).resolve() if plain else path
            if plain.startswith(page.root) and name == Path("404.html"):
                # 这一页在哪一层都会出现，只好从根写起
                target = (site / unquote(plain[len(page.root) :])).resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                broken.append(f"{name}：{address} 没有这个文件")
            elif target in pages and unquote(fragment) not in pages[target].anchors:
                broken.append(f"{name}：{address} 没有这个锚点")
    return broken


def main() -> int:
    parser = ChineseParser(prog="python tools/check_links.py", description=__doc__)
    add_site_option(parser)
    args = parser.parse_args()
    require_site(args.site)
    broken = check_internal(args.site)
    for line in broken:
        print(line)
    print(f"坏链接 {len(broken)} 个")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
