"""建书本身：用同一份 _config.yml 建很小的书，看断言失败、缓存、仓库按钮各自的行为；以及各扩展的小测试。"""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import types
import unicodedata
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit
from xml.etree import ElementTree

import book_anchors
import book_estimate
import book_icons
import book_indexes
import book_meta
import book_report
import book_sharing
import nbformat
import numpy as np
import pytest
from book_finish import extract_media, finish_page
from book_key import content_key, library_key
from bs4 import BeautifulSoup
from compare_builds import compare, compare_caches
from conftest import ROOT
from PIL import Image
from quick_build import JUPYTER_BOOK
from site_server import serve
from sphinx.errors import ConfigError, ExtensionError
from zh_search import SearchChineseBigrams

from lstm_lib import native
from lstm_lib.enhance import trained

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQAAAAA="
STRICT = ("-W", "-n", "--keep-going")
# 抽取文字时，同形的部首补充字符会冒充汉字，NFKC 不管这一段
RADICALS = str.maketrans("⻔⻚⻓⻅⻛⻋⻢⻩⻬⻆⻉⻰⻝", "门页长见风车马黄齐角贝龙食")


def write_notebook(path, *cells):
    cells = [nbformat.v4.new_markdown_cell("# 小书的一章\n\n这一章只为测试而写，讲遗忘门。")] + [
        nbformat.v4.new_code_cell(cell) for cell in cells
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)


@pytest.fixture
def tiny_book(tmp_path):
    """同一份配置、同样的扩展与样式，只有两页。"""
    book = tmp_path / "book"
    (book / "chapters").mkdir(parents=True)
    for name in ("_config.yml", "references.bib", "requirements.txt"):
        shutil.copy(ROOT / name, book / name)
    config = (book / "_config.yml").read_text(encoding="utf-8")
    for name in ("logo", "favicon"):  # 图不在小书里
        config = re.sub(rf"^(\s*){name}: .*$", "", config, flags=re.M)
    (book / "_config.yml").write_text(config, encoding="utf-8")
    for name in ("_ext", "_site_static"):
        shutil.copytree(ROOT / name, book / name, ignore=shutil.ignore_patterns("mathjax", "__pycache__"))
    (book / "lstm_lib").mkdir()
    (book / "lstm_lib" / "one.py").write_text("ONE = 1\n", encoding="utf-8")
    (book / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: chapters/one\n", encoding="utf-8"
    )
    (book / "index.md").write_text("# 小书\n\n这是首页，只有一句话。\n", encoding="utf-8")
    return book


def build(book, *options, **environment):
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("BOOK_")}
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(book), *options]
    return subprocess.run(command, capture_output=True, text=True, env=env | environment, check=False)


def page(book, name="chapters/one"):
    return (book / "_build" / "html" / f"{name}.html").read_text(encoding="utf-8")


def test_a_failing_assert_fails_the_build_every_time(tiny_book):
    write_notebook(tiny_book / "chapters" / "one.ipynb", "assert 1 + 1 == 3, '算错了'")
    for attempt in (1, 2):
        done = build(tiny_book)
        assert done.returncode != 0, f"第 {attempt} 次建书没有因断言失败而失败"
        assert "算错了" in done.stdout + done.stderr, "报错里没有断言的消息"


def test_a_strict_build_fails_until_the_book_is_mended(tiny_book):
    """两次失败之后改好了就建得成，没有坏在上一次手里；写到标准错误的又使它失败。"""
    shutil.copytree(ROOT / "img", tiny_book / "img")
    shutil.copy(ROOT / "_config.yml", tiny_book / "_config.yml")  # 带标志与图标的原样配置
    chapter = tiny_book / "chapters" / "one.ipynb"
    write_notebook(chapter, "assert False, '先失败两次'")
    for attempt in (1, 2):
        done = build(tiny_book, *STRICT)
        assert done.returncode != 0, f"第 {attempt} 次建书没有因断言失败而失败"
        assert "先失败两次" in done.stdout + done.stderr, "报错里没有断言的消息"
    write_notebook(chapter, "print('改好了')")
    done = build(tiny_book, *STRICT)
    assert done.returncode == 0, "改好了也建不成：" + done.stdout[-2000:] + done.stderr[-3000:]
    assert 'lang="zh-CN"' in page(tiny_book)
    kept = nbformat.read(tiny_book / "_build" / "jupyter_execute" / "chapters" / "one.ipynb", 4)
    assert [c.outputs[0].text for c in kept.cells if c.cell_type == "code"] == ["改好了\n"], "留下的没有输出"
    assert "colab.research.google.com" not in page(tiny_book), "没配地址也出现了 Colab 按钮"
    write_notebook(chapter, "import sys\nprint('警告', file=sys.stderr)")
    assert build(tiny_book, *STRICT).returncode != 0, "写到标准错误的输出没有使建书失败"


