"""把 matplotlib 写出的 SVG 整理成能嵌进网页的片段：颜色成变量、标识唯一、图片压小、按页宽缩放。"""

import base64
import hashlib
import html
import io
import re
from typing import TYPE_CHECKING

from lstm_lib.book.figures.palette import COLOURS, standalone_style, svg_variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHONE = 340  # 手机上正文的宽度（像素），不比它宽的图不必缩放
MIN_SCALE = 0.7  # 手机上最多缩到这个比例，再窄就横向滚动：字不能小到读不清
MARK = 'data-figure="lstm"'  # 本书插图的记号
_SEEN: dict[str, int] = {}


def render(fig: "Figure", alt: str) -> str:
    """把 ``fig`` 写成一段 SVG 文本（没有 XML 声明，根元素带 ``role="img"`` 与说明），同图同字节。"""
    if not alt.strip():
        raise ValueError("alt 不能是空的：读屏软件的使用者要靠它知道图里画了什么。")
    import matplotlib as mpl  # 建书时的 _ext 只用下面整理文字的函数，不必等它

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "lstm", "svg.fonttype": "path", "svg.image_inline": True}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'href="data:image/png;base64,\s*([^"]*)"', _shrink_image, text)
    text = _drop_unused_ids(_trim(text))
    for name, colour in COLOURS.items():
        text = re.sub(re.escape(colour.light), f"var(--c-{name})", text, flags=re.I)
    return _root(text, alt)


def _trim(text: str) -> str:
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    # 百分之一点已远细于一个像素；字形的缩放系数（scale）不能动
    text = re.sub(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)', lambda match: _short(match[0]), text)
    text = re.sub(r"; stroke-linejoin: round|stroke-linejoin: round; ?", "", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return text.replace(' style=""', "")


def _short(numbers: str) -> str:
    numbers = re.sub(r"(\d\.\d\d)\d+", r"\1", numbers)
    return re.sub(r"\s*\n\s*", " ", numbers)


def _shrink_image(match: re.Match) -> str:
    """内嵌的 PNG 颜色不多时改存为调色板图，像素不变，字节减到几分之一。"""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))).convert("RGBA"))
    image = Image.fromarray(pixels)
    colours, index = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    if len(colours) <= 256 and (colours[:, 3] == 255).all():
        image = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8), mode="P")
        image.putpalette(colours[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return f'href="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"'


def _drop_unused_ids(text: str) -> str:
    """只留被引用的 id：matplotlib 给每个图元都起了名（patch_1……），一页几张图就会重名。"""
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    return re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)


def prefix_ids(text: str, prefix: str) -> str:
    """给 SVG 里的全部 id 及对它们的引用加上前缀，同一页的几张图互不相扰。"""
    text = re.sub(r' id="([^"]+)"', rf' id="{prefix}\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", text)


def _root(text: str, alt: str) -> str:
    """换掉根元素：尺寸以 CSS 像素计（1 点 = 4/3 像素），随页宽缩放。"""
    head, body = re.match(r"(<svg[^>]*>)(.*)", text, flags=re.S).groups()
    box = re.search(r'viewBox="([^"]+)"', head)[1]
    width, height = (round(float(size) * 4 / 3) for size in box.split()[2:])
    size = f'width="{width}" height="{height}" viewBox="{box}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{html.escape(alt)}" {MARK} '
        f'stroke-linejoin="round">{body.strip()}'
    )


def relabel(text: str, alt: str) -> str:
    """换掉给读屏软件的说明。"""
    return re.sub(r'aria-label="[^"]*"', lambda _: f'aria-label="{html.escape(alt)}"', text, count=1)


def standalone(text: str) -> str:
    """能单独打开的文件：带上按系统明暗取色的样式。"""
    head = text.index(">") + 1
    return f"{text[:head]}{standalone_style()}{text[head:]}\n"


def inline(text: str, prefix: str | None = None) -> str:
    """嵌进网页的片段：去掉单独文件的样式，颜色改取页面的变量，标识加前缀。

    ``prefix`` 缺省时由内容算出；同一张图在一个进程里嵌第二次会得到另一个前缀。
    """
    if prefix is None:
        digest = hashlib.sha256(text.encode()).hexdigest()[:7]
        _SEEN[digest] = _SEEN.get(digest, 0) + 1
        prefix = f"f{digest}-" if _SEEN[digest] == 1 else f"f{digest}{_SEEN[digest]}-"
    text = re.sub(r"<style>.*?</style>", "", text, count=1, flags=re.S)
    width = int(re.search(r'width="(\d+)"', text)[1])
    style = f"width:100%;max-width:{width}px;height:auto;"
    if width > PHONE:
        style += f"min-width:{max(PHONE, round(width * MIN_SCALE))}px;"
    return prefix_ids(text.strip(), prefix).replace("<svg ", f'<svg style="{style}{svg_variables()}" ', 1)
