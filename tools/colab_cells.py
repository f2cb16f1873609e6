"""给每一章放好准备单元格：在 Colab 里装上缺的程序包，本机什么也不做。

已有的准备单元格就地更新。改了地址之后要重跑一次并提交。
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lstm_lib.cli import ChineseParser
from lstm_lib.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
SETUP_TAG = "setup"
SOURCE = """\
# 在 Colab 里：取来全书，装上依赖；本机已装好，什么也不做
import importlib.util

if importlib.util.find_spec("lstm_lib") is None:
    import subprocess
    import sys

    repository = "{repository}"
    if not repository:
        raise RuntimeError("没有装 lstm_lib：请在书的目录里运行 pip install -r requirements.txt")
    subprocess.run(["git", "clone", "-q", "--depth", "1", repository, "lstm-book"], check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "-r", "requirements.txt"]
    subprocess.run(install, check=True, cwd="lstm-book")
    sys.path.insert(0, "lstm-book")"""


def repository_address(root) -> str:
    config = yaml.safe_load((Path(root) / "_config.yml").read_text(encoding="utf-8"))
    return (config.get("repository") or {}).get("url") or ""


def setup_source(root, repository=None) -> str:
    return SOURCE.format(repository=repository_address(root) if repository is None else repository)


def place(notebook, source) -> bool:
    """把准备单元格放在标题之后、第一个代码单元格之前；有变动时返回 True。"""
    marked = [c for c in notebook.cells if SETUP_TAG in c.metadata.get("tags", [])]
    if marked:
        changed = marked[0].source != source
        marked[0].source = source
        return changed
    cell = nbformat.v4.new_code_cell(source, id="setup", metadata={"tags": [SETUP_TAG, "remove-cell"]})
    first = next((i for i, c in enumerate(notebook.cells) if c.cell_type == "code"), len(notebook.cells))
    notebook.cells.insert(first, cell)
    return True


def address(text: str) -> str:
    """核对仓库地址：它要写进每一章的代码里。"""
    if not re.fullmatch(r"https?://[\w.-]+(:\d+)?/[\w./~+%@-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"要的是 http:// 或 https:// 开头的仓库地址，不能是 {text!r}")
    return text


def main() -> int:
    parser = ChineseParser(prog="python tools/colab_cells.py", description=__doc__)
    parser.add_argument(
        "repository", metavar="仓库地址", nargs="?", type=address,
        help="如 https://github.com/名字/仓库；不给就用 _config.yml 的 repository.url",
    )  # fmt: skip
    source = setup_source(ROOT, parser.parse_args().repository)
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if place(notebook, source):
            with atomic_path(path) as temporary:
                nbformat.write(notebook, temporary)
            print(f"更新了 {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
