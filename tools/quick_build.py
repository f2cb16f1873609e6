"""读者改文字时的快速重建：代码没变的笔记本取缓存里的输出，不再执行。

多写的参数原样交给 jupyter-book build，例如 --all。
缓存按笔记本的代码存放，目录名是 lstm_lib、bench、依赖清单与解释器版本的哈希：任何一样变了，就全部重新执行。
持续集成不用它。
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
# 用当前这个解释器里的 jupyter-book，省下两处白费的功夫：jsonschema 一载入就为网址的写法编三十几份文法
# （两秒多，校验配置用不上）；每取一次 pybtex 的插件，就把装了的包全扫一遍
JUPYTER_BOOK = """
import functools, sys
sys.modules["rfc3987_syntax"] = None
import pybtex.plugin
pybtex.plugin.find_plugin = functools.cache(pybtex.plugin.find_plugin)
from jupyter_book.cli.main import main
main()
"""


def main() -> int:
    parser = ChineseParser(prog="python tools/quick_build.py", description=__doc__)
    _, options = parser.parse_known_args()
    start = time.perf_counter()
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(ROOT), *options]
    code = subprocess.run(command, env={**os.environ, "BOOK_QUICK": "1"}, check=False).returncode
    print(f"快速重建用时 {time.perf_counter() - start:.1f} 秒")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
