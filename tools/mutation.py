"""变异测试：把 lstm_lib/lstm/ 里的前向、约定、布局与权重文件 里的代码逐处改坏，看测试能不能发现。

在临时目录里用 mutmut 运行，不动本目录；结束时打印发现的比例，并列出没被发现的改动；发现的不到九成就以 1 退出。
例如：python tools/mutation.py 'lstm_lib.lstm.layouts.*'
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
MUTATED = (
    "lstm_lib/lstm/layouts.py",
    "lstm_lib/lstm/weight_file.py",
    "lstm_lib/lstm/conventions.py",
    "lstm_lib/lstm/forward.py",
)
TESTS = ("test_layouts.py", "test_lstm.py", "test_lstm_import.py", "test_lstm_backward.py")
CONFIG = """[mutmut]
paths_to_mutate = {mutated}
tests_dir = tests/
also_copy = lstm_lib
do_not_mutate =
pytest_add_cli_args = -n 0 -p no:cacheprovider -x -q -W ignore
"""


# 改坏之后只要知道错没错，不必费时找最小的反例
CONFTEST = """from hypothesis import Phase, settings

settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutation")
"""


def prepare(folder: Path) -> None:
    shutil.copytree(ROOT / "lstm_lib", folder / "lstm_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    (folder / "tests" / "conftest.py").write_text(CONFTEST)
    for test in TESTS:
        text = (ROOT / "tests" / test).read_text(encoding="utf-8")
        text = re.sub(r"max_examples=\d+", "max_examples=60", text)
        (folder / "tests" / test).write_text(text, encoding="utf-8")
    (folder / "setup.cfg").write_text(CONFIG.format(mutated="\n    ".join(("", *MUTATED))))


def mutmut(folder, *arguments, **options):
    return subprocess.run([sys.executable, "-m", "mutmut", *arguments], cwd=folder, check=False, **options)


def report(folder: Path) -> float:
    out = mutmut(folder, "results", "--all", "true", capture_output=True, text=True).stdout
    results = dict(re.findall(r"^\s*(\S+): (.+?)\s*$", out, re.MULTILINE))
    results = {name: status for name, status in results.items() if status != "not checked"}
    counts = Counter(results.values())
    killed = counts["killed"] + counts["timeout"] + counts["caught by type check"]
    for name, status in sorted(results.items()):
        if status not in ("killed", "timeout"):
            diff = mutmut(folder, "show", name, capture_output=True, text=True).stdout
            changes = [line for line in diff.splitlines() if re.match(r"[-+](?![-+])", line)]
            print(f"\n{name}（{status}）", *changes, sep="\n    ")
    total = sum(counts.values())
    print(f"\n{dict(counts)}：{total} 处改动，发现 {killed} 处，{killed / max(total, 1):.1%}")
    return killed / max(total, 1)


def main() -> int:
    parser = ChineseParser(prog="python tools/mutation.py", description=__doc__)
    parser.add_argument("names", metavar="通配符", nargs="*", help="只跑名字相符的改动；不给就全跑")
    parser.add_argument(
        "--keep", metavar="文件夹", type=Path, help="临时目录放在这里并保留，以便分几次跑：已有结果的不再重跑"
    )
    parser.add_argument("--jobs", metavar="个数", type=int, default=1, help="同时跑几个（默认 1）")
    parser.add_argument("--report-only", action="store_true", help="不跑，只汇总 --keep 里已有的结果")
    arguments = parser.parse_args()
    if arguments.report_only and not arguments.keep:
        parser.error("--report-only 要与 --keep 一起用")
    if importlib.util.find_spec("mutmut") is None:
        print("错误：没有装 mutmut；先运行 pip install mutmut", file=sys.stderr)
        return 1
    folder = arguments.keep or Path(tempfile.mkdtemp())
    if not (folder / "setup.cfg").exists():
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
    if not arguments.report_only:
        mutmut(folder, "run", "--max-children", str(arguments.jobs), *arguments.names)
    score = report(folder)
    if not arguments.keep:
        shutil.rmtree(folder)
    return 0 if score >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
