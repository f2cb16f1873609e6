"""让话多的导出器安静：它们从 Python、logging 和 C++ 三处往屏幕上写。"""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO


class Log:
    """安静期间收起来的文字；离开后才有内容。"""

    text = ""

    def __str__(self) -> str:
        return self.text


@contextmanager
def quiet() -> Iterator[Log]:
    """收起这段代码的全部输出与警告；出错时把收起的文字附在异常后面，不会丢。

    用法：``with quiet() as log: ...``，之后 ``log.text`` 是收起的文字。
    """
    log = Log()
    level = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with redirect_stdout(file), redirect_stderr(file), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.disable(logging.WARNING)
                yield log
        except Exception as error:
            log.text = _read(file)
            if log.text.strip():
                error.add_note("此前收起的输出：\n" + log.text[-4000:])
            raise
        else:
            log.text = _read(file)
        finally:
            logging.disable(level)
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def _read(file: IO[str]) -> str:
    file.flush()
    with open(file.fileno(), encoding="utf-8", errors="replace", closefd=False) as again:
        again.seek(0)
        return again.read()
