"""抽到的数只看测试的名字：单独跑、换次序、换一个进程，都一样。"""

import os
import subprocess
import sys

from conftest import ROOT

TESTS = """
import numpy as np
import pytest
import torch

rng = np.random.default_rng(3)
at_import = float(rng.normal())

@pytest.fixture(scope="module")
def shared():
    return float(rng.normal()), float(torch.randn(1))

def drawn():
    return float(rng.normal()), float(torch.randn(1)), float(np.random.rand())

def test_a(shared):
    print("得到", "a", at_import, shared, drawn())

def test_b():
    print("得到", "b", drawn())

@pytest.mark.parametrize("k", [1, 2])
def test_c(shared, k):
    print("得到", "c", k, shared, drawn())
"""


def run(folder, *names):
    (folder / "test_some.py").write_text(TESTS)
    (folder / "conftest.py").write_text(
        (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        ".",
    ]
    # 持续集成对跳过的要求是给本书的测试的；这几条抄来的测试旁边没有那份名单
    environ = {name: value for name, value in os.environ.items() if name != "CI_STRICT_SKIPS"}
    shown = subprocess.run(
        command + [f"test_some.py::{name}" for name in names],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(line.lstrip(".") for line in shown.stdout.splitlines() if "得到" in line)


def test_order_and_neighbours_change_no_number(tmp_path):
    names = ("test_a", "test_b", "test_c[1]", "test_c[2]")
    together = run(tmp_path, *names)
    assert run(tmp_path, *reversed(names)) == together
    assert run(tmp_path, "test_c[1]") == [line for line in together if "c 1" in line]
    assert len({line.split()[-3:][0] for line in together}) == 4, "各条测试抽到的该不一样"
