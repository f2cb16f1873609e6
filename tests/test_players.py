"""对比播放器：写进页里的声音与图；在真的浏览器里换、听、点、按键；没有脚本、打印、声音坏了也不误事。"""

import base64
import gzip
import http.server
import io
import re
import threading

import numpy as np
import pytest
import soundfile
from book_finish import finish_page
from conftest import AXE, ROOT, need_axe
from playwright.sync_api import expect

from lstm_lib.book import players
from lstm_lib.waves import SAMPLE_RATE

NAMES = ["带噪", "增强 <&>", "理想", "纯净"]
SECONDS = 10  # 长些：机器忙的时候，也不会还没按键就放完了


def tones():
    """四路同相位的音，一路比一路轻；换的时候只有音量变，断了就听得出。"""
    t = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    wave = 0.5 * np.sin(2 * np.pi * 400 * t)
    return {name: (wave / 2**k).astype(np.float32) for k, name in enumerate(NAMES)}


def clicked():
    """1.5 秒处一声响：解出来的声音有没有多一段、少一段。"""
    wave = np.zeros(SECONDS * SAMPLE_RATE, np.float32)
    wave[24000:24040] = 0.8
    return {"响": wave, "轻": 0.5 * wave}


@pytest.fixture(scope="module")
def page_html():
    return players.row_html(tones(), title="一段<声音>")


# ---------------------------------------------------------------- 写进页里的


def test_sounds_and_pictures_are_in_the_page(page_html):
    assert page_html.count('<audio controls preload="none"') == 4 and page_html.count("alt=") == 4
    assert "增强 &lt;&amp;&gt;" in page_html and "一段&lt;声音&gt;" in page_html
    assert "<&>" not in page_html and "<声音>" not in page_html
    assert "http" not in page_html and "$" not in page_html, "美元号会被网页当成公式"
    sounds = re.findall(r"data:audio/mpeg;base64,([^\"]+)", page_html)
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(sound))) for sound in sounds]
    assert all(rate == SAMPLE_RATE and wave.shape == (SECONDS * SAMPLE_RATE,) for wave, rate in decoded)
    loudness = [np.abs(wave).max() for wave, _ in decoded]
    assert 0.8 < loudness[0] <= 1 and loudness[0] / loudness[1] == pytest.approx(2, rel=0.05)
    assert len(re.findall(r"data:image/webp;base64,", page_html)) == 4


def test_the_same_sounds_give_the_same_page(page_html):
    assert players.row_html(tones(), title="一段<声音>") == page_html
    assert not re.search(r'\sid="', page_html), "没有标识，一页放几个也不会重名"


def test_script_and_style_are_small():
    assert len(gzip.compress("".join(players.style_and_script()).encode(), 6)) < 5_120  # 5 KiB


def test_refuses_what_cannot_be_compared_and_accepts_silence():
    wave = np.ones(16000, np.float32)
    assert "<audio" in players.row_html({"静音": 0 * wave})
    with pytest.raises(ValueError, match="没有可播放"):
        players.row_html({})
    with pytest.raises(ValueError, match="“空”"):
        players.row_html({"空": wave[:0]})
    with pytest.raises(ValueError, match="“空”"):
        players.row_html({"好": wave, "空": wave[:0]})
    with pytest.raises(
        ValueError, match=r"“带噪”有 16000 个样点，“增强”有 15999 个.*采样率不同的先重采样.*先截齐或补零"
    ):
        players.row_html({"带噪": wave, "增强": wave[:-1]})
    with pytest.raises(ValueError, match="增强 应是一维的单声道波形"):
        players.row_html({"带噪": wave, "增强": np.ones((16000, 2), np.float32)})


def test_a_site_page_keeps_one_copy_and_sounds_beside_it(page_html, tmp_path):
    """每页只留一份样式与脚本；声音搬到页外，旁边一份脚本里的内容与 MP3 相同。"""
    done = finish_page(f"<html><body>{page_html}{page_html}</body></html>", tmp_path, "../")
    assert page_html.count("data-once") == 2 and done.count("data-once") == 2
    assert done.count('class="book-players"') == 2 and "audio/mpeg" not in done
    names = set(re.findall(r'src="\.\./_media/(\w+)\.mp3"', done))
    assert len(names) == 4
    for name in names:
        key, text = re.fullmatch(
            r'lstmPlayers\.sounds\["(\w+)"\]="(.+)";\n', (tmp_path / f"{name}.js").read_text()
        ).groups()
        assert key == name and base64.b64decode(text) == (tmp_path / f"{name}.mp3").read_bytes()
    assert finish_page(done, tmp_path, "../") == done, "再做一遍，结果变了"


