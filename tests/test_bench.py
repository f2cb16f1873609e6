"""bench/ 里的每个程序都导得进来，用最小的设置跑得完。"""

import importlib
import os

import pytest
from conftest import ROOT

TINY = {
    "engines": ["--rounds", "2", "--frames", "3"],
    "training_step": ["--steps", "1", "--busy", "0", "--threads", "1"],
    "training_memory": ["--files", "8", "--workers", "0", "--steps", "1"],
}
FIRST_COLUMN = {
    "engines": ("本书 NumPy", "本书 C int8", "ncnn", "整条链", "是内核的几倍（逐帧）"),
    "training_memory": ("8",),
    "training_step": ("不用等",),
}


def test_every_program_is_tried():
    assert {path.stem for path in (ROOT / "bench").glob("*.py")} == set(TINY), (
        "bench/ 变了：给新的写一个最小的设置"
    )


@pytest.mark.parametrize("name", TINY)
def test_a_program_runs(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # 有的程序另开进程，再跑自己
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    importlib.import_module(f"bench.{name}").main(TINY[name])
    printed = capsys.readouterr().out
    assert all(word in printed for word in FIRST_COLUMN[name]) and "nan" not in printed
