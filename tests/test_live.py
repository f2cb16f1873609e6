"""页面里的增强器：浏览器里的输出等于 Python 的 int8；从磁盘打开也行；各种状态都说得清。"""

import base64
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import AXE, ROOT, need_axe
from site_server import BROWSER_ARGS, serve
from test_chapter_code import definitions
from test_enhancer import encoded, make

from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.native import NativeEnhancer, wasm
from lstm_lib.waves import SAMPLE_RATE

pytest.importorskip("ziglang", reason="要装 ziglang")
PAGE = """<!doctype html><html lang="zh-CN" data-theme="light"><meta charset="utf-8"><title>试</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="book.css"><link rel="stylesheet" href="live/live.css">
<style>body { background: var(--pst-color-background); color: var(--pst-color-text-base); }</style>
<main class="bd-article"><h1>试</h1><div class="lstm-live" data-root="live"></div>
<table><tr><th>在哪里<th>float32<th>int8<th>占<tr><td>你的浏览器<td>—<td>—<td>—</table>
<div class="live-measure" data-root="live"></div></main>
<script defer src="live/live.js"></script></html>"""


@pytest.fixture(scope="session")
def models():
    """书中尺寸的网络，权重是随机的：不必训练，算得对不对一样看得出。"""
    network = make(NetworkConfig())
    return {dtype: encoded(network, dtype) for dtype in ("int8", "float32")}


@pytest.fixture(scope="session")
def live_folder(tmp_path_factory, models):
    import live_page

    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(ROOT / "_site_static" / "live", folder / "live")
    shutil.copy(ROOT / "_site_static" / "book.css", folder)
    rng, t = np.random.default_rng(0), np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    scenes = [
        SimpleNamespace(
            title=f"噪声 {k}，0 dB，嗓音 {k}",
            snr_db=0,
            clean=(0.2 * np.sin(2 * np.pi * pitch * t) * (np.sin(2 * np.pi * 3 * t) > 0)).astype(np.float32),
            noise=(0.1 * rng.standard_normal(len(t))).astype(np.float32),
        )
        for k, pitch in enumerate((220, 330))
    ]
    modules = {level: wasm.build_module(level).read_bytes() for level in wasm.LEVELS}
    live_page.write(folder / "live", modules, models, scenes)
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    return folder


def test_the_page_is_made_again_only_when_something_changed(tmp_path, models, monkeypatch):
    """只改了文字的重建不重做模块、模型与声音；程序包变了、文件没了，就重做。"""
    import live_page

    from lstm_lib import corpus

    monkeypatch.setattr(corpus, "demo_scenes", lambda **_: [])
    written = []

    def write(folder, *_):
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder)

    monkeypatch.setattr(live_page, "write", write)
    app = SimpleNamespace(
        outdir=tmp_path,
        builder=SimpleNamespace(format="html"),
        env=SimpleNamespace(metadata={"chapters/browser": {"live": True}}),
        book_library_key="甲",
    )
    live_page.copy(app, None)
    live_page.copy(app, None)
    assert len(written) == 1, "什么都没变，却又做了一遍"
    app.book_library_key = "乙"
    live_page.copy(app, None)
    assert len(written) == 2, "程序包变了，页面上还是旧的"
    shutil.rmtree(tmp_path / live_page.FOLDER)
    live_page.copy(app, None)
    assert len(written) == 3, "文件没了，却没有重做"


@pytest.fixture(scope="session")
def live_url(live_folder):
    with serve(live_folder) as base:
        yield base


@pytest.fixture
def visit(browser):
    """``visit(网址, 先运行的脚本)`` 给出一页；关掉时查它没有脚本错误、没有向外取东西。"""
    contexts, problems = [], []

    def open_page(address, script="", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900}, locale="zh-CN")
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        base = address.rsplit("/", 1)[0]
        page.on(
            "request",
            lambda r: None if r.url.startswith((base, "data:", "blob:")) else problems.append(r.url),
        )
        page.goto(address, wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems, problems


def speech(seconds=3.0, rate=SAMPLE_RATE, seed=3):
    """像说话一样忽强忽弱的声音，16 位能存得下。"""
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    tone = sum(np.sin(2 * np.pi * f * t + f) / n for n, f in enumerate((190, 410, 777, 1500, 3100), 1))
    wave = 0.15 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 2.3 * t)) + 0.02 * rng.standard_normal(len(t))
    return (np.round(wave * 32768) / 32768).astype(np.float32)


