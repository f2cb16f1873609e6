"""插图：磁盘上的文件与重新画的逐字节相同；字不缺、不重叠、不出界；SVG 合法，标识不冲突，颜色跟着主题走。"""

import base64
import gzip
import io
import itertools
import json
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from matplotlib.text import Text
from PIL import Image

from lstm_lib import LSTM
from lstm_lib.book import figures
from lstm_lib.book.figures import (
    catalogue,
    cell,
    charts,
    interactive,
    matrices,
    palette,
    roadmap,
    style,
    svg,
)
from lstm_lib.lstm import layouts, sigmoid

NAMES = list(catalogue.DRAWINGS)


def texts_of(fig):
    return [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]


@pytest.fixture
def book_style():
    with style.style_context():
        yield
    plt.close("all")


# ---------------------------------------------------------------- 示意图


@pytest.fixture(scope="module")
def drawn():
    return catalogue.contents()


def test_committed_files_are_what_the_code_draws(drawn):
    stale = [name for name, text in drawn.items() if (catalogue.ROOT / name).read_bytes() != text.encode()]
    assert not stale, f"{stale} 与代码画出来的不同：请运行 python -m lstm_lib.book.figures 后一并提交"


def test_regenerate_writes_only_what_changed(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(catalogue, "contents", lambda: drawn)
    assert catalogue.regenerate(tmp_path) == list(drawn)
    (tmp_path / "img" / "gate.svg").write_text("坏了", encoding="utf-8")
    (tmp_path / "img" / "logo.svg").unlink()
    assert catalogue.regenerate(tmp_path) == ["img/gate.svg", "img/logo.svg"]
    assert {name: (tmp_path / name).read_bytes().decode() for name in drawn} == drawn


def test_drawing_does_not_depend_on_the_process(drawn):
    code = "from lstm_lib.book.figures import catalogue as c; print(c.draw('lstm_cell'), end='')"
    out = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
    )
    assert out.stdout == drawn["img/lstm_cell.svg"]
    assert out.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_text_stays_inside_and_apart(name, book_style):
    """每段文字都在画布内，任意两段文字的外框不相交。"""
    fig = catalogue.DRAWINGS[name][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 缺字形时 matplotlib 会警告
        fig.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts_of(fig)]
    assert boxes
    for content, bounds in boxes:
        inside = (
            bounds.x0 >= 0 and bounds.y0 >= 0 and bounds.x1 <= fig.bbox.width and bounds.y1 <= fig.bbox.height
        )
        assert inside, f"{name}：“{content}”超出了画布 {bounds}"
    for (a, first), (b, second) in itertools.combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 0.5 or down <= 0.5, f"{name}：“{a}”与“{b}”重叠"