# ---------------------------------------------------------------- 在浏览器里

# 凡是送去扬声器的，也记一份
RECORD = """(() => {
  const connect = AudioNode.prototype.connect;
  let tap;
  window.heard = [];
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target === this.context.destination && this instanceof GainNode) {
      if (!tap) {
        tap = this.context.createScriptProcessor(1024, 1, 1);
        tap.onaudioprocess = (event) => heard.push(...event.inputBuffer.getChannelData(0));
        connect.call(tap, target);
        window.rate = this.context.sampleRate;
      }
      connect.call(this, tap);
    }
    return connect.call(this, target, ...rest);
  };
})();"""


LOUDEST = """buffers.map((b) => { const x = b.getChannelData(0);
  return x.reduce((best, v, n) => (Math.abs(v) > Math.abs(x[best]) ? n : best), 0) / b.sampleRate; })"""


@pytest.fixture
def show(browser, tmp_path):
    """``show(HTML, 选项)``：从 file:// 打开；页上的错误、向外取东西、横向溢出都不许有。"""
    opened, problems = [], []

    def open_page(html, name="page.html", allowed=(), **options):
        (tmp_path / name).write_text(
            f"<!doctype html><html lang=zh><meta charset=utf-8><title>试</title><body><main>{html}</main>",
            encoding="utf-8",
        )
        context = browser.new_context(**({"viewport": {"width": 390, "height": 900}} | options))
        opened.append(context)
        page = context.new_page()

        def complain(text):
            if not any(word in text for word in allowed):
                problems.append(text)

        page.on("pageerror", lambda error: complain(str(error)))
        page.on("console", lambda m: complain(m.text) if m.type == "error" else None)
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complain(r.url))
        page.add_init_script(RECORD)
        page.goto((tmp_path / name).as_uri())
        return page

    yield open_page
    wide = [c.pages[0].evaluate("document.documentElement.scrollWidth - innerWidth") for c in opened]
    for context in opened:
        context.close()
    assert not problems and max(wide, default=0) <= 0


def ask(page, what, number=0):
    return page.evaluate(f"document.querySelectorAll('.book-players')[{number}].player.{what}")


def playing(page, number=0):
    return page.locator(".play").nth(number).inner_text() == "暂停"


def wait_until(page, seconds, number=0):
    page.wait_for_function(
        f"document.querySelectorAll('.book-players')[{number}].player.time() > {seconds}", polling=20
    )


