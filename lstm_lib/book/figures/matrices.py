"""权重的图：四块叠成的矩阵、三家的门顺序、C 内核的打包布局。"""

import numpy as np
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from lstm_lib.book.figures import palette
from lstm_lib.book.figures.draw import LINE, Pen, canvas, math, text, wire
from lstm_lib.lstm import layouts

SUBSCRIPT = {"torch": "ifgo", "onnx": "iofc", "ncnn": "IFOG"}  # 各家文档里的写法


def cell_rect(ax, x, y, width, height, color, *, fill=0.2, line=0.7 * LINE, zorder=4):
    """左下角在 (x, y) 的小方格：浅底、同色的边。"""
    ax.add_patch(Rectangle((x, y), width, height, fc=palette.PAPER, ec="none", zorder=zorder))
    ax.add_patch(Rectangle((x, y), width, height, fc=color, ec="none", alpha=fill, zorder=zorder + 0.1))
    ax.add_patch(Rectangle((x, y), width, height, fc="none", ec=color, lw=line, zorder=zorder + 0.2))


def weight_blocks(input_size: int = 256, hidden_size: int = 257, order="torch"):
    """``weight_ih``、``weight_hh`` 与两个偏置：每个都由四块叠成，大小按维数成比例（悬殊时收一收）。"""
    order = layouts.gate_order(order)
    block = 66  # 一个门的行数画成多高
    scale = block / hidden_size
    wide_x, wide_h, thin = np.clip(input_size * scale, 24, 92), block, 18  # 太扁太宽的只画个意思
    tall_x = np.clip(input_size * scale, 12, 4 * block - 50)
    fig, ax = canvas(720, 380)
    bottom = 56
    top = bottom + 4 * block
    x, gap = 112, 12
    _row_numbers(ax, x, bottom, block, hidden_size)
    x = _stack(
        ax, x, bottom, block, wide_x, order, "W_{{i{}}}", "weight_ih_l0", (4 * hidden_size, input_size)
    )
    x = _vector(ax, x + gap, top, tall_x, thin, "x_t", input_size)
    x = _sign(ax, x + 4, bottom + 2 * block, "+")
    x = _stack(
        ax, x + 10, bottom, block, wide_h, order, "W_{{h{}}}", "weight_hh_l0", (4 * hidden_size, hidden_size)
    )
    x = _vector(ax, x + gap + 8, top, block, thin, "h_{t-1}", hidden_size)
    for name, space in (("bias_ih_l0", 16), ("bias_hh_l0", 26)):
        x = _sign(ax, x + space, bottom + 2 * block, "+")
        x = _stack(ax, x + space, bottom, block, thin, order, None, name, (4 * hidden_size,))
    _results(ax, x + 6, bottom, block, order)
    return fig


def _row_numbers(ax, x, bottom, block, hidden):
    for k in range(5):
        y = bottom + (4 - k) * block
        ax.plot([x - 10, x - 3], [y, y], color=palette.GREY, lw=0.6 * LINE)
        text(ax, x - 14, y, str(k * hidden), color=palette.GREY, ha="right")
    text(ax, x - 62, bottom + 2 * block, "行号", color=palette.GREY, rotation=90)


def _stack(ax, x, bottom, block, width, order, symbol, name, shape):
    for k, gate in enumerate(order):
        y = bottom + (3 - k) * block
        color = palette.GATE_COLORS[gate]
        cell_rect(ax, x, y, width, block, color)
        if symbol:
            math(ax, x + width / 2, y + block / 2, symbol.format(gate), color=color)
    size = " × ".join(map(str, shape))
    high = bottom + 4 * block
    text(ax, x + width / 2, high + 22, name, color=palette.INK)
    text(ax, x + width / 2, bottom - 18, size, color=palette.GREY)
    return x + width


def _vector(ax, x, top, height, width, name, size):
    cell_rect(ax, x, top - height, width, height, palette.INK, fill=0.1)
    math(ax, x + width / 2, top - height - 16, name)
    text(ax, x + width / 2, top - height - 36, str(size), color=palette.GREY)
    return x + width


def _sign(ax, x, y, sign):
    math(ax, x + 16, y, sign, size=14)
    return x + 32


def _results(ax, x, bottom, block, order):
    for k, gate in enumerate(order):
        y = bottom + (3.5 - k) * block
        color = palette.GATE_COLORS[gate]
        wire(ax, [(x, y), (x + 26, y)], pen=Pen(color))
        function = r"\tanh" if gate == "g" else r"\sigma"
        math(ax, x + 34, y + 10, f"{function}(\\cdot)={gate}_t", color=color, ha="left")
        text(ax, x + 34, y - 12, layouts.GATE_NAMES[gate], color=color, ha="left")


