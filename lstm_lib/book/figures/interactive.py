"""可以拨动的图：一段自带脚本的 HTML，不需要服务器，网页与笔记本里都能用。"""

from importlib.resources import files

from lstm_lib.book.figures.palette import svg_variables

_count = 0


def gate_explorer_html(identifier: str) -> str:
    """五个滑块（f、i、g、o 与旧的 c）和随之变化的条形图、曲线；``identifier`` 在一页里要唯一。"""
    template = (
        files("lstm_lib.book.figures").joinpath("assets", "gate_explorer.html").read_text(encoding="utf-8")
    )
    return template.replace("@ID@", identifier).replace("@VARIABLES@", svg_variables())


def gate_explorer() -> None:
    """显示拨动门的图。"""
    from IPython.display import display

    global _count  # noqa: PLW0603  一页放两份时名字不能相同
    _count += 1
    html = gate_explorer_html(f"gate-explorer-{_count}")
    display({"text/html": html, "text/plain": "[可以拨动的图，请在浏览器里看]"}, raw=True)
