"""缓存目录、原子写入（要么整个文件出现，要么什么都不留下）与不是 UTF-8 的文件名。"""

import codecs
import errno
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def cache_dir() -> Path:
    """本书的缓存目录（语料、训练好的网络、编译好的内核）。

    环境变量 ``LSTM_LIB_CACHE`` 优先；否则用操作系统惯用的用户缓存目录。
    """
    chosen = os.environ.get("LSTM_LIB_CACHE")
    if not chosen:
        import platformdirs  # 用到时才要：只装了 NumPy 也写得了权重文件

        chosen = platformdirs.user_cache_dir("lstm_lib", appauthor=False)
    path = Path(chosen)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_path(path):
    """给出同一目录下的临时路径；正常离开时改名为 ``path``，出错时删除，旧文件原样保留。

    临时名保留原扩展名，供按扩展名判断格式的库使用。权限照旧文件的，没有旧文件就是平常新建的那样；
    ``path`` 是符号链接时写它指向的文件，链接还在。``path`` 是文件夹、设备之类时抛 ``OSError``。
    """
    old = _permissions(path)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, mode = _create_beside(path, old)
    try:
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:  # 有的库会删掉它，另建一个
            temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_paths(*paths):
    """``atomic_path`` 用在几个必须成套的文件上：给出各自的临时路径，正常离开时按次序改名，要么全换，要么全不换。

    改到一半出错时，已经换掉的恢复原样，本来没有的删掉。两个路径是同一个文件时抛 ``ValueError``。
    """
    real = [os.path.realpath(path) for path in paths]
    for k, path in enumerate(real):
        if path in real[:k]:
            raise ValueError(f"{paths[k]}：要写的几个文件不能是同一个")
    with _restored(real[:-1]), ExitStack() as stack:  # 后进先出：倒着进去，就按次序改名
        yield [stack.enter_context(atomic_path(path)) for path in reversed(paths)][::-1]


@contextmanager
def _restored(paths):
    """里面出错时，把这些文件换回进来时的样子。"""
    old = {}
    try:
        for path in map(Path, paths):
            if path.is_file():
                old[path] = path.with_name(f".{path.stem[:20]}-{secrets.token_hex(6)}{path.suffix}")
                try:
                    os.link(path, old[path])
                except OSError:  # 有的文件系统没有硬链接
                    shutil.copy2(path, old[path])
        try:
            yield
        except BaseException:
            for path in map(Path, paths):
                if path in old:
                    os.replace(old[path], path)
                elif path.is_file():
                    path.unlink()
            raise
    finally:
        for copy in old.values():
            copy.unlink(missing_ok=True)


def _permissions(path) -> int | None:
    """已有的文件的权限位，没有这个文件是 None；改名会顶掉它的设备、管道之类不收。"""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "不是普通的文件（是设备、管道之类），换不得", str(path))
    return mode & 0o777


def _create_beside(path: Path, old: int | None) -> tuple[Path, int]:
    """在 ``path`` 旁边建一个空的临时文件，连同它最后该有的权限；``old`` 是旧文件的权限。

    不用 tempfile：它只给本人权限，而要知道平常的权限就得改一下整个进程的 umask，别的线程会受害；
    这里让内核在建文件时自己扣掉 umask。
    """
    # 本人总要写得进；旧文件不给别人看的，写到一半也不给
    mode = 0o666 if old is None else (old & 0o666) | 0o600
    while True:
        temporary = path.with_name(f".{path.stem[:20]}-{secrets.token_hex(6)}{path.suffix}")
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        except FileExistsError:
            continue
        try:
            return temporary, stat.S_IMODE(os.fstat(handle).st_mode) if old is None else old
        finally:
            os.close(handle)


# ---- 不是 UTF-8 的文件名（如 GBK）：Python 把认不出的字节记成 U+DC80–U+DCFF ----

SHOW_BYTES = "lstm_lib.show_bytes"  # 编码时的 errors=：认不出的字节写成 \xd6，写不出的字写成问号


def _show_bytes(error):
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\x{c - 0xDC00:02x}" if 0xDC80 <= c <= 0xDCFF else "?" for c in codes), error.end


codecs.register_error(SHOW_BYTES, _show_bytes)


def c_path(path) -> str | bytes:
    """交给 C 库的文件名：POSIX 上是原样的字节，名字不是 UTF-8 也行；Windows 上是字符串。"""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


@contextmanager
def tidy_folders(path: Path):
    """出错离开时，删掉这期间为 ``path`` 新建的空文件夹。"""
    absent = [parent for parent in path.parents if not os.path.exists(parent)]
    try:
        yield
    except BaseException:
        for folder in absent:  # 从最里层起；建好之后别人放了东西的，留着
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def utf8_path(path):
    """给只收 UTF-8 的库读：名字不是 UTF-8 时，给出指着它的一个临时的符号链接。"""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            suffix = Path(path).suffix
            link = Path(folder, "file" + (suffix if suffix.isascii() else ""))
            link.symlink_to(os.path.abspath(path))
            yield link
    else:
        yield Path(path)


REASONS = {
    errno.ENOSPC: "磁盘满了",
    errno.EDQUOT: "磁盘配额用完了",
    errno.EFBIG: "超过了文件大小的限制",
    errno.EROFS: "文件系统是只读的",
    errno.EACCES: "没有权限",
    errno.EPERM: "没有权限",
    errno.ENOENT: "不存在",
    errno.ENOTDIR: "路径中间有一段不是文件夹",
    errno.EISDIR: "是一个文件夹",
    errno.EIO: "磁盘读写出错",
    errno.EEXIST: "路径中间有一段不是文件夹",
    errno.ENAMETOOLONG: "名字太长",
    errno.ELOOP: "符号链接绕成了圈",
}


# 写声音的库只说没有写成，不说缘由
DISK_FULL = "写到一半写不下去了，多半是磁盘满了；请腾出空间或换一个位置。"


def os_reason(error: OSError) -> str:
    """操作系统报的错，用中文说；消息里没有错误号的（本书自己抛的）原样返回。"""
    if error.errno is None:
        return str(error)
    reason = REASONS.get(error.errno, error.strerror or str(error))
    return f"{error.filename}：{reason}" if error.filename else reason