@pytest.mark.parametrize("name", NAMES)
def test_svg_is_valid_themed_and_described(name):
    text = (catalogue.ROOT / "img" / f"{name}.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.tag.endswith("svg") and root.get("role") == "img"
    assert len(root.get("aria-label")) >= 8
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {a or b for a, b in used} <= set(ids)
    body = re.sub(r"<style>.*?</style>", "", text)
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", body), "图里出现了调色板以外的颜色，换主题时不会变"
    assert "<text" not in body and "http:" not in body.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert len(text) < 120_000


def test_inline_twice_gives_distinct_ids():
    text = (catalogue.ROOT / "img" / "gate.svg").read_text(encoding="utf-8")
    first, second = svg.inline(text), svg.inline(text)
    ids = [set(re.findall(r' id="([^"]+)"', part)) for part in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for part in (first, second):
        assert set(re.findall(r'href="#([^"]+)"', part)) <= set(re.findall(r' id="([^"]+)"', part))
        assert "<style>" not in part and "--c-ink:var(--fig-ink,var(--jp-content-font-color1" in part


def test_parts_of_the_cell_differ(drawn):
    pictures = [drawn[f"img/lstm_{'cell' if part == 'all' else part}.svg"] for part in cell.PARTS]
    assert len(set(pictures)) == len(cell.PARTS)


def test_unknown_part_is_refused(book_style):
    with pytest.raises(ValueError, match="part 只能是"):
        cell.cell_part("nothing")


def test_book_map_shows_the_chapters_of_the_toc(book_style, tmp_path):
    """一章只在 _toc.yml 里写一次：添上一章，图上就多一站，说明里也有它；附录不在路上。"""
    (tmp_path / "_toc.yml").write_text(
        "root: index\nparts:\n"
        "- caption: 甲部 头一部分\n  numbered: true\n  chapters: [{file: c/a}, {file: c/b}]\n"
        "- caption: 附录\n  chapters: [{file: c/z}]\n",
        encoding="utf-8",
    )
    (tmp_path / "c").mkdir()
    for name, metadata in (("a", {}), ("b", {"short_title": "短名"})):
        cells = [{"cell_type": "markdown", "source": [f"# {name} 章的标题\n", "\n正文"]}]
        text = json.dumps({"cells": cells, "metadata": metadata})
        (tmp_path / "c" / f"{name}.ipynb").write_text(text, encoding="utf-8")
    assert roadmap.parts(tmp_path) == [("甲部", "头一部分", ["a 章的标题", "短名"])]
    shown = [t.get_text() for t in texts_of(roadmap.book_map())]
    for part in roadmap.parts():
        assert {part.number, part.title, *part.chapters} <= set(shown)
        assert all(chapter in roadmap.book_map_alt() for chapter in part.chapters)


def test_book_map_holds_a_longer_part(book_style, monkeypatch):
    rows = [roadmap.Part(f"第 {k} 部分", "题目", ["用自己的数据"] * 5) for k in range(5)]
    monkeypatch.setattr(roadmap, "parts", lambda: rows)
    fig = roadmap.book_map()
    fig.canvas.draw()
    boxes = [t.get_window_extent() for t in texts_of(fig)]
    assert all(b.x0 >= 0 and b.x1 <= fig.bbox.width and b.y0 >= 0 and b.y1 <= fig.bbox.height for b in boxes)
    for first, second in itertools.combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        assert across <= 0.5 or min(first.y1, second.y1) - max(first.y0, second.y0) <= 0.5


@pytest.mark.parametrize(
    ("inputs", "hidden", "order"),
    [(256, 257, "torch"), (64, 128, "onnx"), (512, 128, "ncnn"), (1, 300, "ifgo")],
)
def test_weight_blocks_for_other_sizes(inputs, hidden, order, book_style):
    fig = matrices.weight_blocks(inputs, hidden, order)
    shown = [t.get_text() for t in texts_of(fig)]
    assert f"{4 * hidden} × {inputs}" in shown and str(3 * hidden) in shown
    letters = [t[3:-1].rstrip("}")[-1] for t in shown if t.startswith("$W_{i")]
    assert "".join(letters) == layouts.gate_order(order)
    fig.canvas.draw()
    assert all(t.get_window_extent().x1 <= fig.bbox.width for t in texts_of(fig))


# ---------------------------------------------------------------- 字体


def test_font_has_every_common_character():
    path = files("lstm_lib.book") / "fonts" / "LSTMBookSans-Regular.otf"
    have = set(TTFont(path).getBestCmap())
    wanted = set()
    for high in range(0xA1, 0xF8):
        for low in range(0xA1, 0xFF):
            try:
                wanted.add(ord(bytes([high, low]).decode("gb2312")))
            except UnicodeDecodeError:
                continue
    wanted |= set(map(ord, "掩蔽遗忘细胞状态σ−×÷±≤≥∞→←⊙µμ²³①…—“”"))
    missing = wanted - have
    assert not missing, f"字体里缺 {''.join(map(chr, sorted(missing)[:50]))}"
    assert (
        (files("lstm_lib.book") / "fonts" / "OFL.txt")
        .read_text(encoding="utf-8")
        .count("SIL OPEN FONT LICENSE")
    )


def test_drawings_use_the_books_own_font(book_style):
    fig = catalogue.DRAWINGS["book_map"][0]()
    names = {t.get_fontproperties().get_name() for t in texts_of(fig)}
    assert names == {style.FONT_FAMILY}


# ---------------------------------------------------------------- figures.show 与图表


def shown(monkeypatch, fig, **kwargs):
    caught = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: caught.append(data))
    figures.show(fig, **kwargs)
    (data,) = caught
    return data


def test_show_emits_inline_figure(monkeypatch, book_style):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1], label="遗忘门")
    data = shown(monkeypatch, fig, alt='一条线 <"&">', caption="说明 <b>")
    root = ET.fromstring(data["text/html"])
    assert root.tag == "figure"
    picture = root.find(".//{http://www.w3.org/2000/svg}svg")
    assert picture.get("aria-label") == '一条线 <"&">' and picture.get("role") == "img"
    assert root.find("figcaption").text == "说明 <b>"
    assert "var(--c-blue)" in data["text/html"] and palette.BLUE not in data["text/html"].split(">", 3)[3]
    assert "说明" in data["text/plain"]
    assert not plt.get_fignums()


