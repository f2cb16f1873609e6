"""进度条：子进程里的，一行一行报给这边；出错与打断都收拾干净。"""

import pytest

from lstm_lib.book import progress


@pytest.fixture
def module(tmp_path, monkeypatch):
    """一个可以在子进程里运行的模块；用 ``module(源代码)`` 写出。"""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(code):
        (tmp_path / "a_job.py").write_text(code, encoding="utf-8")
        return "a_job"

    return write


class Recorder:
    """记下开过哪些进度条、各走到哪里。"""

    def __init__(self):
        self.bars = []

    def __call__(self, total, title, unit="步", show=True):
        self.bars.append([title, 0.0, ""])
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, amount=1):
        self.bars[-1][1] += amount

    def note(self, text):
        self.bars[-1][2] = text


def test_bars_of_the_child_are_shown_here(module, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(progress, "bar", recorder)
    code = """from lstm_lib.book.progress import bar
for title, total in (("甲", 3), ("乙", 250)):
    with bar(total, title) as shown:
        for k in range(total):
            shown.note(f"第 {k} 步")
            shown.update()
"""
    progress.run_module(module(code), title="两件事")
    assert [bar[0] for bar in recorder.bars] == ["甲", "乙"]
    assert [round(bar[1], 6) for bar in recorder.bars] == [1.0, 1.0]
    assert [bar[2] for bar in recorder.bars] == ["第 2 步", "第 249 步"]


def test_plain_numbers_are_enough(module, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(progress, "bar", recorder)
    progress.run_module(module("print(0.25)\nprint('1.000 好了')"), title="一件事")
    assert recorder.bars == [["一件事", 1.0, "好了"]]


def test_failure_carries_what_the_child_said(module):
    code = "import sys\nprint(0.5)\nsys.stderr.write('x' * 300_000 + '坏在这里')\nsys.exit(3)"
    with pytest.raises(OSError, match=r"“一件事”的进程失败（退出码 3）(?s:.*)坏在这里"):
        progress.run_module(module(code), title="一件事", show=False)


def test_interruption_ends_the_child(module, monkeypatch):
    class Interrupting(Recorder):
        def update(self, amount=1):
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "bar", Interrupting())
    started = []
    popen = progress.subprocess.Popen
    monkeypatch.setattr(
        progress.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0]
    )
    with pytest.raises(KeyboardInterrupt):
        progress.run_module(module("import time\nprint(0.5, flush=True)\ntime.sleep(600)"), title="一件事")
    assert started[0].poll() is not None, "这边被打断，子进程还在跑"
