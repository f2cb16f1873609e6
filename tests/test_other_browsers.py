"""Firefox 与 WebKit（Safari 的引擎）：页面里的增强器与能拨的图，算出来的也等于 Python。"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_figures
import test_live
import test_players
from conftest import AXE, ROOT, need_axe
from site_server import serve
from test_chapter_code import definitions
from test_live import RENDER, as_text, compare, python_int8, speech
from test_site_browser import MATH_READY, PAGES, SCROLL_THROUGH

from lstm_lib.book import players
from lstm_lib.book.figures import interactive
from lstm_lib.enhance import audio, irm
from lstm_lib.native import wasm
from lstm_lib.waves import SAMPLE_RATE

models, live_folder, live_url = test_live.models, test_live.live_folder, test_live.live_url
steps, quantizer, masks = test_figures.steps, test_figures.quantizer, test_figures.masks
workshop = test_figures.workshop
# 声音是实时的，两个浏览器的驱动也偶尔自己退出：机器忙的时候再试两次
pytestmark = pytest.mark.flaky(reruns=2)
MODULES = ROOT / "tools" / "node_modules" / "puppeteer-core"
KEYS = {"ArrowRight": "\ue014", "ArrowDown": "\ue015", "Home": "\ue011", "End": "\ue010", "Enter": "\ue007"}
KEYS |= {" ": "\ue00d"}


# ---------------------------------------------------------------- 两个浏览器，同一套用法


def mini_browser():
    return next(Path("/usr/lib").glob("*/webkit2gtk-4.1/MiniBrowser"), None)


def missing(name):
    """开这个浏览器还缺什么。"""
    needed = {"pulseaudio": shutil.which("pulseaudio")}
    if name == "firefox":
        needed |= {
            "firefox-esr": shutil.which("firefox-esr"),
            "Node.js": shutil.which("node"),
            "puppeteer-core": MODULES.is_dir(),
        }
    else:
        needed |= {
            command: shutil.which(command) for command in ("WebKitWebDriver", "xvfb-run", "dbus-run-session")
        }
        needed["MiniBrowser"] = mini_browser()
    return [what for what, there in needed.items() if not there]


@contextmanager
def running(command, env, **options):
    """起一个程序；离开时连同它起的一起停。"""
    process = subprocess.Popen(
        command, env=env, start_new_session=True, stderr=subprocess.DEVNULL, text=True, **options
    )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
            try:
                process.wait(15)  # 让它自己关浏览器、删临时的文件
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        process.wait(15)


def wait_for(ready, seconds=60):
    end = time.monotonic() + seconds
    while not (answer := ready()):
        assert time.monotonic() < end, f"等了 {seconds} 秒"
        time.sleep(0.1)
    return answer


class Browser:
    """``open``、``evaluate``、``click``、``upload``、``press``：两个浏览器共有的那些。"""

    def evaluate(self, function, *values):
        script = (
            f"Promise.resolve(({function})(...{json.dumps(values)})).then((v) => JSON.stringify(v ?? null))"
        )
        return json.loads(self.run(script))

    def visit(self, address):
        self.base = address.rsplit("/", 1)[0]
        self.open(address)
        self.run("""window.problems = []; for (const name of ["error", "unhandledrejection"])
          addEventListener(name, (event) => problems.push(String(event.message || event.reason))); null""")

    def choose(self, selector, value):
        self.evaluate(
            """(selector, value) => { const box = document.querySelector(selector); box.value = value;
              for (const name of ["input", "change"]) box.dispatchEvent(new Event(name, { bubbles: true })); }""",
            selector,
            value,
        )

    def text(self, selector):
        return self.evaluate("(s) => [...document.querySelectorAll(s)].map((e) => e.innerText)", selector)

    def wait(self, function, *values):
        return wait_for(lambda: self.evaluate(function, *values))

    def finish(self):
        """没有脚本错误，没有向外取东西，页面不比窗口宽。"""
        taken = self.evaluate("() => performance.getEntriesByType('resource').map((entry) => entry.name)")
        outside = [url for url in taken if not url.startswith((self.base, "data:", "blob:", "file:"))]
        problems = self.errors() + self.evaluate("() => problems") + outside
        assert not problems, problems
        wide, window = self.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window


class Firefox(Browser):
    def __init__(self, process):
        self.process = process

    def __getattr__(self, name):
        if name not in ("open", "run", "click", "upload", "press", "errors"):
            raise AttributeError(name)

        def command(*values):
            self.process.stdin.write(json.dumps([name, *map(str, values)]) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
            assert "error" not in answer, answer["error"]
            return answer["value"]

        return command


class WebKit(Browser):
    def __init__(self, driver):
        self.driver = driver
        driver.set_window_size(1000, 900)
        driver.set_script_timeout(60)
        self.open = driver.get

    def run(self, script):
        ok, value = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "try { Promise.resolve(eval(arguments[0])).then((v) => done([true, v]), (e) => done([false, String(e)])); }"
            "catch (error) { done([false, String(error)]); }",
            script,
        )
        assert ok, value
        return value

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def click(self, selector):
        self.find(selector).click()

    def upload(self, selector, path):
        self.find(selector).send_keys(str(path))

    def press(self, selector, key):
        self.evaluate("(selector) => document.querySelector(selector).focus()", selector)
        self.driver.switch_to.active_element.send_keys(KEYS[key])

    def errors(self):
        return []


@contextmanager
def speaker(folder):
    """一个没有人听的声音输出：没有声卡的机器上，Firefox 不肯开声音。"""
    path = folder / "sound"
    env = os.environ | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    command = [
        "pulseaudio",
        "-n",
        "--daemonize=no",
        "--exit-idle-time=-1",
        "--use-pid-file=no",
        "--disable-shm=yes",
    ]
    command += ["-L", "module-null-sink", "-L", f"module-native-protocol-unix socket={path} auth-anonymous=1"]
    with running(command, env):
        wait_for(path.exists)
        yield env | {"PULSE_SERVER": f"unix:{path}"}


@contextmanager
def firefox(env):
    command = ["node", str(ROOT / "tools" / "firefox.mjs"), shutil.which("firefox-esr")]
    with running(command, env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Firefox(process)


@contextmanager
def webkit(env):
    from selenium import webdriver
    from selenium.webdriver.remote.file_detector import UselessFileDetector
    from selenium.webdriver.webkitgtk.options import Options

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = env | {"WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1"}  # 容器里与 root 没有沙盒可用
    command = ["xvfb-run", "-a", "dbus-run-session", "--", "WebKitWebDriver", f"--port={port}"]
    with running(command, env, stdout=subprocess.DEVNULL):

        def listening():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listening)
        options = Options()
        options.binary_location = str(mini_browser())
        options.add_argument("--automation")
        driver = webdriver.Remote(command_executor=f"http://127.0.0.1:{port}", options=options)
        driver.file_detector = UselessFileDetector()
        try:
            yield WebKit(driver)
        finally:
            driver.quit()


class Opened:
    """开着的一个浏览器；它自己退出了就重开。"""

    def __init__(self, name):
        self.name, self.browser, self.stack = name, None, ExitStack()

    def alive(self):
        try:
            return self.browser.evaluate("() => 1") == 1
        except Exception:  # 驱动死的样子很多：管道断、连不上、答非所问
            return False

    def get(self):
        if not self.alive():
            self.close()
            folder = Path(tempfile.mkdtemp())  # 套接字的路径不能长
            self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
            env = self.stack.enter_context(speaker(folder))
            self.browser = self.stack.enter_context({"firefox": firefox, "webkit": webkit}[self.name](env))
            self.browser.open("about:blank")
        return self.browser

    def close(self):
        with suppress(Exception):  # 死了的浏览器，关也关不好
            self.stack.close()
        self.browser, self.stack = None, ExitStack()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("firefox", "webkit")],
)
def opened(request):
    """Firefox ESR 或 WebKit；没有就跳过，说明怎么装。"""
    if lacking := missing(request.param):
        pytest.skip(
            f"没有 {'、'.join(lacking)}：Firefox 与 WebKit 的测试要 apt install firefox-esr webkit2gtk-driver"
            " xvfb xauth dbus pulseaudio，再在 tools/ 里运行 npm ci"
        )
    pytest.importorskip("selenium", reason="Firefox 与 WebKit 的测试要 pip install selenium")
    kept = Opened(request.param)
    yield kept
    kept.close()


@pytest.fixture
def other_browser(opened):
    return opened.get()


# ---------------------------------------------------------------- 每一页

LISTEN = """<head><script>window.problems = []; for (const name of ["error", "unhandledrejection"])
  addEventListener(name, (event) => problems.push(String(event.message || event.reason || event.target.src)), true);