@pytest.mark.parametrize("alt", ["", "  "])
def test_show_needs_a_description(alt, book_style):
    fig, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt"):
        figures.show(fig, alt=alt)


def test_images_keep_their_pixels_when_shrunk(book_style):
    rng = np.random.default_rng(0)
    values = rng.random((40, 60))
    fig, ax = plt.subplots()
    charts.heatmap(ax, values, vmin=0, vmax=1)
    text = svg.render(fig, "热图")
    (data,) = re.findall(r"base64,([^\"]+)", text)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    colours = {tuple(c) for c in pixels.reshape(-1, 3)}
    right = charts.colormap("magma", charts.LEVELS // 2)(values, bytes=True)[..., :3]
    expected = {tuple(c) for c in right.reshape(-1, 3)}
    assert colours == expected
    assert len(data) < 40 * 60 * 2


def test_spectrogram_shows_a_tone_where_it_is(book_style):
    t = np.arange(16000) / 16000
    _, ax = plt.subplots()
    image = figures.spectrogram(ax, np.sin(2 * np.pi * 2000 * t).astype(np.float32))
    data = np.asarray(image.get_array())
    assert data.shape[0] == 257
    assert data[:, 30].argmax() == 64  # 2000 Hz / 31.25 Hz
    left, right, bottom, top = image.get_extent()
    assert (bottom, top) == (0, 8)
    assert left < 0 and 1 < right < 1.1


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.zeros((2, 2, 257)), np.float32(1)])
def test_spectrogram_refuses_other_shapes(bad, book_style):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="形状"):
        figures.spectrogram(ax, bad)


def test_waveform_envelope_keeps_the_peaks(book_style):
    wave = np.zeros(50_000, np.float32)
    wave[12_345], wave[43_210] = 0.9, -0.8
    _, ax = plt.subplots()
    figures.waveform(ax, wave)
    points = ax.collections[0].get_paths()[0].vertices
    assert points[:, 1].max() == pytest.approx(0.9) and points[:, 1].min() == pytest.approx(-0.8)
    assert len(points) < 2000
    figures.waveform(ax, np.ones(3))
    with pytest.raises(ValueError, match="非空"):
        figures.waveform(ax, np.zeros(0))


def test_parity_ladder_marks_what_is_out_of_bounds(book_style):
    fig, ax = plt.subplots()
    figures.parity_ladder(
        ax, [("好", 1e-7, 1e-5), ("相等", 0.0, 1e-5), ("坏", 1e-2, 1e-3), ("非数", float("nan"), 1e-3)]
    )
    notes = {t.get_text(): t.get_color() for t in ax.texts}
    assert notes["1.0e-07"] == notes["完全相等"] == palette.BLUE
    assert notes["1.0e-02"] == notes["nan"] == palette.RED
    fig.canvas.draw()
    with pytest.raises(ValueError, match="至少"):
        figures.parity_ladder(ax, [])


def test_roofline_bends_at_the_peak(book_style):
    _, ax = plt.subplots()
    figures.roofline(ax, [("内存", 10.0)], [("点", 0.5, 4.0)], peak_gflops=100.0)
    x, y = ax.get_lines()[0].get_data()
    assert np.allclose(y, np.minimum(10 * x, 100)) and y.max() == 100
    with pytest.raises(ValueError, match="正数"):
        figures.roofline(ax, [("内存", 0.0)], [], peak_gflops=1.0)


# ---------------------------------------------------------------- 颜色


def luminance(colour):
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", [name for name in palette.COLOURS if name not in ("grid", "paper", "panel")])
def test_colours_are_readable_in_both_themes(name):
    """文字用得到的颜色，对背景与浅底的对比度都不低于 4.5（WCAG AA）。"""
    colour = palette.COLOURS[name]
    for side in ("light", "dark"):
        for ground in ("paper", "panel"):
            assert contrast(getattr(colour, side), getattr(palette.COLOURS[ground], side)) >= 4.5
    fallback = palette.blend(colour.light, colour.dark, 0.38)
    if not colour.host:  # 在不认识本书变量的环境里，白底与黑底都要看得清线条
        assert min(contrast(fallback, "#ffffff"), contrast(fallback, "#111111")) >= 3


def test_colours_are_distinct():
    for side in ("light", "dark"):
        values = [getattr(colour, side) for colour in palette.COLOURS.values()]
        assert len(set(values)) == len(values)


