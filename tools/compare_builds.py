"""比较两次建书执行出来的笔记本：除了标着 timing 的单元格（打印计时的），输出应当逐字相同。

给了 ``--caches``，再比两份缓存：语料逐字节相同，训练出的权重逐位相同。有不同就列出来，以 1 退出。
"""

import difflib
import filecmp
import json
import re
from pathlib import Path

from lstm_lib.cli import ChineseParser

IGNORED_TAGS = {"timing"}
# 与内容无关、每次不同的东西：对象地址、随机的界面编号
NOISE = [
    (re.compile(r"0x[0-9a-f]{6,}"), "0x…"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "uuid"),
]


def clean(text) -> str:
    text = "".join(text) if isinstance(text, list) else str(text)
    for pattern, replacement in NOISE:
        text = pattern.sub(replacement, text)
    return text


def cell_outputs(cell) -> str:
    """一个单元格的全部输出，拼成一段可比较的文字。"""
    parts, streams = [], {}
    for output in cell.get("outputs", []):
        if "".join(output.get("data", {}).get("text/html", "有内容")) == "":
            continue  # 做完的进度条清空了自己；缓存里已有结果时它根本不出现
        if "text" in output:  # 同一个流分几次送到、夹在哪张图前后，要看时机；接起来再比
            name = output.get("name")
            streams[name] = streams.get(name, "") + clean(output["text"])
        for kind, data in sorted(output.get("data", {}).items()):
            if kind.startswith("application/papermill.record"):  # glue 的记录，建书时取走了
                continue
            body = json.dumps(data, ensure_ascii=False, sort_keys=True) if isinstance(data, dict) else data
            parts.append(f"[{kind}] {clean(body)}")
        if output.get("output_type") == "error":
            parts.append(f"[error] {output.get('ename')}: {output.get('evalue')}")
    for name, text in sorted(streams.items()):
        parts.append(f"[{name}]\n" + "\n".join(line for line in text.splitlines() if line.strip()))
    return "\n".join(parts)


def compare(first: dict, second: dict) -> list[str]:
    """两个执行过的笔记本（nbformat 字典）的不同之处。"""
    one, two = ([c for c in nb["cells"] if c["cell_type"] == "code"] for nb in (first, second))
    if [clean(c["source"]) for c in one] != [clean(c["source"]) for c in two]:
        return ["代码单元格不同"]
    if not all(any(c.get("outputs") for c in cells) for cells in (one, two)):
        return ["有一份没有任何输出：没有执行过，比了也白比"]
    problems = []
    for number, (a, b) in enumerate(zip(one, two, strict=True), 1):
        if IGNORED_TAGS.intersection(a.get("metadata", {}).get("tags", [])):
            continue
        left, right = cell_outputs(a), cell_outputs(b)
        if left != right:
            lines = difflib.unified_diff(left.splitlines(), right.splitlines(), lineterm="", n=0)
            shown = "\n      ".join(line[:200] for line in list(lines)[2:8])
            problems.append(f"第 {number} 个代码单元格：\n      {shown}")
    return problems


def compare_caches(first: Path, second: Path) -> tuple[int, list[str]]:
    """两份缓存里的语料与网络：比了几个文件，以及不同之处；两边是同一个文件的不算。"""
    from safetensors.numpy import load_file

    found = [
        {p.relative_to(d) for kind in ("corpus-*/*", "irm-*.safetensors") for p in d.glob(kind)}
        - {p.relative_to(d) for p in d.glob("corpus-*/seconds.txt")}  # 做了几秒，每次不同
        for d in (first, second)
    ]
    problems = [f"{name}：只有一边有" for name in sorted(found[0] ^ found[1])]
    pairs = [(name, first / name, second / name) for name in sorted(found[0] & found[1])]
    pairs = [(name, a, b) for name, a, b in pairs if not a.samefile(b)]
    for name, a, b in pairs:
        if name.suffix == ".safetensors":  # 文件里还记着训练用了几秒，只比张量
            one, two = ({k: (v.dtype, v.tobytes()) for k, v in load_file(p).items()} for p in (a, b))
            same = one == two
        else:
            same = filecmp.cmp(a, b, shallow=False)
        if not same:
            problems.append(f"{name}：两次做出的不同")
    return len(pairs), problems


def main() -> int:
    parser = ChineseParser(prog="python tools/compare_builds.py", description=__doc__)
    parser.add_argument("first", metavar="第一次", type=Path, help="第一次建书的 _build/jupyter_execute")
    parser.add_argument("second", metavar="第二次", type=Path, help="第二次建书的 _build/jupyter_execute")
    parser.add_argument("--caches", metavar=("第一次", "第二次"), nargs=2, type=Path, help="两次用的缓存目录")
    args = parser.parse_args()
    names = [sorted(p.relative_to(d) for p in d.rglob("*.ipynb")) for d in (args.first, args.second)]
    if names[0] != names[1] or not names[0]:
        print(f"笔记本不同：{names[0]} 与 {names[1]}")
        return 1
    different = 0
    for name in names[0]:
        pair = [json.loads((d / name).read_text(encoding="utf-8")) for d in (args.first, args.second)]
        for problem in compare(*pair):
            different += 1
            print(f"{name}：{problem}")
    print(f"比较了 {len(names[0])} 个笔记本，不同之处 {different} 个")
    if args.caches:
        count, problems = compare_caches(*args.caches)
        print("\n".join([*problems, f"比较了缓存里的 {count} 个文件，不同之处 {len(problems)} 个"]))
        different += len(problems) + (count == 0)
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