</script>"""
LOOK = """() => {
  const broken = [...document.images].filter((i) => i.checkVisibility() && i.complete && !i.naturalWidth);
  const problems = [...window.problems, ...broken.map((i) => "图没有载入：" + i.src.slice(0, 99))];
  const formulas = document.querySelectorAll("main .math").length;
  if (formulas && !document.querySelector("mjx-container")) problems.push(formulas + " 个公式没有排出来");
  if (document.querySelector("mjx-merror")) problems.push("公式有错");
  if (!document.title.trim()) problems.push("没有标题");
  if (document.documentElement.scrollWidth > innerWidth) problems.push("横向溢出");
  return problems;
}"""


@pytest.fixture(scope="module")
def watched_site(book_site, tmp_path_factory):
    """同样的网站，只是各页一开头就记下脚本的错误：WebKit 的驱动不报。"""
    folder = tmp_path_factory.mktemp("site")
    for path in book_site.rglob("*"):
        copy = folder / path.relative_to(book_site)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".html":
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8")
            copy.write_text(text.replace("<head>", LISTEN, 1), encoding="utf-8")
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    with serve(folder) as base:
        yield base


def test_every_page_is_whole(other_browser, watched_site):
    found = {}
    for name in [*PAGES, "search", "genindex", "404"]:
        other_browser.open(f"{watched_site}{name}.html")
        other_browser.evaluate(MATH_READY)
        other_browser.evaluate(SCROLL_THROUGH)
        taken = other_browser.evaluate(
            "() => performance.getEntriesByType('resource').map((entry) => entry.name)"
        )
        outside = [url for url in taken if not url.startswith((watched_site, "data:", "blob:"))]
        if problems := [*other_browser.errors(), *other_browser.evaluate(LOOK), *outside]:
            found[name] = problems
    assert not found, found


# ---------------------------------------------------------------- 页面里的增强器


def state(browser):
    return browser.evaluate("() => document.querySelector('.lstm-live').dataset.state")


def start(browser):
    browser.click(".live-start")
    wait_for(lambda: state(browser) not in ("idle", "loading"))
    assert state(browser) in ("running", "slow"), browser.text(".live-status")


TAKES = """() => { const { takes } = document.querySelector(".lstm-live").lstmLive;
  return takes && [takes.noisy, takes.enhanced].map((wave) => {
    let text = ""; for (const byte of new Uint8Array(wave.buffer)) text += String.fromCharCode(byte);
    return btoa(text); }); }"""


@pytest.mark.parametrize(("where", "rate"), [("http", 44100), ("file", SAMPLE_RATE)])
def test_a_file_comes_out_as_python_makes_it(
    other_browser, live_url, live_folder, models, tmp_path, where, rate
):
    """像读者那样选文件、按开始、录十秒；录下的增强一路等于 Python 的 int8，一个样点也不缺。"""
    wave = speech(4, rate)
    soundfile.write(tmp_path / "我的声音.wav", wave, rate, subtype="PCM_16")
    other_browser.visit(live_url + "index.html" if where == "http" else (live_folder / "index.html").as_uri())
    other_browser.choose(".live-source", "file")
    other_browser.upload(".live-file", tmp_path / "我的声音.wav")
    start(other_browser)
    other_browser.click(".live-record")
    time.sleep(2)
    other_browser.click(".live-noisy")  # 中途换来换去，录的仍是整条增强的一路
    noisy, enhanced = (np.frombuffer(base64.b64decode(text), "<f4") for text in other_browser.wait(TAKES))
    compare(noisy, enhanced, models)
    period = 4 * SAMPLE_RATE  # 一遍遍地放：隔一遍的两段相同，就没有缺样点
    np.testing.assert_allclose(noisy[-period:], noisy[-2 * period : -period], rtol=0, atol=1e-4)
    power = np.mean(wave**2)  # 44.1 kHz 的文件里 8 kHz 以上的一点噪声没有了
    assert np.mean(noisy[-period:] ** 2) == pytest.approx(power, rel=0.06)
    if rate == SAMPLE_RATE:
        looped = np.tile(wave, 2)
        at = np.argmin([np.abs(noisy[-period:][:500] - looped[k : k + 500]).max() for k in range(period)])
        np.testing.assert_allclose(noisy[-period:], looped[at : at + period], rtol=0, atol=1e-4)
    other_browser.finish()


@pytest.mark.parametrize("level", [None, *wasm.LEVELS])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_the_kernel_computes_what_python_computes(other_browser, live_url, models, level, dtype):
    """浏览器收得下的模块都算得对；level 是 None：页面自己挑的那一个。"""
    other_browser.visit(live_url + "index.html")
    chosen = other_browser.evaluate("async () => (await lstmLive.loadEngine('live')).level")
    if level == "wasm_relaxed" and chosen == "wasm":
        accepted = "(t) => WebAssembly.validate(Uint8Array.from(atob(t), (c) => c.charCodeAt(0)))"
        text = base64.b64encode(wasm.build_module(level).read_bytes()).decode()
        assert not other_browser.evaluate(accepted, text), "收得下 relaxed SIMD 的浏览器却没有用它"
        return
    wave = speech(1)
    out = other_browser.evaluate(RENDER, [as_text(wave), level, dtype == "int8", SAMPLE_RATE, 1])
    np.testing.assert_allclose(out, python_int8(models, wave, dtype), rtol=0, atol=1e-5)


def test_scenes_switch_without_stopping(other_browser, live_url):
    other_browser.visit(live_url + "index.html")
    start(other_browser)
    for action in (
        lambda: other_browser.click(".live-noisy"),
        lambda: other_browser.choose(".live-strength", "40"),
        lambda: other_browser.choose(".live-snr", "-5"),
        lambda: other_browser.click(".live-float32"),
    ):
        action()
        time.sleep(0.4)
        assert state(other_browser) in ("running", "slow")
    other_browser.wait("() => document.querySelector('.live-latency').innerText.includes('ms')")
    painted = """() => [...document.querySelectorAll("canvas")].map((c) =>
      new Set(c.getContext("2d").getImageData(c.width - 20, 0, 20, c.height).data).size)"""
    other_browser.wait(f"() => ({painted})().filter((count) => count > 20).length === 3")
    other_browser.click(".live-start")
    assert state(other_browser) == "paused"
    other_browser.finish()


def test_the_reader_measures_their_own_browser(other_browser, live_url):
    other_browser.visit(live_url + "index.html")
    other_browser.click(".live-measure button")
    other_browser.wait("() => document.querySelector('.live-measure').innerText.includes('再量一次')")
    name, slow, fast, _ = other_browser.text("table tr:last-child td")
    assert name.startswith("你的浏览器，wasm") and float(slow) > 0 and float(fast) > 0


def test_the_live_page_can_be_read_aloud(other_browser, live_url):
    need_axe()
    other_browser.visit(live_url + "index.html")
    start(other_browser)
    other_browser.run(AXE.read_text(encoding="utf-8") + "; null")
    broken = other_browser.evaluate(
        """() => axe.run().then((found) => found.violations
          .filter((one) => ["serious", "critical"].includes(one.impact)).map((one) => one.id))"""
    )
    assert not broken
    other_browser.click(".live-start")
    other_browser.finish()


# ---------------------------------------------------------------- 能拨的图


@pytest.fixture
def show(other_browser, tmp_path):
    """``show(HTML)`` 从 file:// 打开一张图；拨完了查它没有出错。"""

    def open_figure(html):
        path = tmp_path / "图.html"
        path.write_text(f"<!doctype html><meta charset=utf-8><body>{html}", encoding="utf-8")
        other_browser.visit(path.as_uri())
        return other_browser

    yield open_figure
    other_browser.finish()


