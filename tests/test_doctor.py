"""python -m lstm_lib doctor：缺的、太旧的、不能写的，都要说清楚怎么办。"""

import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from lstm_lib.book.tables import display_width
from lstm_lib.cli import doctor, main


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


def test_doctor_help_gives_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    out = capsys.readouterr().out
    assert "退出码" in out and "[缺失]" in out


def test_columns_line_up_with_wide_characters(monkeypatch, capsys):
    names = ["Python", "缓存目录", "C 编译器", "a-long-package-name"]
    monkeypatch.setattr(doctor, "diagnose", lambda: [doctor.Finding(doctor.OK, n, "@") for n in names])
    assert main(["doctor"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "@" in line]
    assert len(lines) == len(names)
    assert len({display_width(line.split("@")[0]) for line in lines}) == 1, "汉字没有按两格算"


def test_works_before_anything_is_installed(tmp_path):
    """-S 看不到 site-packages：一个第三方包也没有时，更要说得出缺什么。"""
    for command, code, says in (("doctor", 1, "pip install -r requirements.txt"), ("enhance", 1, "doctor")):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "lstm_lib", command],
            env=os.environ | {"PYTHONPATH": str(ROOT), "LSTM_LIB_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code and says in done.stdout + done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["doctor", "train --help"])
def test_reader_that_leaves_early(command, unbuffered):
    """管道另一头已经关了，如 ``| head -0``：安静退出，不抛栈。"""
    pipeline = f"(sleep 0.2; exec {shlex.quote(sys.executable)} -m lstm_lib {command}) | true"
    done = subprocess.run(
        ["bash", "-c", f'{pipeline}; echo "${{PIPESTATUS[0]}}"'],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "", done.stderr
    if command == "doctor":
        assert done.stdout.split() == ["141"]


def test_other_broken_pipes_are_not_hidden(monkeypatch):
    """工作进程断了的管道是真的错：标准输出还好好的，就不该当作没事。"""

    def broken():
        raise BrokenPipeError("工作进程死了")

    monkeypatch.setattr(doctor, "diagnose", broken)
    with pytest.raises(BrokenPipeError):
        main(["doctor"])


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["--help", "doctor --help", "train --help", "doctor", "没有"])
def test_any_output_encoding(command, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "lstm_lib", *command.split()],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == (2 if command == "没有" else 0), done.stderr
    assert b"Error" not in done.stderr and b"Traceback" not in done.stderr


def test_unknown_command_exits_2():
    done = subprocess.run(
        [sys.executable, "-m", "lstm_lib", "没有"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