def test_switching_has_no_gap_and_keeps_the_instant(show, page_html):
    """换一路：位置接着走，声音不断；录下送去扬声器的，每 10 毫秒都有声，音量降到那一路的。"""
    page = show(page_html)
    page.get_by_role("button", name="播放").click()
    wait_until(page, 0.5)
    jump = page.evaluate(
        """() => { const { player } = document.querySelector(".book-players"), before = [player.time(), performance.now()];
             document.querySelectorAll("figcaption button")[1].click();
             return Math.abs(player.time() - before[0]) - (performance.now() - before[1]) / 1000; }"""
    )
    assert jump < 0.05
    wait_until(page, 1)
    page.get_by_role("button", name="暂停").click()
    rate = page.evaluate("rate")
    wave = np.array(page.evaluate("heard"))
    size = round(rate / 100)
    level = np.sqrt(np.mean(wave[: len(wave) // size * size].reshape(-1, size) ** 2, axis=1))
    loud = np.flatnonzero(level > 0.1)
    level = level[loud[0] + 1 : loud[-1] - 5]  # 停下时有几毫秒的淡出
    assert level.min() > 0.25 and level.max() < 0.75, "断了，或者两路叠在一起"
    assert level[:30] == pytest.approx(0.9 / np.sqrt(2), rel=0.1)
    assert level[-20:] == pytest.approx(0.45 / np.sqrt(2), rel=0.1)


def test_keys_when_the_player_has_the_focus(show, page_html):
    turned = "<script>addEventListener('keydown', () => (window.turned = (window.turned || 0) + 1))</script>"
    page = show(page_html + turned)
    seek = page.get_by_role("slider", name="播放位置")
    seek.focus()
    page.keyboard.press("Space")
    wait_until(page, 0.2)
    for key in "4231":
        page.keyboard.press(key)
        assert ask(page, "chosen()") == int(key) - 1
        pressed = page.locator("[aria-pressed=true]").all_inner_texts()
        assert pressed == [NAMES[int(key) - 1]]
    page.keyboard.press("5")
    assert ask(page, "chosen()") == 0
    page.keyboard.press("Space")
    assert not playing(page)
    at = ask(page, "time()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert ask(page, "time()") == pytest.approx(at + 0.25, abs=1e-3)
    assert float(seek.get_attribute("aria-valuenow")) == pytest.approx(at + 0.25, abs=0.01)
    page.keyboard.press("Home")
    assert ask(page, "time()") == 0 and "0.0 / 10.0 秒，带噪" in seek.get_attribute("aria-valuetext")
    page.keyboard.press("Shift+Tab")  # 走到最后一路的按钮：空格是按它，再按一次是播放
    page.keyboard.press("Space")
    assert ask(page, "chosen()") == 3 and not playing(page)
    page.keyboard.press("Space")
    wait_until(page, 0.1)
    page.keyboard.press("ArrowRight")  # 在按钮上也能前后移动
    assert ask(page, "time()") > 0.3
    page.locator(".play").focus()
    page.keyboard.press("Space")
    assert not playing(page)
    page.keyboard.press("Enter")
    assert playing(page)
    assert page.evaluate("turned") == 1, "播放器的键漏给了页面"  # 只有 Tab 不归它管
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("2")
    assert ask(page, "chosen()") == 3 and page.evaluate("turned") == 2


def test_click_and_drag_on_the_pictures(show, page_html):
    page = show(page_html, viewport={"width": 1000, "height": 900})
    boxes = [page.locator(".book-players img").nth(k).bounding_box() for k in range(4)]

    def point(k, part):
        return boxes[k]["x"] + part * boxes[k]["width"], boxes[k]["y"] + 20

    page.mouse.click(*point(2, 0.5))
    assert ask(page, "time()") == pytest.approx(5, abs=0.05)
    assert ask(page, "chosen()") == 2 and not playing(page)
    line = page.locator(".seek i").bounding_box()
    assert line["x"] + 1 == pytest.approx(point(2, 0.5)[0], abs=1.5)
    assert (
        line["y"] <= boxes[0]["y"] + 1
        and line["y"] + line["height"] >= boxes[3]["y"] + boxes[3]["height"] - 1
    )
    page.get_by_role("button", name="播放").click()
    wait_until(page, 5.1)
    page.mouse.move(*point(0, 0.2))
    page.mouse.down()
    page.mouse.move(*point(0, 0.7), steps=5)
    held = ask(page, "time()")
    page.wait_for_timeout(150)
    assert ask(page, "time()") == held == pytest.approx(7, abs=0.05), "拖的时候还在放"
    page.mouse.up()
    assert playing(page) and ask(page, "chosen()") == 0
    page.evaluate("document.querySelector('.book-players').player.move(9.8)")
    page.wait_for_function("document.querySelector('.play').innerText === '播放'")  # 到头停下
    assert ask(page, "time()") == SECONDS
    page.get_by_role("button", name="播放").click()  # 再放从头开始
    page.wait_for_timeout(300)
    assert 0 < ask(page, "time()") < 5


def test_a_finger_taps_but_scrolling_does_nothing(show, page_html):
    page = show(page_html, has_touch=True)
    box = page.locator(".book-players img").nth(1).bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + 10)
    assert ask(page, "time()") == pytest.approx(2.5, abs=0.1) and ask(page, "chosen()") == 1
    fire = """type => document.querySelector(".seek").dispatchEvent(new PointerEvent(type, {pointerType: "touch",
      pointerId: 1, clientX: 350, clientY: 200, bubbles: true}))"""
    page.evaluate("Element.prototype.setPointerCapture = () => {}")
    for kind in ("pointerdown", "pointercancel"):
        page.evaluate(fire, kind)
    assert ask(page, "time()") == pytest.approx(2.5, abs=0.1) and ask(page, "chosen()") == 1
    sizes = [button.bounding_box() for button in page.locator(".book-players button").all()]
    assert min(size["height"] for size in sizes) >= 44 and min(size["width"] for size in sizes) >= 44


def test_one_sounds_at_a_time_and_draws_only_while_playing(show, page_html):
    sound = re.search(r'data:audio[^"]+', page_html)[0]
    single = f'<audio id="single" controls src="{sound}"></audio>'
    page = show(page_html + page_html + single)
    page.evaluate(
        "() => { const next = requestAnimationFrame; window.frames_ = 0;"
        " window.requestAnimationFrame = (f) => next((t) => { frames_++; f(t); }); }"
    )
    page.locator(".play").first.click()
    wait_until(page, 0.2)
    page.locator(".play").nth(1).click()
    wait_until(page, 0.2, 1)
    assert not playing(page, 0) and playing(page, 1)
    page.evaluate("document.getElementById('single').play()")
    page.wait_for_function("document.querySelectorAll('.play')[1].innerText === '播放'")
    page.locator(".play").first.click()
    page.wait_for_function("document.getElementById('single').paused")
    page.locator(".play").first.click()
    page.wait_for_timeout(100)
    counted = page.evaluate("frames_")
    page.wait_for_timeout(300)
    assert counted > 5 and page.evaluate("frames_") == counted, "没有放，却还在画"


def test_decoded_sound_is_where_it_was(show):
    page = show(players.row_html(clicked()))
    page.get_by_role("button", name="播放").click()
    wait_until(page, 0.1)
    assert ask(page, LOUDEST) == pytest.approx([1.5, 1.5], abs=0.005)


def test_a_site_page_plays_from_a_file_and_falls_back(show, page_html, tmp_path):
    """网站的页从 file:// 打开也换得成；声音的脚本没有了，退回一排普通的播放器。"""
    done = finish_page(f"<html><body>{page_html}</body></html>", tmp_path / "_media", "")
    page = show(done)
    page.get_by_role("button", name="播放").click()
    wait_until(page, 0.1)
    for path in (tmp_path / "_media").glob("*.js"):
        path.unlink()
    page = show(done, allowed=["ERR_FILE_NOT_FOUND"])
    page.get_by_role("button", name="播放").click()
    expect(page.locator("audio").first).to_be_visible()
    expect(page.locator(".play, .seek, figcaption button")).to_have_count(0)
    assert page.locator("figcaption").all_inner_texts() == NAMES


def test_without_scripts_there_are_plain_players(show, page_html):
    page = show(page_html, java_script_enabled=False)
    for audio in page.locator("audio").all():
        expect(audio).to_be_visible()
    assert page.locator("figcaption").all_inner_texts() == NAMES and page.locator("button").count() == 0


@pytest.mark.parametrize("scripts", [True, False])
def test_print_shows_every_picture_with_its_name(show, page_html, scripts):
    page = show(page_html, java_script_enabled=scripts)
    page.emulate_media(media="print")
    for k, name in enumerate(NAMES):
        expect(page.locator("figcaption", has_text=name).first).to_be_visible()
        picture = page.locator(".book-players img").nth(k)
        expect(picture).to_be_visible()
        assert picture.evaluate("e => e.complete && e.naturalWidth") == 512
    for hidden in page.locator("audio, button, .seek, .hint").all():
        expect(hidden).not_to_be_visible()
    assert page.locator("figcaption").all_inner_texts() == NAMES


def test_late_output_is_upgraded_too(show, page_html):
    """笔记本先跑脚本，后把输出放上页面。"""
    page = show("<div id=box></div>")
    page.evaluate(
        """html => { const box = document.createElement("div"); box.innerHTML = html;
             for (const old of box.querySelectorAll("script")) (0, eval)(old.textContent);
             setTimeout(() => document.getElementById("box").append(box), 150); }""",
        page_html,
    )
    page.get_by_role("button", name="播放").click()
    wait_until(page, 0.1)
    page.evaluate("document.getElementById('box').textContent = ''")  # 输出换掉了：声音也停


def test_a_page_that_arrives_in_pieces(browser, page_html):
    """网慢时第二个播放器只到了一半：等它到齐，不少一路，也不出错。"""
    bare = re.sub(r"(?s)<(style|script).*?</\1>", "", page_html)
    head, tail = bare.split("<figcaption>" + NAMES[2])
    pieces = [
        "<!doctype html><meta charset=utf-8><body>" + page_html + head,
        "<figcaption>" + NAMES[2] + tail,
    ]

    seen = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece.encode())
                self.wfile.flush()
                seen.wait(60)  # 头一段的播放器接管了，再送下一段

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, problems = browser.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit")
        page.wait_for_selector(".book-players[data-ready]")
        assert page.evaluate("document.readyState") == "loading"
        page.wait_for_timeout(500)  # 只到了一半的那个，这期间不该动它
        seen.set()
        expect(page.locator(".book-players[data-ready]")).to_have_count(2)
        assert page.locator(".book-players figcaption button").all_inner_texts() == NAMES * 2
        page.close()
        server.shutdown()
    assert not problems


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_aloud(show, page_html, width, dark):
    need_axe()
    page = show(page_html, viewport={"width": width, "height": 900})
    page.add_style_tag(path=ROOT / "_site_static" / "figures.css")
    page.add_style_tag(content="body{background:var(--fig-paper)}")
    page.evaluate("dark => (document.documentElement.dataset.theme = dark ? 'dark' : 'light')", dark)
    page.get_by_role("button", name="播放").click()
    wait_until(page, 0.1)
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "async () => (await axe.run('.book-players')).violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact)).map(v => [v.id, v.nodes[0].html])"
    )
    assert not found, found
