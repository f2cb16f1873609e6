"""原子写入：要么整个出现，要么旧的原样；权限、符号链接、线程都不出意外。"""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lstm_lib import files
from lstm_lib.files import atomic_path, os_reason


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """``umask(值)`` 改本进程的 umask，测完改回来。"""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_file_gets_the_usual_permissions(tmp_path, umask, mask, expected):
    umask(mask)
    with atomic_path(tmp_path / "新.txt") as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == tmp_path
        temporary.write_text("甲")
    (tmp_path / "平常.txt").write_text("乙")
    assert mode(tmp_path / "新.txt") == mode(tmp_path / "平常.txt") == expected


@pytest.mark.parametrize("old", [0o600, 0o640, 0o444, 0o755])
def test_old_file_keeps_its_permissions(tmp_path, old):
    path = tmp_path / "旧.txt"
    path.write_text("旧")
    path.chmod(old)
    with atomic_path(path) as temporary:
        assert mode(temporary) & ~old & 0o077 == 0, "写到一半时别人看得见"
        temporary.write_text("新")
    assert path.read_text() == "新" and mode(path) == old


def test_library_that_makes_its_own_file(tmp_path, umask):
    """有的库删掉给它的文件另建一个，权限不由我们：最后仍是该有的那样。"""
    umask(0o022)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.touch(0o600)
    assert mode(tmp_path / "a") == 0o644


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "旧.txt"
    path.write_text("旧")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("写到一半")
        raise RuntimeError
    assert path.read_text() == "旧" and list(tmp_path.iterdir()) == [path]


def test_symlink_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "真").mkdir()
    link, target = tmp_path / "链接.txt", tmp_path / "真" / "文件.txt"
    link.symlink_to(target)
    for text in ("第一次，文件还没有", "第二次"):
        with atomic_path(link) as temporary:
            assert temporary.parent == target.parent
            temporary.write_text(text)
        assert link.is_symlink() and target.read_text() == text
    loop = tmp_path / "圈"
    loop.symlink_to(loop)
    with pytest.raises(OSError) as error, atomic_path(loop):
        pass
    assert "绕成了圈" in os_reason(error.value) and loop.is_symlink()


def test_folders_and_devices_are_refused_at_once(tmp_path):
    """改名会顶掉原来的东西：以 root 运行时，写 /dev/null 就把它变成了普通文件。"""
    os.mkfifo(tmp_path / "管道")
    for path, words in ((tmp_path, "是一个文件夹"), (tmp_path / "管道", "不是普通的文件")):
        with pytest.raises(OSError) as error, atomic_path(path):
            pytest.fail("已经动手写了")
        assert words in os_reason(error.value) and str(path) in os_reason(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["管道"]


def test_the_umask_of_the_process_is_never_touched(tmp_path, umask, monkeypatch):
    """umask 是整个进程的：改一下再改回来，别的线程这时建的文件就人人可写。"""
    umask(0o077)
    with monkeypatch.context() as patch:
        patch.setattr(os, "umask", lambda _: pytest.fail("动了进程的 umask"))
        with atomic_path(tmp_path / "a") as temporary:
            temporary.touch()
    assert mode(tmp_path / "a") == 0o600


def test_threads_writing_one_file(tmp_path, umask):
    """许多线程同写一个文件：最后是其中一份完整的，没有半份，也不剩临时文件。"""
    umask(0o027)
    path, start = tmp_path / "同一个.txt", threading.Barrier(8)

    def write(number):
        start.wait(30)
        for _ in range(20):
            with atomic_path(path) as temporary:
                temporary.write_text(str(number) * 1000)
            text = path.read_text()
            assert len(text) == 1000 and len(set(text)) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert list(tmp_path.iterdir()) == [path] and mode(path) == 0o640


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"?\xd6\xd0"), ("utf-8", r"好\xd6\xd0")])
def test_bytes_of_names_are_shown_not_lost(encoding, shown):
    name = "好" + os.fsdecode(b"\xd6\xd0")
    assert name.encode(encoding, files.SHOW_BYTES).decode(encoding) == shown


def test_library_that_reads_utf8_names_only(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xd6\xd0.bin")
    try:
        odd.write_bytes(b"x")
    except OSError:
        pytest.skip("这个文件系统只收 UTF-8 的名字")
    with files.utf8_path(odd) as path:
        str(path).encode("utf-8")
        assert path.suffix == ".bin" and path.read_bytes() == b"x"
    assert not path.exists() and odd.exists()
    with files.utf8_path(tmp_path / "中.bin") as path:
        assert path == tmp_path / "中.bin", "是 UTF-8 的就用原来的"