def test_changed_library_reexecutes_unchanged_notebooks(tiny_book):
    code = "import time\nprint('时刻', time.time_ns())"
    write_notebook(tiny_book / "chapters" / "one.ipynb", code)

    def moment(**environment):
        done = build(tiny_book, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return re.search(r"时刻 (\d+)", page(tiny_book)).group(1)

    first = moment(BOOK_QUICK="1")
    index = tiny_book / "index.md"
    index.write_text(index.read_text(encoding="utf-8") + "\n又添一句。\n", encoding="utf-8")
    notebook = tiny_book / "chapters" / "one.ipynb"
    text = notebook.read_text(encoding="utf-8").replace("只为测试而写", "为测试而写")
    notebook.write_text(text, encoding="utf-8")
    start = time.perf_counter()
    second = moment(BOOK_QUICK="1")
    print(f"改一句话后的快速重建：{time.perf_counter() - start:.1f} 秒")
    assert second == first, "只改文字，却重新执行了代码"
    assert "这一章为测试而写" in page(tiny_book), "改的字没有出来"
    (tiny_book / "lstm_lib" / "one.py").write_text("ONE = 2\n", encoding="utf-8")
    third = moment(BOOK_QUICK="1")
    assert third != second, "程序包变了，快速重建却仍用旧输出"
    (tiny_book / "lstm_lib" / "one.py").write_text("ONE = 3\n", encoding="utf-8")
    assert moment() != third, "程序包变了，普通建书却没有重新执行"
    assert build(tiny_book, BOOK_QUICK="1", CI="1").returncode != 0, "持续集成里竟能用快速重建"


def test_launch_buttons_appear_with_an_address(tiny_book):
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    done = build(tiny_book, BOOK_REPOSITORY_URL="https://github.com/someone/lstm-book")
    assert done.returncode == 0, done.stderr[-2000:]
    text = page(tiny_book)
    address = "https://colab.research.google.com/github/someone/lstm-book/blob/main/chapters/one.ipynb"
    assert address in text, "配了地址，Colab 按钮没有出现或指错"
    assert "mybinder.org/v2/gh/someone/lstm-book/main" in text, "配了地址，Binder 按钮没有出现"


def links(book, name):
    """一页的 {报告错误、编辑这一页：地址}：页脚里的，与页眉按钮里的应当一样。"""
    soup = BeautifulSoup(page(book, name), "html.parser")
    found = {a.text: a["href"] for a in soup.select(".extra_footer a")}
    buttons = {a.get_text(strip=True): a["href"] for a in soup.select(".article-header-buttons a")}
    for text, address in found.items():
        assert not buttons or buttons[text] == address, f"{name} 的「{text}」两处不一样"
    return found


def test_a_published_page_takes_reports_and_edits(tiny_book):
    """发布的书：每一页都能报告错误（页面、网址与提交填好了），写出来的页都能编辑，改的是源文件所在的分支。"""
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    index = tiny_book / "index.md"
    tabs = "".join(
        f":::{{tab-item}} {name}\n:sync: {name}\n```{{get-the-book}} {name}\n```\n:::\n"
        for name in book_indexes.SYSTEMS
    )
    index.write_text(f"{index.read_text(encoding='utf-8')}\n::::{{tab-set}}\n{tabs}::::\n", encoding="utf-8")
    git = ["git", "-C", str(tiny_book), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "index.md"], ["commit", "-q", "-m", "一"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    repository = "https://github.com/some-one/lstm_book"
    done = build(
        tiny_book,
        *STRICT,
        BOOK_PUBLISH="1",
        BOOK_REPOSITORY_URL=f"{repository}.git",
        BOOK_REPOSITORY_BRANCH="colab",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    sources = {
        "index": "index.md",
        "chapters/one": "chapters/one.ipynb",
        "search": "",
        "genindex": "",
        "404": "",
    }
    for name, source in sources.items():
        found = links(tiny_book, name)
        address, _, query = found["报告错误"].partition("?")
        fields = parse_qs(query)
        assert address == f"{repository}/issues/new" and fields["title"][0].endswith("："), name
        body = fields["body"][0]
        assert f"https://some-one.github.io/lstm_book/{name}.html\n" in body, f"{name}：没有填页面"
        assert commit[:12] in body, f"{name}：没有填提交"
        expected = f"{repository}/edit/main/{source}" if source else None
        assert found.get("编辑这一页") == expected, name
    blocks = [
        b.get_text()
        for b in BeautifulSoup(page(tiny_book, "index"), "html.parser").select(".sd-tab-content pre")
    ]
    assert len(blocks) == len(book_indexes.SYSTEMS), "每种系统一个选项卡"
    assert all(b.startswith(f"git clone {repository} lstm-book\ncd lstm-book\n") for b in blocks), blocks
    assert ["Activate.ps1" in b for b in blocks] == [True, False, False]
    text = page(tiny_book)
    assert "/blob/colab/chapters/one.ipynb" in text, "Colab 打开的不是填好地址的分支"
    assert "fa-pencil" in text and not re.search(r"<(i|span) class=.[^>]*fa-pencil", text), "图标没有画出来"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ("没有仓库的地址", "BOOK_REPOSITORY_URL", "_config.yml")),
        ({"BOOK_REPOSITORY_URL": "https://gitlab.com/a/b"}, ("网站", "BOOK_BASE_URL")),
        (
            {"BOOK_REPOSITORY_URL": "https://example.org/a/b", "BOOK_BASE_URL": "https://b.org"},
            ("book_report",),
        ),
        ({"BOOK_REPOSITORY_URL": "git@github.com:a/b.git"}, ("git@github.com:a/b.git", "不对")),
    ],
)
def test_a_book_without_an_address_is_not_published(tiny_book, environment, words):
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    done = build(tiny_book, BOOK_PUBLISH="1", **environment)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and all(word in said for word in words), said[-1500:]
    assert not (tiny_book / "_build" / "html" / "index.html").exists(), "不该发布的书建出来了"


