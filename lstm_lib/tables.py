"""把一次运行得到的数排成表，显示在页面里。"""

import html
from collections.abc import Iterable, Sequence


class Table:
    """表头加若干行；在笔记本里显示成 HTML 表格，在终端里显示成竖线分隔的文字。

    单元格是文字或数：整数原样，浮点数取三位有效数字（很小的用科学记数法）；数靠右排。
    """

    def __init__(self, header: Sequence[str], rows: Iterable[Sequence], caption: str | None = None):
        self.header, self.caption = [str(h) for h in header], caption
        self.rows = [list(row) for row in rows]
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"表头有 {len(self.header)} 列，这一行却有 {len(row)} 列：{row}")

    def __repr__(self):
        lines = [self.header, ["---"] * len(self.header), *([_text(v) for v in row] for row in self.rows)]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{self.caption}\n{body}" if self.caption else body

    def _repr_html_(self):
        head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in self.header)
        body = "".join("<tr>" + "".join(_cell(v) for v in row) + "</tr>" for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (
            '<div class="pst-scrollable-table-container">'
            f'<table class="table">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )


class Code(str):
    """单元格里按代码字体排的文字。"""


def show(header: Sequence[str], rows: Iterable[Sequence], caption: str | None = None) -> None:
    """在页面里显示一张表。"""
    from IPython.display import display

    display(Table(header, rows, caption))


def _is_number(value):
    return hasattr(value, "__float__") and not isinstance(value, bool | str)


def _text(value):
    if not _is_number(value):
        return str(value)
    if float(value).is_integer() and abs(float(value)) < 1e15:
        return str(int(value))
    size = abs(float(value))
    if 999.5 <= size < 1e7:
        return f"{float(value):.0f}"  # 几千几万直接写出来，比 1.1e+03 好读
    return f"{float(value):.2e}" if size < 1e-2 else f"{float(value):.3g}"


def _cell(value):
    text = html.escape(_text(value))
    if isinstance(value, Code):
        return f'<td style="white-space: nowrap"><code>{text}</code></td>'
    right = "text-align: right; white-space: nowrap"  # 1e-07 不在负号处断行
    return f'<td style="{right}">{text}</td>' if _is_number(value) else f"<td>{text}</td>"
