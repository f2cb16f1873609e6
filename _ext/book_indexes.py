"""从全书收集出来的几样东西：坑的索引、执行状态、各章用时、术语表里每个词的出处。

- ``{pitfall-index}``：每一个带 ``pitfall`` 类的提示框，按目录顺序，附链接。
- ``{execution-status}``：每个笔记本的执行结果与耗时；``{environment-status}``：这次建书的机器与各包的版本。
- ``{chapter-times}``：各章读完与跑完各要多久，首页用。
- ``{get-the-book} windows``（``macos``、``linux``）：在这种系统上取得全书、装好、建书、打开笔记本的命令，一行一条；
  配了仓库地址时写明从哪里取。
- 术语表（Sphinx 的 ``{glossary}``）：解释里的第一个章节链接就是讲这个词的那一章，交给搜索页排序用。

执行状态取自 MyST-NB 收集的记录，表却自己排：它的 ``{nb-exec-table}`` 表头只有英文，链接上写的是文件名，没有合计。
"""

import os
import platform
import re
import time
from pathlib import Path

import cpuinfo
from docutils import nodes
from docutils.parsers.rst import Directive
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from lstm_lib.cli.doctor import installed_version, parse_requirements


class placeholder(nodes.General, nodes.Element):
    """占位：全书读完之后才知道填什么。"""


def placeholder_directive(kind):
    class Placeholder(Directive):
        def run(self):
            return [placeholder(kind=kind)]

    return Placeholder


# 各系统怎样建虚拟环境、进去、装；PowerShell 5 不认 &&，所以一行一条
SYSTEMS = {
    "windows": (
        "powershell",
        "py -m venv .venv",
        "Set-ExecutionPolicy -Scope Process RemoteSigned  # 只在这个窗口里准许运行脚本",
        ".venv\\Scripts\\Activate.ps1",
        "$env:PYTHONUTF8 = 1  # 文件与输出都用 UTF-8",
        "pip install -r requirements-dev.txt",
    ),
    "macos": (
        "bash",
        "python3 -m venv .venv",
        "source .venv/bin/activate",
        "pip install -r requirements-dev.txt",
    ),
    "linux": (
        "bash",
        "python3 -m venv .venv",
        "source .venv/bin/activate",
        "pip install --extra-index-url https://download.pytorch.org/whl/cpu -r requirements-dev.txt",
    ),
}


class GetTheBook(Directive):
    required_arguments = 1

    def run(self):
        system = self.arguments[0]
        if system not in SYSTEMS:
            raise self.error(f"get-the-book：没有 {system!r} 这种系统，要 {'、'.join(SYSTEMS)} 之一")
        return [placeholder(kind="commands", system=system)]


def docs_in_order(env):
    """目录里的顺序（深度优先）。"""
    order, stack = [], [env.config.root_doc]
    while stack:
        name = stack.pop()
        if name not in order:
            order.append(name)
            stack.extend(reversed(env.toctree_includes.get(name, [])))
    return order


def reading_minutes(doctree) -> int:
    """读完大约要几分钟：每分钟 300 个汉字或 10 行代码，取整到 5 分钟。"""
    code = list(doctree.findall(nodes.literal_block))
    lines = sum(
        len(block.astext().splitlines()) for block in code if "output" not in block.parent.get("classes", [])
    )
    characters = len(re.findall(r"[一-鿿]", doctree.astext()))
    return max(5, 5 * round((characters / 300 + lines / 10) / 5))


def first_sentence(box) -> list[nodes.Node]:
    """提示框正文的第一句（连同其中的代码与公式）；有引用的句子离开上下文读不通，留空。"""
    paragraph = next(iter(box.findall(nodes.paragraph)), None)
    found = []
    for child in paragraph.children if paragraph is not None else ():
        if isinstance(child, nodes.Text):
            sentence, stop, _ = child.astext().partition("。")
            found.append(nodes.Text(sentence + stop))
            if stop:
                break
        elif isinstance(child, nodes.literal | nodes.strong | nodes.emphasis | nodes.math):
            found.append(child.deepcopy())
        else:
            return []
    return found


def english_names(item) -> list[str]:
    """术语条目开头的英文名：「forget gate，$f_t$。」给出 forget gate；搜英文也能到那一章。"""
    paragraph = next(iter(item.findall(nodes.paragraph)), None)
    first = paragraph.children[0].astext() if paragraph is not None and paragraph.children else ""
    match = re.match(r"[A-Za-z][A-Za-z0-9 /-]+(?=[，。；（])", first)
    return [match.group(0)] if match else []


def glossary_card(item) -> tuple[list[str], str, str]:
    """术语条目的（各种叫法，锚点，解释的第一段；「见某章」不要）。"""
    terms = list(item.findall(nodes.term))
    paragraph = next(iter(item.findall(nodes.paragraph)), None)
    text = re.sub(r"[，。；]?\s*见[^。]*。\s*$", "。", paragraph.astext()) if paragraph is not None else ""
    return [term.astext() for term in terms] + english_names(item), terms[0]["ids"][0], text


