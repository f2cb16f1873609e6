"""LSTM 单元的图：只有一个画图函数 :func:`lstm_cell`，点亮哪一部分由 ``part`` 决定。"""

from matplotlib.patches import FancyBboxPatch

from lstm_lib.book.figures import palette
from lstm_lib.book.figures.draw import LINE, Pen, box, bridge, canvas, junction, math, operation, text, wire
from lstm_lib.lstm.layouts import GATE_NAMES

WIDTH, HEIGHT = 374, 250  # 单元方框的大小（像素）
ROAD, BAR, GATE = 206, 52, 98  # 细胞状态、输入总线、四个门的高度
COLUMNS = {"f": 66, "i": 130, "g": 194, "o": 258}
OUT, UP = 310, 350  # 输出乘法与向上的出口所在的列
MERGE = 154  # 输入门与候选值相乘的高度
STATE = palette.RED  # 细胞状态的颜色

# 每一步点亮的部件
PARTS = {
    "all": {"road", "x", "bar", "f", "i", "g", "o", "mul_f", "mul_i", "add", "squash", "mul_o", "h", "names"},
    "state": {"road", "mul_f", "add"},
    "forget": {"x", "bar", "f", "mul_f"},
    "input": {"x", "bar", "i", "g", "mul_i"},
    "update": {"road", "f_wire", "i_wire", "g_wire", "mul_f", "mul_i", "add"},
    "output": {"x", "bar", "o", "squash", "mul_o", "h", "c_out"},
}
BOX = {"f": r"$\sigma$", "i": r"$\sigma$", "g": "tanh", "o": r"$\sigma$"}


def lstm_cell(ax, left, bottom, part: str = "all", *, ports: bool = True, reach: float = 24) -> None:
    """在 (left, bottom) 处画一个 LSTM 单元，点亮 ``part``（``PARTS`` 的一个键），其余退成灰色。

    ``ports``：是否在四周写出 c、h、x 的名字（链上相邻的单元共用时由外面来写）；
    ``reach``：左右两边的线伸出方框多远。
    """
    if part not in PARTS:
        raise ValueError(f"part 只能是 {'、'.join(PARTS)}，得到 {part!r}。")
    lit = PARTS[part]

    def pen(name: str, color: str = palette.INK) -> Pen:
        return Pen(color, name in lit)

    def at(*points):
        return [(left + x, bottom + y) for x, y in points]

    _body(ax, left, bottom, WIDTH)
    _road(ax, at, pen, lit, reach)
    _gates(ax, at, pen, lit, reach)
    _output(ax, at, pen, reach)
    if ports:
        _ports(ax, at, pen, lit)


def _road(ax, at, pen, lit, reach) -> None:
    """细胞状态的那条水平直路：乘以 f，加上 i·g，一路向右。"""
    f, g = COLUMNS["f"], COLUMNS["g"]
    road = pen("road", STATE)
    wire(ax, at((-reach, ROAD), (f - 11, ROAD)), pen=road)
    wire(ax, at((f + 11, ROAD), (g - 11, ROAD)), pen=road)
    last = road if road.lit else pen("c_out", STATE)
    wire(ax, at((g + 11, ROAD), (WIDTH + reach, ROAD)), pen=last)
    operation(ax, *at((f, ROAD))[0], "×", pen=pen("mul_f", STATE if "road" in lit else palette.ORANGE))
    operation(ax, *at((g, ROAD))[0], "+", pen=pen("add", STATE))


