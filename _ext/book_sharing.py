"""分享与收录：每章一张卡片（Open Graph）、规范网址、网站地图、PNG 图标；还有书的样子的 404 页。

卡片与网站地图要写全址，所以只有知道网站的地址（``html_baseurl``，由 book_meta 定）时才有。
"""

import html
import posixpath
import re
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from lstm_lib.book.figures import palette

CARDS = "_static/cards"
ICON = "_static/icon.png"
FONT_FILE = files("lstm_lib.book") / "fonts" / "LSTMBookSans-Regular.otf"
SIZE = (1200, 630)  # 各家要的大小
NOT_FOUND = "404"
ADDRESS = re.compile(r'(\s(?:href|src|action|data-content_root)=")(?![a-z][a-z0-9+.-]*:|/|#)([^"]*)"')


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT_FILE), size)


def mark(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, paper: str, ink: str) -> None:
    """标志：与 img/favicon.svg 同样的形状，32 格见方。"""
    scale = size / 32

    def at(*numbers):
        return [offset + scale * value for offset, value in zip((x, y) * 2, numbers, strict=False)]

    draw.rounded_rectangle(at(0, 0, 32, 32), 7.5 * scale, fill=paper)
    lines = [(3.5, 12, 7.5, 12), (14.5, 12, 17.5, 12), (24.5, 12, 28.5, 12)]
    lines += [(11, 15.8, 11, 25), (21, 15.8, 21, 25), (6, 25, 26, 25)]
    for line in lines:
        draw.line(at(*line), ink, round(2.1 * scale))
    for centre in (11, 21):
        draw.ellipse(at(centre - 4.6, 7.4, centre + 4.6, 16.6), outline=ink, width=round(2.1 * scale))
    for line in [
        (9.7, 10.7, 12.3, 13.3),
        (12.3, 10.7, 9.7, 13.3),
        (21, 10.1, 21, 13.9),
        (19.1, 12, 22.9, 12),
    ]:
        draw.line(at(*line), ink, round(1.5 * scale))


def icon(size: int = 180) -> Image.Image:
    """PNG 图标：不认 SVG 的浏览器与手机的主屏幕用；先画大四倍再缩小，边缘才平。"""
    large = Image.new("RGBA", (4 * size, 4 * size))
    mark(ImageDraw.Draw(large), 0, 0, 4 * size - 1, palette.BLUE, "#ffffff")
    return large.resize((size, size), Image.Resampling.LANCZOS)


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """按宽度断行：汉字之间、空格处都可以断，英文单词不拆；行首不留标点与空格。"""
    lines = [""]
    for piece in re.findall(r"[A-Za-z0-9_.+-]+[，。；：、）！？]*|.[，。；：、）！？]*", text):
        if lines[-1] and face.getlength(lines[-1] + piece.rstrip()) > width:
            lines.append(piece.lstrip())
        else:
            lines[-1] += piece
    return lines


def card(book: str, number: str, title: str, text: str) -> Image.Image:
    """一章的卡片：书名与标志、章号、章名、头两行介绍。"""
    image = Image.new("RGB", SIZE, "#14181e")
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, 18, SIZE[1]], fill=palette.BLUE)
    logo = icon(72)
    image.paste(logo, (80, 64), logo)
    draw.text((176, 100), book, "#e3e9ef", font(38), anchor="lm")
    top = 210
    if number:
        draw.text((80, top), f"第 {number} 章", "#7db7f5", font(38), anchor="lt")
        top += 68
    large, small = font(68), font(32)
    for line in wrap(title, large, SIZE[0] - 160)[:2]:
        draw.text((80, top), line, "#ffffff", large, anchor="lt")
        top += 92
    top = max(top + 24, 450)
    lines = wrap(text, small, SIZE[0] - 160)
    if len(lines) > 2:
        lines = [lines[0], lines[1].rstrip("，。；：、 ")[:-1] + "…"]
    for line in lines:
        draw.text((80, top), line, "#a9b5c0", small, anchor="lt")
        top += 50
    return image


