"""全书唯一的调色板：插图、网页与代码共用，每种颜色有浅色与深色两个值。

画图时用浅色值（如 ``palette.BLUE``）；写成 SVG 时再换成 CSS 变量，颜色便跟着页面的明暗主题走。
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """一种颜色：浅色主题的值、深色主题的值，以及读不到本书样式表时（如在 JupyterLab 里）借用的变量。"""

    light: str
    dark: str
    host: tuple[str, ...] = ()


INK = "#1b2733"  # 文字与主要线条
GREY = "#5d6b79"  # 次要文字、坐标轴
GRID = "#d3dae1"  # 网格线
PAPER = "#fefefe"  # 盖住下层线条的底色，与页面背景相同
PANEL = "#eef2f6"  # 方框的浅底
BLUE = "#1c62b0"
ORANGE = "#aa4f07"
GREEN = "#0b7a65"
RED = "#b92f45"
PURPLE = "#7546ae"

COLOURS = {
    "ink": Colour(INK, "#e3e9ef", ("--jp-content-font-color1", "--vscode-editor-foreground")),
    "grey": Colour(GREY, "#a3afbb", ("--jp-content-font-color2", "--vscode-descriptionForeground")),
    "grid": Colour(GRID, "#3d4853", ("--jp-border-color2", "--vscode-editorIndentGuide-background1")),
    "paper": Colour(PAPER, "#14181e", ("--jp-layout-color0", "--vscode-editor-background")),
    "panel": Colour(PANEL, "#222a33", ("--jp-layout-color2", "--vscode-editorWidget-background")),
    "blue": Colour(BLUE, "#7db7f5"),
    "orange": Colour(ORANGE, "#f3a75f"),
    "green": Colour(GREEN, "#5fd0b5"),
    "red": Colour(RED, "#f58c9c"),
    "purple": Colour(PURPLE, "#c4a5f2"),
}

# 门的颜色，凡是画门的图都一致：看到橙色就是遗忘门
GATE_COLORS = {"i": BLUE, "f": ORANGE, "g": GREEN, "o": PURPLE}
CYCLE = [BLUE, ORANGE, GREEN, PURPLE, RED, GREY]


def svg_variables() -> str:
    """SVG 根元素的内联样式：``--c-ink:var(--fig-ink,…,#1b2733);…``。

    先取本书网页的 ``--fig-*``，再取 JupyterLab、VS Code 的主题变量，都没有才用中性的后备值。
    """
    parts = []
    for name, colour in COLOURS.items():
        # 彩色没有宿主变量可借：用一个在白底与黑底上都读得清的中间色
        value = colour.light if colour.host else blend(colour.light, colour.dark, 0.38)
        for host in reversed(colour.host):
            value = f"var({host},{value})"
        parts.append(f"--c-{name}:var(--fig-{name},{value})")
    return ";".join(parts)


def standalone_style() -> str:
    """单独打开 img/*.svg 时的样式：按操作系统的明暗偏好取色。"""
    light, dark = (
        ";".join(f"--c-{name}:{getattr(colour, side)}" for name, colour in COLOURS.items())
        for side in ("light", "dark")
    )
    return f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"


def blend(first: str, second: str, amount: float) -> str:
    """两种颜色按 ``amount`` 混合（0 得前者，1 得后者）。"""
    pairs = ((int(first[k : k + 2], 16), int(second[k : k + 2], 16)) for k in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * amount):02x}" for a, b in pairs)


def stylesheet() -> str:
    """网页用的样式表（``_site_static/figures.css``）：两个主题的 ``--fig-*`` 变量与插图的版式。"""

    def variables(side: str) -> str:
        return "".join(f"  --fig-{name}: {getattr(colour, side)};\n" for name, colour in COLOURS.items())

    return f"""/* 由 python -m lstm_lib.book.figures 生成，请勿手改：颜色改在 lstm_lib/book/figures/palette.py */
:root,
html[data-theme="light"] {{
{variables("light")}}}
html[data-theme="dark"] {{
{variables("dark")}}}
figure.lstm-fig {{
  margin: 1.2rem 0;
  text-align: center;
}}
figure.lstm-fig .fig-scroll,
figure .fig-scroll {{
  overflow-x: auto;
  overflow-y: hidden;
}}
figure .fig-scroll > svg {{
  display: block;
  margin: 0 auto;
  height: auto;
}}
figure.lstm-fig figcaption {{
  margin: 0.5rem auto 0;
  max-width: 46em;
  font-size: 0.92em;
  font-weight: 400;
  line-height: 1.6;
  color: var(--fig-grey);
}}
/* 主题在深色时给单元格的 HTML 输出垫一块浅色底，本书的图与表自己会变色，用不着 */
html[data-theme="dark"] .bd-content div.cell_output .text_html {{
  background-color: transparent !important;
  color: inherit !important;
  padding: 0 !important;
}}
"""
