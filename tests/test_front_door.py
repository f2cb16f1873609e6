"""开发者的前门：只有 NumPy 也装得上、用得了；附加项、类型、排版、贡献指南与眼下的代码相符。"""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT

CORE = """
import numpy as np
from lstm_lib import LSTM
from lstm_lib.formats import gate_check
from lstm_lib.lstm import layouts
from lstm_lib.lstm.backward import backward

config = layouts.LSTMConfig(6, 5, 2, "bidirectional")
rng = np.random.default_rng(0)
lstm = LSTM(config, {name: rng.normal(size=shape) for name, shape in config.shapes().items()})
x = rng.normal(size=(7, 3, 6))
y, (h, c) = lstm(x)
lstm.save("新的文件夹/权重.lstm")
assert np.array_equal(LSTM.load("新的文件夹/权重.lstm")(x)[0], y)
assert backward(lstm, x, None, np.ones_like(y)).dx.shape == x.shape
gate_check.check_gate_order(lambda given: LSTM.from_bytes(given.to_bytes()))
print(y.shape)
"""
DOCTOR = "import runpy; runpy.run_module('lstm_lib', run_name='__main__')"


@pytest.fixture
def only_numpy(tmp_path):
    """一个只看得见标准库、NumPy 与本书程序包的解释器。"""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    site = Path(np.__file__).parents[1]
    for place in site.glob("numpy*"):
        (packages / place.name).symlink_to(place)
    (packages / "lstm_lib").symlink_to(ROOT / "lstm_lib")

    def run(code, *arguments):
        start = f"import sys; sys.path.insert(0, {str(packages)!r}); sys.argv[1:] = {list(arguments)}; "
        return subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", f"{start}exec({code!r})"],
            cwd=tmp_path,
            env=os.environ | {"LSTM_LIB_CACHE": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_lstm_works_with_numpy_alone(only_numpy):
    assert only_numpy("import torch").returncode == 1 and only_numpy("import platformdirs").returncode == 1
    done = only_numpy(CORE)
    assert done.returncode == 0 and done.stdout.strip() == "(7, 3, 10)", done.stderr


def test_doctor_runs_with_numpy_alone_and_names_what_is_missing(only_numpy):
    done = only_numpy(DOCTOR, "doctor")
    assert done.returncode == 1 and done.stderr == "", done.stderr
    assert re.search(r"\[正常\] numpy", done.stdout) and "torch" in done.stdout and "怎么办" in done.stdout


# ---------------------------------------------------------------- 依赖与附加项


@pytest.fixture
def declared(monkeypatch):
    """setup.py 交给 setuptools 的东西。"""
    given = {}
    monkeypatch.setitem(sys.modules, "setuptools", types.SimpleNamespace(setup=given.update))
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_extras_take_their_versions_from_the_requirements(declared):
    lines = [
        line.split("#")[0].strip()
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    extras = declared["extras_require"]
    assert declared["install_requires"] == [line for line in lines if line.startswith("numpy")]
    assert "torch==2.13.0" in extras["book"] and "torch==2.13.0" in extras["train"]
    assert set(extras) == {"native", "train", "book", "browser", "test"}
    given = [line for extra in extras.values() for line in extra]
    assert {line for line in lines if line and not line.startswith("-")} == set(given) - {"lstm_lib[book]"}


def test_doctor_reads_the_installed_package_where_there_is_no_list(declared, monkeypatch):
    from lstm_lib.cli import doctor

    metadata = [
        *declared["install_requires"],
        *(
            f'{line}; extra == "{name}"'
            for name, lines in declared["extras_require"].items()
            for line in lines
        ),
    ]
    listed = doctor.declared_requirements()
    monkeypatch.setattr(doctor, "requirements_file", lambda: None)
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: metadata)
    assert set(doctor.declared_requirements()) == {(n, c.replace(" ", "")) for n, c in listed}


# ---------------------------------------------------------------- 类型


def mypy(*arguments):
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_types_are_clean():
    done = mypy()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_a_missing_or_wrong_type_is_seen(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from lstm_lib.lstm import step\n\ndef f(x):\n    return x\n\nstep(1)\n", encoding="utf-8"
    )
    done = mypy(str(tmp_path / "bad.py"))
    assert done.returncode == 1 and "no-untyped-def" in done.stdout and "call-arg" in done.stdout, done.stdout


# ---------------------------------------------------------------- 排版与快检


def clang_format(*arguments):
    program = Path(sys.executable).with_name("clang-format")
    return subprocess.run(
        [program, "--dry-run", "-Werror", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_c_sources_are_formatted():
    sources = [*ROOT.glob("lstm_lib/native/*.[ch]"), *ROOT.glob("tests/*.c")]
    done = clang_format(*sources)
    assert len(sources) > 5 and done.returncode == 0, f"运行 pre-commit run --all-files：{done.stderr[:2000]}"


def test_pre_commit_hooks_are_local_and_their_tools_come_with_the_requirements(declared):
    """断了网也能用：不取别家的仓库，每件工具都在 requirements-dev.txt 里。"""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    names = {re.match(r"[\w-]+", line).group() for line in declared["extras_require"]["test"]}
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system" and hook["entry"].split()[0] in names, hook["id"]


def test_nox_sessions_are_those_the_documents_name():
    done = subprocess.run(
        [sys.executable, "-m", "nox", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    sessions = set(re.findall(r"^[*-] (\w+)", done.stdout, re.M))
    assert sessions == {"quick", "book", "all"}
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"nox -s (\w+)", (ROOT / name).read_text(encoding="utf-8")))
        assert named <= sessions, f"{name} 提到的 {named - sessions} 不存在"


# ---------------------------------------------------------------- 贡献指南


def test_contributing_names_only_what_exists():
    """反引号里像路径的都在；写着「章名」之类的是样子，它的文件夹要在。"""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\.?[\w*-]+(?:/[\w.*-]*)+|[\w-]+\.(?:py|md|yml|txt|lock|bib|toml))`", text))
    named |= set(re.findall(r"python (tools/\w+\.py)", text)) | set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert len(named) > 30
    for name in sorted(named):
        if re.search(r"[一-鿿]", name):
            name = os.path.dirname(name)
        assert list(ROOT.glob(name)), f"CONTRIBUTING.md 提到的 {name} 不存在"
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert module in sys.modules or importlib.util.find_spec(module), module


def test_contributing_shows_every_room_and_the_true_arrows():
    from test_house import LEVEL, PACKAGE

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    for room in rooms:
        assert f"| `lstm_lib/{room}/` |" in text, f"地图上没有 {room}"
    arrows = re.search(r"导入：(.*?)；", text)[1]
    levels = [{LEVEL[room] for room in re.findall(r"`(\w+)`", step)} for step in arrows.split("←")]
    assert all(len(level) == 1 for level in levels), arrows
    assert [level.pop() for level in levels] == sorted({LEVEL[room] for room in rooms}), arrows


def test_contributing_names_only_what_the_code_knows():
    """反引号里的名字（函数、表、标签）在源码或笔记本里找得到。"""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([A-Za-z_]\w*)(?:\([^`]*\))?`", text, re.A))
    sources = [*ROOT.glob("lstm_lib/**/*.py"), *ROOT.glob("chapters/*.ipynb"), *ROOT.glob("_ext/*.py")]
    sources += [ROOT / "noxfile.py", *ROOT.glob("tests/test_notebooks.py")]
    known = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    assert len(names) > 20 and names <= known | {"nox"}, names - known