def plain(title: str) -> str:
    """题目去掉标签；章号分开给。"""
    return html.unescape(re.sub("<[^>]+>", "", title)).strip()


def add_tags(app, pagename, templatename, context, doctree):
    """PNG 图标；有正文的页再加卡片。题名与描述取自 book_meta（它先做）。"""
    root = "../" * pagename.count("/")
    tags = [
        f'<link rel="apple-touch-icon" href="{root}{ICON}" />',
        f'<link rel="icon" type="image/png" sizes="180x180" href="{root}{ICON}" />',
    ]
    if doctree is not None:
        book = app.config.html_title
        title, home = plain(context["title"]), pagename == app.config.root_doc
        text = html.unescape(re.search(r'name="description" content="([^"]*)"', context["metatags"])[1])
        items = {
            "og:type": "website" if home else "article",
            "og:site_name": book,
            "og:title": title,
            "og:description": text,
            "og:locale": "zh_CN",
        }
        if base := app.config.html_baseurl:
            picture = f"{CARDS}/{pagename.replace('/', '-')}.png"
            items |= {
                "og:url": f"{base}{'' if home else pagename + '.html'}",
                "og:image": base + picture,
                "og:image:width": SIZE[0],
                "og:image:height": SIZE[1],
                "og:image:alt": f"《{book}》：{title}",
            }
            numbers = app.env.toc_secnumbers.get(pagename, {}).get("", ())
            name = re.sub(r"^[\d.]+\s*", "", title) if numbers else title
            subtitle = "从训练到落地的可执行教程" if home else name
            app.book_cards[picture] = (book, ".".join(map(str, numbers)), subtitle, text)
            tags.append('<meta name="twitter:card" content="summary_large_image" />')
        tags += [
            f'<meta property="{key}" content="{html.escape(str(value), quote=True)}" />'
            for key, value in items.items()
        ]
    context["metatags"] = "\n    ".join([context.get("metatags") or "", *tags])


def start(app):
    app.book_cards = {}


def not_found(app):
    yield (
        NOT_FOUND,
        {
            "title": "没有这一页",
            "body": "<section><h1>没有这一页</h1><p>地址可能写错了，也可能这一页换了名字。从左边的目录里找（手机上在左上角），"
            '或者<a class="reference internal" href="search.html">搜一搜</a>，'
            '或者回到<a class="reference internal" href="index.html">首页</a>。</p></section>',
        },
        "page.html",
    )


def root_path(app) -> str:
    """网站在域名下的路径，如 ``/lstm-book/``；不知道地址时当它在根上。"""
    return urlsplit(app.config.html_baseurl or "").path or "/"


def write_files(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    icon().quantize(64, Image.Quantize.FASTOCTREE).save(site / ICON, optimize=True)
    # 任何深度的地址都可能落到 404 页，其中的地址要从根写起
    path = site / f"{NOT_FOUND}.html"
    root = root_path(app)

    def absolute(match):
        return f'{match[1]}{posixpath.join(root, match[2].removeprefix("./"))}"'

    path.write_text(ADDRESS.sub(absolute, path.read_text(encoding="utf-8")), encoding="utf-8")
    if not app.config.html_baseurl:
        return
    (site / CARDS).mkdir(parents=True, exist_ok=True)
    for name, words in app.book_cards.items():
        card(*words).save(site / name, optimize=True)
    urls = [
        app.config.html_baseurl + ("" if name == app.config.root_doc else f"{name}.html")
        for name in sorted(app.env.found_docs)
    ]
    lines = "\n".join(f"  <url><loc>{escape(url)}</loc></url>" for url in urls)
    (site / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{lines}\n</urlset>\n',
        encoding="utf-8",
    )


def setup(app):
    app.connect("builder-inited", start)
    app.connect("html-page-context", add_tags, priority=950)
    app.connect("html-collect-pages", not_found)
    app.connect("build-finished", write_files, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
