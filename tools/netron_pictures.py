"""用 Netron 自己画出书中的计算图 netron_*.svg。

需要 playwright 与系统里的 Chromium；全程不联网。图由 Netron 的“导出 SVG”写出，这里只换颜色（跟随页面明暗）与字体，不改图形。
"""

import html
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "_ext"))
import netron_page
from site_server import BROWSER_ARGS, find_chromium, serve

from lstm_lib.book.figures import svg
from lstm_lib.cli import ChineseParser
from lstm_lib.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
SCALE = 1.25  # 放大显示：Netron 的小字只有 9 像素


def draw(folder, browser_path) -> list[Path]:
    """画出 ``netron_page.MODELS`` 的每个模型，返回 SVG 的路径；``browser_path`` 是 Chromium 的路径。"""
    from playwright.sync_api import sync_playwright

    written = []
    with tempfile.TemporaryDirectory() as site:
        netron_page.copy_site(site)
        netron_page.write_models(Path(site, "models"))
        with serve(site) as root, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_ARGS)
            for model in netron_page.MODELS:
                page = browser.new_page(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
                page.route("**/*", lambda r: r.continue_() if r.request.url.startswith(root) else r.abort())
                page.route("**/netron_zh.js", lambda r: r.abort())  # 英文界面的字体宽些，框里放得下别的字体
                page.goto(f"{root}index.html?url=models/{model}")
                page.wait_for_selector("body.default .node")
                page.wait_for_timeout(500)
                with page.expect_download() as download:
                    page.keyboard.press("Control+Alt+e")
                text = Path(download.value.path()).read_text(encoding="utf-8")
                name = model.removesuffix(".onnx").replace(".ncnn.param", "_ncnn").removeprefix("irm_")
                path = Path(folder, f"netron_{'ncnn' if 'ncnn' in model else name}.svg")
                with atomic_path(path) as temporary:
                    temporary.write_text(restyle(text, netron_page.MODELS[model]), encoding="utf-8")
                written.append(path)
                page.close()
            browser.close()
    return written


def restyle(text: str, title: str) -> str:
    """Netron 导出的 SVG 换成本书插图的样子：颜色跟随明暗主题，按页宽缩放；图形与文字不动。"""
    width, height = (int(n) for n in re.search(r'width="(\d+)" height="(\d+)"', text).groups())
    body = re.sub(r'^<svg[^>]*><rect id="background"[^>]*/>|</svg>\s*$', "", text)
    body = re.sub(r'<marker id="arrowhead-(?:select|hover)".*?</marker>', "", body)
    body = re.sub(r' (?:id="(?!arrowhead")[^"]*"|class="[^"]*"|style="")', "", body)
    body = body.replace("url(&quot;#arrowhead&quot;)", "url(#arrowhead)")
    body = re.sub(r" ?(?:user-select: none|text-rendering: geometricprecision);", "", body)
    body = re.sub(r"font-family: [^;]*(?:&quot;[^;]*&quot;[^;]*)*;(?= font-size)", "", body)
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)
    body = re.sub(r"rgb\((?:0, 0, 0|51, 51, 51)\)(?=;)", "var(--c-ink)", body)
    body = body.replace("rgb(238, 238, 238)", "var(--c-panel)")
    body = re.sub(r"(<path[^>]*fill: )rgb\(255, 255, 255\)", r"\1var(--c-paper)", body)
    body = body.replace(
        "fill: var(--c-ink); stroke-width: 0", "fill: #333; stroke-width: 0"
    )  # 节点的深色题头
    label = html.escape(f"Netron 画的计算图：{title}")
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{round(width * SCALE)}" '
        f'height="{round(height * SCALE)}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
        f'{svg.MARK} fill="var(--c-ink)" font-family="system-ui, sans-serif">'
    )
    return svg.standalone(f"{root}{body}</svg>")


def main() -> int:
    parser = ChineseParser(prog="python tools/netron_pictures.py", description=__doc__)
    parser.add_argument(
        "folder", metavar="文件夹", nargs="?", default=ROOT / "img", help="写到哪里（默认 img）"
    )
    args = parser.parse_args()
    browser_path = find_chromium()
    if browser_path is None:
        print("错误：找不到 Chromium；Debian 上用 apt-get install chromium 安装", file=sys.stderr)
        return 1
    for path in draw(args.folder, browser_path):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
