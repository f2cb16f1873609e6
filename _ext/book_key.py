"""程序包一变，全书重跑；读者只改文字时，则可以不重跑。

Sphinx 只看文稿本身有没有变：``lstm_lib`` 改了而笔记本没改，增量建书会留下旧的输出。
这里把程序包与锁文件的哈希记进环境，变了就让每一页重读。

环境变量 ``BOOK_QUICK=1``（``python tools/quick_build.py``）时改用 jupyter-cache，缓存目录的名字
就是这个哈希，所以缓存里的输出总是眼下这份程序算出来的。持续集成里不许用。
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from sphinx.errors import ConfigError

SOURCES = ("_config.yml", "_toc.yml", "_ext", "_site_static", "index.md", "references.bib", "chapters", "img")
KEY_FILE = ".book_key"
WATCHED = ("lstm_lib", "bench", "requirements.txt", "requirements.lock")
SUFFIXES = {".py", ".c", ".h", ".txt", ".lock", ".otf", ".ttf", ".json", ".toml", ".html", ".js", ".css"}


def library_key(root, watched=WATCHED, suffixes=SUFFIXES) -> str:
    """``watched`` 里各文件与解释器版本的 SHA-256（十六进制，前 16 位）；缺的文件不算。"""
    digest = hashlib.sha256(sys.version.encode())
    for name in watched:
        top = Path(root) / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def content_key(root) -> str:
    """成书所依赖的一切的哈希：测试据此判断 ``_build/html`` 是不是眼下这份文稿建的。"""
    return library_key(
        root, WATCHED + SOURCES, SUFFIXES | {".yml", ".md", ".ipynb", ".css", ".js", ".svg", ".bib"}
    )


def note_key(app):
    app.book_content_key = content_key(app.srcdir)  # 开工时就记下：建书途中改动的文稿不算


def write_key(app, exception):
    if app.builder.format != "html":
        return
    path = Path(app.outdir) / KEY_FILE
    if exception is None:
        path.write_text(app.book_content_key, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def choose_mode(app, config):
    key = app.book_library_key = library_key(app.srcdir)
    if os.environ.get("BOOK_QUICK") != "1":
        return
    if os.environ.get("CI"):
        raise ConfigError("BOOK_QUICK 只给读者自己用：持续集成必须真正执行每一个笔记本")
    caches = Path(app.outdir).parent / ".quick_cache"
    if caches.is_dir():
        for old in caches.iterdir():
            if old.name != key:
                shutil.rmtree(old, ignore_errors=True)  # 程序已变，旧输出没有用了
    config.nb_execution_mode = "cache"
    config.nb_execution_cache_path = str(caches / key)


def outdated(app, env, added, changed, removed):
    previous = getattr(env, "book_library_key", None)
    env.book_library_key = app.book_library_key
    return [] if previous in (None, app.book_library_key) else list(env.found_docs)


def setup(app):
    app.connect("config-inited", choose_mode, priority=100)
    app.connect("env-get-outdated", outdated)
    app.connect("builder-inited", note_key)
    app.connect("build-finished", write_key, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