def _gates(ax, at, pen, lit, reach) -> None:
    """总线 [h, x] 送进四个小网络；它们的输出各走各的路。"""
    bar = pen("bar")
    wire(ax, at((-reach, BAR), (COLUMNS["o"], BAR)), pen=Pen(bar.color, False), arrow=False)
    wire(ax, at((26, -34), (26, BAR), (48, BAR)), pen=pen("x"), arrow=False)
    reached = [column for gate, column in COLUMNS.items() if gate in lit]
    if reached:
        wire(ax, at((-reach, BAR), (max(reached), BAR)), pen=bar, arrow=False)
    for gate, column in COLUMNS.items():
        color = palette.GATE_COLORS[gate]
        wire(ax, at((column, BAR), (column, GATE - 15)), pen=pen(gate), radius=0)
        if column != COLUMNS["o"]:
            junction(ax, *at((column, BAR))[0], pen=pen(gate))
        box(
            ax,
            *at((column, GATE))[0],
            50,
            30,
            BOX[gate],
            pen=pen(gate, color),
            size=11 if gate == "g" else 14,
        )
        text(
            ax,
            *at((column, 24))[0],
            GATE_NAMES[gate],
            color=pen(gate, color).text,
            alpha=pen(gate).alpha,
        )
    for gate, points, label in (
        ("f", [(COLUMNS["f"], GATE + 15), (COLUMNS["f"], ROAD - 11)], (COLUMNS["f"] + 14, 152)),
        (
            "i",
            [(COLUMNS["i"], GATE + 15), (COLUMNS["i"], MERGE), (COLUMNS["g"] - 11, MERGE)],
            (COLUMNS["i"] + 14, 132),
        ),
        ("g", [(COLUMNS["g"], GATE + 15), (COLUMNS["g"], MERGE - 11)], (COLUMNS["g"] + 15, 127)),
    ):
        color = palette.GATE_COLORS[gate]
        on = Pen(color, gate in lit or f"{gate}_wire" in lit)
        wire(ax, at(*points), pen=on)
        math(ax, *at(label)[0], f"{gate}_t", color=on.text, alpha=on.alpha)
    up = Pen(STATE, "add" in lit and "mul_i" in lit)
    wire(ax, at((COLUMNS["g"], MERGE + 11), (COLUMNS["g"], ROAD - 11)), pen=up)
    operation(
        ax, *at((COLUMNS["g"], MERGE))[0], "×", pen=pen("mul_i", STATE if "road" in lit else palette.INK)
    )


def _output(ax, at, pen, reach) -> None:
    """输出：细胞状态经 tanh，乘上 o，从右边和上边离开。"""
    height = 122
    o, h = pen("o", palette.PURPLE), pen("h")
    squash = pen("squash", STATE)
    wire(ax, at((OUT, ROAD), (OUT, 181)), pen=squash, arrow=True)
    junction(ax, *at((OUT, ROAD))[0], pen=squash)
    box(ax, *at((OUT, 169))[0], 48, 24, "tanh", pen=squash, size=11, radius=12)
    wire(ax, at((OUT, 157), (OUT, height + 11)), pen=squash)
    wire(ax, at((COLUMNS["o"], GATE + 15), (COLUMNS["o"], height), (OUT - 11, height)), pen=o)
    math(ax, *at((COLUMNS["o"] + 20, height + 14))[0], "o_t", color=o.text, alpha=o.alpha)
    wire(ax, at((OUT, height - 11), (OUT, BAR), (WIDTH + reach, BAR)), pen=h)
    junction(ax, *at((UP, BAR))[0], pen=h)
    x, y0 = at((UP, BAR))[0]
    _, y1 = at((UP, HEIGHT + 30))[0]
    bridge(ax, x, y0, y1, at((UP, ROAD))[0][1], pen=h)
    operation(ax, *at((OUT, height))[0], "×", pen=pen("mul_o"))


def _ports(ax, at, pen, lit) -> None:
    """四周的名字。"""
    c_in = Pen(STATE, "road" in lit)
    c_out = Pen(STATE, bool({"road", "c_out"} & lit))
    for (x, y), name, on in (
        ((-48, ROAD), "c_{t-1}", c_in),
        ((WIDTH + 40, ROAD), "c_t", c_out),
        ((-48, BAR), "h_{t-1}", pen("bar")),
        ((WIDTH + 40, BAR), "h_t", pen("h")),
        ((26, -46), "x_t", pen("x")),
        ((UP, HEIGHT + 42), "h_t", pen("h")),
    ):
        math(ax, *at((x, y))[0], name, color=on.text, alpha=on.alpha, size=14)