def collect(app, doctree):
    env, docname = app.env, app.env.docname
    found = []
    for node in doctree.findall(nodes.Admonition):
        if "pitfall" in node.get("classes", []):
            title = next(iter(node.findall(nodes.title)), None)
            symptom = first_sentence(node)
            if not node["ids"]:
                node["ids"].append(f"pitfall-{len(found) + 1}")
            found.append((node["ids"][-1], title.astext() if title else "（无题）", symptom))
    env.pitfalls = {**getattr(env, "pitfalls", {}), docname: found}
    homes = {k: v for k, v in getattr(env, "glossary_homes", {}).items() if v[0] != docname}
    entries = []
    for item in doctree.findall(nodes.definition_list_item):
        if "glossary" not in item.parent.get("classes", []):
            continue
        entries.append(glossary_card(item))
        home = next((x["reftarget"] for x in item.findall(pending_xref) if x.get("reftype") == "doc"), None)
        if home is None:
            continue
        home = os.path.normpath(os.path.join(os.path.dirname(docname), home)).replace(os.sep, "/")
        terms = [term.astext() for term in item.findall(nodes.term)]
        homes |= {re.sub(r"\s+", " ", term).strip().lower(): (docname, home) for term in terms}
        for name in english_names(item):  # 与别的词条同名时，以那个词条为准
            homes.setdefault(name.strip().lower(), (docname, home))
    env.glossary_homes = homes
    env.glossary_entries = {**getattr(env, "glossary_entries", {}), docname: entries}
    env.reading = {**getattr(env, "reading", {}), docname: reading_minutes(doctree)}
    env.indexed_pages = getattr(env, "indexed_pages", set()) - {docname}
    if any(True for _ in doctree.findall(placeholder)):
        env.indexed_pages.add(docname)


def purge(app, env, docname):
    getattr(env, "pitfalls", {}).pop(docname, None)
    getattr(env, "glossary_entries", {}).pop(docname, None)
    getattr(env, "indexed_pages", set()).discard(docname)


def rewrite(app, env):
    """索引页依赖全书，每次都重写。"""
    pages = sorted(getattr(env, "indexed_pages", set()))
    if pages:
        cpu(env)  # 现在问，答案才随环境存盘
    return pages


def table(header, rows, classes=()):
    """docutils 的表：格里有链接，怎样写成 HTML 由 Sphinx 管，所以不用 lstm_lib.book.tables。"""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    head, body = nodes.thead(), nodes.tbody()
    for target, lines in ((head, [header]), (body, rows)):
        for line in lines:
            row = nodes.row()
            for cell in line:
                inside = cell if isinstance(cell, nodes.Node) else nodes.Text(str(cell))
                row += nodes.entry("", nodes.paragraph("", "", inside))
            target += row
    group += [head, body]
    return nodes.table("", group, classes=list(classes))


def cpu(env) -> dict:
    """py-cpuinfo 说的处理器。问一次要一秒多，答案存在建书的环境里，换了机器再问。"""
    machine = (platform.node(), platform.machine())
    if getattr(env, "cpu", (None, None))[0] != machine:
        env.cpu = (machine, cpuinfo.get_cpu_info())
    return env.cpu[1]


def processor(info: dict) -> str:
    return info.get("brand_raw") or platform.processor() or platform.machine()


def vector_instructions(info: dict) -> str:
    if "flags" not in info:
        return "未知"
    known = ["sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_int8", "neon", "asimd", "asimddp"]
    return "、".join(name for name in known if name in info["flags"]) or "无"


