"""代码里的长行各自成块：手机上放不下时折行，折下来的部分比这一行的开头再缩进两格。

只管行怎样摆，文字一个不动：复制出来的还是原来的代码。样式在 ``_site_static/book.css``。
"""

import html
import re
import unicodedata

from pygments.formatters import HtmlFormatter
from sphinx.highlighting import PygmentsBridge

NARROW = 32  # 列；最窄的手机也放得下这么宽，更短的行不必管
DEEP = 12  # 缩进再深，手机上就放不下几个字了：多出来的不占地方
TAG = re.compile(r"<[^>]+>")
GAP = re.compile(r"(?<= ) {2,}(?=\\(?:</span>)*\n?$)")  # C 的宏：对齐行末反斜杠的空格，折行时不必占地方
# IPython 的 Code 印出的代码：每一段自带一份配色，深色主题下也不变；改用全书的那一份
PRINTED = re.compile(
    r"<style>(?:(?!</style>).)*\.output_html \.(?:(?!</style>).)*</style>"
    r'<div class="highlight"><pre>(?P<code>.*?)</pre></div>',
    re.S,
)


class FoldingFormatter(HtmlFormatter):
    def wrap(self, source):
        return super().wrap((kind, fold(markup) if kind else markup) for kind, markup in source)


def fold(markup: str) -> str:
    """一行高亮过的代码，长的外面套一个 ``<span class="line">``，``--indent`` 是它自己缩进的格数。"""
    text = html.unescape(TAG.sub("", markup)).rstrip("\n")
    if columns(text) <= NARROW:
        return markup
    indent = len(text) - len(text.lstrip(" "))
    extra = max(indent - DEEP, 0)
    style = f' style="--indent:{indent - extra}"' if indent else ""
    markup = GAP.sub(r'<span class="gap">\g<0></span>', markup)
    if extra:
        markup = markup.replace(" " * extra, f'<span class="gap">{" " * extra}</span>', 1)
    return f'<span class="line"{style}>{markup}</span>'


def columns(text: str) -> int:
    """一行占多少列：汉字与全角标点占两列。"""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def fold_printed(page: str) -> str:
    """笔记本印出来的代码与文稿里的一样摆、一样上色；再做一遍结果不变。"""

    def patch(match):
        lines = "".join(map(fold, match["code"].splitlines(keepends=True)))
        return f'<div class="highlight-printed notranslate"><div class="highlight"><pre>{lines}</pre></div></div>'

    return PRINTED.sub(patch, page)


def setup(app):
    PygmentsBridge.html_formatter = FoldingFormatter
    return {"parallel_read_safe": True, "parallel_write_safe": True}
