"""流程的图：IRM 语音增强、流式推理的重叠相加。"""

import numpy as np
from matplotlib.patches import Rectangle

from lstm_lib.book.figures import palette
from lstm_lib.book.figures.draw import LINE, SMALL, Pen, box, canvas, junction, operation, text, wire


def irm_pipeline():
    """IRM 语音增强的流程：复数谱走上面的大路，幅度谱走下面，得到掩蔽再乘回去。"""
    fig, ax = canvas(720, 236)
    road, low, product = 176, 78, 526
    _wave(ax, 44, road, rough=True)
    text(ax, 44, road - 46, "带噪语音")
    wire(ax, [(84, road), (112, road)])
    box(ax, 144, road, 64, 38, "STFT", pen=Pen(palette.GREY))
    wire(ax, [(176, road), (product - 11, road)])
    text(ax, (200 + product) / 2, road + 18, "复数谱：相位原样保留", color=palette.GREY)
    junction(ax, 200, road)
    wire(ax, [(200, road), (200, low), (224, low)])
    blocks = [
        (266, 84, "幅度谱", palette.GREY, "去掉直流，余 256"),
        (362, 68, "LSTM", palette.BLUE, "256 → 257"),
        (447, 62, "Linear", palette.GREEN, "257 → 257"),
        (product, 48, r"$\sigma$", palette.ORANGE, "压到 0 与 1 之间"),
    ]
    for k, (x, width, name, color, note) in enumerate(blocks):
        box(ax, x, low, width, 44, name, pen=Pen(color), size=14 if name.startswith("$") else 10.5)
        text(ax, x, low - 40, note, color=color, size=SMALL)
        if k:
            before = blocks[k - 1]
            wire(ax, [(before[0] + before[1] / 2, low), (x - width / 2, low)])
    wire(ax, [(product, low + 22), (product, road - 11)], pen=Pen(palette.ORANGE))
    text(ax, product + 14, (low + road) / 2 + 8, "掩蔽", color=palette.ORANGE, ha="left")
    operation(ax, product, road, "×")
    wire(ax, [(product + 11, road), (565, road)])
    box(ax, 598, road, 66, 38, "iSTFT", pen=Pen(palette.GREY))
    wire(ax, [(631, road), (650, road)])
    _wave(ax, 684, road, rough=False, half=28)
    text(ax, 680, road - 46, "增强语音")
    return fig


def _wave(ax, x, y, *, rough, half=34):
    """一小段波形的样子：光滑的是语音，毛糙的叠了噪声。"""
    t = np.linspace(-1, 1, 120)
    shape = np.exp(-3 * t**2) * np.sin(22 * t)
    if rough:
        shape = shape + 0.42 * np.sin(91 * t + 0.4) * np.cos(37 * t) + 0.2 * np.sin(143 * t)
    ax.plot(x + half * t, y + 22 * shape, color=palette.INK, lw=0.65 * LINE, zorder=4)


def overlap_add():
    """流式推理的时间线：一块一块地来，两块拼一帧，前后两帧的半边相加得到一块输出，总共晚 512 点。"""
    fig, ax = canvas(720, 372)
    left, hop, height = 112, 96, 30
    colors = [palette.BLUE, palette.ORANGE, palette.GREEN, palette.PURPLE]
    top, lines, bottom = 308, 252, 68
    text(ax, left - 16, top + height / 2, "进来的块", ha="right")
    for k in range(6):
        _block(ax, left + k * hop, top, hop, height, palette.GREY, f"第 {k} 块")
    text(ax, left - 16, lines - 62, "加窗的帧", ha="right")
    for k, color in enumerate(colors):
        base = lines - 44 * k
        _window(ax, left + k * hop, base - 8, 2 * hop, 32, color)
        text(ax, left + (k + 2) * hop + 8, base + 2, f"第 {k + 1} 帧", color=color, ha="left")
    text(ax, left - 16, bottom + height / 2, "送出的块", ha="right")
    for k in range(4):
        # 第 k 块是第 k 帧的后半加第 k+1 帧的前半，第 k+1 帧一算完就能送出；第 0 帧的前半是补的零，没有画
        x = left + (k + 2) * hop
        _block(ax, x, bottom, hop, height, palette.INK, f"第 {k} 块")
        wire(
            ax,
            [(x, lines - 8 - 44 * k), (x, bottom + height)],
            pen=Pen(colors[k]),
            dashed=True,
            line=0.7 * LINE,
        )
    text(ax, 360, 352, "时间 →　每块 256 点，16 毫秒", color=palette.GREY)
    _latency(ax, left + hop, left + 3 * hop, bottom)
    return fig


def _block(ax, x, y, width, height, color, label):
    ax.add_patch(Rectangle((x, y), width, height, fc=color, ec="none", alpha=0.1, zorder=3))
    ax.add_patch(Rectangle((x, y), width, height, fc="none", ec=color, lw=0.7 * LINE, zorder=4))
    text(ax, x + width / 2, y + height / 2, label, color=color)


def _window(ax, x, y, width, height, color):
    """周期型平方根 Hann 窗就是半个正弦。"""
    t = np.linspace(0, 1, 60)
    curve = y + height * np.sin(np.pi * t)
    ax.fill_between(x + width * t, y, curve, color=color, alpha=0.14, lw=0, zorder=3)
    ax.plot(x + width * t, curve, color=color, lw=0.9 * LINE, zorder=4)
    ax.plot([x, x + width], [y, y], color=color, lw=0.5 * LINE, zorder=4)


def _latency(ax, start, end, bottom):
    y = bottom - 22
    for x in (start, end):
        ax.plot([x, x], [y - 7, y + 7], color=palette.RED, lw=0.7 * LINE)
    middle = (start + end) / 2
    wire(ax, [(middle, y), (start, y)], pen=Pen(palette.RED))
    wire(ax, [(middle, y), (end, y)], pen=Pen(palette.RED))
    text(ax, middle, y - 22, "第 1 块从开始进来到开始送出：512 点，32 毫秒", color=palette.RED)
