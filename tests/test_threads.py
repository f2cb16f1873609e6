"""训练的线程怎样等待：看机器的忙闲，使用者自己设过的不动。"""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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


def test_working_threads_are_counted():
    if threads.workers(lambda: None) is None:
        pytest.skip("这个系统没有 /proc，看不出各线程用了多少时间")
    assert threads.workers(lambda: hashlib.sha256(bytes(2**24))) == 1
    with ThreadPoolExecutor(2) as pool:
        busy = [bytes(2**24)] * 6
        list(pool.map(hashlib.sha256, busy))  # 先把两个线程开起来
        assert threads.workers(lambda: list(pool.map(hashlib.sha256, busy))) == 2


@pytest.mark.parametrize(("share", "said"), [(1.0, False), (0.5, True), (None, False)])
def test_a_crowded_machine_is_named(share, said):
    note = threads.crowded(share)
    assert (note is not None and "50%" in note) if said else note is None


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
