"""在本机起一个只读的网站，供浏览器测试、截图与做 PDF 用；文本按 gzip 发送，与真实网站相同。"""

import functools
import gzip
import http.server
import threading
from contextlib import contextmanager
from pathlib import Path

from lstm_lib.cli.doctor import find_chromium

__all__ = [
    "BROWSER_ARGS",
    "COMPRESSIBLE",
    "UNFOLD",
    "add_site_option",
    "browsing",
    "find_chromium",
    "pages_in_order",
    "require_site",
    "serve",
]
SITE = Path(__file__).resolve().parent.parent / "_build" / "html"
COMPRESSIBLE = (".html", ".css", ".js", ".json", ".svg", ".txt", ".mjs", ".wasm", ".onnx", ".param", ".inv")
BROWSER_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # 断网：外站的名字解析不到
]

# 手机上收起的各节（phone_sections.js）全部展开；没有就什么也不做
UNFOLD = "() => document.querySelector('.section-switch button')?.click()"


def add_site_option(parser) -> None:
    """给命令行添上 ``--site``。"""
    parser.add_argument(
        "--site", metavar="文件夹", default=SITE, type=Path, help="建好的网站（默认 _build/html）"
    )


def require_site(folder: Path) -> None:
    """没有建好的网站就说清楚，以 1 退出。"""
    if not (folder / "index.html").is_file():
        raise SystemExit(f"错误：{folder} 里没有 index.html；先运行 jupyter-book build .")


@functools.lru_cache(maxsize=512)
def compress(path, modified) -> bytes:
    """压缩好的一个文件；同一份脚本每页都要取，只压一次。"""
    return gzip.compress(path.read_bytes(), 6, mtime=0)


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = Path(self.translate_path(self.path.split("?")[0].split("#")[0]))
        if path.is_dir():
            path = path / "index.html"
        status = 200
        if not path.is_file():
            path, status = Path(self.directory) / "404.html", 404  # 与 GitHub Pages 相同
            if not path.is_file():
                self.send_error(404)
                return
        body = path.read_bytes()
        start, end = 0, len(body) - 1
        wanted = self.headers.get("Range", "")
        if status == 200 and wanted.startswith("bytes=") and "," not in wanted:  # 播放器拖动进度时按段取
            first, _, last = wanted[6:].partition("-")
            start = int(first) if first else max(0, len(body) - int(last))
            end = int(last) if first and last else end
            status = 206
        part = body[start : end + 1]
        packed = (
            status != 206
            and path.suffix in COMPRESSIBLE
            and "gzip" in self.headers.get("Accept-Encoding", "")
        )
        if packed:
            part = compress(path, path.stat().st_mtime_ns)
            self.send_response(status)
            self.send_header("Content-Encoding", "gzip")
        else:
            self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(body)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "max-age=600")  # 每次起的端口不同，不会拿到旧的
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        try:
            self.wfile.write(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # 浏览器中途不要了，例如翻到了别的页


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


@contextmanager
def serve(folder):
    """在随机端口上提供 ``folder``，给出以 ``/`` 结尾的网址；离开 ``with`` 块即停。"""
    server = QuietServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def browsing(site: Path):
    """起网站、开 Chromium：``with browsing(网站) as (网址, 浏览器)``；缺哪一样就说清楚，以 1 退出。"""
    require_site(site)
    chromium = find_chromium()
    if not chromium:
        raise SystemExit("错误：找不到 Chromium；Debian 上用 apt-get install chromium 安装")
    from playwright.sync_api import sync_playwright

    with serve(site) as base, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        yield base, browser
        browser.close()


def pages_in_order(root) -> list[str]:
    """``_toc.yml`` 里各页的名字（不带扩展名），按目录顺序，首页在前。"""
    from sphinx_external_toc.parsing import parse_toc_yaml

    toc = parse_toc_yaml(Path(root) / "_toc.yml")

    def walk(name):
        return [name, *(page for child in toc[name].child_files() for page in walk(child))]

    return [name.removesuffix(".ipynb").removesuffix(".md") for name in walk(toc.root.docname)]
