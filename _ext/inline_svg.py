"""把本书自己画的 img/*.svg 直接嵌进网页，颜色便能跟着明暗主题走；别处来的 SVG 仍按普通图片处理。"""

import hashlib
import re
from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from lstm_lib.book.figures import svg


class InlineSvg(SphinxPostTransform):
    """网页输出时，把指向本书插图的 image 节点换成 SVG 原文。"""

    default_priority = 5  # 抢在收集图片之前
    formats = ("html",)

    def run(self, **kwargs):
        for count, node in enumerate(list(self.document.findall(nodes.image))):
            if node["uri"].endswith(".svg") and "://" not in node["uri"]:
                text = self.read(node)
                if text is not None:
                    node.replace_self(self.embed(text, node, count))

    def read(self, node):
        """读出本书的插图；别处来的图返回 None。"""
        path = Path(self.env.srcdir) / node["uri"]
        if not path.is_file():
            return None  # 缺文件由 Sphinx 自己报告
        text = path.read_text(encoding="utf-8")
        return text if svg.MARK in text[:1000] else None

    def embed(self, text, node, count):
        page = hashlib.sha256(self.env.docname.encode()).hexdigest()[:4]
        alt = node.get("alt", "").strip()
        text = svg.inline(text, prefix=f"s{page}{count}-")
        if alt:  # 没有另给，就用图自己带的说明
            text = svg.relabel(text, alt)
        if width := node.get("width"):
            text = re.sub(r"max-width:[^;]+;", lambda _: f"max-width:{width};", text, count=1)
        html = f'<div class="fig-scroll">{text}</div>'
        return nodes.raw("", html, format="html", classes=node.get("classes", []))


def setup(app):
    app.add_post_transform(InlineSvg)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
