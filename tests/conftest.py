"""各测试共用：建好的网站、浏览器；持续集成里不许有名单之外的跳过。"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
AXE = ROOT / "tools" / "node_modules" / "axe-core" / "axe.min.js"
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # 用当前这个解释器里的
sys.path.insert(0, str(ROOT / "_ext"))
sys.path.insert(0, str(ROOT / "tools"))


def need_axe():
    """没有 axe-core 就跳过，说明怎么装。"""
    if not AXE.is_file():
        pytest.skip("没有 axe-core：在 tools/ 里运行 npm ci 之后才查无障碍")


@pytest.fixture(scope="session")
def book_site(tmp_path_factory) -> Path:
    """建好的网站。眼下的 ``_build/html`` 若正是这份文稿建的就用它，否则现建一份（含训练，要几分钟）。"""
    from book_key import KEY_FILE, content_key

    given = Path(os.environ.get("BOOK_SITE") or ROOT / "_build" / "html")
    key = given / KEY_FILE
    if key.is_file() and key.read_text(encoding="utf-8") == content_key(ROOT):
        return given.resolve()
    assert "BOOK_SITE" not in os.environ, f"{given} 不是眼下这份文稿建成的：先重新建书，或去掉 BOOK_SITE"
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # 几个进程合用一份
    out = shared / "site"
    with FileLock(shared / "site.lock"):
        if not (out / "_build" / "html" / KEY_FILE).is_file():
            command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(ROOT), "--path-output", str(out)]
            done = subprocess.run(
                [*command, "-W", "-n", "--keep-going"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"建书失败：\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return out / "_build" / "html"


@pytest.fixture(scope="session")
def site_url(book_site):
    from site_server import serve

    with serve(book_site) as base:
        yield base


@pytest.fixture(scope="session")
def chromium():
    """Chromium 的路径；没有就跳过，说明怎么装。"""
    from site_server import find_chromium

    path = find_chromium()
    if path is None:
        pytest.skip("没有 Chromium：浏览器测试跳过（Debian：apt-get install chromium）")
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright
    from site_server import BROWSER_ARGS

    with sync_playwright() as play:
        instance = play.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        yield instance
        instance.close()


def pytest_collection_modifyitems(items):
    """最慢的文件先开工：分进程跑时（-n 2 --dist loadfile），免得最后只剩一个进程在忙。"""
    slow = ("test_site_browser.py", "test_training.py", "test_notebooks.py")
    items.sort(key=lambda item: slow.index(item.path.name) if item.path.name in slow else len(slow))


def allowed_skips() -> list[str]:
    lines = (ROOT / ".ci" / "allowed-skips.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """``CI_STRICT_SKIPS=1`` 时，理由不在 .ci/allowed-skips.txt 里的跳过算失败。"""
    if os.environ.get("CI_STRICT_SKIPS") != "1" or hasattr(session.config, "workerinput"):
        return  # 分进程跑时，各进程的结果汇总到主进程再查
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    allowed, surprises = allowed_skips(), []
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(text in reason for text in allowed):
            surprises.append(f"{report.nodeid}：{reason}")
    if surprises:
        session.config.surprising_skips = surprises
        session.exitstatus = max(int(exitstatus), 1)


def pytest_terminal_summary(terminalreporter, config):
    for line in getattr(config, "surprising_skips", []):
        terminalreporter.write_line(f"不该跳过：{line}", red=True)