class FillPlaceholders(SphinxPostTransform):
    default_priority = 5

    def run(self, **kwargs):
        for node in list(self.document.findall(placeholder)):
            node.replace_self(getattr(self, "fill_" + node["kind"])(node))

    def link(self, docname, text, anchor=""):
        inner = nodes.inline("", text)
        return make_refnode(self.app.builder, self.env.docname, docname, anchor, inner)

    def title(self, docname):
        return self.env.titles[docname].astext() if docname in self.env.titles else docname

    def fill_pitfalls(self, node):
        # 搬来的句子里有公式；这一页自己没有，不说一声就不载入 MathJax
        self.env.get_domain("math").data["has_equations"][self.env.docname] = True
        result = []
        for docname in docs_in_order(self.env):
            found = self.env.pitfalls.get(docname)
            if not found:
                continue
            result.append(
                nodes.paragraph("", "", self.link(docname, self.title(docname)), classes=["pitfall-doc"])
            )
            items = nodes.bullet_list(classes=["pitfall-list"])
            for anchor, title, symptom in found:
                text = re.sub(r"^坑[:：]\s*", "", title)
                line = nodes.paragraph("", "", self.link(docname, text, anchor))
                if symptom:
                    parts = [part.deepcopy() for part in symptom]
                    line += nodes.inline("", "", *parts, classes=["pitfall-symptom"])
                items += nodes.list_item("", line)
            result.append(items)
        count = sum(len(self.env.pitfalls.get(name, ())) for name in docs_in_order(self.env))
        return [nodes.paragraph("", f"全书共 {count} 个坑。"), *result]

    def fill_execution(self, node):
        rows, total = [], 0.0
        for docname in docs_in_order(self.env):
            data = NbMetadataCollector.get_exec_data(self.env, docname)
            if not data:
                continue
            runtime = data.get("runtime")
            total += runtime or 0.0
            how = {"force": "现场执行", "cache": "取自缓存", "auto": "现场执行", "inline": "现场执行"}
            rows.append(
                [
                    self.link(docname, self.title(docname)),
                    "通过" if data["succeeded"] else "失败",
                    "—" if runtime is None else f"{runtime:.1f}",
                    how.get(data["method"], data["method"]),
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(data["mtime"])),
                ]
            )
        rows.append([f"合计 {len(rows)} 个", "", f"{total:.1f}", "", ""])
        header = ["章节", "结果", "耗时（秒）", "方式", "执行时间"]
        if len({row[3] for row in rows[:-1]}) == 1:  # 全是现场执行，就不必占一栏
            header, rows = header[:3] + header[4:], [row[:3] + row[4:] for row in rows]
        return [table(header, rows, ["exec-status"])]

    def fill_chapters(self, node):
        rows, total = [], [0, 0.0]
        for docname in docs_in_order(self.env):
            data = NbMetadataCollector.get_exec_data(self.env, docname)
            if not data or docname == self.env.config.root_doc:
                continue
            seconds, minutes = data.get("runtime") or 0.0, self.env.reading.get(docname, 5)
            total = [total[0] + minutes, total[1] + seconds]
            title = self.link(docname, self.title(docname))
            rows.append([title, f"{minutes} 分钟", f"{seconds:.0f} 秒" if seconds else "—"])
        rows.append(["合计", f"约 {total[0] / 60:.0f} 小时", f"{total[1] / 60:.1f} 分钟"])
        return [table(["章", "读完约需", "运行一遍"], rows, ["chapter-times"])]

    def fill_commands(self, node):
        language, *install = SYSTEMS[node["system"]]
        address = self.app.config.book_repository
        first = f"git clone {address} lstm-book" if address else "# 先取得全书，放进 lstm-book 文件夹"
        lines = [
            first,
            "cd lstm-book",
            *install,
            "python -m lstm_lib doctor  # 缺什么、怎么补",
            "jupyter lab",
        ]
        return [nodes.literal_block("", "\n".join(lines), language=language)]

    def fill_environment(self, node):
        rows = [
            ["操作系统", f"{platform.system()} {platform.machine()}"],
            ["处理器", processor(cpu(self.env))],
            [
                "可用核数",
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            ],
            ["向量指令", vector_instructions(cpu(self.env))],
            ["Python", platform.python_version()],
        ]
        for name, _ in parse_requirements(Path(self.app.srcdir) / "requirements.txt"):
            rows.append([name, installed_version(name) or "未安装"])
        return [table(["项目", "版本"], rows, ["env-status"])]


def simplify_homes(app, env):
    """给搜索页的是「词 → 页名」，收集时还带着词在哪一页定义。"""
    app.glossary_homes = {term: home for term, (_, home) in getattr(env, "glossary_homes", {}).items()}
    return []


def gather_cards(app, env):
    """搜索页最上面的卡片：坑与术语，各有名字、地址与一句话。"""
    suffix = app.builder.get_target_uri if app.builder.format == "html" else str
    app.search_cards = [
        {"kind": "坑", "names": [re.sub(r"^坑[:：]\s*", "", title)], "href": f"{suffix(docname)}#{anchor}",
         "text": "".join(node.astext() for node in symptom)}
        for docname in docs_in_order(env)
        for anchor, title, symptom in getattr(env, "pitfalls", {}).get(docname, ())
    ]  # fmt: skip
    app.search_cards += [
        {"kind": "术语", "names": names, "href": f"{suffix(docname)}#{anchor}", "text": text}
        for docname, entries in sorted(getattr(env, "glossary_entries", {}).items())
        for names, anchor, text in entries
    ]
    return []


def setup(app):
    app.add_node(placeholder)
    for kind, name in (
        ("pitfalls", "pitfall-index"),
        ("execution", "execution-status"),
        ("environment", "environment-status"),
        ("chapters", "chapter-times"),
    ):
        app.add_directive(name, placeholder_directive(kind))
    app.add_directive("get-the-book", GetTheBook)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", purge)
    app.connect("env-updated", rewrite)
    app.connect("env-updated", simplify_homes)
    app.connect("env-updated", gather_cards)
    app.add_post_transform(FillPlaceholders)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
