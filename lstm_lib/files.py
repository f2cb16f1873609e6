"""缓存目录与原子写入：要么整个文件出现，要么什么都不留下。"""

import errno
import os
import tempfile
from contextlib import contextmanager
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

    临时名保留原扩展名，供按扩展名判断格式的库使用。
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:20]}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp 只给本人权限，改回平常的
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
}


def os_reason(error: OSError) -> str:
    """操作系统报的错，用中文说；消息里没有错误号的（本书自己抛的）原样返回。"""
    if error.errno is None:
        return str(error)
    reason = REASONS.get(error.errno, error.strerror or str(error))
    return f"{error.filename}：{reason}" if error.filename else reason