def cell_part(part: str):
    """单独一个单元、点亮一部分的图。"""
    fig, ax = canvas(WIDTH + 128, HEIGHT + 122)
    lstm_cell(ax, 70, 62, part)
    return fig


def chain():
    """框架图：展开成三个时刻的链，中间一个画出内部。"""
    side, gap, bottom = 72, 58, 62
    left = side + gap
    fig, ax = canvas(WIDTH + 2 * left, HEIGHT + 122)
    _closed_cell(ax, 0.5, bottom, side, "t-1")
    _closed_cell(ax, left + WIDTH + gap - 0.5, bottom, side, "t+1")
    lstm_cell(ax, left, bottom, "all", ports=False, reach=gap)
    for x, step in ((left - gap / 2, "t-1"), (left + WIDTH + gap / 2, "t")):
        math(ax, x, bottom + ROAD + 15, f"c_{{{step}}}", color=STATE)
        math(ax, x, bottom + BAR + 15, f"h_{{{step}}}")
    math(ax, left + 26, bottom - 46, "x_t", size=14)
    math(ax, left + UP, bottom + HEIGHT + 42, "h_t", size=14)
    return fig


def _body(ax, left, bottom, width) -> None:
    """单元的圆角外框。"""
    body = FancyBboxPatch(
        (left, bottom),
        width,
        HEIGHT,
        boxstyle="round,pad=0,rounding_size=14",
        fc=palette.PANEL,
        ec=palette.GREY,
    )
    body.set(linewidth=0.8 * LINE, alpha=0.75, zorder=1)
    ax.add_patch(body)


def _closed_cell(ax, left, bottom, width, step) -> None:
    """链两头的单元：内部与中间那个完全相同，只画轮廓。"""
    _body(ax, left, bottom, width)
    middle = left + width / 2
    text(ax, middle, bottom + 138, "LSTM\n单元", color=palette.GREY, linespacing=1.5)
    wire(ax, [(middle, bottom - 34), (middle, bottom)])
    wire(ax, [(middle, bottom + HEIGHT), (middle, bottom + HEIGHT + 30)])
    math(ax, middle, bottom - 46, f"x_{{{step}}}", size=14)
    math(ax, middle, bottom + HEIGHT + 42, f"h_{{{step}}}", size=14)


def backward():
    """一步的计算图：黑色是前向，红色是梯度，逆着每一条线走回去。"""
    fig, ax = canvas(620, 372)
    column = {"i": 258, "g": 322, "f": 150, "o": 410}
    road, gates, bus, split, out = 300, 142, 58, 410, 482
    _backward_forward(ax, column, road, gates, bus, split, out)
    _backward_red(ax, column, road, gates, bus, split, out)
    return fig


def _backward_forward(ax, column, road, gates, bus, split, out) -> None:
    """前向的线与运算。"""
    f, g = column["f"], column["g"]
    for x0, x1 in ((62, f - 11), (f + 11, g - 11), (g + 11, 556)):
        wire(ax, [(x0, road), (x1, road)])
    operation(ax, f, road, "×")
    operation(ax, g, road, "+")
    junction(ax, split, road)
    box(ax, (column["i"] + column["o"]) / 2 - 54, bus, 348, 30, r"$z_t = Wx_t + Uh_{t-1} + b$", size=12)
    wire(ax, [(62, bus), (106, bus)])
    wire(ax, [(280, 14), (280, bus - 15)])
    for gate, x in column.items():
        wire(ax, [(x, bus + 15), (x, gates - 15)])
        box(ax, x, gates, 46, 30, BOX[gate], size=11 if gate == "g" else 14)
    wire(ax, [(f, gates + 15), (f, road - 11)])
    wire(ax, [(column["i"], gates + 15), (column["i"], 222), (g - 11, 222)])
    wire(ax, [(g, gates + 15), (g, 211)])
    operation(ax, g, 222, "×")
    wire(ax, [(g, 233), (g, road - 11)])
    wire(ax, [(split, road), (split, 266), (out, 266), (out, 256)], arrow=False)
    box(ax, out, 243, 48, 24, "tanh", size=11, radius=12)
    wire(ax, [(out, 231), (out, 203)])
    operation(ax, out, 192, "×")
    wire(ax, [(column["o"], gates + 15), (column["o"], 192), (out - 11, 192)])
    wire(ax, [(out, 181), (out, bus), (556, bus)])
    for x, y, name in (
        (34, road, "c_{t-1}"),
        (580, road, "c_t"),
        (34, bus, "h_{t-1}"),
        (590, bus, "h_t=y_t"),
        (300, 12, "x_t"),
        (f - 13, 225, "f_t"),
        (column["i"] + 14, 205, "i_t"),
        (g + 14, 190, "g_t"),
        (column["o"] + 15, 176, "o_t"),
    ):
        math(ax, x, y, name)