# ---------------------------------------------------------------- 拨动门的图


def test_explorer_ids_are_unique_and_labelled():
    html = interactive.gate_explorer_html("门-1")
    assert "@ID@" not in html and "@VARIABLES@" not in html
    assert 'id="门-1"' in html and "noscript" in html
    assert not re.search(r"(src|href)=|https?:", html), "拨动门的图不应引用任何外部资源"
    assert "$" not in html, "美元号会被网页当成公式"


def test_explorer_computes_the_lstm_step(browser, tmp_path):
    """在真的浏览器里用键盘拨滑块，显示的 c、h 要等于公式算出来的。"""
    page_file = tmp_path / "page.html"
    both = interactive.gate_explorer_html("a") + interactive.gate_explorer_html("b")
    page_file.write_text(f"<!doctype html><meta charset=utf-8><body>{both}", encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    other = page.locator("#b").get_attribute("data-c")
    page.locator("#a-f").focus()
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    page.get_by_label("候选值 g").first.focus()
    page.keyboard.press("Home")
    value = {k: float(page.locator(f"#a-{k}").input_value()) for k in "figoc"}
    c, h = (float(page.locator("#a").get_attribute(f"data-{k}")) for k in "ch")
    page.get_by_role("button", name="整个换新").first.click()
    renewed = float(page.locator("#a").get_attribute("data-c"))
    wide = page.evaluate("document.documentElement.scrollWidth")
    untouched = page.locator("#b").get_attribute("data-c") == other
    said = page.locator("#a .sum").inner_text()
    page.close()
    assert value["f"] == pytest.approx(0.83) and value["g"] == -1
    assert c == pytest.approx(value["f"] * value["c"] + value["i"] * value["g"])
    assert h == pytest.approx(value["o"] * np.tanh(c))
    assert renewed == -1 and "−1.00" in said
    assert untouched and wide <= 390 and not errors


# ---------------------------------------------------------------- 沿着声音拨时刻


@pytest.fixture
def open_live(browser, tmp_path):
    """``open_live(HTML, 宽)``：在真的浏览器里从 file:// 打开，不许有脚本错误、出站请求与横向溢出。"""
    pages, problems = [], []

    def open_page(content, width=390):
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(f"<!doctype html><meta charset=utf-8><body>{content}", encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    wide = [page.evaluate("document.documentElement.scrollWidth - innerWidth") for page in pages]
    for page in pages:
        page.close()
    assert not problems and max(wide, default=0) <= 0


def check_markup(html, limit=150_000):
    assert "noscript" in html and "aria-label" in html and "$" not in html, "美元号会被网页当成公式"
    assert not re.search(r"(src|href)=|https?:", html), "不应引用任何外部资源"
    assert len(gzip.compress(html.encode(), 6)) < limit


@pytest.fixture(scope="module")
def steps():
    rng = np.random.default_rng(3)
    lstm = LSTM.from_torch(torch.nn.LSTM(6, 9))
    x = 3 * rng.standard_normal((40, 6)).astype(np.float32)
    units = {"头": 0, "尾 <&>": 8, "中": 4}
    wave = rng.standard_normal(39 * 256).astype(np.float32)
    html = interactive.lstm_steps_html(
        "拨", interactive.lstm_steps_data(lstm, x, units), units, wave, "一段<声音>", 5
    )
    return lstm, x, units, html


def test_steps_page_computes_what_the_network_does(steps, open_live):
    lstm, x, units, html = steps
    check_markup(html)
    _, _, [record] = lstm(x, return_gates=True)
    page = open_live(html)
    got = page.evaluate("[0, 1, 2].map(k => document.getElementById('拨').figure.run(k))")
    hidden = record.o * np.tanh(record.c)
    for values, unit in zip(got, units.values(), strict=True):
        for letter in "ifgoc":
            np.testing.assert_allclose(values[letter], getattr(record, letter)[:, unit], atol=2e-5)
        np.testing.assert_allclose(values["h"], hidden[:, unit], atol=2e-5)


def test_steps_page_by_keyboard(steps, open_live):
    """选单元、拨时刻都用键盘；显示的算式照着页上的数能验算。"""
    lstm, x, units, html = steps
    _, _, [record] = lstm(x, return_gates=True)
    page = open_live(html)
    page.get_by_label("0 号：头").focus()
    page.keyboard.press("ArrowDown")
    slider = page.get_by_label("时刻（帧）")
    slider.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    t, unit = len(x) - 2, units["尾 <&>"]
    assert slider.get_attribute("aria-valuetext") == f"{t * 0.016:.2f} 秒"
    shown = [
        text.replace("−", "-").replace("- ", "-").replace("+ ", "+").replace(" ", "")
        for text in page.locator(".equations > div").all_inner_texts()
    ]
    for text, letter in zip(shown[:4], "ifgo", strict=True):
        terms, total, value = re.fullmatch(
            r".+?=.+?\((.+?)\)=.+?\((.+?)\)=(.+)", re.sub(r"\s", "", text)
        ).groups()
        assert sum(map(float, re.findall(r"[-+]?[\d.]+", terms))) == pytest.approx(float(total), abs=2e-4)
        squash = np.tanh if letter == "g" else sigmoid
        assert squash(float(total)) == pytest.approx(float(value), abs=2e-4)
        assert float(value) == pytest.approx(getattr(record, letter)[t, unit], abs=1e-4)
    assert float(shown[4].split("=")[-1]) == pytest.approx(record.c[t, unit], abs=1e-4)
    assert "尾 <&>" in page.locator("fieldset").inner_text()


def test_steps_refuses_units_and_frames_that_are_not_there(steps):
    lstm, x, _, _ = steps
    for unit in (9, -1):
        with pytest.raises(ValueError, match=f"没有第 {unit} 号单元"):
            interactive.lstm_steps_data(lstm, x, {"哪个": unit})
    with pytest.raises(ValueError, match="units 是空的"):
        interactive.lstm_steps_data(lstm, x, {})
    with pytest.raises(ValueError, match="start"):
        interactive.lstm_steps(lstm, x, {"头": 0}, np.ones(99, np.float32), "声", start=40)


# ---------------------------------------------------------------- 量化的位数


@pytest.fixture(scope="module")
def quantizer():
    rng = np.random.default_rng(5)
    sizes = {"W": (20, 256), "U": (20, 5), "bias": (20,), "head": (257, 5), "headBias": (257,)}
    network = {name: rng.normal(0, 0.4, size) for name, size in sizes.items()}
    network["W"] *= rng.uniform(0.05, 1, (20, 1))  # 各行大小不同，逐行才有好处
    clean = 0.3 * np.sin(np.arange(5000) * 0.05) * np.linspace(0, 1, 5000)
    data, given = interactive.network_parts(network, clean + 0.05 * rng.standard_normal(5000), clean)
    return network, given, interactive.quantizer_html("量", data, "一段<声音>")


def test_mu_law_decodes_to_the_page_wave():
    wave = np.r_[0, -1, 1, 0.5, -0.001, np.linspace(-0.7, 0.7, 500)]
    coded, decoded = interactive.mu_law(wave)
    assert np.abs(decoded - wave).max() < 0.025 and decoded[0] == 0
    loud = np.abs(wave) > 0.01
    assert np.abs(decoded[loud] / wave[loud] - 1).max() < 0.03 and coded["peak"] == 1
    assert not interactive.mu_law(np.zeros(5))[1].any()


def test_quantizer_page_runs_the_printed_network(quantizer, open_live):
    """网页的 STFT、掩蔽、声音与分数，都等于 Python 算的；网络用的是章节里印出来的那一份。"""
    from test_chapter_code import definitions

    from lstm_lib.enhance import audio, irm
    from lstm_lib.enhance.scores import si_sdr

    network, given, html = quantizer
    check_markup(html)
    chapter, page = definitions("int8"), open_live(html)
    for name in ("W", "U", "head"):
        np.testing.assert_allclose(given[name], network[name], rtol=5e-4, atol=1e-7)
    magnitude = np.abs(audio.stft(given["noisy"].astype(float)))
    read = "Array.from(document.getElementById('量').figure.{})"
    np.testing.assert_allclose(page.evaluate(read.format("stft()")), magnitude.ravel(), atol=1e-9)
    np.testing.assert_allclose(page.evaluate(read.format("clean")), given["clean"], atol=1e-7)
    full = irm.apply_mask(chapter.run(given, magnitude[:, 1:]), given["noisy"])
    for weight_bits, input_bits, per_row in [
        (None, None, True),
        (8, 8, True),
        (4, 8, False),
        (2, 3, True),
        (6, None, False),
    ]:
        settings = f"{weight_bits or 0}, {input_bits or 0}, {str(per_row).lower()}"
        ours = chapter.run(given, magnitude[:, 1:], weight_bits, input_bits, per_row)
        np.testing.assert_allclose(page.evaluate(read.format(f"mask({settings})")), ours.ravel(), atol=1e-6)
        found = page.evaluate(
            "(r => ({wave: Array.from(r.wave), below: r.below, siSdr: r.siSdr}))"
            f"(document.getElementById('量').figure.compare({settings}))"
        )
        wave = irm.apply_mask(ours, given["noisy"])
        np.testing.assert_allclose(found["wave"], wave, atol=1e-5)
        assert found["siSdr"] == pytest.approx(si_sdr(given["clean"], wave), abs=1e-2)
        if weight_bits:
            below = 10 * np.log10(np.sum(full**2) / np.sum((wave - full) ** 2))
            assert found["below"] == pytest.approx(below, abs=0.05)


def test_quantizer_page_by_keyboard(quantizer, open_live):
    _, given, html = quantizer
    page = open_live(html)
    page.get_by_label("权重", exact=True).focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelectorAll('.chart polyline')[1].points.length === 7")
    rows = page.locator("dd").all_inner_texts()
    page.get_by_role("radio", name="每行一个").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('dd').innerText !== '{rows[0]}'")
    found = page.evaluate("document.getElementById('量').figure.compare(2, 8, false)")
    shown = page.locator("dd").all_inner_texts()
    assert shown[0] == f"{found['gap']:.4f}" and float(shown[0]) > float(rows[0])
    assert shown[3] == f"{(20 * 261 * 2 / 8 + 8) / 1000:.1f} kB"
    page.get_by_label("权重", exact=True).focus()
    page.keyboard.press("End")
    page.get_by_label("输入 x 与 h").focus()
    page.keyboard.press("End")
    page.wait_for_function("document.querySelectorAll('dd')[1].innerText === '没有差'")
    page.wait_for_timeout(300)  # 停下来才换声音
    heard = page.evaluate(
        "document.querySelector('.book-players').player.buffers.map(b => Array.from(b.getChannelData(0)))"
    )
    gain = 0.9 / np.abs(given["noisy"]).max()
    np.testing.assert_allclose(heard[0], given["noisy"] * gain, atol=1e-6)
    np.testing.assert_array_equal(heard[1], heard[2])  # 不量化，两路就一样
    assert not np.allclose(heard[0], heard[1], atol=0.1)
    page.get_by_role("button", name="播放").click()
    page.wait_for_function("document.querySelector('.book-players').player.time() > 0.05")


def test_quantizer_refuses_other_shapes(quantizer):
    network, given, _ = quantizer
    with pytest.raises(ValueError, match=r"W 的形状是 \(20, 200\)，应为 \(20, 256\)"):
        interactive.network_parts(network | {"W": network["W"][:, :200]}, given["noisy"], given["clean"])


# ---------------------------------------------------------------- 门排错了，听一听


@pytest.fixture(scope="module")
def workshop(quantizer):
    network, given, _ = quantizer
    data, _ = interactive.network_parts(network, given["noisy"], given["clean"])
    return given, interactive.gate_workshop_html("坊", data, "一段<声音>")


def test_workshop_page_equals_the_printed_code_for_all_orders(workshop, open_live):
    """24 种次序的掩蔽、分数都等于章节里印出来的；谁换了谁，与 check_gate_order 点的名相同。"""
    from test_chapter_code import definitions

    from lstm_lib.enhance import audio, irm
    from lstm_lib.enhance.scores import si_sdr
    from lstm_lib.formats.gate_check import check_gate_order

    given, html = workshop
    check_markup(html)
    chapter, page = definitions("handwritten"), open_live(html)
    frames = np.abs(audio.stft(given["noisy"].astype(float)))[:, 1:]
    right = chapter.mask_in_order(given, frames, "ifgo")

    # 另一条路：把同一份权重放进 LSTM 类
    names = {"weight_ih_l0": "W", "weight_hh_l0": "U", "bias_l0": "bias"}
    config = layouts.LSTMConfig(256, given["U"].shape[1], dtype="float64")
    y = LSTM(config, {name: given[short] for name, short in names.items()})(frames)[0]
    np.testing.assert_allclose(right, sigmoid(y @ given["head"].T + given["headBias"]), atol=1e-9)

    for order in map("".join, itertools.permutations("ifgo")):
        ours = chapter.mask_in_order(given, frames, order)
        found = page.evaluate(
            """o => { const f = document.getElementById("坊").figure, r = f.hear(o);
                 return {mask: Array.from(r.mask), wave: Array.from(r.wave), gap: r.gap, siSdr: r.siSdr,
                         said: f.crossed(o)}; }""",
            order,
        )
        wave = irm.apply_mask(ours, given["noisy"])
        np.testing.assert_allclose(found["mask"], ours.ravel(), atol=1e-6)
        np.testing.assert_allclose(found["wave"], wave, atol=1e-5)
        assert found["gap"] == pytest.approx(np.abs(ours - right).mean(), abs=1e-6)
        assert found["siSdr"] == pytest.approx(si_sdr(given["clean"], wave), abs=1e-2)

        def convert(lstm, order=order):
            moved = {n: layouts.reorder(a, "ifgo", order) for n, a in lstm.parameters.items()}
            return lstm.with_parameters(moved)

        try:
            check_gate_order(convert)
            message = ""
        except AssertionError as error:
            message = str(error)
        named = re.findall(r"(\w) 错了（bias_l0）.*?那里放的是\S* (\w)", message)
        pairs = set()
        for one, other in re.findall(r"(\w) 与 (\w) 对调了", found["said"]):
            pairs |= {(one, other), (other, one)}
        pairs |= set(re.findall(r"(\w) 的位置上放着 (\w)", found["said"]))
        assert pairs == set(named), (order, found["said"], message)


def order_on(page):
    return page.evaluate("document.getElementById('坊').figure.order()")


def test_workshop_page_by_keyboard(workshop, open_live):
    page = open_live(workshop[1])
    assert order_on(page) == "iofg" and "f 的位置上放着 o" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="输出门 o 右移").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # 焦点跟着走
    assert order_on(page) == "ifgo" and "四个门各就各位" in page.get_by_role("status").inner_text()
    shown = page.locator("dd").all_inner_texts()
    assert shown[0] == shown[1] and shown[3] == "0.0000"
    page.keyboard.press("Enter")  # 到头了，不动
    assert order_on(page) == "ifgo"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert order_on(page) == "ifog"
    assert "g 与 o 对调了" in page.get_by_role("status").inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "输出门 o 左移"
    scores = [
        float(text.split("\u3000")[1].removesuffix(" dB").replace("−", "-"))
        for text in page.locator(".tried button").all_inner_texts()
    ]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    page.locator(".tried button", has_text="i o f g").focus()
    page.keyboard.press("Enter")
    assert order_on(page) == "iofg"
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"


def test_workshop_tiles_are_dragged_and_swap(workshop, open_live):
    page = open_live(workshop[1])
    page.get_by_role("button", name="PyTorch").click()
    middle = {}
    for gate in "ifgo":
        box = page.locator(f".tile:has(b:text-is('{gate}')) .grip").bounding_box()
        middle[gate] = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle["f"])
    page.mouse.down()
    page.mouse.move(*middle["g"], steps=4)
    page.mouse.move(*middle["o"], steps=4)
    page.mouse.up()
    assert order_on(page) == "iogf" and "f 与 o 对调了" in page.get_by_role("status").inner_text()
    assert page.locator(".tile b").all_inner_texts() == list("iogf")
    page.mouse.move(*middle["i"])
    page.mouse.down()
    page.mouse.move(middle["i"][0] + 3, middle["i"][1])
    page.mouse.up()  # 没拖开，不变
    assert order_on(page) == "iogf" and page.locator(".held, .over").count() == 0


