"""比较两次建书执行出来的笔记本：除了标着 timing 的单元格（打印计时的），输出应当逐字相同。

有不同就列出来，以 1 退出。
"""

import difflib
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


def main() -> int:
    parser = ChineseParser(prog="python tools/compare_builds.py", description=__doc__)
    parser.add_argument("first", metavar="第一次", type=Path, help="第一次建书的 _build/jupyter_execute")
    parser.add_argument("second", metavar="第二次", type=Path, help="第二次建书的 _build/jupyter_execute")
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
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