def test_steps(steps, show):
    lstm, x, units, html = steps
    _, _, [record] = lstm(x, return_gates=True)
    page = show(html)
    found = page.evaluate(
        """() => [0, 1, 2].map((k) => document.getElementById("拨").figure.run(k)).map((r) =>
          Object.fromEntries(Object.entries(r).map(([name, v]) => [name, Array.from(v)])))"""
    )
    for values, unit in zip(found, units.values(), strict=True):
        for letter in "ifgoc":
            np.testing.assert_allclose(values[letter], getattr(record, letter)[:, unit], atol=2e-5)
    before = page.text(".equations")
    page.press("input[type=range]", "End")
    page.wait("(old) => document.querySelector('.equations').innerText !== old", before[0])


def test_quantizer(quantizer, show):
    _, given, html = quantizer
    chapter, page = definitions("int8"), show(html)
    magnitude = np.abs(audio.stft(given["noisy"].astype(float)))
    for weight_bits, input_bits, per_row in [(8, 8, True), (4, 8, False), (2, 3, True)]:
        ours = chapter.run(given, magnitude[:, 1:], weight_bits, input_bits, per_row)
        found = page.evaluate(
            "(...s) => Array.from(document.getElementById('量').figure.mask(...s))",
            weight_bits,
            input_bits,
            per_row,
        )
        np.testing.assert_allclose(found, ours.ravel(), atol=1e-6)
    before = page.text("dd")
    page.press("input[type=range]", "Home")
    page.wait("(old) => document.querySelector('dd').innerText !== old", before[0])
    wait_for(
        lambda: page.evaluate("() => document.querySelector('.book-players').player.buffers.length === 3")
    )
    seconds = page.evaluate(
        "() => document.querySelector('.book-players').player.buffers.map((b) => b.duration)"
    )
    assert seconds == pytest.approx([5000 / SAMPLE_RATE] * 3, abs=1e-3)