def gate_orders():
    """同一组四块权重，在 PyTorch、ONNX、ncnn 里的先后次序；连线追踪每个门去了哪里。"""
    fig, ax = canvas(640, 290)
    names = {"torch": "PyTorch", "onnx": "ONNX", "ncnn": "ncnn"}
    left, width, height, step = 118, 112, 40, 100
    where = {}
    for row, (key, label) in enumerate(names.items()):
        y = 222 - row * step
        text(ax, left - 20, y + height / 2, label, ha="right")
        for column, gate in enumerate(layouts.GATE_ORDERS[key]):
            x = left + column * (width + 8)
            color = palette.GATE_COLORS[gate]
            cell_rect(ax, x, y, width, height, color)
            letter = SUBSCRIPT[key][column]
            text(ax, x + width / 2, y + height / 2, f"${letter}$  {layouts.GATE_NAMES[gate]}", color=color)
            if (row - 1, gate) in where:
                _ribbon(ax, where[row - 1, gate], (x + width / 2, y + height), color)
            where[row, gate] = (x + width / 2, y)
    return fig


def _ribbon(ax, start, end, color):
    (x0, y0), (x1, y1) = start, end
    middle = (y0 + y1) / 2
    path = Path([(x0, y0), (x0, middle), (x1, middle), (x1, y1)], [Path.MOVETO] + [Path.CURVE4] * 3)
    ax.add_patch(PathPatch(path, fc="none", ec=palette.PAPER, lw=3.2 * LINE, zorder=2))
    ax.add_patch(PathPatch(path, fc="none", ec=color, lw=LINE, zorder=2.1))


def packed_layout(units: int = 4, order="ncnn"):
    """C 内核的打包：每块取 ``units`` 个隐藏单元的四个门；内存里一列接一列，读的次序就是算的次序。"""
    order = layouts.gate_order(order)
    fig, ax = canvas(720, 372)
    left, bottom, block, width = 96, 74, 62, 132
    top = bottom + 4 * block
    stripe = 15
    columns = [(left + 18, "k"), (left + 34, "k+1")]
    text(ax, left + width / 2, top + 34, "矩阵的样子", color=palette.GREY)
    for k, gate in enumerate(order):
        y = bottom + (3 - k) * block
        color = palette.GATE_COLORS[gate]
        cell_rect(ax, left, y, width, block, color, fill=0.08)
        text(ax, left - 12, y + block / 2, layouts.GATE_NAMES[gate], color=color, ha="right")
        ax.add_patch(Rectangle((left, y + 26), width, stripe, fc=color, ec="none", alpha=0.22, zorder=5))
        for x, _ in columns:
            cell_rect(ax, x, y + 26, 14, stripe, color, fill=0.75, zorder=6)
    for x, _ in columns:
        wire(ax, [(x + 7, top + 16), (x + 7, top + 2)], pen=Pen(palette.GREY))
        ax.plot([x + 7, x + 7], [bottom, top], color=palette.GREY, lw=0.5 * LINE, zorder=4.5, ls=(0, (2, 2)))
    math(ax, columns[0][0] - 2, top + 12, "k", color=palette.GREY, ha="right")
    math(ax, columns[1][0] + 15, top + 12, "k{+}1", color=palette.GREY, ha="left")
    text(ax, left + width / 2, bottom - 20, f"每个门取同样的 {units} 行", color=palette.GREY)
    _memory(ax, order, units, 322, 236)
    return fig


def _memory(ax, order, units, left, y):
    cell, height = 21, 30
    text(ax, left + 2 * units * cell, 356, "内存里的样子（从左到右，再换行）", color=palette.GREY)
    for row, name in enumerate(["k", "k{+}1", "k{+}2"]):
        base = y - row * 62
        math(ax, left - 12, base + height / 2, name, color=palette.GREY, ha="right")
        for block, gate in enumerate(order):
            color = palette.GATE_COLORS[gate]
            for unit in range(units):
                x = left + (block * units + unit) * cell
                cell_rect(ax, x, base, cell, height, color, fill=0.75 if row < 2 else 0.2, line=0.5 * LINE)
            if row == 0:
                middle = left + (block + 0.5) * units * cell
                text(ax, middle, base + height + 38, layouts.GATE_NAMES[gate], color=color)
                ax.plot(
                    [left + block * units * cell + 4, left + (block + 1) * units * cell - 4],
                    [base + height + 22] * 2,
                    color=color,
                    lw=LINE,
                )
                text(ax, middle, base + height + 11, f"{units} 个单元", color=palette.GREY)
    end = left + 4 * units * cell
    for row in range(2):
        base = y - row * 62
        points = [
            (end, base + 15),
            (end + 16, base + 15),
            (end + 16, base - 16),
            (left + cell / 2, base - 16),
        ]
        wire(ax, [*points, (left + cell / 2, base - 32)], pen=Pen(palette.GREY), line=0.7 * LINE)
    text(ax, left + 2 * units * cell, y - 158, "四个累加器正好是这几个单元的四个门：", color=palette.INK)
    text(ax, left + 2 * units * cell, y - 180, "扫完所有列，c 与 h 就能在寄存器里更新", color=palette.INK)
