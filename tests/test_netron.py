"""页面里的 Netron：改好的静态网页不联网，每个模型都画得出来；插图与模型的算子一致。"""

import functools
import http.server
import re
import shutil
import threading
from collections import Counter
from pathlib import Path

import onnx
import pytest

from lstm_lib import netron_page

ROOT = Path(__file__).parent.parent


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


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


def test_every_model_opens_without_the_network(site, browser):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_address[1]}"
    outside, failures = [], []

    def route(request):
        if request.request.url.startswith((root, "blob:", "data:")):
            request.continue_()
        else:
            outside.append(request.request.url)
            request.abort()

    try:
        for name in netron_page.MODELS:
            page = browser.new_page()
            page.route("**/*", route)
            page.on("pageerror", lambda error: failures.append(str(error)))
            page.on("response", lambda r: failures.append(r.url) if r.status >= 400 else None)
            page.goto(f"{root}/index.html?url=models/{name}")
            page.wait_for_selector("text=LSTM", timeout=60_000)
            page.close()
    finally:
        server.shutdown()
        server.server_close()
    assert not outside and not failures, (outside, failures)