@pytest.mark.parametrize(
    "bad", ["github.com/a/b", "https://github.com/a", "ssh://git@github.com/a/b", "仓库", 'https://a/b/"x']
)
def test_repository_addresses_are_checked(bad):
    with pytest.raises(ConfigError, match="不对"):
        book_meta.repository_address(bad)


@pytest.mark.parametrize(
    "good", ["https://github.com/a-b/c.d", "https://gitlab.com/a/sub/b", "http://git.lan:3000/a/b"]
)
def test_repository_addresses_lose_their_tail(good):
    for text in (good, f"{good}/", f" {good}.git"):
        assert book_meta.repository_address(text) == good
    assert book_meta.repository_address("") == ""


def test_gitlab_has_its_own_addresses():
    repository = "https://gitlab.example.org/a/sub/b"
    address = book_report.report_address(repository, "门 & 门", "chapters/gates.html", "abc123")
    assert address.startswith(f"{repository}/-/issues/new?")
    fields = parse_qs(urlsplit(address).query)
    assert fields["issue[title]"] == ["门 & 门："] and "abc123" in fields["issue[description]"][0]
    edit = book_report.edit_address(repository, "main", "chapters/一.md")
    assert edit == f"{repository}/-/edit/main/chapters/{quote('一')}.md"
    assert book_report.edit_address("https://example.org/a/b", "main", "x.md") == ""


def test_the_book_is_got_on_known_systems_only(tiny_book):
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    (tiny_book / "index.md").write_text("# 小书\n\n首页。\n\n```{get-the-book} beos\n```\n", encoding="utf-8")
    done = build(tiny_book, *STRICT)
    assert done.returncode != 0 and "没有 'beos' 这种系统" in done.stdout + done.stderr


def test_a_published_site_knows_its_address(tiny_book, browser):
    """知道地址时：规范网址、网站地图、每页一张卡片，404 页在子路径下也完整。"""
    (tiny_book / "index.md").write_text("# 小书\n\n这是首页，只有一句话。\n\n## 门\n\n甲\n", encoding="utf-8")
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    done = build(tiny_book, *STRICT, BOOK_REPOSITORY_URL="https://github.com/Someone/lstm-book")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    site, base = tiny_book / "_build" / "html", "https://someone.github.io/lstm-book/"
    cards = set()
    for name, address in (("index", base), ("chapters/one", f"{base}chapters/one.html")):
        soup = BeautifulSoup(page(tiny_book, name), "html.parser")
        (canonical,) = soup.find_all("link", rel="canonical")
        assert canonical["href"] in (address, f"{base}{name}.html")
        found = {tag["property"]: tag["content"] for tag in soup.find_all("meta", property=True)}
        assert found["og:url"] == address and found["og:image"].startswith(base)
        with Image.open(site / found["og:image"].removeprefix(base)) as image:
            assert image.size == (1200, 630)
            shades = np.asarray(image.convert("L"))
            assert (shades > 200).sum() > 2000, "卡片上没有字"
            cards.add(image.tobytes())
    assert len(cards) == 2, "两页的卡片一样"
    urls = ElementTree.parse(site / "sitemap.xml").getroot().findall(".//{*}loc")
    assert sorted(url.text for url in urls) == [base, f"{base}chapters/one.html"]
    # 放进子路径，打开一个不存在的深地址
    root = tiny_book / "server"
    root.mkdir()
    shutil.copytree(site, root / "lstm-book")
    shutil.copy(site / "404.html", root / "404.html")
    tab, failed = browser.new_page(), []
    tab.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
    with serve(root) as address:
        tab.goto(f"{address}lstm-book/no/such/page.html", wait_until="networkidle")
        lost = [url for url in failed if "logo" not in url]  # 标志不在小书里
        assert lost == [tab.url], "404 页取不到它的样式或脚本"
        assert tab.locator("article h1").inner_text().startswith("没有这一页")
        assert tab.locator(".bd-sidebar-primary a", has_text="小书的一章").count() == 1
        assert tab.evaluate("getComputedStyle(document.body).fontFamily").startswith("system-ui")
        tab.locator("article a", has_text="首页").click()
        tab.wait_for_url("**/lstm-book/index.html")
    tab.close()


