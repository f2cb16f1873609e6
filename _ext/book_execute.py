"""并行执行笔记本：先训练好全书要用的网络，再几个笔记本一起跑，输出交给 MyST-NB 的缓存去取。

MyST-NB 自己一个接一个地执行；jupyter-cache 的并行执行器不按次序、也不停在第一个错误上，所以这里自己排。
每次建书都从空的缓存开始（``force`` 的意思不变），只有 ``BOOK_QUICK=1`` 沿用旧的（见 ``book_key``）。
"""

import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from book_estimate import announce, spoken
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import create_nb_reader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from sphinx.errors import ExtensionError
from sphinx.util import logging

from lstm_lib.threads import GENTLE

LOGGER = logging.getLogger(__name__)
MOST = 4  # 一个内核约占 1 GB 内存


def choose_cache(app, config):
    if config.nb_execution_mode != "force":
        return
    folder = Path(app.outdir).parent / ".execution_cache"
    shutil.rmtree(folder, ignore_errors=True)
    config.nb_execution_mode, config.nb_execution_cache_path = "cache", str(folder)


def read_notebooks(app, env, docnames) -> dict:
    """将要读的文稿里的笔记本：路径 → 读进来的笔记本；缓存里已有输出的不算。"""
    found, cache = {}, get_cache(app.config.nb_execution_cache_path)
    for name in docnames:
        path = env.doc2path(name)
        text = Path(path).read_text(encoding="utf-8")
        reader = create_nb_reader(path, env.myst_config, env.mystnb_config, text)
        if reader is None:
            continue
        notebook = reader.read(text)
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            found[path] = notebook
    return found


def amount(notebook) -> int:
    """代码有多少行：先跑长的，免得最后剩一个长的独自跑。"""
    return sum(cell.source.count("\n") for cell in notebook.cells if cell.cell_type == "code")


def execute(path, notebook, timeout) -> float:
    """在文稿所在的目录里执行，输出写进 ``notebook``，返回秒数；单元格出错抛 ``CellExecutionError``。"""
    started = time.perf_counter()
    quiet = ["--log-level=ERROR"]  # 内核在本机，不必用英文提醒“TCP 未加密”
    with tempfile.TemporaryDirectory() as empty:
        resources = {"metadata": {"path": empty if alone() else str(Path(path).parent)}}
        client = NotebookClient(
            notebook, timeout=timeout, resources=resources, record_timing=False, extra_arguments=quiet
        )
        client.execute(env=os.environ | GENTLE)  # 几个内核一起跑，谁也不占着核空转
        if left := os.listdir(empty):
            raise ExtensionError(f"{path} 在当前目录留下了文件：{left}")
    return time.perf_counter() - started


def alone() -> bool:
    """各章在空目录里、按相反的次序执行：持续集成的第二次建书用它证明每一章都能单独运行。"""
    return os.environ.get("BOOK_ALONE") == "1"


def train(notebooks):
    """全书的网络先训练好：训练用满全部的核，不与笔记本抢。"""
    if not any("load_trained" in cell.source for nb in notebooks.values() for cell in nb.cells):
        return
    from lstm_lib.enhance.trained import prepare

    prepare()


def run_all(app, env, docnames):
    if app.config.nb_execution_mode != "cache":
        return
    notebooks = read_notebooks(app, env, docnames)
    if not notebooks:
        return
    app.book_executed = notebooks
    cache, workers = get_cache(app.config.nb_execution_cache_path), min(MOST, os.cpu_count() or 1)
    announce(notebooks, workers, LOGGER.info)
    train(notebooks)
    started = time.perf_counter()
    order = sorted(notebooks, key=lambda path: -amount(notebooks[path]), reverse=alone())
    with ThreadPoolExecutor(workers) as pool:
        timeout = app.config.nb_execution_timeout
        running = {pool.submit(execute, path, notebooks[path], timeout): path for path in order}
        for done, future in enumerate(as_completed(running), 1):
            path = running[future]
            try:
                seconds = future.result()
            except CellExecutionError as error:
                pool.shutdown(cancel_futures=True)
                raise ExtensionError(f"{path} 执行出错：\n{error}") from error
            data = {"execution_seconds": seconds}
            bundle = CacheBundleIn(notebooks[path], path, data=data)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            pace = (time.perf_counter() - started) / done
            left = f"，余下的约 {spoken(pace * (len(running) - done))}" if done < len(running) else ""
            name = Path(path).name
            LOGGER.info("执行了 %s，%.1f 秒（%d/%d%s）", name, seconds, done, len(running), left)


def write_executed(app, exception):
    """执行好的笔记本存进 ``jupyter_execute``：从缓存取输出时，MyST-NB 存在那里的没有输出。"""
    for path, notebook in getattr(app, "book_executed", {}).items():
        name = app.env.path2doc(path)
        target = Path(app.outdir).parent / "jupyter_execute" / f"{name}.ipynb"
        if exception is None and target.is_file():
            nbformat.write(notebook, target)


def setup(app):
    app.connect("config-inited", choose_cache, priority=200)
    app.connect("env-before-read-docs", run_all)
    app.connect("build-finished", write_executed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