def python_int8(models, wave, dtype="int8"):
    """Python 的结果，延迟已经去掉。"""
    chain = NativeEnhancer(models[dtype])
    padded = np.pad(wave, (0, -len(wave) % chain.hop + chain.latency))
    return chain.process(padded)[chain.latency - chain.hop :][: len(wave)]


def as_text(array):
    return base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


RENDER = """async ([text, level, int8, rate, strength]) => {
  const engine = await lstmLive.loadEngine("live");
  const raw = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const model = int8 ? engine.model : await lstmLive.loadFloat("live");
  const module = level ? raw(lstmLiveData.modules[level]) : engine.module;
  const out = lstmLive.render(module, model, int8, new Float32Array(raw(text).buffer), { rate, strength });
  return Array.from(out);
}"""


@pytest.mark.parametrize("where", ["http", "file"])
@pytest.mark.parametrize("level", wasm.LEVELS)
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_the_page_computes_what_python_computes(visit, live_url, live_folder, models, level, dtype, where):
    page = visit(live_url + "index.html" if where == "http" else (live_folder / "index.html").as_uri())
    wave = speech()
    out = page.evaluate(RENDER, [as_text(wave), level, dtype == "int8", SAMPLE_RATE, 1])
    np.testing.assert_allclose(out, python_int8(models, wave, dtype), rtol=0, atol=1e-5)


