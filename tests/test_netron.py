"""页面里的 Netron：改好的静态网页不联网，每个模型都画得出来；插图与模型的算子一致。"""

import json
import re
import shutil
from collections import Counter

import netron_page
import onnx
import pytest
from conftest import AXE, ROOT, need_axe
from site_server import serve


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    netron_page.copy_site(folder)
    netron_page.write_models(folder / "models")
    return folder


def test_copy_is_idempotent_and_light(site):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in site.rglob("*") if p.is_file()}
    netron_page.copy_site(site)
    netron_page.write_models(site / "models")
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in site.rglob("*") if p.is_file()}
    assert sum(p.stat().st_size for p in before) < 3_000_000
    assert "await consent()" not in (site / "browser.js").read_text(encoding="utf-8")
    assert 'content="0.0.0"' in (site / "index.html").read_text(encoding="utf-8")


def test_changed_netron_is_refused(monkeypatch, tmp_path):
    fake = tmp_path / "netron"
    fake.mkdir()
    for name in netron_page.FILES:
        shutil.copy(netron_page.netron_folder() / name, fake / name)
    text = (fake / "browser.js").read_text(encoding="utf-8").replace("await consent();", "await consent2();")
    (fake / "browser.js").write_text(text, encoding="utf-8")
    monkeypatch.setattr(netron_page, "netron_folder", lambda: fake)
    with pytest.raises(ValueError, match=r"browser\.js"):
        netron_page.copy_site(tmp_path / "out")
    (fake / "view.js").unlink()
    with pytest.raises(FileNotFoundError, match=r"view\.js"):
        netron_page.copy_site(tmp_path / "out")


@pytest.mark.parametrize("name", [n for n in netron_page.MODELS if n.endswith(".onnx")])
def test_pictures_show_the_operators_of_the_models(site, name):
    counts = Counter(n.op_type for n in onnx.load(site / "models" / name).graph.node)
    counts.pop("Constant", None)  # Netron 把多数常数画进节点里
    picture = ROOT / "img" / f"netron_{name.removeprefix('irm_').removesuffix('.onnx')}.svg"
    drawn = Counter(re.findall(r">(\w+)</text>", picture.read_text(encoding="utf-8")))
    assert {op: drawn[op] for op in counts} == dict(counts)


