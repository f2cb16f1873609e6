"""“在你的浏览器里”一节的页面：``{live}`` 指令放一个按了才载入的框；建完书把模块、模型与声音写进站点。

数据是几个 .js 文件，里面是 base64：从磁盘打开的页面（file://）不许取文件，却可以载入脚本。
"""

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.errors import ExtensionError
from sphinx.util import logging

STATIC = Path(__file__).resolve().parent.parent / "_site_static" / "live"
FOLDER = "_static/live"
PEAK = 32767


class Live(Directive):
    """``{live}`` 放整个框；``{live} measure`` 放一个按钮，量出读者的浏览器一帧要多久，填进上面那张表。"""

    optional_arguments = 1

    def run(self):
        what = self.arguments[0] if self.arguments else "page"
        if what not in ("page", "measure"):
            raise self.error(f"live 后面只能不写，或写 measure，得到 {what!r}")
        env = self.state.document.settings.env
        env.metadata[env.docname]["live"] = True
        root = "../" * env.docname.count("/") + FOLDER
        if what == "page":
            inside = f'class="lstm-live" data-root="{root}"><noscript><p>这里要用 JavaScript。</p></noscript>'
        else:
            inside = f'class="live-measure" data-root="{root}">'
        text = f"<div {inside}</div>"
        if not env.temp_data.get("live_script"):  # 一页载入一次
            env.temp_data["live_script"] = True
            text = f'<link rel="stylesheet" href="{root}/live.css">{text}<script defer src="{root}/live.js"></script>'
        return [nodes.raw("", text, format="html")]


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def engine_script(modules: dict[str, bytes], model: bytes) -> str:
    """``engine.js``：两个模块、int8 的模型、声音线程的脚本。"""
    data = {
        "modules": {name: base64_text(module) for name, module in modules.items()},
        "int8": base64_text(model),
        "worklet": (STATIC / "worklet.js").read_text(encoding="utf-8"),
    }
    return f"Object.assign((window.lstmLiveData ??= {{}}), {json.dumps(data, ensure_ascii=False)});\n"


def model_script(model: bytes) -> str:
    """``float32.js``：float32 的模型，读者要比较时才载入。"""
    return f"Object.assign((window.lstmLiveData ??= {{}}), {json.dumps({'float32': base64_text(model)})});\n"


def scenes_script(scenes) -> str:
    """``scenes.js``：各场景的语音与噪声，16 位整数；信噪比在页面里调。"""
    found = []
    for scene in scenes:
        peak = max(np.abs(wave).max() for wave in (scene.clean, scene.noise))
        kind, *_, voice = scene.title.split("，")  # 例如：风扇，0 dB，普通话女声
        item = {"voice": voice, "kind": kind, "snr": float(scene.snr_db), "gain": float(peak)}
        for name in ("clean", "noise"):
            wave = np.round(getattr(scene, name) / peak * PEAK).astype("<i2")
            item[name] = base64_text(wave.tobytes())
        found.append(item)
    return f"Object.assign((window.lstmLiveData ??= {{}}), {json.dumps({'scenes': found}, ensure_ascii=False)});\n"


def stills(model: bytes, wave: np.ndarray) -> dict[str, bytes]:
    """按「开始」之前（与打印出来）的三幅图：一段带噪声音的谱、掩蔽、掩蔽之后的谱，WebP。"""
    from lstm_lib.book import players
    from lstm_lib.native.wasm import WasmEnhancer

    chain = WasmEnhancer(model, group=1)
    rows = []
    for start in range(0, len(wave) // chain.hop * chain.hop, chain.hop):
        chain.process(wave[start : start + chain.hop])
        rows.append(chain.last())
    spectrum, mask = (np.stack(part) for part in zip(*rows, strict=True))
    mask = mask[:, -spectrum.shape[1] :]
    before, after = (20 * np.log10(s + 1e-9) for s in (spectrum, spectrum * mask))
    pictures = {
        "before": before - before.max(),
        "mask": (mask - 1) * players.RANGE_DB,
        "after": after - before.max(),
    }
    return {name: players.spectrogram_webp(level) for name, level in pictures.items()}


def write(folder: str | Path, modules, models, scenes) -> None:
    """三个数据文件与三幅图写进 ``folder``。``models``：``{"int8": 字节, "float32": 字节}``。"""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "engine.js": engine_script(modules, models["int8"]),
        "float32.js": model_script(models["float32"]),
        "scenes.js": scenes_script(scenes),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, picture in stills(models["int8"], scenes[0].clean + scenes[0].noise).items():
        (folder / f"{name}.webp").write_bytes(picture)


def made_from(app) -> str:
    """这些文件由什么做成：程序包（``book_key`` 已经算好）、这个脚本与声音线程的脚本。"""
    digest = hashlib.sha256(app.book_library_key.encode())
    for source in (Path(__file__), STATIC / "worklet.js"):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def copy(app, exception):
    """建完书写一份；没有哪一页用到就不写，什么都没变就不重写。编译不了模块，页面上照说，书照建。"""
    if exception or app.builder.format != "html":
        return
    if not any(page.get("live") for page in app.env.metadata.values()):
        return
    stamp = Path(app.outdir) / FOLDER / ".made-from"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from(app):
        return  # 改了文字再建书，省下载入 torch 的几秒
    from lstm_lib.corpus import demo_scenes
    from lstm_lib.corpus.recordings import real_scenes
    from lstm_lib.engines import conventions, describe
    from lstm_lib.enhance.trained import load_shipped
    from lstm_lib.formats import network_file
    from lstm_lib.native import NativeBuildError, wasm

    folder = Path(app.outdir) / FOLDER
    try:
        modules = {level: wasm.build_module(level).read_bytes() for level in wasm.LEVELS}
    except NativeBuildError as error:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"missing": f"建书时没有做出这一节要用的模块：{error}"}, ensure_ascii=False)
        (folder / "engine.js").write_text(f"window.lstmLiveData = {text};\n", encoding="utf-8")
        logging.getLogger(__name__).info("live：%s", error)
        return
    network = load_shipped()
    parts, stft = describe(network), conventions(network.config)
    models = {
        dtype: network_file.encode(parts.lstm, parts.weight, parts.bias, parts.sigmoid, stft, dtype)
        for dtype in ("int8", "float32")
    }
    try:
        real = real_scenes(5)
        write(folder, modules, models, [real[0], real[3], *demo_scenes(progress=False)])
        stamp.write_text(made_from(app), encoding="utf-8")
    except OSError as error:
        raise ExtensionError(f"页面里的增强器没有做成：{error}") from error


def setup(app):
    app.add_directive("live", Live)
    app.connect("build-finished", copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
