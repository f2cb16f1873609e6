"""成书的静态检查：不用浏览器就能查的都在这里。"""

import json
import re
from itertools import pairwise

import nbformat
import pytest
from bs4 import BeautifulSoup
from check_links import check_internal
from conftest import ROOT
from PIL import Image
from site_server import pages_in_order

PAGES = pages_in_order(ROOT)
ENGLISH_UI = re.compile(
    r"^(copy|copied!?|search|show code.*|hide code.*|click to (show|hide)|note|warning|tip|previous|next|"
    r"contents|on this page|toggle.*|download.*|print.*|main|color mode|system settings|light|dark|source|"
    r"back to top|skip to.*|link to this.*|permalink.*|exercise.*|solution.*|home|breadcrumb|launch.*|"
    r"fullscreen.*|by .*)$",
    re.I,
)


@pytest.fixture(scope="session")
def soups(book_site):
    return {
        name: BeautifulSoup((book_site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for name in PAGES
    }


def article(soup):
    return soup.find("article") or soup


def test_every_page_of_the_toc_is_built(book_site):
    missing = [name for name in [*PAGES, "search", "genindex"] if not (book_site / f"{name}.html").is_file()]
    assert not missing, f"目录里有、成书里没有：{missing}"


def test_language_title_and_description(soups):
    titles, descriptions = {}, {}
    for name, soup in soups.items():
        assert soup.html["lang"] == "zh-CN", f"{name} 的 lang 不是 zh-CN"
        titles[name] = soup.title.get_text().strip()
        tags = soup.find_all("meta", attrs={"name": "description"})
        assert len(tags) == 1, f"{name} 有 {len(tags)} 个描述"
        descriptions[name] = tags[0]["content"]
        assert re.search(r"[一-鿿]", descriptions[name]), f"{name} 的描述没有中文"
        assert 10 <= len(descriptions[name]) <= 160, f"{name} 的描述长 {len(descriptions[name])} 字"
    assert len(set(titles.values())) == len(titles), f"有重复的页面标题：{titles}"
    assert len(set(descriptions.values())) == len(descriptions), f"有重复的描述：{descriptions}"


def test_one_viewport_an_icon_and_a_card_on_every_page(soups, book_site):
    for name, soup in soups.items():
        assert len(soup.find_all("meta", attrs={"name": "viewport"})) == 1, name
        icon = soup.find("link", rel="apple-touch-icon")["href"]
        path = (book_site / f"{name}.html").parent / icon
        with Image.open(path) as image:
            assert image.format == "PNG" and image.size == (180, 180)
            image = image.convert("RGBA")
            corner, middle = image.getpixel((1, 1)), image.getpixel((90, 30))
            assert corner[3] < 60 and middle[3] > 250, "图标应是圆角、中间不透明"
        card = {tag["property"]: tag["content"] for tag in soup.find_all("meta", property=True)}
        assert card["og:title"] in soup.title.get_text() and card["og:locale"] == "zh_CN", name
        assert card["og:description"] == soup.find("meta", attrs={"name": "description"})["content"]
        assert card["og:type"] == ("website" if name == "index" else "article")


def test_headings_are_in_order(soups):
    for name, soup in soups.items():
        levels = [int(h.name[1]) for h in article(soup).find_all(re.compile(r"^h[1-6]$"))]
        assert levels.count(1) == 1, f"{name} 有 {levels.count(1)} 个一级标题"
        assert levels[0] == 1, f"{name} 不以一级标题开头"
        jumps = [(a, b) for a, b in pairwise(levels) if b > a + 1]
        assert not jumps, f"{name} 的标题跳级：{jumps}"


def test_anchors_are_readable_and_unique(soups):
    """每一节的锚点读得出是哪一节；一页里没有两个同名的。"""
    for name, soup in soups.items():
        sections = [
            s for s in article(soup).find_all("section") if s.find(re.compile("^h[1-6]$"), recursive=False)
        ]
        assert sections, name
        for section in sections:
            assert not re.fullmatch(r"id\d+", section["id"]), f"{name} 有一节的锚点是 {section['id']}"
            title = section.find(re.compile("^h[1-6]$"), recursive=False).get_text()
            han = set(re.findall("[一-鿿]", title))
            spans = section.find_all("span", id=True, recursive=False)  # 写明了标签的，小节的锚点排在它后面
            names = [section["id"], *(span["id"] for span in spans)]
            assert any(han <= set(n) for n in names), f"{name}：「{title}」的锚点是 {names}"
        names = [tag["id"] for tag in soup.find_all(id=True) if not tag.find_parent("svg")]
        twice = sorted({n for n in names if names.count(n) > 1})
        assert not twice, f"{name} 有同名的锚点：{twice}"


def test_every_picture_has_an_alternative_text(soups):
    for name, soup in soups.items():
        body = article(soup)
        for image in body.find_all("img"):
            assert image.get("alt", "").strip(), f"{name} 有图没有替代文字：{str(image)[:200]}"
            assert not re.fullmatch(r"(\.\./)*[\w/.-]+\.(png|svg|jpg)", image["alt"]), (
                f"{name}：替代文字是文件名"
            )
        for figure in body.select("figure svg, .cell_output svg"):
            if figure.find_parent("svg") or figure.find_parent(attrs={"aria-hidden": "true"}):
                continue
            holder = figure if figure.get("aria-label") or figure.get("role") else figure.parent
            named = holder.get("aria-label") or holder.get("aria-labelledby") or figure.find("title")
            hidden = figure.get("aria-hidden") == "true"
            assert named or hidden, f"{name} 有 SVG 没有替代文字：{str(figure)[:200]}"


def test_interface_is_chinese(soups):
    for name, soup in soups.items():
        for node in soup.find_all(True):
            if node.name in ("svg", "pre", "code") or node.find_parent(["svg", "pre", "code"]):
                continue
            for key in ("title", "aria-label", "placeholder", "data-bs-title", "data-tooltip"):
                text = str(node.get(key, "")).strip()
                assert not ENGLISH_UI.match(text), f"{name}：<{node.name} {key}={text!r}> 还是英文"
        for node in soup.select("button, .admonition-title, summary, .prev-next-subtitle, .caption"):
            text = node.get_text(" ", strip=True)
            assert not ENGLISH_UI.match(text), f"{name}：{text!r} 还是英文"


def test_interface_texts_in_scripts_are_chinese(book_site):
    translations = (book_site / "_static" / "translations.js").read_text(encoding="utf-8")
    assert "zh" in translations, "界面脚本没有用中文词表"
    index = (book_site / "index.html").read_text(encoding="utf-8")
    assert "点此展开" in index, "折叠提示不是中文"
    assert "复制" in (book_site / "_static" / "copybutton.js").read_text(encoding="utf-8"), "复制按钮不是中文"


def test_nothing_is_fetched_from_elsewhere(soups):
    for name, soup in soups.items():
        for tag, key in (
            ("script", "src"),
            ("link", "href"),
            ("img", "src"),
            ("iframe", "src"),
            ("audio", "src"),
            ("source", "src"),
        ):
            for node in soup.find_all(tag):
                if tag == "link" and "canonical" in (node.get("rel") or []):
                    continue
                assert not re.match(r"(https?:)?//", node.get(key) or ""), f"{name} 向外站取：{node.get(key)}"


def test_sound_is_in_files_and_waits(soups, book_site):
    for name, soup in soups.items():
        assert "data:audio" not in str(article(soup)), f"{name} 里还有内嵌的声音"
        for player in soup.find_all("audio"):
            assert player.get("preload") == "none", f"{name} 的播放器一打开页面就取声音"
            sources = [s.get("src") for s in [player, *player.find_all("source")] if s.get("src")]
            for source in sources:
                path = (book_site / f"{name}.html").parent / source
                assert path.is_file(), f"{name}：{source} 不存在"
                assert path.stat().st_size > 500, f"{name}：{source} 太小，不像声音"


def test_internal_links_and_anchors(book_site):
    broken = check_internal(book_site)
    assert not broken, "坏链接：\n" + "\n".join(broken)


def test_scripts_only_where_they_are_needed(soups, book_site):
    """没有公式的页不载入 MathJax，有的都载入；图标写在页面里，不载入 Font Awesome。"""
    with_formulas = {name for name, soup in soups.items() if article(soup).select(".math, .amsmath")}
    with_mathjax = {
        name for name, soup in soups.items() if any("mathjax" in s["src"] for s in soup.select("script[src]"))
    }
    assert with_formulas and with_formulas <= with_mathjax
    assert with_mathjax - with_formulas <= {n for n in PAGES if "$" in article(soups[n]).get_text()}
    assert "index" not in with_mathjax
    for name, soup in soups.items():
        assert not [s["src"] for s in soup.select("script[src]") if "fontawesome" in s["src"]], name
        assert not soup.select("i[class*=fa-], span[class*=fa-]"), f"{name} 里还有靠字体画的图标"
        assert len(soup.select("svg.book-icon")) >= 6, f"{name} 的图标没有画出来"
    assert not list((book_site / "_static").rglob("fa-*.woff2"))


def test_download_button_gives_the_notebook(soups, book_site):
    notebooks = [name for name in PAGES if (ROOT / f"{name}.ipynb").is_file()]
    for name in notebooks:
        links = [a["href"] for a in soups[name].find_all("a", href=True) if a["href"].endswith(".ipynb")]
        assert links, f"{name} 没有下载笔记本的按钮"
        path = (book_site / f"{name}.html").parent / links[0].split("?")[0]
        notebook = nbformat.read(path, as_version=4)
        assert notebook.cells, f"{name} 下载到的笔记本是空的"


def test_pitfall_index_lists_every_box(soups):
    boxes = sum(len(article(soup).select(".admonition.pitfall")) for soup in soups.values())
    if "chapters/pitfalls" in soups:
        listed = soups["chapters/pitfalls"].select(".pitfall-list a")
        assert len(listed) == boxes, f"索引里 {len(listed)} 个坑，各章共 {boxes} 个"
    names = [box.get("id") for soup in soups.values() for box in article(soup).select(".admonition.pitfall")]
    assert len(set(names)) == len(names), "坑的锚点有重复"


def test_status_page_lists_every_notebook(soups):
    if "chapters/status" not in soups:
        pytest.fail("没有执行状态页 chapters/status")
    page = soups["chapters/status"]
    linked = {a["href"].split("/")[-1].removesuffix(".html") for a in page.select(".exec-status a[href]")}
    missing = [n for n in PAGES if (ROOT / f"{n}.ipynb").is_file() and n.split("/")[-1] not in linked]
    assert not missing, f"执行状态里缺：{missing}"
    assert "失败" not in page.select_one(".exec-status").get_text(), "有笔记本没有通过"
    assert re.search(r"torch\s*2\.", page.select_one(".env-status").get_text(" ")), "版本表里没有 torch"


def test_search_index_has_bigrams(book_site):
    text = (book_site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    for term in ("遗忘", "忘门", "weight_ih_l0"):
        assert term in index["terms"] or term in index["titleterms"], f"搜索索引里没有 {term}"
