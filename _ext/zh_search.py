"""中文站内搜索：按相邻两字（bigram）建索引，查询在浏览器里按同样的办法切开。

Sphinx 自带的中文搜索靠 jieba 切索引，却从不切查询，「遗忘门」这样的词因此搜不到。
"""

import json
import re
from pathlib import Path

from sphinx.search.zh import SearchChinese

RUN = re.compile(r"[一-鿿㐀-䶿〇]+|[a-zA-Z0-9_]+")

SPLITTER = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


class SearchChineseBigrams(SearchChinese):
    """单字与相邻两字都进索引；拉丁字母、数字与下划线连成一个词。"""

    js_splitter_code = SPLITTER

    def split(self, text):
        terms = []
        for run in RUN.findall(text):
            if run[0].isascii():
                terms.append(run)
                self.latin_terms.append(run)
            else:
                terms.extend(run)
                terms.extend(run[i : i + 2] for i in range(len(run) - 1))
        return terms

    def word_filter(self, word):
        return len(word) > 1 or not word.isascii()


def write_home_pages(app, exception):
    """把术语表里「术语 → 讲它的那一章」写给搜索页，让那一章排在最前。"""
    if exception is not None or app.builder.format != "html":
        return
    homes = getattr(app, "glossary_homes", {})
    target = Path(app.outdir) / "_static" / "search_homes.js"
    target.write_text(f"window.SEARCH_HOMES = {json.dumps(homes, ensure_ascii=False)};\n", encoding="utf-8")


def add_home_pages(app, pagename, templatename, context, doctree):
    if pagename == "search":
        app.add_js_file("search_homes.js", priority=100)


def setup(app):
    app.add_search_language(SearchChineseBigrams)
    app.connect("build-finished", write_home_pages)
    app.connect("html-page-context", add_home_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