def _backward_red(ax, column, road, gates, bus, split, out) -> None:
    """红色：梯度逆着黑线走，写在线旁。"""
    red = Pen(STATE)
    f, g = column["f"], column["g"]

    def back(*points):
        wire(ax, points, pen=red, dashed=True)

    for x0, x1 in ((556, split + 10), (split - 10, g + 16), (g - 16, f + 16), (f - 16, 62)):
        back((x0, road + 14), (x1, road + 14))
    back((556, bus - 14), (out + 14, bus - 14), (out + 14, 181))
    back((out + 12, 203), (out + 12, 229))
    back((out - 34, 254), (split + 14, 254), (split + 14, road - 6))
    back((out - 14, 180), (column["o"] + 30, 180), (column["o"] + 30, gates + 4))
    back((g + 14, road - 16), (g + 14, 236))
    back((g + 14, 212 - 34), (g + 14, gates + 17))
    back((f + 14, road - 16), (f + 14, gates + 17))
    back((column["i"] - 14, 216), (column["i"] - 14, gates + 17))
    for gate, x in column.items():
        back((x + 14, gates - 17), (x + 14, bus + 17))
        math(ax, x + 34, (gates + bus) / 2, rf"\mathrm{{d}}z_{gate}", color=STATE)
    back((104, bus - 14), (62, bus - 14))
    back((266, bus - 17), (266, 14))
    for x, y, name in (
        (528, road + 32, r"\delta c_t"),
        (366, road + 32, r"\mathrm{d}c_t"),
        (100, road + 32, r"\delta c_{t-1}=\mathrm{d}c_t\odot f_t"),
        (548, bus - 32, r"\mathrm{d}h_t=\delta h_t+\mathrm{d}y_t"),
        (84, bus - 32, r"\delta h_{t-1}=U^\top\mathrm{d}z_t"),
        (244, 12, r"\mathrm{d}x_t"),
        (f + 33, 225, r"\mathrm{d}f_t"),
        (column["i"] - 33, 190, r"\mathrm{d}i_t"),
        (g + 36, 168, r"\mathrm{d}g_t"),
        (column["o"] + 50, 160, r"\mathrm{d}o_t"),
    ):
        math(ax, x, y, name, color=STATE)


def gate():
    """门：sigmoid 给出 0 到 1 的系数，逐元素乘到经过的信息上。"""
    fig, ax = canvas(300, 180)
    x, y = 150, 118
    wire(ax, [(62, y), (x - 11, y)], pen=Pen(STATE))
    wire(ax, [(x + 11, y), (238, y)], pen=Pen(STATE))
    wire(ax, [(x, 30), (x, 46)])
    wire(ax, [(x, 78), (x, y - 11)], pen=Pen(palette.ORANGE))
    box(ax, x, 62, 52, 32, r"$\sigma$", pen=Pen(palette.ORANGE), size=14)
    operation(ax, x, y, "×")
    text(ax, 62, y + 22, "信息", color=STATE)
    text(ax, 238, y + 22, "留下的部分", color=STATE)
    text(ax, x + 14, 93, "0 到 1 的系数", color=palette.ORANGE, ha="left")
    text(ax, x, 16, "由 $h_{t-1}$ 与 $x_t$ 算出")
    return fig
