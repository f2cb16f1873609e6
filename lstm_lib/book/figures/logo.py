"""标志与网页图标：细胞状态的大道上，一个门、一次相加。直接写成 SVG，不经过 matplotlib。"""

from lstm_lib.book.figures import palette


def _mark(size: int, *, stroke: str, paper: str) -> str:
    """32×32 的图形：圆角方块里的大道、乘号（门）与加号（更新）。"""
    return (
        f'<g transform="scale({size / 32:g})" fill="none" stroke-linecap="round" stroke-linejoin="round">'
        f'<rect width="32" height="32" rx="7.5" fill="{stroke}"/>'
        f'<g stroke="{paper}" stroke-width="2.1">'
        '<path d="M3.5 12h4M14.5 12h3M24.5 12h4"/>'
        '<circle cx="11" cy="12" r="3.6"/><circle cx="21" cy="12" r="3.6"/>'
        '<path d="M11 15.8v9.2M21 15.8v9.2M6 25h20"/>'
        "</g>"
        f'<g stroke="{paper}" stroke-width="1.5">'
        '<path d="M9.7 10.7l2.6 2.6M12.3 10.7l-2.6 2.6M21 10.1v3.8M19.1 12h3.8"/>'
        "</g></g>"
    )


def favicon() -> str:
    """网页图标，深浅背景上都看得清。"""
    body = _mark(32, stroke=palette.BLUE, paper="#ffffff")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">{body}</svg>\n'
    )


def logo(dark: bool = False) -> str:
    """侧栏的标志：图形加书名；书名用本书字体的轮廓，任何机器上都一样。"""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    from lstm_lib.book.figures.style import FONT_FAMILY, style_context

    with style_context():
        path = TextPath((0, 0), "LSTM 实现与优化", size=22, prop=FontProperties(family=FONT_FAMILY))
    colour = palette.COLOURS["ink"].dark if dark else palette.INK
    blue = palette.COLOURS["blue"].dark if dark else palette.BLUE
    mark = _mark(40, stroke=blue, paper=palette.COLOURS["paper"].dark if dark else "#ffffff")
    width = round(54 + path.get_extents().x1 + 4)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="40" viewBox="0 0 {width} 40">'
        f"<title>LSTM 实现与优化</title>{mark}"
        f'<path fill="{colour}" transform="translate(54 28)" d="{_outline(path)}"/></svg>\n'
    )


def _outline(path) -> str:
    letters = {1: "M", 2: "L", 3: "Q", 4: "C"}
    parts = []
    for points, code in path.iter_segments(simplify=False, curves=True):
        if code == 79:
            parts.append("Z")
        else:
            pairs = " ".join(f"{x:.2f} {-y:.2f}" for x, y in points.reshape(-1, 2))
            parts.append(letters[int(code)] + pairs)
    return "".join(parts)
