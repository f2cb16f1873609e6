"""把一次运行得到的数排成表：页面里是 HTML，终端里是对齐的文字。

自己排而不用 tabulate、rich：doctor 要在一个第三方包也没装时排得出，页面的表又有行内样式、合并的格要自己写。
"""

import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from numbers import Integral

# 看上去是数的文字：+1.2、12.3%、1.8 倍、529,420；横线表示没有
_NUMERAL = re.compile(r"[+\-−±<>≤≥]?\s*[\d,]*\.?\d+([eE][+\-−]?\d+)?\s*(%|倍|×)?|[–—-]")
# 文字里的负号：数前面的连字符，与负的零
_MINUS, _MINUS_ZERO = (
    re.compile(rf"(^|[\s/（(])-(?={digits})") for digits in (r"\d", r"0(?:\.0*)?(?![\d.xe])")
)
_SHORT = 16  # 不超过这么宽（汉字算 2）的文字不断行
_SHORT_CODE = 34
NOTHING = "·"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Table:
    """表头加若干行；在笔记本里显示成 HTML 表格，在终端里显示成对齐的文字。

    单元格是文字或数。整数原样（一万以上三位一节）；浮点数取三位有效数字，小于百分之一的用科学记数法；
    一列里的浮点数若都是整数值，就按整数写。（空格不算）多半是数的列连同表头靠右排。
    文字里数前面的连字符换成负号（Code 的不换），空的格里写一个点。``group`` 为真时，第一列里接连相同的几格合成一格。
    """

    def __init__(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence],
        caption: str | None = None,
        group: bool = False,
    ):
        self.header, self.caption = [str(h) for h in header], caption
        self.rows = [list(row) for row in rows]
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"表头有 {len(self.header)} 列，这一行却有 {len(row)} 列：{row}")
        columns = [_column(list(column)) for column in zip(*self.rows, strict=True)]
        self._texts = [list(row) for row in zip(*columns, strict=True)]
        self._right = [
            2 * sum(bool(_NUMERAL.fullmatch(text)) for text in column) > sum(map(bool, column))
            for column in columns
        ] or [False] * len(self.header)
        # 空的格写一个点：看得出是没有，不是漏了
        self._texts = [[text or NOTHING for text in texts] for texts in self._texts]
        firsts = [texts[0] for texts in self._texts]
        # 每一行的第一格占几行；0 是并到上面去了
        self._spans = _runs(firsts) if group else [1] * len(firsts)

    def __repr__(self):
        body = [
            [texts[0] if span else "", *texts[1:]]
            for texts, span in zip(self._texts, self._spans, strict=True)
        ]
        head, *lines = aligned([self.header, *body], self._right)
        rule = "-" * max(map(display_width, (head, *lines)))
        return "\n".join([*([self.caption] if self.caption else []), head, rule, *lines])

    def _repr_html_(self):
        aligns = ["text-align: right" if right else "" for right in self._right]
        head = "".join(
            f'<th scope="col"{_style(align)}>{html.escape(name)}</th>'
            for name, align in zip(self.header, aligns, strict=True)
        )
        body = ""
        for row, texts, span in zip(self.rows, self._texts, self._spans, strict=True):
            spans = [span, *[1] * (len(row) - 1)]
            cells = zip(row, texts, aligns, spans, strict=True)
            body += "<tr>" + "".join(_cell(*cell) for cell in cells) + "</tr>"
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (
            '<div class="pst-scrollable-table-container">'
            f'<table class="table">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )


def aligned(rows: Iterable[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """各列对齐的文字，一行一个；``right`` 说哪几列靠右，省略时都靠左。汉字按两格算，行末不留空格。"""
    rows = [list(row) for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    sides = list(right) or [False] * len(widths)
    return ["  ".join(map(_pad, row, widths, sides)).rstrip() for row in rows]


def scientific(value: float, digits: int = 0) -> str:
    """正文里的科学记数法，小数点后 ``digits`` 位：3.1×10⁻⁵。"""
    number, exponent = f"{value:.{digits}e}".split("e")
    return number.replace("-", "−") + "×10" + str(int(exponent)).translate(_RAISED)


class Code(str):
    """单元格里按代码字体排的文字。"""


def show(header: Sequence[str], rows: Iterable[Sequence], caption: str | None = None) -> None:
    """在页面里显示一张表。"""
    from IPython.display import display

    display(Table(header, rows, caption))


def _is_number(value):
    return hasattr(value, "__float__") and not isinstance(value, bool | str)


def _column(values):
    """一列的文字：同一列用同一种写法。"""
    floats = [float(v) for v in values if _is_number(v) and not isinstance(v, Integral)]
    whole = all(v.is_integer() and abs(v) < 1e15 for v in floats)
    return [_text(value, whole) for value in values]


def _text(value, whole):
    if isinstance(value, Code):
        return value
    if not _is_number(value):
        return _MINUS.sub(r"\1−", _MINUS_ZERO.sub(r"\1", str(value)))
    number = float(value)
    if isinstance(value, Integral) or whole or number == 0:
        text = f"{int(number):,}" if abs(number) >= 10_000 else str(int(number))
    elif abs(number) >= 999.5:
        text = f"{number:,.0f}" if abs(number) >= 10_000 else f"{number:.0f}"
    elif abs(number) < 1e-2:
        text = f"{number:.2e}"
    else:
        text = f"{number:#.3g}".rstrip(".")
    return "−" + text[1:] if text.startswith("-") else text


def _style(*parts):
    parts = [part for part in parts if part]
    return f' style="{"; ".join(parts)}"' if parts else ""


def display_width(text: str) -> int:
    """等宽字体里占几格：汉字两格，其余一格。"""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text, width, right):
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def _runs(values):
    """接连相同的值：头一个处写个数，其余写 0。"""
    counts = []
    for _, run in itertools.groupby(values):
        size = len(list(run))
        counts += [size, *[0] * (size - 1)]
    return counts


def _cell(value, text, align, span):
    if not span:
        return ""
    code = isinstance(value, Code)
    nowrap = (
        "white-space: nowrap" if align or display_width(text) <= (_SHORT_CODE if code else _SHORT) else ""
    )
    inside = f"<code>{html.escape(text)}</code>" if code else html.escape(text)
    rows = f' rowspan="{span}"' if span > 1 else ""
    return f"<td{rows}{_style(align, nowrap)}>{inside}</td>"