def test_strength_mixes_the_noisy_sound_back_in(visit, live_url, models):
    page, wave = visit(live_url + "index.html"), speech()
    dry = page.evaluate(RENDER, [as_text(wave), None, True, SAMPLE_RATE, 0])
    np.testing.assert_allclose(dry, wave, rtol=0, atol=1e-6)
    half = page.evaluate(RENDER, [as_text(wave), None, True, SAMPLE_RATE, 0.5])
    np.testing.assert_allclose(half, (wave + python_int8(models, wave)) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_any_rate_of_the_context(visit, live_url, rate):
    """带噪一路重采样到 16 kHz 再回来：带内原样，时间对得上，一个样点也不缺。"""
    page = visit(live_url + "index.html")
    t = np.arange(2 * rate) / rate
    wave = sum(0.1 * np.sin(2 * np.pi * f * t + f) for f in (200, 900, 2500)).astype(np.float32)
    out = np.array(page.evaluate(RENDER, [as_text(wave), None, True, rate, 0]))
    middle = slice(rate // 4, -rate // 4)
    shifts = range(-2, 3)
    errors = [np.abs(np.roll(out, k)[middle] - wave[middle]).max() for k in shifts]
    best = min(errors)  # 延迟取整到一个样点：余下不到一个样点的差
    assert best < 0.3 * 2 * np.pi * 2500 / rate + 2e-3, (rate, errors)
    power = np.sqrt(np.mean(out[middle] ** 2) / np.mean(wave[middle] ** 2))
    assert abs(power - 1) < 0.01


START = ".live-start"


def state(page, wanted, timeout=30_000):
    page.wait_for_function(
        "wanted => wanted.includes(document.querySelector('.lstm-live').dataset.state)",
        arg=wanted,
        timeout=timeout,
    )
    return page.locator(".live-status").inner_text()


def record(page, started=False):
    """录十秒：带噪与增强两路。"""
    if not started:
        page.click(".live-record")
    page.locator(".live-takes a").first.wait_for(timeout=60_000)
    waves = page.evaluate(
        "() => { const t = document.querySelector('.lstm-live').lstmLive.takes;"
        " return [Array.from(t.noisy), Array.from(t.enhanced)]; }"
    )
    return [np.array(wave, np.float32) for wave in waves]


def compare(noisy, enhanced, models):
    """第 0 个样点在一个帧移的开头，从那里起用 Python 再算一遍；头两秒状态还不同。"""
    chain = NativeEnhancer(models["int8"])
    expected = chain.process(noisy[: len(noisy) // 256 * 256])[chain.latency - chain.hop :]
    later = slice(2 * SAMPLE_RATE, len(expected))
    np.testing.assert_allclose(enhanced[later], expected[later], rtol=0, atol=1e-3)


@pytest.mark.parametrize("where", ["http", "file"])
def test_a_file_comes_out_as_python_makes_it(visit, live_url, live_folder, models, tmp_path, where):
    """像读者那样选文件、按开始、录十秒；录下的增强一路等于 Python 的 int8。"""
    page = visit(live_url + "index.html" if where == "http" else (live_folder / "index.html").as_uri())
    wave = speech(4)
    soundfile.write(tmp_path / "我的声音.wav", wave, SAMPLE_RATE, subtype="PCM_16")
    page.select_option(".live-source", "file")
    page.set_input_files(".live-file", tmp_path / "我的声音.wav")
    page.click(START)
    state(page, ["running"])
    page.click(".live-record")
    page.wait_for_timeout(3000)
    page.click(".live-noisy")  # 中途换来换去，录的仍是整条增强的一路
    page.wait_for_timeout(1000)
    page.click(".live-enhanced")
    noisy, enhanced = record(page, started=True)
    assert len(noisy) == 10 * SAMPLE_RATE
    # 录到的带噪一路就是那个文件一遍遍地放，一个样点也不缺
    period = len(wave)
    looped = np.tile(wave, 5)
    scores = [np.abs(noisy[-2 * period :][:2000] - looped[k : k + 2000]).max() for k in range(period)]
    start = int(np.argmin(scores))
    np.testing.assert_allclose(noisy[-2 * period :], looped[start : start + 2 * period], rtol=0, atol=1e-4)
    compare(noisy, enhanced, models)


def test_scenes_switch_without_stopping(visit, live_url):
    page = visit(live_url + "index.html")
    page.click(START)
    state(page, ["running"])
    for action in (
        lambda: page.click(".live-noisy"),
        lambda: page.click(".live-enhanced"),
        lambda: page.fill(".live-strength", "40"),
        lambda: page.fill(".live-snr", "-5"),
        lambda: page.click(".live-float32"),
        lambda: page.click(".live-int8"),
    ):
        action()
        page.wait_for_timeout(400)
        assert page.evaluate("() => document.querySelector('.lstm-live').dataset.state") == "running"
    assert "ms" in page.locator(".live-latency").inner_text()
    assert "µs" in page.locator(".live-time").inner_text()
    painted = page.evaluate(
        """() => [...document.querySelectorAll("canvas")].map((c) =>
             new Set(c.getContext("2d").getImageData(c.width - 20, 0, 20, c.height).data).size)"""
    )
    assert all(count > 20 for count in painted), f"语谱图没有画出来：{painted}"
    page.click(START)
    assert "停" in state(page, ["paused"])


BURN = "while True: sum(range(10000))"
FACTS = """() => { const page = document.querySelector(".lstm-live").lstmLive;
  const { underrunDuration, totalDuration } = page.context.playbackStats;
  return { lost: underrunDuration / totalDuration, seconds: totalDuration, ...page.last,
    heap: performance.memory.usedJSHeapSize }; }"""


def test_a_minute_on_a_busy_machine(visit, live_url):
    """每个核上都有别的程序在跑：一分钟里声音不断，内核的内存与脚本的内存都不涨。"""
    page = visit(live_url + "index.html")
    page.click(START)
    state(page, ["running"])
    page.click(".live-float32")
    page.wait_for_function("() => document.querySelector('.lstm-live').lstmLive.node.added")
    tools = page.context.new_cdp_session(page)
    readings = []
    burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(os.cpu_count() or 1)]
    try:
        for _ in range(5):
            page.wait_for_timeout(12_000)
            tools.send("HeapProfiler.collectGarbage")
            readings.append(page.evaluate(FACTS))
    finally:
        for burner in burners:
            burner.kill()
    first, last = readings[0], readings[-1]
    assert last["seconds"] - first["seconds"] > 40 and last["frames"] > first["frames"] and not last["bad"]
    assert last["lost"] < 0.01, f"断了 {last['lost']:.1%}"
    assert last["memory"] == first["memory"]
    assert last["heap"] - first["heap"] < 1e6, [reading["heap"] for reading in readings]


SILENT = """AudioContext.prototype.resume = () => new Promise(() => {});
Object.defineProperty(AudioContext.prototype, "state", {get: () => "suspended"});"""
DENIED = """navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "{}"));"""


@pytest.mark.parametrize(
    ("script", "source", "wanted", "words"),
    [
        (DENIED.format("NotAllowedError"), "mic", "refused", "许可"),
        (DENIED.format("NotFoundError"), "mic", "nomic", "没有找到麦克风"),
        (DENIED.format("NotReadableError"), "mic", "nomic", "占用"),
        ("WebAssembly.validate = () => false;", "scene", "nosimd", "SIMD"),
        ("delete window.WebAssembly;", "scene", "nosimd", "WebAssembly"),
        ("Object.defineProperty(window, 'isSecureContext', {value: false});", "scene", "insecure", "https"),
        ("", "file", "nofile", "先选"),
        (SILENT, "scene", "nosound", "扬声器"),
    ],
)
def test_every_state_says_what_to_do(visit, live_url, script, source, wanted, words):
    page = visit(live_url + "index.html", script)
    page.select_option(".live-source", source)
    page.click(START)
    assert words in state(page, [wanted])
    assert page.locator(START).inner_text() == "开始"


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
def test_the_chapter_counts_the_delay_as_the_page_does(visit, live_url, rate):
    chapter = definitions("browser")
    script = """async (rate) => {
      const { module, model } = await lstmLive.loadEngine("live");
      const live = new LstmLive({ module, model, int8: true, rate });
      return [live.prefill, live.latency];
    }"""
    page = visit(live_url + "index.html")
    assert page.evaluate(script, rate) == [chapter.prefill(rate), chapter.page_latency(rate)]


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 48000])
def test_samples_nobody_hears_never_reach_the_kernel(visit, live_url, rate):
    """1e-39 的样点是非规格化数，wasm 里没有冲零的开关：进了内核，一帧慢好几倍。"""
    page, wave = visit(live_url + "index.html"), 1e-39 * np.ones(6400, np.float32)
    out = page.evaluate(RENDER, [as_text(wave), None, True, rate, 0])
    assert not np.any(out)


def test_the_reader_measures_their_own_browser(visit, live_url):
    page = visit(live_url + "index.html")
    box = page.locator(".live-measure")
    box.locator("button").click()
    page.wait_for_function("() => document.querySelector('.live-measure').innerText.includes('再量一次')")
    name, slow, fast, share = page.locator("table tr").last.locator("td").all_inner_texts()
    assert name.startswith("你的浏览器，wasm") and float(slow) > 0 and float(fast) > 0
    assert float(share.rstrip("%")) == pytest.approx(float(fast) / 160, abs=0.01)
    assert f"int8 一帧 {fast} μs" in box.inner_text()


def test_a_file_that_is_no_sound(visit, live_url, tmp_path):
    (tmp_path / "不是.wav").write_bytes(b"RIFF0000")
    page = visit(live_url + "index.html")
    page.select_option(".live-source", "file")
    page.set_input_files(".live-file", tmp_path / "不是.wav")
    page.click(START)
    assert "不是.wav" in state(page, ["badfile"])


def test_nothing_heavy_is_loaded_before_the_reader_starts(visit, live_url):
    page = visit(live_url + "index.html")
    assert page.evaluate("() => [typeof lstmLiveData, typeof LstmEngine]") == ["undefined", "undefined"]


OWN_RATE_ONLY = """const make = AudioContext.prototype.createMediaStreamSource;
AudioContext.prototype.createMediaStreamSource = function (stream) {
  if (this.sampleRate === 16000) throw new DOMException("", "NotSupportedError");
  return make.call(this, stream);
};"""


@pytest.mark.parametrize("script", ["", OWN_RATE_ONLY], ids=["any rate", "own rate only"])
def test_the_microphone_comes_out_as_python_makes_it(chromium, browser, live_url, models, tmp_path, script):
    """假的麦克风放一个 wav：录下的两路之间就是 Python 的 int8；旧的 Firefox 只收麦克风自己的采样率。"""
    soundfile.write(tmp_path / "mic.wav", speech(6), SAMPLE_RATE, subtype="PCM_16")
    with_microphone = browser.browser_type.launch(
        executable_path=chromium,
        args=[
            *BROWSER_ARGS,
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={tmp_path / 'mic.wav'}",
        ],
    )
    page = with_microphone.new_page()
    page.add_init_script(script)
    page.goto(live_url + "index.html", wait_until="load")
    page.select_option(".live-source", "mic")
    page.click(START)
    state(page, ["running"])
    rate = page.evaluate("() => document.querySelector('.lstm-live').lstmLive.context.sampleRate")
    assert (rate == SAMPLE_RATE) == (not script)
    noisy, enhanced = record(page)
    with_microphone.close()
    assert np.sqrt(np.mean(noisy**2)) > 0.02, "麦克风没有声音"
    compare(noisy, enhanced, models)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read_aloud(visit, live_url, theme, width):
    need_axe()
    page = visit(live_url + "index.html", width=width)
    page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
    for started in (False, True):
        if started:
            page.click(START)
            state(page, ["running"])
            page.wait_for_timeout(700)
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "横向溢出"
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        found = page.evaluate(
            "async () => (await axe.run('.lstm-live')).violations"
            ".filter(v => ['serious', 'critical'].includes(v.impact)).map(v => [v.id, v.nodes[0].html])"
        )
        assert not found, found


def test_the_keyboard_is_enough(visit, live_url):
    page = visit(live_url + "index.html")
    page.focus(START)
    page.keyboard.press("Enter")
    state(page, ["running"])
    page.focus(".live-enhanced")
    page.keyboard.press("ArrowUp")
    assert page.locator(".live-noisy").is_checked()
    assert page.locator(".live-snr").is_enabled()
    page.focus(".live-snr")
    before = page.locator(".live-snr-value").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator(".live-snr-value").inner_text() != before
    page.focus(START)
    page.keyboard.press("Enter")
    state(page, ["paused"])


def test_a_page_in_the_background_keeps_sounding(visit, live_url):
    page = visit(live_url + "index.html")
    page.click(START)
    state(page, ["running"])
    hide = """hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
      document.dispatchEvent(new Event('visibilitychange')); }"""
    page.evaluate(hide, True)
    assert "后台" in state(page, ["hidden"])
    assert page.evaluate("() => document.querySelector('.lstm-live').lstmLive.context.state") == "running"
    page.evaluate(hide, False)
    state(page, ["running"])


def test_a_slow_device_is_told_so(visit, live_url):
    slow = "const real = performance.now.bind(performance); performance.now = () => 1000 * real();"
    page = visit(live_url + "index.html", slow)
    page.click(START)
    assert "断续" in state(page, ["slow"])


def test_a_book_built_without_ziglang_says_what_is_missing(visit, live_folder, tmp_path):
    shutil.copytree(live_folder, tmp_path / "site")
    missing = 'window.lstmLiveData = {"missing": "建书时没有做出这一节要用的模块：没有 ziglang"};'
    (tmp_path / "site" / "live" / "engine.js").write_text(missing, encoding="utf-8")
    page = visit((tmp_path / "site" / "index.html").as_uri())
    page.click(START)
    assert "ziglang" in state(page, ["data"])


def test_the_parts_are_light(live_folder):
    """按「开始」之前不到 40 KB；int8 的模型不到 0.7 MB。"""
    folder = live_folder / "live"
    first = [folder / name for name in ("live.js", "live.css", "before.webp", "mask.webp", "after.webp")]
    assert sum(path.stat().st_size for path in first) < 80_000
    import gzip

    assert len(gzip.compress((folder / "engine.js").read_bytes())) < 900_000


def settled(page):
    """等到放起来，再等一等：迟到的东西也都到了。"""
    state(page, ["running"])
    page.wait_for_timeout(2500)
    return page.evaluate(
        """() => { const page = document.querySelector(".lstm-live").lstmLive;
             return { stream: !!page.stream, playing: page.players.map((p) => p.buffer.getChannelData(0)[2000]) }; }"""
    )


# 麦克风：过一秒半才给；给出来的那一路留着，看它最后关没关
SLOW_MIC = """navigator.mediaDevices.getUserMedia = () => new Promise((resolve) => (window.asked = true) && setTimeout(() => {
  window.given = new AudioContext().createMediaStreamDestination().stream;
  resolve(window.given);
}, %d));"""
# 某个脚本过一秒才载入
SLOW_SCRIPT = """(() => { const append = HTMLHeadElement.prototype.append;
HTMLHeadElement.prototype.append = function (...nodes) {
  if (!nodes[0].src?.endsWith("%s")) return append.apply(this, nodes);
  window.late = true;
  setTimeout(() => append.apply(this, nodes), 1000);
}; })();"""


def test_a_microphone_granted_too_late_is_switched_off(visit, live_url):
    """还在等授权就换成了场景：麦克风来了也不要，马上关掉。"""
    page = visit(live_url + "index.html", SLOW_MIC % 1500)
    page.select_option(".live-source", "mic")
    page.click(START)
    page.wait_for_function("() => window.asked")
    page.select_option(".live-source", "scene")
    now = settled(page)
    assert not now["stream"] and len(now["playing"]) == 2
    page.wait_for_function("() => window.given?.getTracks().every((track) => track.readyState === 'ended')")


def test_the_last_choice_is_what_plays(visit, live_url):
    """载入途中一再改选，放的是最后选的那一个。"""
    page = visit(live_url + "index.html")
    page.click(START)
    first = settled(page)["playing"]
    page.evaluate(
        """async () => { const select = document.querySelector(".live-scene");
             for (const value of [1, 0, 1, 0, 1]) {
               select.value = value;
               select.dispatchEvent(new Event("change"));
               await new Promise((resolve) => setTimeout(resolve, 40));
             } }"""
    )
    quick = settled(page)["playing"]
    page.click(START)
    page.click(START)
    assert settled(page)["playing"] == quick and quick[0] != first[0] and quick[1] == first[1]


def test_the_arithmetic_is_the_one_chosen_last(visit, live_url):
    """float32 还没载入完就按回 int8，用的是 int8；就停下，也没有脚本错误。"""
    page = visit(live_url + "index.html", SLOW_SCRIPT % "float32.js")
    page.click(START)
    state(page, ["running"])
    page.evaluate(
        """() => { const { node } = document.querySelector(".lstm-live").lstmLive, post = node.port.postMessage.bind(node.port);
             window.used = [];
             node.port.postMessage = (data, ...rest) => (data.type === "use" && used.push(data.name), post(data, ...rest)); }"""
    )
    page.click(".live-float32")
    page.wait_for_timeout(200)
    page.click(".live-int8")
    page.wait_for_timeout(2500)
    assert page.evaluate("() => used.at(-1)") == "int8"
    assert page.locator(".live-status").inner_text() == "正在播放。"
    page.click(".live-float32")
    page.wait_for_function("() => used.at(-1) === 'float32'")
    page.click(START)
    state(page, ["paused"])
    again = visit(live_url + "index.html", SLOW_SCRIPT % "float32.js")
    again.click(START)
    state(again, ["running"])
    again.click(".live-float32")
    again.wait_for_timeout(200)
    again.click(START)
    again.wait_for_timeout(2500)
    assert state(again, ["paused"]) == "停住了。"


def test_stopping_while_a_scene_loads_leaves_nothing_behind(visit, live_url):
    page = visit(live_url + "index.html", SLOW_SCRIPT % "scenes.js")
    page.click(START)
    page.wait_for_function("() => window.late")
    page.click(START)
    page.wait_for_timeout(2500)
    assert state(page, ["paused"]) == "停住了。"
    page.evaluate("() => document.querySelector('.live-snr').dispatchEvent(new Event('input'))")
    page.select_option(".live-source", "file")  # 停着换声源，什么也不发生
    assert page.evaluate("() => document.querySelector('.lstm-live').lstmLive.players") is None


def test_a_microphone_that_goes_away_is_noticed(visit, live_url):
    page = visit(live_url + "index.html", SLOW_MIC % 0)
    page.select_option(".live-source", "mic")
    page.click(START)
    state(page, ["running"])
    page.evaluate("() => given.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert "断开" in state(page, ["nomic"])


def test_only_one_thing_plays_at_a_time(visit, live_url):
    """别的播放器响了，这里停；录到一半停下，按钮说没有录完。"""
    page = visit(live_url + "index.html")
    page.click(START)
    state(page, ["running"])
    page.click(".live-record")
    page.wait_for_timeout(500)
    page.evaluate(
        "() => document.body.appendChild(document.createElement('audio')).dispatchEvent(new Event('play'))"
    )
    state(page, ["paused"])
    assert "没有录完" in page.locator(".live-record").inner_text()


@pytest.mark.parametrize(
    ("name", "gain", "words"),
    [("空.wav", None, "空的"), ("大.wav", 30000, "满幅应是 1"), ("短.wav", 0, "解不开")],
)
def test_files_that_cannot_be_played_say_why(visit, live_url, tmp_path, name, gain, words):
    path = tmp_path / name
    if gain:
        soundfile.write(path, speech(1) * gain, SAMPLE_RATE, subtype="FLOAT")
    else:
        path.write_bytes(b"" if gain is None else b"RIFF" + bytes(40))
    page = visit(live_url + "index.html")
    page.select_option(".live-source", "file")
    page.set_input_files(".live-file", path)
    page.click(START)
    assert words in state(page, ["badfile"])