@pytest.fixture
def netron(site, browser):
    """``netron(模型文件名)`` 打开一页、等图画好；出站请求与出错都记在 ``netron.problems`` 里。"""
    contexts = []

    def open_model(name, theme="light"):
        context = browser.new_context(viewport={"width": 1000, "height": 700}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.route("**/*", route)
        page.on("pageerror", lambda error: open_model.problems.append(str(error)))
        page.on("response", lambda r: open_model.problems.append(r.url) if r.status >= 400 else None)
        page.goto(f"{root}index.html?url=models/{name}")
        # 布局时文字已在、整页还是“加载中”，所以等 Netron 换到图的那一页
        page.wait_for_selector("body.default >> text=LSTM", timeout=60_000)
        return page

    def route(request):
        if request.request.url.startswith((root, "blob:", "data:")):
            request.continue_()
        else:
            open_model.problems.append(f"出站请求 {request.request.url}")
            request.abort()

    open_model.problems = []
    with serve(site) as root:
        yield open_model
        for context in contexts:
            context.close()


def test_every_model_opens_without_the_network(netron):
    for name in netron_page.MODELS:
        netron(name).close()
    assert not netron.problems, netron.problems


# 转圈的是动画，不会完；滑出来的是过渡，会完
MOTION_ENDS = """Promise.all(document.getAnimations().filter(a => a instanceof CSSTransition)
  .map(a => a.finished.catch(() => 0))).then(() => 1)"""


def script(page, expression):
    """在页面里算一个表达式。Netron 关掉了 window.eval，page.evaluate 用不了，走调试协议。"""
    session = page.context.new_cdp_session(page)
    options = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    return session.send("Runtime.evaluate", options)["result"].get("value")


def texts(page, selector, key="textContent"):
    return script(page, f"[...document.querySelectorAll('{selector}')].map(n => n.{key}.trim())")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(netron, theme):
    """图、打开的属性栏、打开的菜单，加载中、没有模型与“关于”三页，都没有严重的无障碍问题。"""
    need_axe()
    found = {}

    def body_class(name):
        return lambda page: script(page, f"document.body.className = '{name}'; 1")

    for name in netron_page.MODELS:
        page = netron(name, theme)
        script(page, AXE.read_text(encoding="utf-8") + "; 1")
        states = [("图", None)]
        if name == "irm_simplified.onnx":
            states += [
                ("节点属性", lambda page: page.get_by_text("LSTM").first.click()),
                ("菜单", lambda page: page.locator("#menu-button").click()),
                ("加载中", body_class("welcome spinner")),
                ("没有模型", body_class("welcome")),
                ("关于", body_class("about")),
            ]
        for state, enter in states:
            if enter is not None:
                enter(page)
                page.wait_for_timeout(300)  # 点了之后才开始滑出来
                script(page, MOTION_ENDS)
            serious = script(
                page,
                "(async () => (await axe.run({ resultTypes: ['violations'] })).violations"
                ".filter(v => ['serious', 'critical'].includes(v.impact))"
                ".map(v => [v.id, v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary]))()",
            )
            assert serious is not None, f"{name}（{state}）：axe 没有跑起来"
            if serious:
                found[f"{name}，{state}"] = serious
    assert not found, f"{theme}：{json.dumps(found, ensure_ascii=False, indent=1)[:4000]}"


def test_interface_is_chinese(netron):
    page = netron("irm_simplified.onnx")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.get_by_text("LSTM").first.click()
    page.locator("#sidebar-title", has_text="节点属性").wait_for()
    sections = texts(page, ".sidebar-section")
    assert sections and all(re.search(r"[一-鿿]", text) for text in sections), sections
    page.locator("#menu-button").click()
    labels = texts(page, ".menu-label, .menu-group-header")
    assert len(labels) > 10, f"菜单没有打开：{labels}"
    assert all(re.search(r"[一-鿿]", text) for text in labels), f"菜单里还有英文：{labels}"
    titles = texts(page, "#toolbar button[title]", "title")
    assert titles and all(re.search(r"[一-鿿]", text) for text in titles), titles


def test_nodes_are_reached_by_keyboard(netron):
    """按 Tab 走到 LSTM 节点，回车打开它的属性栏。"""
    page = netron("irm_simplified.onnx")
    for _ in range(12):
        page.keyboard.press("Tab")
        if script(page, "document.activeElement.closest('.node-item-type')?.textContent.includes('LSTM')"):
            break
    else:
        raise AssertionError("按了 12 次 Tab 也没有走到 LSTM")
    page.keyboard.press("Enter")
    page.locator("#sidebar-title", has_text="节点属性").wait_for()


def test_colors_follow_the_book(site, browser):
    """系统是浅色、书页换成深色时，框里的 Netron 跟着变深，换回来又变浅。"""
    (site / "book.html").write_text(
        '<html data-theme="dark"><iframe src="index.html?url=models/irm_simplified.onnx"></iframe></html>'
    )
    with serve(site) as root:
        context = browser.new_context(color_scheme="light")
        page = context.new_page()
        page.goto(f"{root}book.html")
        page.frame_locator("iframe").get_by_text("LSTM").first.wait_for(state="attached")
        scheme = (
            "getComputedStyle(document.querySelector('iframe').contentDocument.documentElement).colorScheme"
        )
        page.wait_for_function(f"{scheme} === 'dark'")  # 书页是深色，跟着变深
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        page.wait_for_function(f"{scheme} !== 'dark'")  # 换回浅色，跟着变浅
        context.close()
    (site / "book.html").unlink()
