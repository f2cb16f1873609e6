"""示意图的零件：画布、方框、圆形运算、带圆角的连线与箭头。坐标以像素计，原点在左下。"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from lstm_lib.book.figures import palette
from lstm_lib.book.figures.style import FONT_SIZE

PIXEL = 0.75  # 一个 CSS 像素是 0.75 点
LINE = 2.0 * PIXEL
MATH_SIZE = 12.5
SMALL = FONT_SIZE - 1.5


def canvas(width: float, height: float):
    """一张 ``width``×``height`` 像素、没有坐标轴的画布，返回 ``(fig, ax)``。"""
    fig = plt.figure(figsize=(width / 96, height / 96), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


@dataclass(frozen=True)
class Pen:
    """一个部件用的笔：``lit`` 为假时退成浅灰，把视线让给点亮的部分。"""

    color: str = palette.INK
    lit: bool = True

    @property
    def line(self) -> str:
        return self.color if self.lit else palette.GRID

    @property
    def text(self) -> str:
        return self.color if self.lit else palette.GREY

    @property
    def alpha(self) -> float:
        return 1.0 if self.lit else 0.55

    @property
    def order(self) -> int:
        return 4 if self.lit else 3  # 点亮的线盖在灰线上面


def text(ax: Axes, x: float, y: float, content: str, *, color=palette.INK, size=FONT_SIZE, **kwargs):
    """居中写字；``ha``、``va`` 等可以另给。"""
    kwargs = {"ha": "center", "va": "center", "zorder": 8} | kwargs
    return ax.text(x, y, content, color=color, fontsize=size, **kwargs)


def math(ax: Axes, x: float, y: float, content: str, **kwargs):
    """写一个公式符号，如 ``math(ax, 10, 10, "h_{t-1}")``。"""
    return text(ax, x, y, f"${content}$", **({"size": MATH_SIZE} | kwargs))


def box(ax, x, y, width, height, label="", *, pen=Pen(), fill=0.14, size=FONT_SIZE, radius=5, line=LINE):
    """以 (x, y) 为中心的圆角方框；``fill`` 是底色的浓度。"""
    corner = (x - width / 2, y - height / 2)
    style = f"round,pad=0,rounding_size={radius}"
    solid = FancyBboxPatch(corner, width, height, boxstyle=style, fc=palette.PAPER, ec="none", zorder=5)
    tint = FancyBboxPatch(
        corner,
        width,
        height,
        boxstyle=style,
        fc=pen.line,
        ec="none",
        zorder=5.1,
        alpha=fill if pen.lit else 0.05,
    )
    edge = FancyBboxPatch(corner, width, height, boxstyle=style, fc="none", ec=pen.line, lw=line, zorder=5.2)
    for patch in (solid, tint, edge):
        ax.add_patch(patch)
    if label:
        text(ax, x, y, label, color=pen.text, alpha=pen.alpha, size=size)


def operation(ax, x, y, symbol, *, pen=Pen(), radius=11):
    """逐元素运算：圆圈里画一个乘号或加号（画线而不写字，粗细与连线一致）。"""
    ax.add_patch(Circle((x, y), radius, fc=palette.PAPER, ec=pen.line, lw=LINE, zorder=6))
    arm = radius * 0.5
    slope = 0.7 * arm
    strokes = {
        "×": [((-slope, -slope), (slope, slope)), ((-slope, slope), (slope, -slope))],
        "+": [((-arm, 0), (arm, 0)), ((0, -arm), (0, arm))],
    }[symbol]
    for (x0, y0), (x1, y1) in strokes:
        ax.plot([x + x0, x + x1], [y + y0, y + y1], color=pen.line, lw=LINE, zorder=7, solid_capstyle="round")


def wire(ax, points, *, pen=Pen(), arrow=True, radius=9, line=LINE, dashed=False):
    """沿 ``points`` 的折线，转角是圆的；``arrow`` 在末端画箭头。"""
    points = [np.asarray(point, float) for point in points]
    if arrow:
        points[-1] = _arrow_head(ax, points[-2], points[-1], pen)
    vertices, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for neighbour, code in ((before, Path.LINETO), (after, Path.CURVE3)):
            length = np.linalg.norm(neighbour - corner)
            near = corner + (neighbour - corner) * min(radius, length / 2) / length
            vertices += [near] if code == Path.LINETO else [corner, near]
            codes += [code] if code == Path.LINETO else [code, code]
    vertices.append(points[-1])
    codes.append(Path.LINETO)
    style = {"linestyle": (0, (3.2, 2.4))} if dashed else {}
    ax.add_patch(
        PathPatch(
            Path(vertices, codes),
            fc="none",
            ec=pen.line,
            lw=line,
            zorder=pen.order,
            capstyle="projecting",
            **style,
        )
    )


def _arrow_head(ax, start, end, pen, length=8.0, half=4.2):
    """在 ``end`` 处画箭头，返回线该停下的地方。"""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    base = end - length * along
    corners = [end, base + half * across, base - half * across]
    ax.add_patch(Polygon(corners, closed=True, fc=pen.line, ec="none", zorder=pen.order + 0.5))
    return base + 0.5 * along


def bridge(ax, x, y0, y1, crossing, *, pen=Pen(), hop=7):
    """从 (x, y0) 到 (x, y1) 的竖线，在 ``crossing`` 处拱起，表示跨过而不相连。"""
    k = 0.5523 * hop  # 四分之一圆的贝塞尔系数
    vertices = [
        (x, y0),
        (x, crossing - hop),
        (x + k, crossing - hop),
        (x + hop, crossing - k),
        (x + hop, crossing),
    ]
    vertices += [(x + hop, crossing + k), (x + k, crossing + hop), (x, crossing + hop)]
    end = _arrow_head(ax, np.array([x, y0], float), np.array([x, y1], float), pen)
    vertices.append(tuple(end))
    codes = [Path.MOVETO, Path.LINETO] + [Path.CURVE4] * 6 + [Path.LINETO]
    ax.add_patch(PathPatch(Path(vertices, codes), fc="none", ec=pen.line, lw=LINE, zorder=pen.order))


def junction(ax, x, y, *, pen=Pen()):
    """分叉处的实心点。"""
    ax.add_patch(Circle((x, y), 3.0, fc=pen.line, ec="none", zorder=pen.order + 0.6))
