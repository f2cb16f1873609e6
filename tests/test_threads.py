"""训练的线程怎样等待：看机器的忙闲，使用者自己设过的不动。"""

import os
import subprocess
import sys

import pytest

from lstm_lib import threads


@pytest.fixture
def unset(monkeypatch):
    for name in (*threads.PATIENT, *threads.EAGER):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("share", "chosen"),
    [(1.0, threads.EAGER), (0.76, threads.EAGER), (0.5, threads.PATIENT), (0.0, threads.PATIENT), (None, {})],
)
def test_busy_machines_get_patient_threads(unset, monkeypatch, share, chosen):
    monkeypatch.setattr(threads, "idle_share", lambda: share)
    assert threads.waiting() == (threads.GENTLE | chosen if chosen else {})


@pytest.mark.parametrize("name", [*threads.PATIENT, *threads.EAGER])
def test_what_the_user_set_stays(unset, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(threads, "idle_share", lambda: pytest.fail("不必看了"))
    assert threads.waiting() == {}


def test_a_busy_core_is_seen():
    if threads.idle_share(0.01) is None:
        pytest.skip("这个系统没有 /proc/stat，看不出忙闲")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            shares = [threads.idle_share(0.2) for _ in range(3)]
        finally:
            busy.kill()
    assert min(shares) <= 1 - 0.5 / (os.cpu_count() or 1), shares


def test_a_system_that_does_not_tell(monkeypatch):
    monkeypatch.setattr(threads, "_ticks", lambda: None)
    assert threads.idle_share(0) is None