# ---------------------------------------------------------------- 信噪比与理想掩蔽


@pytest.fixture(scope="module")
def masks():
    rng = np.random.default_rng(7)
    clean = 0.4 * np.sin(np.arange(6000) * 0.09) * (np.arange(6000) % 2000 > 700)
    data, given = interactive.mask_explorer_parts(clean, 0.1 * rng.standard_normal(6000), 0.269, 0.731)
    return given, interactive.mask_explorer_html("蔽", data, "一段<声音>")


def test_mask_page_equals_the_library(masks, open_live):
    from lstm_lib.enhance import audio, irm
    from lstm_lib.enhance.scores import si_sdr

    given, html = masks
    check_markup(html)
    page, (clean, noise) = open_live(html), (given[k].astype(float) for k in ("clean", "noise"))
    for snr, beta, bounds in [
        (0, 0.5, (0, 1)),
        (-10, 2, (0.269, 0.731)),
        (20, 1, (0, 1)),
        (7, 0.25, (0.1, 0.5)),
    ]:
        noisy = clean + noise * np.sqrt(np.sum(clean**2) / np.sum(noise**2) / 10 ** (snr / 10))
        ideal = irm.ideal_ratio_mask(audio.stft(clean), audio.stft(noisy - clean), beta)
        ideal = np.clip(ideal, *bounds)
        found = page.evaluate(
            """([snr, beta, low, high]) => {
                 const found = document.getElementById("蔽").figure.enhance(snr, beta, low, high);
                 return {...found, mask: Array.from(found.mask), wave: Array.from(found.wave)}; }""",
            [snr, beta, *bounds],
        )
        wave = irm.apply_mask(ideal, noisy)
        np.testing.assert_allclose(found["mask"], ideal.ravel(), atol=1e-5)
        np.testing.assert_allclose(found["wave"], wave, atol=1e-5)
        assert found["before"] == pytest.approx(si_sdr(clean, noisy), abs=1e-2)
        assert found["after"] == pytest.approx(si_sdr(clean, wave), abs=1e-2)


