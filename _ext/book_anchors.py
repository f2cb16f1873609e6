"""小节的锚点是小节的题目：docutils 给中文题目的锚点是 id1、id2，添一节就全变，也看不出指着哪里。

题目里有拉丁字母的，原来的锚点（如 ``autograd``）留作别名，旧链接还能用；写明的标签排在最前。
习题与解答的正文各用习题的名字，不再全是 ``exercise-content``。
"""

import re
import unicodedata

from docutils import nodes
from sphinx.transforms import SphinxTransform


def slug(title: str) -> str:
    """题目 → 锚点：全角换半角，小写，标点与空白换成连字符；以数字开头的在选择器里写不得，前面添个字母。"""
    text = re.sub(r"[\W]+", "-", unicodedata.normalize("NFKC", title).lower()).strip("-_")
    return f"s-{text}" if re.match(r"\d", text) else text


class ReadableIds(SphinxTransform):
    """在登记标签（优先级 850）与收集目录（880）之前换好。"""

    default_priority = 840

    def apply(self, **kwargs):
        changed = {}
        for section in self.document.findall(nodes.section):
            if isinstance(section[0] if section.children else None, nodes.title):
                self.rename(section, changed)
            elif section["ids"] in (["exercise-content"], ["solution-content"]) and section.parent["ids"]:
                section["ids"] = [f"{section.parent['ids'][0]}-content"]
        for name, value in self.document.nameids.items():
            self.document.nameids[name] = changed.get(value, value)
        for node in self.document.findall(nodes.reference):
            if node.get("refid") in changed:
                node["refid"] = changed[node["refid"]]

    def rename(self, section, changed):
        name = slug(section[0].astext())
        if not name or name in section["ids"]:
            return
        unique, count = name, 1
        while unique in self.document.ids:
            count += 1
            unique = f"{name}-{count}"
        explicit = {
            self.document.nameids[n]
            for n, said in self.document.nametypes.items()
            if said and n in section["names"]
        }
        for old in section["ids"]:
            if re.fullmatch(r"id\d+", old):
                del self.document.ids[old]
            if old not in explicit:
                changed[old] = unique
        kept = [old for old in section["ids"] if not re.fullmatch(r"id\d+", old)]
        labels = [old for old in kept if old in explicit]
        section["ids"] = [*labels, unique, *(old for old in kept if old not in explicit)]
        self.document.ids[unique] = section


def setup(app):
    app.add_transform(ReadableIds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
