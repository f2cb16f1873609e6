"""全书的路线图与逐级对照的阶梯。"""

from matplotlib.patches import Circle

from lstm_lib.book.figures import palette
from lstm_lib.book.figures.draw import LINE, Pen, box, canvas, text, wire

PARTS = [
    ("第一部分", "语音增强网络", palette.BLUE, ["语音增强网络", "导出 ONNX", "在 ncnn 中运行"]),
    ("第二部分", "LSTM 实现", palette.ORANGE, ["基本原理", "权重导出", "手写 LSTM", "反向传播"]),
    ("第三部分", "LSTM 优化", palette.GREEN, ["流式推理", "从公式到 C", "int8 量化"]),
    ("第四部分", "用起来", palette.PURPLE, ["用自己的数据"]),
]


def book_map():
    """全书的地图：一条路从头走到尾，每一站是一章，每一行是一部分。"""
    fig, ax = canvas(720, 372)
    left, right, step = 190, 624, 92
    for row, (part, title, color, chapters) in enumerate(PARTS):
        y = 330 - row * step
        text(ax, 24, y + 11, part, color=color, ha="left")
        text(ax, 24, y - 11, title, color=palette.GREY, ha="left")
        columns = [left + (right - left) * k / 3 for k in range(len(chapters))]
        ax.plot([left, columns[-1]], [y, y], color=color, lw=2 * LINE, zorder=3, solid_capstyle="round")
        for x, chapter in zip(columns, chapters, strict=True):
            ax.add_patch(Circle((x, y), 8, fc=palette.PAPER, ec=color, lw=1.6 * LINE, zorder=5))
            text(ax, x, y - 26, chapter)
        if row + 1 < len(PARTS):
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


def ladder():
    """逐级对照的阶梯：同一组权重、同一段输入，每一级的结果都同查过的一级比。宽度照手机的屏幕。"""
    steps = [
        ("PyTorch", palette.INK),
        ("ONNX", palette.BLUE),
        ("化简的 ONNX", palette.BLUE),
        ("ncnn", palette.GREEN),
        ("NumPy", palette.ORANGE),
        ("C", palette.PURPLE),
        ("int8", palette.RED),
    ]
    fig, ax = canvas(322, 386)
    width, across, rise = 98, 36.5, 54
    for k, (name, color) in enumerate(steps):
        x, y = 51 + k * across, 27 + k * rise
        box(ax, x, y, width, 34, name, pen=Pen(color))
        if k:
            start = x - across - 27
            wire(ax, [(start, y - rise + 17), (start, y), (x - width / 2, y)], radius=6)
    text(ax, 12, 366, "同一组权重，同一段输入：", ha="left")
    text(ax, 12, 344, "每一级换一种做法，", ha="left", color=palette.GREY)
    text(ax, 12, 322, "都与查过的一级比一比", ha="left", color=palette.GREY)
    return fig