def test_mask_explorer(masks, show):
    given, html = masks
    page, (clean, noise) = show(html), (given[k].astype(float) for k in ("clean", "noise"))
    for snr, beta, low, high in [(0, 0.5, 0, 1), (-10, 2, 0.269, 0.731)]:
        noisy = clean + noise * np.sqrt(np.sum(clean**2) / np.sum(noise**2) / 10 ** (snr / 10))
        ideal = irm.ideal_ratio_mask(audio.stft(clean), audio.stft(noisy - clean), beta)
        found = page.evaluate(
            "(...s) => Array.from(document.getElementById('蔽').figure.enhance(...s).wave)",
            snr,
            beta,
            low,
            high,
        )
        np.testing.assert_allclose(found, irm.apply_mask(np.clip(ideal, low, high), noisy), atol=1e-5)
    before = page.text("dd")
    page.press("input[type=range]", "End")
    page.wait("(old) => document.querySelector('dd').innerText !== old", before[0])


def test_gate_workshop(workshop, show):
    given, html = workshop
    chapter, page = definitions("handwritten"), show(html)
    frames = np.abs(audio.stft(given["noisy"].astype(float)))[:, 1:]
    for order in ("ifgo", "iofg", "gofi"):
        found = page.evaluate("(o) => Array.from(document.getElementById('坊').figure.hear(o).mask)", order)
        np.testing.assert_allclose(found, chapter.mask_in_order(given, frames, order).ravel(), atol=1e-6)
    page.press('button[aria-label="输出门 o 右移"]', "Enter")
    assert page.evaluate("() => document.getElementById('坊').figure.order()") == "ifog"
    assert "g 与 o 对调了" in " ".join(page.text("[role=status]"))


