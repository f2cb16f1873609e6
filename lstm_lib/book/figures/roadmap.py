"""全书的路线图与逐级对照的阶梯。"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from matplotlib.patches import Circle

from lstm_lib.book.figures import palette
from lstm_lib.book.figures.draw import LINE, Pen, box, canvas, text, wire

ROOT = Path(__file__).resolve().parents[3]
COLORS = (palette.BLUE, palette.ORANGE, palette.GREEN, palette.PURPLE)


class Part(NamedTuple):
    """书的一部分：第几部分、题目、各章在图上的短名。"""

    number: str
    title: str
    chapters: list[str]


def parts(root: Path = ROOT) -> list[Part]:
    """``_toc.yml`` 里编了号的各部分（附录不编号）；章的短名见 ``short_title``。"""
    import yaml

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found = []
    for part in toc["parts"]:
        if part.get("numbered"):
            number, _, title = part["caption"].partition(" ")
            found.append(Part(number, title, [short_title(root / c["file"]) for c in part["chapters"]]))
    return found


def short_title(page: Path) -> str:
    """一章的短名：笔记本元数据里的 ``short_title``，没有就是它的一级标题。"""
    notebook = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))
    first = "".join(notebook["cells"][0]["source"])
    return notebook["metadata"].get("short_title") or re.match(r"# +(.+)", first)[1].strip()


def book_map():
    """全书的地图：一条路从头走到尾，每一站是一章，每一行是一部分。"""
    rows = parts()
    left, right, step, top = 244, 636, 92, 42
    fig, ax = canvas(720, top + step * (len(rows) - 1) + 54)
    longest = max(4, *(len(part.chapters) for part in rows))
    for row, part in enumerate(rows):
        y, color = 54 + (len(rows) - 1 - row) * step, COLORS[row % len(COLORS)]
        text(ax, 14, y + 11, part.number, color=color, ha="left")
        text(ax, 14, y - 11, part.title, color=palette.GREY, ha="left")
        columns = [left + (right - left) * k / (longest - 1) for k in range(len(part.chapters))]
        ax.plot([left, columns[-1]], [y, y], color=color, lw=2 * LINE, zorder=3, solid_capstyle="round")
        for x, chapter in zip(columns, part.chapters, strict=True):
            ax.add_patch(Circle((x, y), 8, fc=palette.PAPER, ec=color, lw=1.6 * LINE, zorder=5))
            text(ax, x, y - 26, chapter)
        if row + 1 < len(rows):
            turn = y - step / 2 - 4
            points = [
                (columns[-1] + 9, y),
                (columns[-1] + 66, y),
                (columns[-1] + 66, turn),
                (left - 44, turn),
            ]
            points += [(left - 44, y - step), (left - 9, y - step)]
            wire(ax, points, pen=Pen(palette.GREY), radius=14, line=0.8 * LINE)
    return fig


def book_map_alt() -> str:
    """路线图的说明：图上有什么，就念什么。"""
    named = (f"{part.number}“{part.title}”：{'、'.join(part.chapters)}" for part in parts())
    return f"全书的路线图，从上到下、从左到右。{'；'.join(named)}。"


def ladder():
    """逐级对照的阶梯：同一组权重、同一段输入，每一级的结果都同查过的一级比。宽度照手机的屏幕。"""
    steps = [
        ("PyTorch", palette.INK),
        ("ONNX", palette.BLUE),
        ("化简的 ONNX", palette.BLUE),
        ("ncnn", palette.GREEN),
        ("NumPy", palette.ORANGE),
        ("C", palette.PURPLE),
        ("float16", palette.PURPLE),
        ("int8", palette.RED),
        ("WebAssembly", palette.BLUE),
    ]
    fig, ax = canvas(322, 440)
    width, across, rise = 98, 27.4, 48
    for k, (name, color) in enumerate(steps):
        x, y = 51 + k * across, 27 + k * rise
        box(ax, x, y, width, 34, name, pen=Pen(color))
        if k:
            start = x - across - 32
            wire(ax, [(start, y - rise + 17), (start, y), (x - width / 2, y)], radius=6)
    text(ax, 12, 420, "同一组权重，同一段输入：", ha="left")
    text(ax, 12, 398, "每一级换一种做法，", ha="left", color=palette.GREY)
    text(ax, 12, 376, "都与查过的一级比一比", ha="left", color=palette.GREY)
    return fig
