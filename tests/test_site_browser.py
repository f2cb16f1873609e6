"""在真浏览器里读这本书：断网、逐页、手机与桌面、明与暗。"""

import json
import re
import unicodedata
from io import BytesIO

import code_lines
import pytest
from conftest import AXE, ROOT, need_axe
from page_weights import limit, weigh
from playwright.sync_api import expect
from pypdf import PdfReader
from site_server import UNFOLD, pages_in_order

PAGES = pages_in_order(ROOT)
SCROLL_THROUGH = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 600) {
    scrollTo(0, y);
    await new Promise(r => setTimeout(r, 20));
  }
  scrollTo(0, 0);
}"""
MATH_READY = "async () => { if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise; }"


@pytest.fixture(scope="session")
def contexts(browser):
    """``contexts(宽, 主题)``：每种读者一个浏览器环境，各测试合用，公式脚本之类只载入一次。"""
    opened = {}

    def get(width, theme):
        if (width, theme) not in opened:
            context = browser.new_context(viewport={"width": width, "height": 900}, locale="zh-CN")
            context.add_init_script(
                "if (location.protocol.startsWith('http')) {"  # 空白页不许存东西
                f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}'); }}"
            )
            opened[width, theme] = context
        return opened[width, theme]

    yield get
    for context in opened.values():
        context.close()


@pytest.fixture
def visit(contexts, site_url):
    """``visit(宽, 主题)`` 给出一页与它的毛病：只许访问本站，出站请求、失败与控制台错误都记下来。"""
    pages = []

    def open_page(width=1440, theme="light"):
        page, problems = contexts(width, theme).new_page(), []
        pages.append(page)

        def watch(request):
            if not request.url.startswith((site_url, "data:", "blob:", "about:")):
                problems.append(f"出站请求 {request.url}")

        page.on("request", watch)  # 拦截会关掉浏览器的缓存，每页都重取公式脚本；外站本就解析不到
        page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("console", lambda m: problems.append(f"控制台：{m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(f"脚本错误：{error}"))
        return page, problems

    yield open_page
    for page in pages:
        page.close()


OVERFLOW = """() => {
  if (document.documentElement.scrollWidth <= innerWidth) return [];
  return [...document.querySelectorAll("article *")].filter(n => {
    if (n.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let p = n.parentElement; p; p = p.parentElement) {
      if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return false; }
    return true; }).slice(0, 3).map(n => n.outerHTML.slice(0, 160)).concat("页面"); }"""
WIDE_CODE = """() => [...document.querySelectorAll(
    "article div[class*='highlight-']:not(.highlight-myst-ansi) pre")]
  .filter(pre => pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.textContent.slice(0, 60))"""


def violations(page, rules=""):
    """axe 找出的要紧的无障碍问题；没有装 axe 就跳过。"""
    need_axe()
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        # Netron 的框点开才载入，在 test_netron.py 里单独查
        f"async () => (await axe.run({{ exclude: [['iframe']] }},"
        f" {{ iframes: false, resultTypes: ['violations']{rules} }}))"
        ".violations.filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary])"
    )
    return json.dumps(found, ensure_ascii=False, indent=1)[:6000] if found else ""


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_page_is_whole(visit, site_url, name):
    """图、公式、播放器都好，没有排不出来的标记，不向外站取东西，不横向溢出，读屏软件读得了。"""
    page, problems = visit()
    page.goto(f"{site_url}{name}.html", wait_until="load")
    page.evaluate(MATH_READY)
    page.evaluate(SCROLL_THROUGH)
    page.wait_for_load_state("networkidle")

    broken = page.evaluate(
        """() => Promise.all([...document.images].filter(i => i.checkVisibility()).map(i => {
             i.loading = "eager";
             const late = new Promise(done => setTimeout(done, 5000));
             return Promise.race([i.decode().catch(() => null), late])
               .then(() => (i.complete && i.naturalWidth ? null : i.src.slice(0, 120)));
           })).then(all => all.filter(Boolean))"""
    )
    assert not broken, f"{name} 有图没有载入：{broken}"

    formulas = page.locator(".math").count()
    rendered = page.locator(".math mjx-container").count()
    assert rendered >= formulas, f"{name} 有 {formulas} 处公式，只排出 {rendered} 处"
    errors = page.locator("mjx-merror, [data-mjx-error]").count()
    assert errors == 0, f"{name} 有 {errors} 个公式写错了"
    text = page.evaluate(
        "() => { const a = document.querySelector('article')?.cloneNode(true); if (!a) return '';"
        " a.querySelectorAll('pre, code, mjx-container, script, style')"
        ".forEach(n => n.remove());"
        " return a.textContent; }"
    )
    raw = re.findall(r"\\begin\{|\\frac|\\sigma|\$\$|\\\(|\{cite\}|\{glue:|\{ref\}|:::|```", text)
    assert not raw, f"{name} 有没排出来的标记：{raw[:5]}"
    durations = page.evaluate(
        """() => Promise.all([...document.querySelectorAll("audio")].map(a => new Promise(done => {
             const finish = () => done([a.currentSrc.slice(-60), a.duration, a.error?.code ?? 0]);
             a.onloadedmetadata = finish; a.onerror = finish;
             [...a.querySelectorAll("source")].forEach(s => s.onerror = finish);
             setTimeout(finish, 15000); a.preload = "metadata"; a.load(); })))"""
    )
    for source, seconds, code in durations:
        assert code == 0 and seconds and seconds > 0.3, (
            f"{name}：{source} 放不出来（时长 {seconds}，错误 {code}）"
        )
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    wide = page.evaluate(OVERFLOW)
    assert not wide, f"{name} 在桌面上横向溢出：{wide}"
    assert not problems, f"{name}：{problems}"
    found = violations(page)
    assert not found, f"{name} 的无障碍问题：\n{found}"


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_page_on_a_phone_in_the_dark(visit, site_url, name):
    """手机上不横向溢出，代码不用横着拖；深色主题只换颜色，别的规矩在浅色里查过，桌面才有的侧栏放宽窗口再查。"""
    page, problems = visit(390, "dark")
    page.goto(f"{site_url}{name}.html", wait_until="load")
    page.evaluate(MATH_READY)
    page.evaluate(UNFOLD)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate(SCROLL_THROUGH)
    wide = page.evaluate(OVERFLOW)
    assert not wide, f"{name} 在手机上横向溢出：{wide}"
    code = page.evaluate(WIDE_CODE)
    assert not code, f"{name}：手机上放不下的代码 {code}"
    assert not problems, f"{name}：{problems}"
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        found = violations(page, ", runOnly: ['color-contrast', 'link-in-text-block']")
        assert not found, f"{name} 在深色主题下（宽 {width}）的无障碍问题：\n{found}"


@pytest.mark.parametrize("name", [n for n in PAGES if n.endswith(("onnx_export", "/ncnn"))])
def test_netron_frames_open_in_the_page(visit, site_url, name):
    """点开每一个框，里面的 Netron 不联网就画出计算图；点开之前一个字节也不取。"""
    page, problems = visit()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site_url}{name}.html", wait_until="networkidle")
    assert not [url for url in asked if "/netron/" in url], f"{name}：还没点开就载入了 Netron"
    frames = page.locator("details.netron-frame")
    assert frames.count() > 0, f"{name} 里没有可以点开的计算图"
    for k in range(frames.count()):
        frames.nth(k).locator("summary").click()
        drawn = frames.nth(k).frame_locator("iframe").get_by_text("LSTM")
        drawn.first.wait_for(state="attached", timeout=60_000)
    assert not problems, f"{name}：{problems}"


def test_a_long_name_in_the_text_wraps_on_a_phone(visit, site_url):
    page, _ = visit(390)
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    code = '<code class="docutils literal notranslate"><span class="pre">' + "名字.".join(["long_name"] * 9)
    page.evaluate("html => document.querySelector('article p').innerHTML += html", code + "</span></code>")
    assert page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0


def search(page, base, text):
    """像读者那样：按 Ctrl+K，打字，回车；给出结果的页名。"""
    page.goto(f"{base}index.html", wait_until="load")
    page.keyboard.press("Control+k")
    box = page.locator(
        "dialog[open] input[type=search], .search-button__wrapper.show input[type=search]"
    ).first
    box.fill(text)
    box.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    return results_of(page)


def results_of(page):
    """等搜索做完；结果的页名，按显示的次序。"""
    # 搜完才写这一句；转圈的状态搜完又会动，不能拿它来等
    page.wait_for_function("() => !!document.querySelector('.search-summary')?.innerText.trim()")
    links = page.locator("ul.search > li > a")
    addresses = [links.nth(i).get_attribute("href") for i in range(links.count())]
    return [re.sub(r"^\./", "", a.split("#")[0].split("?")[0]).removesuffix(".html") for a in addresses]


def test_search_finds_every_glossary_term(visit, site_url, book_site):
    source = (book_site / "_static" / "search_homes.js").read_text(encoding="utf-8")
    homes = json.loads(re.search(r"SEARCH_HOMES = (.*);", source)[1])
    assert len(homes) >= 40, f"术语表只有 {len(homes)} 个词带出处"
    page, problems = visit()
    page.goto(f"{site_url}search.html?q=x", wait_until="load")
    results_of(page)
    # 排名只由这一句定；摘要、小节与显示出来的次序，下面几个测试照读者的走法试
    ranked = page.evaluate(
        """terms => terms.map(term => {
             history.replaceState(null, "", "?q=" + encodeURIComponent(term));  // 打分要看地址里的词
             return Search._performSearch(...Search._parseQuery(term)).map(row => row[0]).reverse().slice(0, 3);
           })""",
        list(homes),
    )
    wrong = {
        term: (home, found)
        for (term, home), found in zip(homes.items(), ranked, strict=True)
        if found[:1] != [home]
    }
    assert not wrong, f"搜索结果的第一条不是讲这个词的那一章：{wrong}"
    assert not problems, problems


@pytest.mark.parametrize(
    "text",
    [
        "遗忘门", "细胞状态", "权重布局", "掩蔽", "weight_ih_l0", "batch_first", "门", "Sigmoid", "SI-SDR",
        "7767517", "257", "257 个频点", "0x01306B47", "1e-6", "16000",
        "--streaming", "--to", "--n-fft", "torch.onnx.export",
    ],
)  # fmt: skip
def test_search_finds_words_and_code(visit, site_url, text):
    page, problems = visit()
    results = search(page, site_url, text)
    assert any(name.startswith("chapters/") for name in results), f"搜不到 {text}"
    assert not problems, problems


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("怎样导出 ONNX", "chapters/onnx_export"),
        ("用 numpy 手写 LSTM", "chapters/handwritten"),
        ("训练自己的数据", "chapters/own_data"),
        ("“遗忘门”", "chapters/gates"),
        ("细胞状态。", "chapters/gates"),
        ("forget gate", "chapters/gates"),
        ("hidden state", "chapters/gates"),
        ("降噪", "chapters/irm_network"),
        ("项目", "chapters/project"),
    ],
)
def test_search_understands_mixed_and_english_queries(visit, site_url, text, home):
    page, problems = visit()
    results = search(page, site_url, text)
    assert results and results[0] == home, f"搜「{text}」，第一条是 {results[:3]}"
    assert not problems, problems


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("安装", "index"),
        ("BiLSTM", "chapters/handwritten"),
        ("门的顺序", "chapters/weights"),
        ("iofc", "chapters/weights"),
        ("batch first", "chapters/"),
    ],
)
def test_search_knows_other_ways_to_say_it(visit, site_url, text, home):
    page, problems = visit()
    results = search(page, site_url, text)
    assert results and results[0].startswith(home), f"搜「{text}」，第一条是 {results[:3]}"
    hits = page.locator("ul.search > li:first-child .section-hits a")
    hits.first.wait_for()
    assert not problems, problems


def test_cards_come_first_and_lead_to_their_place(visit, site_url):
    """坑与术语的卡片在各页之前；每张都跳得到。"""
    page, problems = visit()
    for text, kind, name in (
        ("门顺序", "术语", "门顺序"),
        ("batch first", "坑", None),
        ("forget gate", "术语", "遗忘门"),
    ):
        search(page, site_url, text)
        cards = page.locator("ul.search-cards > li")
        assert cards.count() >= 1, f"搜「{text}」没有卡片"
        kinds = cards.locator(".search-card-kind").all_inner_texts()
        assert kind in kinds, f"搜「{text}」没有{kind}的卡片：{kinds}"
        card = cards.nth(kinds.index(kind))
        assert name is None or card.locator("a").inner_text() == name
        above = page.evaluate(
            "() => document.querySelector('.search-cards').compareDocumentPosition("
            "document.querySelector('ul.search')) & Node.DOCUMENT_POSITION_FOLLOWING"
        )
        assert above, "卡片应在各页之前"
        card.locator("a").click()
        page.wait_for_load_state("load")
        anchor = page.evaluate("() => decodeURIComponent(location.hash.slice(1))")
        expect(page.locator(f"[id='{anchor}']"), f"{anchor} 不在屏幕里").to_be_in_viewport()
    assert search(page, site_url, "鸑鷟鸂鶒") == [] and page.locator(".search-cards").count() == 0
    assert not problems, problems


def test_section_hits_hold_the_words(visit, site_url):
    """结果里列出的小节真的含着要搜的词，点了就到那一节。"""
    page, problems = visit()
    search(page, site_url, "半衰期")
    hit = page.locator(".section-hits a").first
    hit.wait_for()
    hit.click()
    page.wait_for_load_state("load")
    anchor = page.evaluate("() => decodeURIComponent(location.hash.slice(1))")
    section = page.locator(f"section[id='{anchor}']")
    assert "半衰期" in section.inner_text()
    expect(section.locator(":is(h2, h3)").first).to_be_in_viewport()
    assert not problems, problems


def test_search_hits_are_highlighted_and_scrolled_to(visit, site_url):
    page, _ = visit()
    search(page, site_url, "半衰期")
    excerpt = page.locator("ul.search p.context").first
    excerpt.wait_for()
    assert "本页目录" not in excerpt.inner_text(), "摘要里混进了页首的目录"
    page.locator("ul.search > li > a").first.click()
    mark = page.locator("article span.highlighted").first
    mark.wait_for()
    assert mark.inner_text() == "半衰期"
    expect(mark, "搜到的词不在屏幕里").to_be_in_viewport()


def test_search_finds_a_phrase_inside_a_sentence(visit, site_url, book_site):
    """从每章正文里取一句的中间一段去搜，要能找到那一章。"""
    from bs4 import BeautifulSoup

    page, _ = visit()
    lost = {}
    for name in (name for name in PAGES if name != "index"):
        soup = BeautifulSoup((book_site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        runs = re.findall(r"[一-鿿]{9,}", " ".join(p.get_text() for p in soup.select("article p")))
        if not runs:
            continue
        phrase = runs[len(runs) // 2][2:8]
        if name not in search(page, site_url, phrase):
            lost[name] = phrase
    assert not lost, f"搜不到句子中间的词组：{lost}"


def test_search_for_nonsense_finds_nothing(visit, site_url):
    page, _ = visit()
    assert search(page, site_url, "鸑鷟鸂鶒") == [], "不存在的词也有结果，搜索没有真的在比对"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_theme_is_applied(visit, site_url, theme):
    page, _ = visit(theme=theme)
    page.goto(f"{site_url}index.html", wait_until="load")
    red, green, blue = page.evaluate(
        "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue > 600) == (theme == "light"), f"{theme} 主题的底色是 {red, green, blue}"


def test_folded_answers_open(visit, site_url):
    page, _ = visit()
    opened = 0
    for name in PAGES:
        page.goto(f"{site_url}{name}.html", wait_until="load")
        for button in page.locator(".admonition.dropdown button.toggle-button").all():
            box = button.locator("xpath=ancestor::div[contains(@class,'admonition')][1]")
            hidden = "toggle-hidden" in (box.get_attribute("class") or "")
            button.click()
            assert ("toggle-hidden" in (box.get_attribute("class") or "")) != hidden, f"{name} 的折叠框点不开"
            opened += 1
    assert opened > 0, "全书没有一个折叠的解答"


@pytest.mark.parametrize("width", [390, 1440])
def test_the_whole_bar_of_an_answer_opens_it(visit, site_url, width):
    page, problems = visit(width)
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    page.evaluate(UNFOLD)
    bar = page.locator(".admonition.solution.toggle > .admonition-title").first
    box, size = bar.locator("xpath=.."), bar.bounding_box()
    for part in (0.02, 0.15, 0.3, 0.5, 0.7, 0.97):
        hidden = "toggle-hidden" in box.get_attribute("class")
        bar.click(position={"x": size["width"] * part, "y": size["height"] / 2})
        assert ("toggle-hidden" in box.get_attribute("class")) != hidden, f"点在 {part:.0%} 处没有反应"
    assert page.url.endswith("gates.html"), "点标题里的字，却跳走了"
    assert not problems, problems


def test_links_to_sections_with_chinese_names_arrive(visit, site_url):
    page, problems = visit()
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    link = page.locator("#pst-secondary-sidebar a[href^='#']").nth(7)
    target = link.get_attribute("href").removeprefix("#")
    assert re.search("[一-鿿]", target), target
    page.goto(f"{site_url}chapters/gates.html#{target}", wait_until="load")
    expect(page.locator(f"[id='{target}'] > :is(h2, h3)"), "没有滚到那一节").to_be_in_viewport()
    page.wait_for_timeout(500)
    assert not problems, problems


def test_phone_contents_close_when_a_section_is_chosen(visit, site_url):
    page, problems = visit(width=390)
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    page.locator(".sidebar-toggle.secondary-toggle").click()
    dialog = page.locator("#pst-secondary-sidebar-modal")
    assert dialog.evaluate("d => d.open"), "本页目录没有打开"
    link = dialog.locator("a[href^='#']").nth(3)
    target = link.get_attribute("href")
    link.click()
    expect(dialog, "点了条目，本页目录还挡着").not_to_have_attribute("open", "")
    expect(page.locator(target).locator("h2, h3").first, "没有滚到那一节").to_be_in_viewport()
    assert not problems, problems


def test_hidden_side_of_a_wide_table_fades(visit, site_url):
    """手机上放不下的表：还有内容的那一边淡出，拖到头就换成另一边。"""
    page, _ = visit(width=390)
    page.goto(f"{site_url}chapters/ncnn.html", wait_until="load")
    page.evaluate(UNFOLD)
    table = page.locator(".pst-scrollable-table-container[data-more]").first
    expect(table).to_have_attribute("data-more", "right")
    assert table.evaluate("e => getComputedStyle(e).maskImage") != "none", "没有淡出"
    table.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
    expect(table).to_have_attribute("data-more", "left")


def test_only_one_player_sounds_at_a_time(visit, site_url):
    page, _ = visit()
    page.goto(f"{site_url}index.html", wait_until="load")
    playing = page.evaluate(
        """async () => {
             const [a, b] = document.querySelectorAll("audio");
             a.muted = b.muted = true;
             await a.play(); await b.play();
             await new Promise(done => setTimeout(done, 200));
             return [a.paused, b.paused]; }"""
    )
    assert playing == [True, False], "点了第二段，第一段还在放"


def test_copied_commands_are_whole(visit, site_url):
    """一条命令分几行写，复制出来也是几行。"""
    page, _ = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{site_url}chapters/own_data.html", wait_until="load")
    block = page.locator("div.highlight", has=page.locator("pre", has_text="--init")).first
    block.hover()
    block.locator("button.copybtn").click()
    block.locator("button.copybtn.success").wait_for()  # 打上勾，才是抄好了
    copied = page.evaluate("() => navigator.clipboard.readText()")
    shown = [line.strip() for line in block.locator("pre").inner_text().splitlines() if line.strip()]
    wanted = [line.removeprefix("$ ").strip() for line in shown]
    assert [line.strip() for line in copied.splitlines() if line.strip()] == wanted, copied


def test_the_print_button_prints_folded_code_and_a_running_head(visit, site_url):
    """读者自己打印一章：折叠的代码看得见，页眉写着是哪一章。"""
    page, _ = visit()
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    line = page.evaluate(
        """() => [...document.querySelectorAll("article details.hide:not([open]) pre")]
             .flatMap(pre => pre.textContent.split("\\n")).map(line => line.replace(/\\s/g, ""))
             .find(line => line.length > 20 && line.length < 60)"""
    )
    assert line, "这一章没有折叠的代码"
    sheets = [sheet.extract_text() for sheet in PdfReader(BytesIO(page.pdf(format="A4"))).pages]
    text = re.sub(r"\s", "", "".join(sheets))
    assert line in text, f"折叠的代码没有印出来：{line}"
    title = re.sub(r"\s", "", page.title().split("\u2014")[0])
    bare = [re.sub(r"\s", "", unicodedata.normalize("NFKC", sheet)) for sheet in sheets]
    assert all(title in sheet for sheet in bare[1:]), f"页眉里没有「{title}」：{bare[1][:80]}"
    assert all(f"{n}/{len(bare)}" in sheet for n, sheet in enumerate(bare, 1)), "没有页码"


def test_code_is_printed_in_the_same_piece_as_its_frame(visit, site_url):
    """几层框分页的规矩不同，外框就在上一页空着。"""
    page, _ = visit()
    page.goto(f"{site_url}chapters/c_kernel.html", wait_until="load")
    page.emulate_media(media="print")
    kept = page.evaluate(
        """() => [...document.querySelectorAll("div.cell_input pre")].filter((pre) => {
             for (let box = pre; !box.classList.contains("cell"); box = box.parentElement) {
               const style = getComputedStyle(box);
               if (style.breakInside !== "auto" || style.display !== "block") return true;
             }
             return false;
           }).map((pre) => pre.textContent.slice(0, 60))"""
    )
    assert not kept, f"{len(kept)} 段代码整块推到下一页：{kept[:3]}"


def test_search_summaries_show_no_latex(visit, site_url):
    page, problems = visit()
    assert search(page, site_url, "方框里的")
    page.locator("ul.search > li:first-child .section-hits a").first.wait_for()
    text = page.locator("ul.search").inner_text()
    assert "方框里的 σ 与" in text and "\\" not in text
    odd = page.evaluate(
        """async (names) => { const odd = [];
             for (const name of names) {
               const text = await (await fetch(`${name}.html`)).text(), pages = new DOMParser().parseFromString(text, "text/html");
               for (const math of pages.querySelectorAll("article .math")) {
                 const plain = plainMath(math.textContent);
                 if (/[\\\\{}]|NaN|undefined/.test(plain)) odd.push(`${name}：${math.textContent} → ${plain}`);
               }
             }
             return [odd, plainMath("\\\\(\\\\sigma(x)=\\\\tfrac12+\\\\tfrac{1}{2}\\\\tanh\\\\tfrac{x}{2}\\\\)")]; }""",
        PAGES,
    )
    assert odd == [[], "σ(x)=1/2+1/2tanh x/2"], odd
    assert not problems, problems


@pytest.mark.parametrize("name", PAGES)
def test_page_weight(browser, site_url, name):
    weight = weigh(browser, site_url, name)
    assert weight.parts.get(f"{name}.html", 0) > 1000 and weight.first > 50_000, "没有量到"
    assert weight.total <= limit(name), (
        f"{name} 要传 {weight.total / 1e3:.0f} kB，最重的：{weight.heaviest()}"
    )


def test_icons_are_drawn(visit, site_url):
    """页面里的是 SVG，提示框标题前的是蒙版：都有大小，蒙版真的有图。"""
    page, problems = visit()
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    sizes = page.locator("svg.book-icon").evaluate_all(
        "all => all.filter(e => e.checkVisibility()).map(e => [e.clientWidth, e.clientHeight])"
    )
    assert len(sizes) >= 5 and all(8 <= side <= 32 for size in sizes for side in size), sizes
    masks = page.evaluate(
        """() => ["tip", "warning", "exercise"].map(kind => {
             const title = document.querySelector(`.admonition.${kind} > .admonition-title`);
             const style = getComputedStyle(title, "::after");
             return [style.maskImage.slice(0, 24), parseFloat(style.width)]; })"""
    )
    assert all(mask.startswith('url("data:image/svg') and width > 10 for mask, width in masks), masks
    assert len({page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--icon-{n}')")
                for n in ("lightbulb", "pencil", "bell")}) == 3  # fmt: skip
    assert not problems, problems


def test_code_lines_are_apart(visit, site_url):
    page, _ = visit()
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    ratios = page.locator("article .cell_input pre").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).lineHeight) / parseFloat(getComputedStyle(e).fontSize))"
    )
    assert ratios and all(abs(ratio - 1.6) < 0.02 for ratio in ratios), set(ratios)


@pytest.mark.parametrize("name", ["chapters/ncnn", "chapters/int8"])
def test_first_column_stays_while_a_table_is_dragged(visit, site_url, name):
    page, _ = visit(width=390)
    page.goto(f"{site_url}{name}.html", wait_until="load")
    page.evaluate(UNFOLD)
    page.wait_for_timeout(400)  # 变宽之后 200 毫秒才量
    moved = page.evaluate(
        """() => [...document.querySelectorAll(".sticky-table")].filter(b => b.checkVisibility()).map(box => {
             const cells = [...box.querySelectorAll(".first-column")];
             const other = box.querySelector("tr > :last-child");
             const x = () => [...cells, other].map(c => c.getBoundingClientRect().x);
             const before = x(); box.scrollLeft = 60; const after = x();
             return before.map((v, k) => Math.round(v - after[k])); })"""
    )
    assert moved, "手机上没有一张表要横着拖"
    for *stays, goes in moved:
        assert goes > 0 and all(abs(shift) <= 1 for shift in stays), f"第一列跟着走了：{moved}"


COVERED = """() => [...document.querySelectorAll("div.highlight:has(> button.copybtn)")].filter((box) => {
  const button = box.querySelector(":scope > button.copybtn").getBoundingClientRect();
  const texts = document.createTreeWalker(box.querySelector("pre"), NodeFilter.SHOW_TEXT), range = document.createRange();
  while (texts.nextNode()) {
    if (!texts.currentNode.data.trim()) continue;
    range.selectNodeContents(texts.currentNode);
    if ([...range.getClientRects()].some((r) => r.right > button.left + 4 && r.left < button.right
        && r.bottom > button.top + 4 && r.top < button.bottom - 4)) return true;
  }
  return false; }).map((box) => box.innerText.slice(0, 50))"""


def test_links_and_copy_buttons_are_seen_on_a_touch_screen(browser, site_url):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{site_url}chapters/gates.html", wait_until="load")
    for selector in ("article h2 .headerlink", "article .cell_input button.copybtn"):
        shown = page.locator(selector).first.evaluate(
            "e => [getComputedStyle(e).opacity, getComputedStyle(e).visibility]"
        )
        assert float(shown[0]) > 0.5 and shown[1] == "visible", f"触摸屏上看不见 {selector}：{shown}"
    page.evaluate(UNFOLD)
    covered = page.evaluate(COVERED)
    assert not covered, f"复制按钮盖住了字：{covered}"
    button = page.locator(".sidebar-toggle.primary-toggle")
    assert button.get_attribute("title") == "展开或收起目录"
    button.tap()
    page.wait_for_timeout(400)
    assert page.locator(".tooltip").count() == 0, "点了目录，提示气泡留着不走"
    context.close()


def test_a_long_chapter_is_folded_on_a_phone(visit, site_url, browser):
    """只留第一节与各节的标题；点标题、按键盘、链接、搜索、打印都能展开；公式与没有收起过的一样大。"""
    address = f"{site_url}chapters/irm_network.html"
    page, problems = visit(390)
    page.goto(address, wait_until="load")
    page.evaluate(MATH_READY)
    sections = page.locator("article > section > section")
    assert page.evaluate("document.documentElement.scrollHeight / innerHeight") < 10
    folded = page.locator("section.folded")
    expect(folded).to_have_count(sections.count() - 1)
    toggle = sections.nth(2).locator(".section-toggle")
    text = sections.nth(2).locator("p").first
    expect(text).to_be_hidden()
    toggle.focus()
    page.keyboard.press("Enter")
    expect(text).to_be_visible()
    expect(toggle).to_have_attribute("aria-expanded", "true")
    toggle.click()
    expect(text).to_be_hidden()
    target = sections.last.get_attribute("id")
    page.evaluate("id => { location.hash = id; }", target)
    expect(sections.last.locator("p").first).to_be_visible()
    expect(sections.last.locator("h2")).to_be_in_viewport()
    sizes = "() => [...document.querySelectorAll('section > p mjx-container')].map(m => m.style.fontSize)"
    page.evaluate(UNFOLD)
    expect(folded).to_have_count(0)
    after = page.evaluate(sizes)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("[hidden=until-found]").count() == 0, "打印时还收着"
    # 从搜索点进来：词所在的一节是展开的
    page.goto(f"{address}?highlight=窄缝", wait_until="load")
    expect(page.locator("article .highlighted").first).to_be_in_viewport(timeout=10_000)
    page.goto(f"{address}#{target}", wait_until="load")
    expect(sections.last.locator("h2")).to_be_in_viewport()
    # 同样的宽度、没有收起过：公式的字号逐个相同
    plain, _ = visit(390)
    plain.add_init_script(
        "delete window.matchMedia; window.matchMedia = () => ({ matches: false,"
        " addEventListener() {}, addListener() {} });"
    )
    plain.goto(address, wait_until="load")
    plain.evaluate(MATH_READY)
    assert plain.locator("section.folded").count() == 0
    assert after and after == plain.evaluate(sizes), "收起之后排出的公式大小不对"
    # 没有脚本，什么都不收
    context = browser.new_context(viewport={"width": 390, "height": 900}, java_script_enabled=False)
    bare = context.new_page()
    bare.goto(address)
    expect(bare.locator("article > section > section").last.locator("p").first).to_be_visible()
    context.close()
    assert not problems, problems


def test_a_long_line_of_code_hangs_on_a_phone(visit, site_url):
    """折下的比这一行的开头多缩进；文字与桌面上复制到的一样。"""
    page, _ = visit(390)
    read = """() => [...document.querySelectorAll("article div[class*='highlight-'] pre")].map(p => p.textContent)"""
    page.goto(f"{site_url}chapters/irm_network.html", wait_until="load")
    page.evaluate(UNFOLD)
    steps = page.evaluate(
        """() => [...document.querySelectorAll(".cell_input .line[style]")].map(line => {
             const pad = parseFloat(getComputedStyle(line).paddingLeft), shift = parseFloat(getComputedStyle(line).textIndent);
             const start = Number(line.style.getPropertyValue("--indent"));
             return [start, line.textContent.match(/^ */)[0].length, pad > 0 && Math.abs(pad + shift) < 0.1]; })"""
    )
    assert steps and all(start == min(spaces, code_lines.DEEP) and hangs for start, spaces, hangs in steps)
    wide, _ = visit(1440)
    wide.goto(f"{site_url}chapters/irm_network.html", wait_until="load")
    assert wide.evaluate(read) == page.evaluate(read)


def test_arrow_keys_turn_to_the_neighbouring_chapter(visit, site_url):
    """← → 翻章；正在打字、在播放器里、在横着拖的块里时不翻。"""
    page, problems = visit(width=700)
    here = f"{site_url}chapters/gates.html"
    page.goto(here, wait_until="load")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/chapters/weights.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(here)
    page.wait_for_load_state("load")
    page.evaluate(
        """() => { const a = document.querySelector("article");
             a.insertAdjacentHTML("afterbegin", "<input id='try-input'><textarea id='try-area'></textarea>" +
               "<audio id='try-audio' controls tabindex='0'></audio><div id='try-slider' role='slider' tabindex='0' " +
               "aria-valuenow='1' aria-label='x'>滑块</div>"); }"""
    )
    for selector in ("#try-input", "#try-area", "#try-audio", "#try-slider", "article pre[tabindex='0']"):
        page.locator(selector).first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(150)
        assert page.url == here, f"在 {selector} 里按方向键，却翻了章"
    page.keyboard.press("Control+k")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(150)
    assert page.url == here, "正在搜索框里，却翻了章"
    assert not problems, problems


def test_missing_page_looks_like_the_book(visit, site_url):
    page, _ = visit()
    page.goto(f"{site_url}chapters/no/such/page.html", wait_until="load")
    assert page.locator("article h1").inner_text().startswith("没有这一页")
    assert page.locator(".bd-sidebar-primary a.reference").count() > 10
    page.locator("article a", has_text="首页").click()
    page.wait_for_url("**/index.html")