def test_without_an_address_nothing_points_anywhere(tiny_book):
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    assert build(tiny_book).returncode == 0
    site = tiny_book / "_build" / "html"
    text = page(tiny_book)
    assert 'rel="canonical"' not in text and "og:url" not in text and "og:image" not in text
    assert "报告错误" not in text and "编辑这一页" not in text
    assert not (site / "sitemap.xml").exists() and not (site / "_static" / "cards").exists()
    assert 'href="/index.html"' in (site / "404.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("https://github.com/Someone/lstm-book", "https://someone.github.io/lstm-book"),
        ("https://github.com/someone/lstm-book.git", "https://someone.github.io/lstm-book"),
        ("https://github.com/someone/someone.github.io", "https://someone.github.io"),
        ("https://gitlab.com/someone/lstm-book", ""),
        ("", ""),
    ],
)
def test_address_of_the_published_site(repository, address):
    assert book_meta.pages_address(repository) == address


def test_words_on_a_card_break_like_a_book():
    face = book_sharing.font(68)
    lines = book_sharing.wrap("基于 LSTM 的语音增强：IRM 网络，导出 ONNX 与化简", face, 640)
    assert len(lines) >= 2 and all(face.getlength(line.rstrip()) <= 640 for line in lines)
    assert not any(line[0] in "，。：； " for line in lines) and "LSTM" in "|".join(lines)


