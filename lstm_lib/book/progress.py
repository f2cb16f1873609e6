"""进度条：终端里是 tqdm，笔记本里是就地更新的一行，做完就消失，不在页面里留下残迹。

都写到标准输出：建书时标准错误里有任何东西都算失败。
"""

import html
import sys
import time

from tqdm import tqdm


def bar(total: float, title: str, unit: str = "步", show: bool = True):
    """进度条，当作上下文管理器用；有 ``update(增量)`` 与 ``note(文字)`` 两个方法。"""
    if show and in_notebook():
        return NotebookBar(total, title)
    return TerminalBar(total, title, unit, show)


def in_notebook() -> bool:
    """是否在 Jupyter 内核里运行。"""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


class TerminalBar:
    def __init__(self, total, title, unit, show):
        form = "{desc}：{percentage:3.0f}%|{bar}| {elapsed}，还需 {remaining}{postfix}"
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=unit,
            file=sys.stdout,
            disable=not show,
            mininterval=0.5,
            bar_format=form,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def update(self, amount=1):
        self._bar.update(amount)

    def note(self, text):
        self._bar.set_postfix_str(text)


class NotebookBar:
    def __init__(self, total, title):
        self._total, self._title, self._done, self._note = total, title, 0, ""
        self._started = self._shown = time.monotonic()

    def __enter__(self):
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(self._text()), display_id=True)
        return self

    def __exit__(self, *_):
        self._handle.update(self._html(""))

    def _text(self):
        seconds = int(time.monotonic() - self._started)
        share = min(self._done / self._total, 1)
        return (
            f'{html.escape(self._title)} <progress value="{share:.3f}"></progress> {share:.0%}，'
            f"已用 {seconds} 秒{html.escape('，' + self._note if self._note else '')}"
        )

    def update(self, amount=1):
        self._done += amount
        if time.monotonic() - self._shown > 0.5:
            self._shown = time.monotonic()
            self._handle.update(self._html(self._text()))

    def note(self, text):
        self._note = text
