"""页面的重量：用到的图标直接写进页面；没有公式的页不载入 MathJax，没有卡片的页不载入 sphinx-design。

主题自带的 Font Awesome 有一份脚本、三份字体（gzip 之后 680 kB），而全书只用十来个图标。这里从主题的那份脚本里
取出用到的图形（CC BY 4.0，见 LICENSE）：写在 ``<i>`` 里的换成内嵌的 SVG，样式表画出来的换成蒙版（``--icon-…``，
book.css 用它们），然后不再载入脚本与字体。
"""

import functools
import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import pydata_sphinx_theme
from book_finish import EXTRA_PAGES
from sphinx.errors import ExtensionError

STATIC = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
STYLE = "styles/pydata-sphinx-theme.css"
# book.css 里当蒙版用的图标
MASKS = (
    "bell", "circle-exclamation", "circle-info", "download", "github", "lightbulb", "magnifying-glass-minus",
    "pencil", "share", "triangle-exclamation",
)  # fmt: skip
# 脚本里的一个图标：名字、宽、高、别名（也有数字的）、码位、图形
ENTRY = re.compile(r'[{,]"?([a-z][a-z0-9-]*)"?:\[(\d+),(\d+),\[([^\]]*)\],"[0-9a-f]+","([^"]+)"\]')
ELEMENT = re.compile(r'<(i|span) class="([^"]*\bfa-[^"]*)"([^>]*)></\1>')
STYLES = {"fa", "fas", "far", "fab", "fa-solid", "fa-regular", "fa-brands"}
SIZES = {"fa-lg", "fa-fw", "fa-sm", "fa-xs", "fa-xl"}
SCRIPT = re.compile(
    r"(\s*<!-- So that users can add custom icons -->)?\s*<script [^>]*scripts/fontawesome\.js[^>]*></script>"
)
MATHJAX = re.compile(
    r"\s*<script>window\.MathJax = [^<]*</script>|\s*<script [^>]*mathjax/startup\.js[^>]*></script>"
)
DESIGN = re.compile(
    r"\s*<link [^>]*sphinx-design\.min\.css[^>]*>|\s*<script [^>]*design-tabs\.js[^>]*></script>"
)
CODE = re.compile(r"<(script|pre|code)\b.*?</\1>", re.S)
FORMULA = re.compile(r'class="(?:[^"]* )?(?:math|amsmath)[ "]|\\\(|\\\[|\$[^$<>]+\$')


@functools.cache
def shapes() -> dict[str, tuple[int, int, str]]:
    """名字 → （宽，高，图形）；几种样子都有的取实心的，它排在后面。"""
    found, aliases = {}, {}
    text = (STATIC / "scripts" / "fontawesome.js").read_text(encoding="utf-8")
    for name, width, height, others, path in ENTRY.findall(text):
        found[name] = int(width), int(height), path
        aliases |= dict.fromkeys(re.findall(r'"([^"]+)"', others), name)
    return {alias: found[name] for alias, name in aliases.items()} | found


def shape(name: str) -> tuple[int, int, str]:
    try:
        return shapes()[name]
    except KeyError:
        raise ExtensionError(f"主题自带的 Font Awesome 里没有 {name} 这个图标，换一个名字") from None


def inline_icons(page: str) -> str:
    """``<i class="fa-solid fa-list">`` 换成同样大小、同样颜色的 SVG；别的类与属性照旧。"""

    def draw(match):
        classes = match[2].split()
        names = [c for c in classes if c.startswith("fa-") and c not in STYLES | SIZES]
        if len(names) != 1:
            raise ExtensionError(f"看不出这是哪个图标：{match[0]}")
        width, height, path = shape(names[0].removeprefix("fa-"))
        kept = " ".join(["book-icon", *(c for c in classes if c not in STYLES)])
        return (
            f'<svg class="{kept}"{match[3]} viewBox="0 0 {width} {height}" aria-hidden="true">'
            f'<path fill="currentColor" d="{path}"/></svg>'
        )

    return ELEMENT.sub(draw, page)


def without_mathjax(page: str) -> str:
    """正文里没有公式的页，不要 MathJax 的脚本。"""
    _, _, body = page.partition("<body")
    return page if FORMULA.search(CODE.sub("", body)) else MATHJAX.sub("", page)


def without_design(page: str) -> str:
    """没有卡片、按钮、选项卡的页，不要 sphinx-design 的样式与脚本。"""
    _, _, body = page.partition("<body")
    return page if re.search(r'class="(?:[^"]* )?sd-', body) else DESIGN.sub("", page)


def slim_style() -> str:
    """主题的样式表：去掉两千个图标的名字与字体，添上要用的蒙版。"""
    text = (STATIC / STYLE).read_text(encoding="utf-8")
    text = re.sub(r"@font-face\{[^{}]*Awesome[^{}]*\}", "", text)
    text = re.sub(r'(?<=\})(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}', "", text)
    masks = []
    for name in MASKS:
        width, height, path = shape(name)
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><path d="{path}"/></svg>'
        )
        masks.append(f'--icon-{name}:url("data:image/svg+xml,{quote(svg, safe=" =:/")}")')
    return f"{text}\n:root{{{';'.join(masks)}}}\n"


def lighten(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    site, style = Path(app.outdir), slim_style()
    (site / "_static" / STYLE).write_text(style, encoding="utf-8")
    for path in (site / "_static" / "scripts").glob("fontawesome.js*"):
        path.unlink()
    for path in (site / "_static" / "vendor" / "fontawesome").rglob("*"):
        if path.is_file():
            path.unlink()
    # 样式表的内容变了，地址里的版本也要变，浏览器才不拿旧的
    version = rf"\g<1>{hashlib.sha256(style.encode()).hexdigest()[:8]}"
    for name in [*app.env.found_docs, *EXTRA_PAGES]:
        path = site / f"{name}.html"
        if path.is_file():
            page = SCRIPT.sub("", path.read_text(encoding="utf-8"))
            page = re.sub(rf"({re.escape(STYLE)}\?digest=)[0-9a-f]+", version, page)
            path.write_text(without_design(without_mathjax(inline_icons(page))), encoding="utf-8")


def setup(app):
    app.connect("build-finished", lighten, priority=850)  # 在 book_finish 之前
    return {"parallel_read_safe": True, "parallel_write_safe": True}
