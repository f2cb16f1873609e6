"""比较各种实现的图表：逐级对照的误差、屋顶线、条形图。"""

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from lstm_lib.book.figures import palette


def parity_ladder(ax: Axes, rows, *, floor: float = 1e-10) -> None:
    """逐级对照：每行一级，点是量得的最大误差，短竖线是允许的界限，误差越小越靠左（对数轴）。

    ``rows``：``(名字, 最大误差, 界限)`` 的列表，自上而下；误差为 0 的画在 ``floor`` 处并注明“相等”。
    超出界限的点画成红色。
    """
    rows = list(rows)
    if not rows:
        raise ValueError("逐级对照至少要有一行。")
    for k, (_, error, bound) in enumerate(rows):
        color = palette.BLUE if error <= bound else palette.RED  # NaN 也算超界
        position = max(float(error), floor) if np.isfinite(error) else bound
        ax.plot([floor, position], [k, k], color=palette.GRID, zorder=2)
        ax.plot(position, k, "o", color=color, zorder=4, markersize=6)
        ax.plot([bound, bound], [k - 0.3, k + 0.3], color=palette.INK, lw=1.8, zorder=3)
        note = "完全相等" if error == 0 else f"{error:.1e}"
        ax.annotate(note, (position, k), xytext=(0, 7), textcoords="offset points", ha="center", color=color)
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.7), xlabel="最大误差（竖线是允许的界限）")
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.grid(axis="y", visible=False)


def bars(ax: Axes, rows, *, xlabel: str, colors=None, fmt: str | None = None) -> None:
    """横条图：``rows`` 是 ``(名字, 数值)`` 的列表，自上而下，数值写在条的末端；``fmt`` 缺省是一位小数，上千的取整。"""
    names, values = zip(*rows, strict=True)
    colors = colors or [palette.BLUE] * len(values)
    ax.barh(range(len(values)), values, height=0.62, color=colors, alpha=0.85)
    for k, value in enumerate(values):
        label = (fmt or ("{:.1f}" if value < 999.95 else "{:.0f}")).format(value)
        ax.annotate(label, (value, k), xytext=(4, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(values)), names)
    ax.set(ylim=(len(values) - 0.5, -0.5), xlabel=xlabel, xlim=(0, max(values) * 1.14))
    ax.grid(axis="y", visible=False)


def roofline(ax: Axes, roofs, points, *, peak_gflops: float) -> None:
    """屋顶线：横轴是每读一个字节做几次运算，纵轴是每秒的运算次数；点落在哪条线下，就被哪样东西卡住。

    ``roofs``：``(名字, 带宽 GB/s)`` 的列表，如内存与各级缓存；``points``：``(名字, 运算/字节, GFLOP/s)``。
    """
    roofs, points = list(roofs), list(points)
    if peak_gflops <= 0 or any(bandwidth <= 0 for _, bandwidth in roofs):
        raise ValueError("峰值与带宽都应是正数。")
    low = min([intensity for _, intensity, _ in points] + [0.1]) / 2
    high = (
        max([peak_gflops / bandwidth for _, bandwidth in roofs] + [intensity for _, intensity, _ in points])
        * 4
    )
    xs = np.geomspace(low, high, 200)
    for (name, bandwidth), color in zip(roofs, palette.CYCLE, strict=False):
        ax.plot(xs, np.minimum(bandwidth * xs, peak_gflops), color=color)
        start = xs[8]
        label = f"{name} {bandwidth:.0f} GB/s"
        ax.annotate(
            label,
            (start, bandwidth * start),
            xytext=(9, -2),
            textcoords="offset points",
            va="top",
            color=color,
        )
    ax.annotate(
        f"峰值 {peak_gflops:.0f} GFLOP/s",
        (high, peak_gflops),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
    )
    for name, intensity, speed in points:
        ax.plot(intensity, speed, "o", color=palette.RED, zorder=5)
        ax.annotate(name, (intensity, speed), xytext=(7, -4), textcoords="offset points", color=palette.RED)
    ax.set(xscale="log", yscale="log", xlabel="运算次数 / 字节", ylabel="GFLOP/s", xlim=(low, high))
