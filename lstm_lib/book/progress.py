"""进度条：终端里是 tqdm，笔记本里是就地更新的一行，做完就消失，不在页面里留下残迹。

都写到标准输出：建书时标准错误里有任何东西都算失败。
"""

import html
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

LINES = "LSTM_LIB_PROGRESS_LINES"  # 设了这个环境变量，进度就一行一行写给父进程看


def bar(total: float, title: str, unit: str = "步", show: bool = True):
    """进度条，当作上下文管理器用；有 ``update(增量)`` 与 ``note(文字)`` 两个方法。"""
    if os.environ.get(LINES):
        return LineBar(total, title)
    if show and in_notebook():
        return NotebookBar(total, title)
    return TerminalBar(total, title, unit, show)


def in_notebook() -> bool:
    """是否在 Jupyter 内核里运行。"""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def run_module(module: str, *arguments, title: str, show: bool = True, environment=None) -> None:
    """在新进程里运行 ``python -m module 参数…``，进度显示在这里。

    那边每行写一个“完成的份额 说明”（说明可以没有），“# 标题”另起一个进度条；``bar`` 在那边会自己改成这样写。
    ``title`` 是整件事的名字，没有另起之前也是进度条的标题。environment：另加的环境变量。
    子进程失败抛 ``OSError``，带上它在标准错误里说的话；这边被打断，它也一并结束。
    """
    root = str(Path(__file__).resolve().parents[2])  # 没有安装、只是放在旁边的程序包，子进程也找得到
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = (
        os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8", LINES: "1"} | (environment or {})
    )
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with tempfile.TemporaryFile() as errors:  # 不用管道：没人读，写满了会卡住
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", env=environment
        )
        try:
            _show(process.stdout, title, show)
            if process.wait():
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace").strip()
                raise OSError(f"“{title}”的进程失败（退出码 {process.returncode}）：\n{said}")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _show(lines, title, show):
    """把子进程一行行报来的进度显示出来。"""
    with ExitStack() as stack:
        shown, done = None, 0.0
        for line in lines:
            mark, _, text = line.rstrip("\n").partition(" ")
            if mark == "#":
                stack.close()
                shown, title = None, text
                continue
            if shown is None:
                shown, done = stack.enter_context(bar(1.0, title, show=show)), 0.0
            shown.update(float(mark) - done)
            done = float(mark)
            if text:
                shown.note(text)


class LineBar:
    """先写一行“# 标题”，再每百分之一写一行“完成的份额 说明”。"""

    def __init__(self, total, title):
        self._total, self._title, self._done, self._shown, self._note = total, title, 0, 0, ""

    def __enter__(self):
        print(f"# {self._title}", flush=True)
        return self

    def __exit__(self, *_):
        pass

    def update(self, amount=1):
        self._done += amount
        if self._done - self._shown >= self._total / 100 or self._done >= self._total:
            self._shown = self._done
            print(f"{min(self._done / self._total, 1):.4f} {self._note}", flush=True)

    def note(self, text):
        self._note = text


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