def test_mask_page_by_keyboard(masks, open_live):
    page = open_live(masks[1])
    shown = page.locator("dd").all_inner_texts()
    page.get_by_label("0 到 1", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"document.querySelectorAll('dd')[3].innerText !== '{shown[3]}'")
    assert page.locator("dd").all_inner_texts()[3] == "0.731，0.269"
    page.get_by_role("slider", name="信噪比").focus()
    page.keyboard.press("End")
    page.wait_for_function(f"document.querySelector('dd').innerText !== '{shown[0]}'")
    assert float(page.locator("dd").first.inner_text().removesuffix(" dB")) == pytest.approx(20, abs=0.5)


def test_mask_explorer_refuses_silence_and_other_lengths():
    for clean, noise in ((np.ones(9), np.ones(8)), (np.zeros(9), np.ones(9)), (np.ones(9), np.zeros(9))):
        with pytest.raises(ValueError, match="一样长"):
            interactive.mask_explorer_parts(clean, noise, 0.2, 0.8)


# ---------------------------------------------------------------- 拨屋顶线


def test_roofline_page_equals_the_printed_formula(open_live):
    """网页的 roof 与章节里印出来的相同；拨到的数照它显示。"""
    from test_chapter_code import definitions

    html = interactive.roofline_explorer_html("顶")
    check_markup(html, 20_000)
    page, printed = open_live(html), definitions("c_kernel").roof
    rng = np.random.default_rng(2)
    for _ in range(30):
        sizes = {name: int(rng.integers(1, 600)) for name in ("inputs", "hidden", "frames", "streams")}
        sizes["width"] = int(rng.choice([1, 2, 4]))
        machine = {name: float(rng.uniform(0.2, 300)) for name in ("near", "far", "peak", "cache")}
        machine["cache"] /= 100
        found = page.evaluate("s => document.getElementById('顶').figure.roof(s)", sizes | machine)
        weights = 4 * sizes["hidden"] * (sizes["inputs"] + sizes["hidden"]) * sizes["width"]
        fits = weights <= machine["cache"] * 1e6
        wanted = printed(bandwidth=machine["near" if fits else "far"], peak=machine["peak"], **sizes)
        assert (found["intensity"], found["time"]) == pytest.approx(wanted, rel=1e-12)
        assert found["weights"] == weights and found["fits"] == fits
        limited = wanted[0] * machine["near" if fits else "far"] < machine["peak"]
        assert found["bound"] == ("算力" if not limited else "缓存的带宽" if fits else "内存的带宽")


def test_roofline_page_by_keyboard(open_live):
    page = open_live(interactive.roofline_explorer_html("顶"))
    assert page.locator("dd").all_inner_texts()[-1] == "内存的带宽"
    page.get_by_label("几路一起").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.get_by_label("几路一起").get_attribute("aria-valuetext") == "32 路"
    shown = page.locator("dd").all_inner_texts()
    assert shown[-2:] == ["10.5 μs", "算力"]
    page.get_by_label("float32").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "装得进缓存" in page.locator("dd").first.inner_text()


# ---------------------------------------------------------------- 章节


def test_every_picture_in_the_chapters_has_a_description():
    """各章里引用的示意图都存在，都有 :alt:。"""
    found = 0
    for path in sorted((catalogue.ROOT / "chapters").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for target, body in re.findall(r"```\{figure\} (\S+)\n(.*?)```", text, flags=re.S):
            found += 1
            assert (path.parent / target).is_file(), f"{path.name} 引用的 {target} 不存在"
            assert re.search(r"^:alt: \S", body, flags=re.M), f"{path.name} 的 {target} 没有 :alt:"
    assert found
