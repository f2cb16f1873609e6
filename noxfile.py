"""检查的三种分量，用当前环境里的工具（先 pip install -r requirements-dev.txt）：nox、nox -s book、nox -s all。"""

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["quick"]
ROOT = Path(__file__).parent
SITE_TESTS = ("tests/test_site_static.py", "tests/test_site_browser.py", "tests/test_netron.py")


def tool(session, name, *arguments):
    """用同一个解释器运行一件工具：虚拟环境没有激活也找得到。"""
    session.run(sys.executable, "-m", name, *arguments)


@nox.session
def quick(session):
    """改完就跑，一分多钟：排版、类型、笔记本没有输出、快的测试；不建书。"""
    sources = [*ROOT.glob("lstm_lib/native/*.[ch]"), *ROOT.glob("tests/*.c")]
    tool(session, "ruff", "check", ".")
    tool(session, "ruff", "format", "--check", ".")
    clang_format = Path(sys.executable).with_name("clang-format")  # 它没有 python -m 的入口
    session.run(str(clang_format), "--dry-run", "-Werror", *map(str, sources), external=True)
    tool(session, "nbstripout", "--verify", *map(str, ROOT.glob("chapters/*.ipynb")))
    tool(session, "mypy")
    tool(session, "pytest", "-m", "quick", *session.posargs)


@nox.session
def book(session):
    """建书（代码没变的笔记本取缓存里的输出），再查成书：页面重量、链接、网页测试。"""
    session.run(sys.executable, "tools/quick_build.py", "-W", "-n", "--keep-going")
    session.run(sys.executable, "tools/page_weights.py")
    session.run(sys.executable, "tools/check_links.py")
    tool(session, "pytest", *SITE_TESTS, *session.posargs)


@nox.session(name="all")
def everything(session):
    """全部检查，与持续集成相同：全新的环境、两次从头建书、全部测试。"""
    session.run(str(ROOT / ".ci" / "run"), external=True)