def test_roofline(show):
    page, printed = show(interactive.roofline_explorer_html("顶")), definitions("c_kernel").roof
    sizes = {"inputs": 256, "hidden": 257, "frames": 625, "streams": 4, "width": 4}
    machine = {"near": 60.0, "far": 12.0, "peak": 80.0, "cache": 1.0}
    found = page.evaluate("(s) => document.getElementById('顶').figure.roof(s)", sizes | machine)
    wanted = printed(bandwidth=12.0, peak=80.0, **sizes)
    assert (found["intensity"], found["time"]) == pytest.approx(wanted, rel=1e-12)
    before = " ".join(page.text("dd"))
    page.press("input[type=range]", "End")
    assert " ".join(page.text("dd")) != before


def test_gate_explorer(show):
    page = show(interactive.gate_explorer_html("门"))
    page.press("#门-f", "Home")
    value = {k: float(page.evaluate("(s) => document.querySelector(s).value", f"#门-{k}")) for k in "figoc"}
    c, h = (float(page.evaluate("(k) => document.getElementById('门').dataset[k]", k)) for k in "ch")
    assert value["f"] == 0
    assert c == pytest.approx(value["i"] * value["g"]) and h == pytest.approx(value["o"] * np.tanh(c))


# ---------------------------------------------------------------- 对比播放器


def test_comparing(show):
    """解出来的声音没有多一段少一段；换一路位置接着走；空格停住，点语谱图换到那里。"""
    page = show(players.row_html(test_players.clicked()))
    ask = "(what) => { const { player } = document.querySelector('.book-players'); return eval('player.' + what); }"
    page.click(".play")
    page.wait(f"() => ({ask})('time()') > 0.2")
    assert page.evaluate(ask, test_players.LOUDEST) == pytest.approx([1.5, 1.5], abs=0.005)
    moved = page.evaluate(
        """() => { const { player } = document.querySelector(".book-players"), before = player.time();
             document.querySelectorAll("figcaption button")[1].click();
             return [player.chosen(), player.time() - before]; }"""
    )
    assert moved[0] == 1 and 0 <= moved[1] < 0.05
    page.press(".seek", " ")
    at = page.evaluate(ask, "time()")
    page.press(".seek", "ArrowRight")
    assert page.evaluate(ask, "time()") == pytest.approx(at + 0.25, abs=0.01)
    assert page.text(".play") == ["播放"]
    page.press("figure:not(.chosen) button", " ")  # 没选中的一路：空格选它，不放
    assert page.evaluate(ask, "chosen()") == 0 and page.text(".play") == ["播放"]
    page.click(".seek")
    assert page.evaluate(ask, "time()") == pytest.approx(test_players.SECONDS / 2, abs=0.1)
    page.press(".chosen button", " ")  # 已经选中的：空格是播放
    page.wait(f"() => ({ask})('time()') > 5.2")
