"""菜谱：每一份都照页面上的样子，在空文件夹里、新的进程里从头到尾跑一遍。"""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from conftest import ROOT

TEXT = (ROOT / "chapters" / "recipes.md").read_text(encoding="utf-8")
HEAD = r"^\((recipe-[a-z0-9-]+)\)=\n### ([^\n]+)\n"
RECIPES = {
    name: (title, body)
    for name, title, body in re.findall(rf"{HEAD}(.*?)(?=^\(recipe-|^## |\Z)", TEXT, re.S | re.M)
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def blocks(name):
    """一份菜谱的各格：（语言，代码）。"""
    return BLOCK.findall(RECIPES[name][1])


def needs_network(name):
    """要内置语料或书中训练好的网络。"""
    code = "".join(code for _, code in blocks(name))
    return "corpus" in code or "load_trained" in code


def run(language, code, folder):
    """照读者那样跑一格；C 存成文件，别的在新的进程里跑。"""
    if language == "c":
        name = re.search(r"存成 `(\w+\.c)`", TEXT)[1]
        (folder / name).write_text(code, encoding="utf-8")
        return
    command = [sys.executable, "-c", code] if language == "python" else shlex.split(code)
    paths = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = os.environ | threads | {"PATH": paths, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8",
        errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"跑不通：\n{code}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.data] if needs_network(n) else []) for n in RECIPES]
)
def test_a_recipe_runs_alone(name, tmp_path):
    if any("ziglang" in code for _, code in blocks(name)) and find_spec("ziglang") is None:
        pytest.skip("没有 C 编译器：这一份要 pip install ziglang")
    for language, code in blocks(name):
        run(language, code, tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short_and_says_when_and_where(name):
    """先说何时用得着、去哪一章，再是代码：一格至多 25 行，以一条断言收尾；命令一行一条，PowerShell 也认。"""
    title, body = RECIPES[name]
    prose = BLOCK.sub("", body)
    assert prose.strip() and "讲解：{doc}`" in prose, f"「{title}」没有说去哪里看"
    parts = blocks(name)
    assert parts and {language for language, _ in parts} <= {"python", "shell", "c"}
    for language, code in parts:
        lines = code.strip("\n").splitlines()
        assert len(lines) <= 25, f"「{title}」有一格 {len(lines)} 行"
        if language == "shell":
            assert len(lines) == 1 and not re.search(r"[|;&<>$`\"'\\*~]", code), (
                f"PowerShell 不这样写：{code}"
            )
    language, last = parts[-1]
    assert language == "python" and re.search(r"^ *assert .", last, re.M), f"「{title}」没有以断言收尾"


def test_every_recipe_is_parsed_and_ten_come_first():
    assert len(RECIPES) == len(re.findall(r"^### ", TEXT, re.M)), "有的菜谱没有 (recipe-…)= 这样的标签"
    assert len(re.findall(HEAD, TEXT.split("\n## ")[1], re.M)) == 10
    count = len(re.findall(r"^```(python|shell|c)$", TEXT, re.M))
    assert count == sum(len(blocks(name)) for name in RECIPES), "有的代码格不属于任何一份菜谱"


def test_every_chapter_has_a_recipe():
    """末尾的表：编了号的章一章一行，次序同目录；指的菜谱都有，每一份也都有章用得着。"""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    numbered = [
        entry["file"].removeprefix("chapters/")
        for part in toc["parts"]
        if part.get("numbered")
        for entry in part["chapters"]
    ]
    rows = re.findall(r"^\| \{doc\}`(\w+)` \|(.*)$", TEXT, re.M)
    assert [chapter for chapter, _ in rows] == numbered, "表里的章与目录不一样"
    named = [re.findall(r"<(recipe-[a-z0-9-]+)>", rest) for _, rest in rows]
    assert all(named) and {name for names in named for name in names} == set(RECIPES)
