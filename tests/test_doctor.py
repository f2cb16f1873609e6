"""python -m lstm_lib doctor：缺的、太旧的、不能写的，都要说清楚怎么办。"""

import os
import subprocess
import sys

import pytest

from lstm_lib.cli import doctor


def run(**environment):
    command = [sys.executable, "-m", "lstm_lib", "doctor"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_this_machine_is_fine(tmp_path):
    done = run(LSTM_LIB_CACHE=str(tmp_path / "新的 缓存"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch" in done.stdout and "Python" in done.stdout
    assert done.stderr == ""


def test_missing_and_old_packages_fail_with_the_cure():
    missing = doctor.check_package("torch", "==2.13.0", None)
    assert missing.level == doctor.FAIL and "pip install 'torch==2.13.0'" in missing.advice
    old = doctor.check_package("numpy", ">=2.0", "1.26.4")
    assert old.level == doctor.FAIL and "1.26.4" in old.detail and "--upgrade" in old.advice
    assert doctor.check_package("torch", "==2.13.0", "2.13.0+cpu").level == doctor.OK
    assert doctor.check_package("jupyter-book", ">=1.0.4,<2", "2.0.1").level == doctor.FAIL


def test_old_python_fails():
    assert doctor.check_python((3, 9, 18)).level == doctor.FAIL
    assert doctor.check_python((3, 14, 0)).level == doctor.OK


def test_requirements_are_parsed(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# 说明\n-e .\n-r other.txt\n\nnumpy>=2.0  # 注\nfoo[bar]==1.0\nbaz\n", encoding="utf-8")
    assert doctor.parse_requirements(path) == [("numpy", ">=2.0"), ("foo", "==1.0"), ("baz", "")]


def test_broken_import_is_reported():
    finding = doctor.check_import("没有这个包")
    assert finding.level == doctor.FAIL and "导入不了" in finding.detail
    assert doctor.check_import("json") is None


def test_unwritable_cache_fails(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("这是文件，不是目录")
    done = run(LSTM_LIB_CACHE=str(blocked / "cache"))
    assert done.returncode == 1 and "LSTM_LIB_CACHE" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["--help"], ["doctor", "--help"]])
def test_help_is_chinese(command):
    done = subprocess.run(
        [sys.executable, "-m", "lstm_lib", *command], capture_output=True, text=True, check=True
    )
    assert "用法" in done.stdout and "usage:" not in done.stdout


def test_unknown_command_exits_2():
    done = subprocess.run(
        [sys.executable, "-m", "lstm_lib", "没有"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
