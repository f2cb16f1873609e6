"""中文站内搜索：按相邻两字（bigram）建索引，查询在浏览器里按同样的办法切开（zh_search.js）。

Sphinx 自带的中文搜索靠 jieba 切索引，却从不切查询，「遗忘门」这样的词因此搜不到；数字它根本不搜。
"""

import functools
import json
import re
import unicodedata
from pathlib import Path

import snowballstemmer
from docutils import nodes
from sphinx.search.zh import SearchChinese

# 依次：汉字，选项（--n-fft、-W），小数与科学记数（0.269、1e-6）、分节的整数（7,767,517），其余的词与整数
TOKEN = re.compile(
    r"(?P<han>[一-鿿㐀-䶿〇]+)"
    r"|(?P<option>(?<![A-Za-z0-9_-])--?[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*)"
    r"|(?P<number>(?:\d{1,3}(?:[,_]\d{3})+|\d+(?:\.\d+)?[eE][+-]?\d+|\d+(?:\.\d+)+)(?![A-Za-z0-9_]))"
    r"|[A-Za-z0-9_]+"
)
WORD = re.compile("[A-Za-z0-9_]+")
NUMBER = re.compile(r"\d[\w.,]*")
BLOCK_END = re.compile(r"</(?:td|th|tr|p|div|li|pre|h\d|text|tspan|summary)>|<br\b[^>]*>", re.IGNORECASE)

# 读者会这样问 → 书里这样说；左边的出现在查询里，就连右边的一起搜
SYNONYMS = {
    "安装": "pip install",
    "怎么装": "pip install",
    "install": "pip install",
    "bilstm": "双向",
    "bi-lstm": "双向",
    "bidirectional": "双向",
    "门的顺序": "门顺序",
    "门的次序": "门顺序",
    "门次序": "门顺序",
    "gate order": "门顺序",
    "iofc": "门顺序",
    "ifgo": "门顺序",
    "ifog": "门顺序",
    "batch first": "batch_first",
    "batch-first": "batch_first",
    "batchfirst": "batch_first",
}
HOMES = {"pip install": "index"}  # 术语表之外，这些词也有讲它的一页

SPLITTER = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


class SearchChineseBigrams(SearchChinese):
    """单字与相邻两字都进索引；拉丁字母、数字与下划线连成一个词，选项与小数整个再算一个词。"""

    js_splitter_code = SPLITTER

    def init(self, options):
        self.stemmer = snowballstemmer.stemmer("porter")  # 浏览器里的就是这一种，两边词干才相同

    def split(self, text):
        terms = []
        # 与查询一样先换成半角、平常的写法：h₀ 就是 h0
        for match in TOKEN.finditer(unicodedata.normalize("NFKC", text)):
            token = match.group()
            if match["han"]:
                terms.extend(token)
                terms.extend(token[i : i + 2] for i in range(len(token) - 1))
            elif match["option"]:
                terms += [token, *WORD.findall(token)]
            elif match["number"]:
                terms.append(re.sub("[,_]", "", token))
                terms += token.split(",") if "," in token else []  # (1,256,257) 不是一个数
            else:
                terms.append(token)
        return terms

    def stem(self, word):
        """三个字母以上、纯字母的词才取词干：ms、1e、weight_ih_l0、--streaming 都要原样。"""
        word = word.lower()
        return self.stemmer.stemWord(word) if re.fullmatch("[a-z]{3,}", word) else word

    def word_filter(self, word):
        return len(word) > 1 or not word.isascii()


def for_index(doctree):
    """给索引看的一份：HTML 的表格逐格分开；计时的输出里没有数字，它们每次都不同，也没有人搜。"""
    tree = doctree.deepcopy()
    for cell in tree.findall(nodes.container):
        if "tag_timing" in cell["classes"]:
            for output in cell.findall(nodes.container):
                if "cell_output" in output["classes"]:
                    for text in list(output.findall(nodes.Text)):
                        text.parent.replace(text, nodes.Text(NUMBER.sub(" ", text)))
    for raw in list(tree.findall(nodes.raw)):
        html = BLOCK_END.sub(" ", raw.astext())
        raw.children = [nodes.Text(html)]
    return tree


def index_readable(app):
    """建索引前先过 :func:`for_index`；页面本身不动。"""
    if app.builder.format == "html":
        index_page = app.builder.index_page

        @functools.wraps(index_page)
        def index_copy(pagename, doctree, title):
            index_page(pagename, for_index(doctree), title)

        app.builder.index_page = index_copy


def write_home_pages(app, exception):
    """写给搜索页：「术语 → 讲它的那一章」（那一章排最前），同义的说法，坑与术语的卡片。"""
    if exception is not None or app.builder.format != "html":
        return
    tables = {
        "SEARCH_HOMES": HOMES | getattr(app, "glossary_homes", {}),
        "SEARCH_SYNONYMS": SYNONYMS,
        "SEARCH_CARDS": getattr(app, "search_cards", []),
    }
    lines = [f"window.{name} = {json.dumps(table, ensure_ascii=False)};\n" for name, table in tables.items()]
    (Path(app.outdir) / "_static" / "search_homes.js").write_text("".join(lines), encoding="utf-8")


def add_home_pages(app, pagename, templatename, context, doctree):
    if pagename == "search":
        app.add_js_file("search_homes.js", priority=100)


def setup(app):
    app.add_search_language(SearchChineseBigrams)
    app.connect("builder-inited", index_readable)
    app.connect("build-finished", write_home_pages)
    app.connect("html-page-context", add_home_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