class Site(BaseHTTPRequestHandler):
    """站外的一个网站：地址里的数就是回答的状态码。"""

    def do_GET(self):
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_external_links_are_checked_without_executing_again(tiny_book):
    """站外的链接由 Sphinx 的 linkcheck 查：坏的报出来，以非零退出；笔记本不再执行。"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}"
    write_notebook(
        tiny_book / "chapters" / "one.ipynb", "from pathlib import Path\nPath('跑过').open('a').write('x')"
    )
    index = tiny_book / "index.md"
    index.write_text(f"# 小书\n\n[好的]({site}/200)，[服务停了]({site}/503)。\n", encoding="utf-8")
    linkcheck = ["--builder", "custom", "--custom-builder", "linkcheck"]
    try:
        assert build(tiny_book).returncode == 0
        done = build(tiny_book, *linkcheck)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert (tiny_book / "chapters" / "跑过").read_text() == "x", "查链接时又执行了一遍笔记本"
        text = index.read_text(encoding="utf-8")
        index.write_text(text + f"\n[坏的]({site}/404)\n", encoding="utf-8")
        assert build(tiny_book, *linkcheck).returncode != 0, "坏链接没有使检查失败"
    finally:
        server.shutdown()
    report = (tiny_book / "_build" / "linkcheck" / "output.txt").read_text(encoding="utf-8")
    assert [line.split("] ")[1].split(": ")[0] for line in report.splitlines()] == [f"{site}/404"], report


def test_every_chapter_alone_in_an_empty_folder(tiny_book):
    """``BOOK_ALONE=1``：在空目录里执行，看不到别的文件，也不许留下文件。"""
    chapter = tiny_book / "chapters" / "one.ipynb"
    write_notebook(chapter, "import os\nprint('看得到', os.listdir())")
    done = build(tiny_book, *STRICT, BOOK_ALONE="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "看得到 []" in page(tiny_book)
    write_notebook(chapter, "open('留下.txt', 'w').close()")
    done = build(tiny_book, BOOK_ALONE="1")
    assert done.returncode != 0 and "留下.txt" in done.stdout + done.stderr


def test_the_estimate_counts_what_is_missing():
    cold = {
        "probe": book_estimate.REFERENCE_PROBE,
        "corpus": True,
        "networks": 4,
        "steps": 4800,
        "step": 0.045,
    }
    (line,) = book_estimate.sentences(cold, 12, workers=2)
    assert "4 个网络共 4800 步约 4 分钟" in line and "12 个笔记本" in line and "合成语料" in line
    warm = cold | {"probe": 3 * cold["probe"], "corpus": False, "networks": 0, "steps": 0}
    line, busy = book_estimate.sentences(warm, 12, workers=1)
    assert "训练" not in line and "语料" not in line and "慢 3.0 倍" in busy
    said = []
    book_estimate.announce([1], 2, said.append)
    assert said == [], "只有一章要执行，不必估"


def test_the_estimate_measures_this_machine(tmp_path, monkeypatch):
    """缓存是空的：每个网络都缺，一步训练真的走了。"""
    monkeypatch.setenv("LSTM_LIB_CACHE", str(tmp_path))
    facts = book_estimate.calibrate()
    assert facts["corpus"] and facts["networks"] == len(trained.RECIPES) and facts["steps"] > 1000
    assert 1e-4 < facts["step"] < 60 and 1e-3 < facts["probe"] < 60
    assert list(tmp_path.iterdir()) == [], "估一估就留下了东西"


def test_search_splits_chinese_by_two():
    language = SearchChineseBigrams({})
    terms = language.split("遗忘门 weight_ih_l0 与 LSTM")
    assert {"遗忘", "忘门", "weight_ih_l0", "LSTM", "门"} <= set(terms)
    assert language.word_filter("门") and not language.word_filter("a")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("共 7,767,517 个", ["7767517"]),
        ("(1,256,257)", ["256", "257"]),
        ("100_000 步", ["100000"]),
        ("差 1e-6，约 0.269，2.13.0 版", ["1e-6", "0.269", "2.13.0"]),
        ("标志 0x01306B47、257个频点", ["0x01306b47", "257", "频点"]),
        ("`--n-fft`、加--streaming、-W", ["--n-fft", "fft", "--streaming", "stream", "-w"]),
        ("SI-SDR", ["si", "sdr"]),
        ("torch.onnx.export(weight_hh_l0)", ["torch", "onnx", "export", "weight_hh_l0"]),
    ],
)
def test_search_index_keeps_numbers_and_options_whole(text, terms):
    language = SearchChineseBigrams({})
    found = {language.stem(term) for term in language.split(text)}
    assert set(terms) <= found
    if text == "SI-SDR":
        assert found == {"si", "sdr"}, "词中间的连字号不是选项"


def test_search_finds_numbers_and_options(tiny_book, browser):
    """小书里搜数字与选项；词首的减号仍是「不要」，选项的不是；计时的数字不进索引。"""
    (tiny_book / "index.md").write_text(
        "# 小书\n\n网络有 7,767,517 个参数、257 个频点，用 `python -m lstm_lib export --to onnx --streaming` 导出，"
        "误差 1e-6。写到标准错误的警告使 `-W` 失败，有 bias，每帧 12 ms，末状态 h₀。\n",
        encoding="utf-8",
    )
    chapter = tiny_book / "chapters" / "one.ipynb"
    write_notebook(chapter, "print('用时', 31414 + 1, '毫秒')", "print(0x01306B47, 'torch.onnx.export')")
    notebook = nbformat.read(chapter, 4)
    notebook.cells[1].metadata["tags"] = ["timing"]
    notebook.cells[0].source += "导出用 streaming 模式，共 16000 点。"
    nbformat.write(notebook, chapter)
    done = build(tiny_book)
    assert done.returncode == 0, done.stderr[-3000:]
    site = tiny_book / "_build" / "html"
    assert "31415" in page(tiny_book), "计时的输出应照样在页面上"
    tab = browser.new_page()
    wanted = {
        "7767517": {"index"},
        "7,767,517": {"index"},
        "257": {"index"},
        "257 个频点": {"index"},
        "1e-6": {"index"},
        "16000": {"chapters/one"},
        "２５７": {"index"},
        "0x01306B47": {"chapters/one"},
        "19950407": {"chapters/one"},
        "--streaming": {"index"},
        "—streaming": {"index"},
        "“--to”": {"index"},
        "--to onnx": {"index"},
        "-W": {"index"},
        "streaming": {"index", "chapters/one"},
        "torch.onnx.export": {"chapters/one"},
        "导出 -streaming": set(),
        "导出 -遗忘门": {"index"},
        "导出 -频点": {"chapters/one"},
        "导出 -onnx99": {"index", "chapters/one"},
        "31415": set(),
        "bias": {"index"},  # 两边的词干要用同一种取法
        "ms": {"index"},
        "h₀": {"index"},
        "constructor": set(),  # 语言自带的名字不是书里的词
        "__proto__": set(),
    }
    found = {}
    with serve(site) as base:
        for query in wanted:
            tab.goto(f"{base}search.html?q={quote(query)}", wait_until="load")
            tab.wait_for_function("() => !!document.querySelector('.search-summary')?.innerText.trim()")
            links = tab.locator("ul.search > li > a").evaluate_all(
                "all => all.map(a => a.getAttribute('href'))"
            )
            found[query] = {re.split(r"[?#]", link)[0].removesuffix(".html") for link in links}
    tab.close()
    assert found == wanted


def test_processor_is_asked_once_for_each_machine(monkeypatch):
    env, asked = types.SimpleNamespace(), []
    monkeypatch.setattr(book_indexes.cpuinfo, "get_cpu_info", lambda: asked.append(1) or {"brand_raw": "甲"})
    assert [book_indexes.processor(book_indexes.cpu(env)) for _ in range(3)] == ["甲"] * 3 and len(asked) == 1
    monkeypatch.setattr(book_indexes.platform, "node", lambda: "另一台")
    book_indexes.cpu(env)
    assert len(asked) == 2, "换了机器，还写着原来的处理器"


def test_processor_and_instructions_are_this_machines():
    info = book_indexes.cpu(types.SimpleNamespace())
    assert book_indexes.processor(info)
    levels = {"avx512": "avx512f", "avx2": "avx2", "neon_dot": "asimddp"}  # 内核认出来的，这里也要写着
    flag = levels.get(native.levels()[-1])
    assert flag is None or flag in book_indexes.vector_instructions(info).split("、")
    assert book_indexes.processor({}) and book_indexes.vector_instructions({}) == "未知"
    assert book_indexes.vector_instructions({"flags": ["fpu"]}) == "无"


def test_media_is_moved_out_of_the_page(tmp_path):
    html = f'<p>甲</p><audio controls="controls"><source src="data:audio/wav;base64,{WAV}" /></audio>'
    done = finish_page(f"<html><body>{html}</body></html>", tmp_path / "_media", "../")
    assert "base64" not in done and 'preload="none"' in done
    (saved,) = (tmp_path / "_media").iterdir()
    assert f"../_media/{saved.name}" in done and saved.read_bytes()[:4] == b"RIFF"
    assert finish_page(done, tmp_path / "_media", "../") == done, "再做一遍，结果变了"
    small = '<img alt="点" src="data:image/png;base64,iVBORw0KGgo=" />'
    assert extract_media(small, tmp_path / "m", "") == small, "很小的图不该拆成文件"


def test_pictures_are_stored_lighter_and_pixel_for_pixel(tmp_path):
    wave = 127 + 127 * np.sin(np.linspace(0, 30, 300)[:, None] * np.linspace(0, 2, 400))
    pixels = np.dstack([wave, 255 - wave, wave / 2, np.full_like(wave, 200)]).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    address = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    done = extract_media(f'<img alt="波" src="{address}" />', tmp_path / "m", "")
    (saved,) = (tmp_path / "m").iterdir()
    assert saved.suffix == ".webp" and f'src="_media/{saved.name}"' in done
    assert saved.stat().st_size < len(png.getvalue())
    with Image.open(saved) as image:
        assert np.array_equal(np.asarray(image), pixels), "存的时候变了样"


def test_code_and_english_prose_are_left_alone(tmp_path):
    html = '<body><pre>title="Search"</pre><a title="Search">x</a></body>'
    done = finish_page(html, tmp_path, "")
    assert '<pre>title="Search"</pre>' in done and '<a title="搜索">' in done


def test_icons_are_written_into_the_page():
    page = (
        '<i class="fa-solid fa-list fa-lg" data-mode="x"></i><span class="fas fa-pencil-alt"></span><i>斜</i>'
    )
    done = book_icons.inline_icons(page)
    assert done.count("<svg") == 2 and 'class="book-icon fa-list fa-lg" data-mode="x"' in done
    assert done.endswith("<i>斜</i>") and book_icons.inline_icons(done) == done
    with pytest.raises(ExtensionError, match="没有 no-such 这个图标"):
        book_icons.inline_icons('<i class="fa-solid fa-no-such"></i>')
    style = book_icons.slim_style()
    assert "Awesome 6 Brands" not in re.sub(r"\.fa[^{]*\{[^}]*\}", "", style).partition("@font-face")[2]
    assert ".fa-ghost:before" not in style and ".fa-lg" in style and "--icon-bell:url(" in style


def test_card_styles_go_where_there_is_no_card():
    link = '<link rel="stylesheet" href="../_static/sphinx-design.min.css?v=1" />'
    assert link not in book_icons.without_design(f"{link}<body><p>sd-card</p></body>")
    assert link in book_icons.without_design(f'{link}<body><div class="x sd-card"></div></body>')


def test_mathjax_goes_only_where_there_is_no_formula():
    script = '<script defer="defer" src="../_static/mathjax/startup.js?v=1"></script>'
    without = ["<p>一元 $5</p>", "<pre>\\(x\\)</pre>", '<code class="math">x</code>']
    formulas = [
        '<span class="math notranslate">',
        "<td>$h_t$</td>",
        "<p>\\(x\\)</p>",
        '<div class="amsmath">',
    ]
    for body in without:
        assert script not in book_icons.without_mathjax(f"{script}<body>{body}</body>"), body
    for body in formulas:
        assert script in book_icons.without_mathjax(f"{script}<body>{body}</body>"), body


@pytest.mark.parametrize(
    ("title", "anchor"),
    [
        ("门", "门"),
        ("普通的 RNN 为什么记不住", "普通的-rnn-为什么记不住"),
        ("细胞状态：一条直通的路", "细胞状态-一条直通的路"),
        ("`weight_ih_l0`（输入权重）", "weight_ih_l0-输入权重"),
        ("16 个单元", "s-16-个单元"),
        ("ＬＳＴＭ？", "lstm"),
        ("……", ""),
    ],
)
def test_anchor_of_a_title(title, anchor):
    assert book_anchors.slug(title) == anchor


def test_anchors_of_repeated_and_labelled_sections(tiny_book):
    (tiny_book / "index.md").write_text(
        "# 小书\n\n## 门\n\n甲\n\n## 门\n\n乙\n\n(gate-section)=\n## 写明的门\n\n见{ref}`那一节<gate-section>`。\n\n"
        "## 用 autograd\n\n丙\n\n```{exercise}\n:label: ex-a\n做。\n```\n\n"
        "```{solution} ex-a\n做了。\n```\n\n```{exercise}\n:label: ex-b\n再做。\n```\n",
        encoding="utf-8",
    )
    write_notebook(tiny_book / "chapters" / "one.ipynb", "print(1)")
    done = build(tiny_book, *STRICT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    soup = BeautifulSoup(page(tiny_book, "index"), "html.parser")
    sections = [s["id"] for s in soup.select("article section:has(> h2)")]
    assert sections == ["门", "门-2", "gate-section", "用-autograd"]
    assert soup.find(id="autograd") and soup.find(id="写明的门"), "别名也要能到"
    assert soup.select_one("article p a.reference.internal[href='#gate-section']")
    assert soup.find(id="ex-a-content") and soup.find(id="ex-b-content")
    names = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(names) == len(set(names)), names


def test_keys_follow_what_they_watch(tmp_path):
    (tmp_path / "lstm_lib").mkdir()
    (tmp_path / "chapters").mkdir()
    source, chapter = tmp_path / "lstm_lib" / "a.py", tmp_path / "chapters" / "a.ipynb"
    source.write_text("1")
    chapter.write_text("1")
    keys = library_key(tmp_path), content_key(tmp_path)
    chapter.write_text("2")
    assert library_key(tmp_path) == keys[0] and content_key(tmp_path) != keys[1]
    source.write_text("2")
    assert library_key(tmp_path) != keys[0]
    source.rename(tmp_path / "lstm_lib" / "b.py")
    renamed = library_key(tmp_path)
    (tmp_path / "lstm_lib" / "__pycache__").mkdir()
    (tmp_path / "lstm_lib" / "__pycache__" / "x.py").write_text("3")
    assert library_key(tmp_path) == renamed


def test_comparison_sees_a_difference_and_respects_the_tag():
    def notebook(text, tags=()):
        cell = nbformat.v4.new_code_cell("f()", metadata={"tags": list(tags)})
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        return nbformat.v4.new_notebook(cells=[cell])

    assert compare(notebook("1.0"), notebook("1.0")) == []
    never = notebook("1.0")
    never.cells[0].outputs = []
    assert compare(never, never), "没有执行过的笔记本，也算比过了"
    assert compare(notebook("1.0"), notebook("1.1")), "输出不同却没看出来"
    assert compare(notebook("1.0", ["timing"]), notebook("1.1", ["timing"])) == []
    assert compare(notebook("<a at 0x7f00aa11>"), notebook("<a at 0x7f00bb22>")) == []
    trained = notebook("1.0")
    trained.cells[0].outputs.insert(0, nbformat.v4.new_output("display_data", {"text/html": ""}))
    assert compare(trained, notebook("1.0")) == [], "进度条做完后的空壳不算输出"
    trained.cells[0].outputs[0].data["text/html"] = "<table></table>"
    assert compare(trained, notebook("1.0")), "多出一张表却没看出来"


def test_two_caches_are_compared_bit_by_bit(tmp_path):
    import torch
    from safetensors.torch import save_file

    one, two = tmp_path / "一", tmp_path / "二"
    weights = {"w": torch.linspace(0, 1, 5)}
    for folder, seconds in ((one, "3.1"), (two, "4.2")):
        (folder / "corpus-ab").mkdir(parents=True)
        (folder / "corpus-ab" / "speech.npy").write_bytes(b"123")
        (folder / "corpus-ab" / "seconds.txt").write_text(seconds, encoding="utf-8")
        save_file(weights, folder / "irm-short-ab.safetensors", {"history": seconds})
    assert compare_caches(one, two) == (2, []), "只差用时的两份，语料与权重是一样的"
    (two / "irm-long-ab.safetensors").symlink_to(one / "irm-long-ab.safetensors")
    save_file(weights, one / "irm-long-ab.safetensors")
    assert compare_caches(one, two) == (2, []), "同一个文件不必比"
    save_file({"w": torch.nextafter(weights["w"], torch.tensor(2.0))}, two / "irm-short-ab.safetensors")
    (two / "corpus-ab" / "speech.npy").write_bytes(b"124")
    (one / "corpus-ab" / "facts.json").write_bytes(b"{}")
    assert len(compare_caches(one, two)[1]) == 3, "差一个比特、差一个字节、少一个文件，没有都看出来"


def plain(text):
    """只留字：不管空白、全角半角与 PDF 里冒充汉字的部首。"""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text).translate(RADICALS))


def folded_lines(site, names):
    """各页折叠的代码里，去掉空白后 20 到 60 个字符的头一行；别的单元格里也有的不算。"""
    found = {}
    for name in names:
        soup = BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        folds = [pre.extract().get_text() for pre in soup.select("article details.hide pre")]
        shown = re.sub(r"\s", "", soup.get_text())
        lines = [re.sub(r"\s", "", line) for text in folds for line in text.splitlines()]
        lines = [line for line in lines if 20 <= len(line) <= 60 and line.isascii() and line not in shown]
        if lines:
            found[name] = lines[0]
    assert found, "全书没有一处折叠的代码"
    return found


def test_pdf_has_every_page_outline_and_text(book_site, chromium, tmp_path):
    from pypdf import PdfReader
    from site_server import pages_in_order

    given = os.environ.get("BOOK_PDF")
    path = Path(given) if given else tmp_path / "lstm.pdf"
    if not given:
        command = [
            sys.executable,
            str(ROOT / "tools" / "make_pdf.py"),
            "--site",
            str(book_site),
            "--out",
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    reader = PdfReader(path)
    names = pages_in_order(ROOT)
    assert len(reader.pages) >= 2 * len(names), f"{len(names)} 页网页只印出 {len(reader.pages)} 页"
    top = [item for item in reader.outline if not isinstance(item, list)]
    assert len(top) == len(names), f"书签 {len(top)} 个，网页 {len(names)} 个"
    starts = [reader.get_destination_page_number(item) for item in top]
    assert starts == sorted(set(starts)), "书签没有按顺序指向各章"
    texts = [page.extract_text() for page in reader.pages]
    text = unicodedata.normalize("NFKC", "".join(texts))
    text = text.translate(RADICALS)
    for word in ("遗忘门", "细胞状态", "理想比值掩蔽", "解答"):
        assert word in text.replace("\n", ""), f"PDF 里找不到「{word}」"
    everything = plain(text)
    lost = {name: line for name, line in folded_lines(book_site, names).items() if line not in everything}
    assert not lost, f"折叠的代码没有印出来：{lost}"
    for k, (start, end) in enumerate(pairwise([*starts, len(texts)])):
        for n in range(start, end):
            lines = [line.strip() for line in texts[n].strip().splitlines()]
            assert str(n + 1) in lines, f"第 {n + 1} 页没有页码，或与别的章不连着"
            if n > start and k > 0:
                head = plain("".join(lines[:4]))
                assert plain("LSTM 实现与优化") in head, f"第 {n + 1} 页没有页眉：{head}"
                assert plain(top[k].title) in head, f"第 {n + 1} 页的页眉不是这一章的：{head}"
    blank = [n for n, sheet in enumerate(reader.pages) if len(texts[n]) < 8 and not sheet.images]
    assert len(blank) <= len(names) // 3, f"空白页太多：{blank}"
    for page_number in range(len(reader.pages)):
        for item in reader.pages[page_number].get("/Annots", []) or []:
            uri = str(item.get_object().get("/A", {}).get("/URI", ""))
            assert "127.0.0.1" not in uri, f"PDF 里留着本机网址 {uri}"
