"""把当前环境里各依赖的确切版本写进 requirements.lock。

请在一个刚用 requirements-dev.txt 装好的虚拟环境里运行。
只写 requirements.txt 与 requirements-dev.txt 直接或间接用到的包，环境里别的东西不写。
"""

import importlib.metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lstm_lib.cli import ChineseParser
from lstm_lib.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# 由 python tools/lock.py 生成：作者建书与测试时用的确切版本（CPython {}.{}，Linux x86-64）\n"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_requirements() -> list[Requirement]:
    result = []
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            text = line.split("#")[0].strip()
            if text and not text.startswith("-"):
                result.append(Requirement(text))
    return result


def closure(wanted) -> dict[str, str]:
    """名字 → 版本；本地版本号（如 +cpu）去掉，别的索引上没有它。"""
    found, queue = {}, [(r, "") for r in wanted]
    seen = set()
    while queue:
        requirement, extra = queue.pop()
        key = (normal(requirement.name), tuple(sorted(requirement.extras)))
        if key in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        found[key[0]] = distribution.version.split("+")[0]
        for text in distribution.requires or []:
            inner = Requirement(text)
            queue += [(inner, name) for name in (requirement.extras or {""})]
    return found


def main() -> int:
    ChineseParser(prog="python tools/lock.py", description=__doc__).parse_args()
    try:
        versions = closure(direct_requirements())
    except importlib.metadata.PackageNotFoundError as error:
        print(f"错误：没有安装 {error.name}；先运行 pip install -r requirements-dev.txt", file=sys.stderr)
        return 1
    versions.pop("lstm-lib", None)
    with atomic_path(ROOT / "requirements.lock") as temporary:
        lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
        temporary.write_text(HEADER.format(*sys.version_info[:2]) + "".join(lines), encoding="utf-8")
    print(f"写了 {len(versions)} 个包")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
