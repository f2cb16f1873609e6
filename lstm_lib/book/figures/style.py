"""插图的样式与显示：一套字体、一种字号、一种线宽，颜色跟着页面的明暗主题走。"""

import html
from importlib.resources import files

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib import font_manager
from matplotlib.figure import Figure

from lstm_lib.book.figures import palette, svg

FONT_SIZE = 10.5  # 点，即 14 像素
LINE_WIDTH = 1.4
WIDTH = 7.5  # 英寸，即 720 像素，与正文同宽
FONT_FAMILY = "LSTM Book Sans"

RC = {
    "font.family": [FONT_FAMILY, "DejaVu Sans"],  # 生僻符号（如下标数字）退到 matplotlib 自带的字体
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE - 1,
    "ytick.labelsize": FONT_SIZE - 1,
    "legend.fontsize": FONT_SIZE - 0.5,
    "figure.titlesize": FONT_SIZE,
    "mathtext.fontset": "cm",  # 与网页里的公式同一种字形
    "axes.unicode_minus": True,
    "text.color": palette.INK,
    "axes.labelcolor": palette.INK,
    "axes.titlecolor": palette.INK,
    "axes.edgecolor": palette.GREY,
    "axes.facecolor": "none",
    "axes.linewidth": 0.9,
    "axes.titlepad": 7.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=palette.CYCLE),
    "grid.color": palette.GRID,
    "grid.linewidth": 0.7,
    "xtick.color": palette.GREY,
    "ytick.color": palette.GREY,
    "xtick.labelcolor": palette.INK,
    "ytick.labelcolor": palette.INK,
    "xtick.major.width": 0.9,
    "ytick.major.width": 0.9,
    "lines.linewidth": LINE_WIDTH,
    "lines.markersize": 4.5,
    "patch.linewidth": 0.9,
    "hatch.linewidth": 0.8,
    "path.simplify": True,
    "path.simplify_threshold": 0.4,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "figure.figsize": (WIDTH, 3.3),
    "figure.dpi": 96,
    "figure.constrained_layout.use": True,
    "image.interpolation": "none",
    "image.cmap": "magma",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "lstm",
}


def use_style() -> None:
    """装好本书自带的中文字体并启用全书统一的图表样式；每章开头调用一次。"""
    _add_font()
    mpl.rcParams.update(RC)


def style_context():
    """只在 ``with`` 块里启用本书样式，离开后恢复原样。"""
    _add_font()
    return mpl.rc_context(RC)


def _add_font() -> None:
    if FONT_FAMILY not in font_manager.fontManager.get_font_names():
        path = files("lstm_lib.book") / "fonts" / "LSTMBookSans-Regular.otf"
        font_manager.fontManager.addfont(str(path))


def show(fig: Figure, alt: str, caption: str | None = None) -> None:
    """把图嵌进网页或笔记本：矢量、背景透明、颜色随主题、宽度随页面。

    ``alt``：给读屏软件念的一句话，说清图里看得出什么，不能为空。
    ``caption``：图下的说明，可以没有。图随后被关闭，不会再显示第二次。
    """
    from IPython.display import display

    display(Picture(fig, alt, caption).data, raw=True)


class Picture:
    """:func:`show` 嵌进去的那张图，参数相同；先拿在手里，``glue`` 到算出它之前的地方去。"""

    def __init__(self, fig: Figure, alt: str, caption: str | None = None) -> None:
        with style_context():
            content = figure_html(svg.inline(svg.render(fig, alt)), caption)
        plt.close(fig)
        self.data = {"text/html": content, "text/plain": f"[图] {caption or alt}"}

    def _repr_mimebundle_(self, **_options: object) -> dict[str, str]:
        return self.data


def figure_html(content: str, caption: str | None = None) -> str:
    """``<figure>`` 一节：内容放进可横向滚动的框，说明放在下面。"""
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        '<figure class="lstm-fig" style="margin:1.2rem 0;text-align:center">'
        f'<div class="fig-scroll" style="overflow-x:auto">{content}</div>{below}</figure>'
    )
