"""可以拨动的图：一段自带脚本的 HTML，不需要服务器，网页与笔记本里都能用。

每张图是 ``assets/`` 里的一份脚本，多半还有一份样式；共用的部分在 ``live.js`` 与 ``live.css``。
脚本里有 ``root``（这张图的元素）、``base``（共用的函数）与 ``data``（笔记本算好的数）。
"""

import base64
import html
import json
from importlib.resources import files

import numpy as np

from lstm_lib.book.figures.palette import svg_variables

_count = 0


def asset(name: str) -> str:
    """``assets/`` 里的一个文件。"""
    return files("lstm_lib.book.figures").joinpath("assets", name).read_text(encoding="utf-8")


def gate_explorer_html(identifier: str) -> str:
    """五个滑块（f、i、g、o 与旧的 c）和随之变化的条形图、曲线；``identifier`` 在一页里要唯一。"""
    return live_html("gate_explorer", identifier, "拨动门的滑块，看细胞状态与隐藏状态怎样变化", {})


def gate_explorer() -> None:
    """显示拨动门的图。"""
    emit(gate_explorer_html, "gate-explorer")


def emit(make, name: str) -> None:
    """显示 ``make(标识)`` 给出的 HTML；一页放几份时标识不同。"""
    from IPython.display import display

    global _count  # noqa: PLW0603  一页放两份时名字不能相同
    _count += 1
    display({"text/html": make(f"{name}-{_count}"), "text/plain": "[可以拨动的图，请在浏览器里看]"}, raw=True)


def packed(values, kind: str) -> dict[str, str]:
    """数组 → 嵌进网页的 ``{kind, data}``；``kind`` 是 NumPy 的 ``f4 f2 i2 i1 u1`` 之一，小端。"""
    content = np.ascontiguousarray(values).astype(f"<{kind}").tobytes()
    return {"kind": kind, "data": base64.b64encode(content).decode()}


def live_html(name: str, identifier: str, label: str, data: dict, shared: tuple[str, ...] = ()) -> str:
    """一张可以拨动的图。

    ``name``：``assets/`` 里 ``name.js`` 与 ``name.css``（可以没有）的名字；``label``：读屏软件念的名字；
    ``shared``：另外要用的脚本，每份是一个以 ``base`` 为参数的函数，往里添东西。
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    own = files("lstm_lib.book.figures").joinpath("assets", f"{name}.css")
    style = asset("live.css") + (own.read_text(encoding="utf-8") if own.is_file() else "")
    extra = "".join(f"({asset(item)})(base);\n" for item in shared)
    player = ""
    if "sound.js" in shared:  # 带声音的图用对比播放器
        from lstm_lib.book import players

        player = "".join(players.style_and_script())
    return f"""{player}<section id="{identifier}" class="lstm-live {name.replace("_", "-")}" \
aria-label="{html.escape(label)}" style="{svg_variables()}">
<style>{style}</style>
<noscript>这幅可以拨动的图要靠脚本，请在浏览器里允许 JavaScript。</noscript>
<script>
(function start(tries) {{
var root = document.getElementById("{identifier}");
if (!root) {{ if (tries) setTimeout(function () {{ start(tries - 1); }}, 60); return; }}
if (root.dataset.ready) return;
root.dataset.ready = "1";
var base = ({asset("live.js").strip()})(root);
{extra}var data = {text};
{asset(f"{name}.js")}}})(40);
</script>
</section>"""


# ---------------------------------------------------------------- LSTM 一步一步


def lstm_steps_data(lstm, x, units: dict[str, int]) -> dict:
    """LSTM 第一层里几个单元逐帧的预激活值，分成输入与上一步的输出两份。

    ``x``：(T, 输入维数)，初态为零；``units``：``{"名字": 单元号}``。
    返回 ``parts`` (单元, T, 4, 2)，末一维是 W x 与 U h；``bias`` (单元, 4)；门按 i f g o 排。
    """
    weight_ih, weight_hh, bias = (lstm.parameters[f"{k}_l0"] for k in ("weight_ih", "weight_hh", "bias"))
    hidden = len(weight_ih) // 4
    if not units:
        raise ValueError("units 是空的；请至少给一个“名字: 单元号”。")
    wrong = [unit for unit in units.values() if not 0 <= unit < hidden]
    if wrong:
        raise ValueError(f"没有第 {wrong[0]} 号单元：这一层有 {hidden} 个，编号 0 到 {hidden - 1}。")
    _, _, records = lstm(x, return_gates=True)
    y = records[0].o * np.tanh(records[0].c)
    before = np.vstack([np.zeros_like(y[:1]), y[:-1]])  # 上一步的 h
    rows = np.array([[gate * hidden + unit for gate in range(4)] for unit in units.values()])
    parts = np.stack(
        [np.asarray(x) @ weight_ih[rows].swapaxes(1, 2), before @ weight_hh[rows].swapaxes(1, 2)], -1
    )
    return {"parts": parts.astype(np.float32), "bias": bias[rows].astype(np.float32)}


def lstm_steps_html(
    identifier: str, numbers: dict, units: dict[str, int], wave, title: str, start: int
) -> str:
    """沿着声音拨时刻的图；``numbers`` 来自 :func:`lstm_steps_data`，其余参数见 :func:`lstm_steps`。"""
    from lstm_lib.book import players
    from lstm_lib.book.figures.charts import HOP_LENGTH, magnitude
    from lstm_lib.waves import SAMPLE_RATE

    level = 20 * np.log10(magnitude(wave) + 1e-9)
    gain = 0.9 / max(np.abs(wave).max(), 1e-9)
    data = {
        "frames": numbers["parts"].shape[1],
        "start": start,
        "step": HOP_LENGTH / SAMPLE_RATE,
        "title": title,
        "units": [{"name": name, "number": int(unit)} for name, unit in units.items()],
        "parts": packed(numbers["parts"], "f4"),
        "bias": packed(numbers["bias"], "f4"),
        "sound": players.data_uri(players.mp3(wave * gain), "audio/mpeg"),
        "picture": players.data_uri(players.spectrogram_webp(level - level.max(), 560, 120), "image/webp"),
    }
    return live_html("lstm_steps", identifier, f"LSTM 一步一步：{title}", data)


def lstm_steps(lstm, x, units: dict[str, int], wave, title: str, start: int = 0) -> dict:
    """显示沿着声音拨时刻的图：几个单元的门与状态，算式里的数都填好；返回嵌进页里的数。

    ``lstm``：一层、单向、没有投影的 LSTM；``x``：它的输入 (T, 输入维数)，一帧 256 个样点；
    ``units``：``{"名字": 单元号}``；``wave``、``title``：这段声音与它的名字；``start``：一开始停在第几帧。
    返回值见 :func:`lstm_steps_data`。
    """
    numbers = lstm_steps_data(lstm, x, units)
    if not 0 <= start < len(x):
        raise ValueError(f"start 应在 0 到 {len(x) - 1} 之间（这段声音有 {len(x)} 帧），得到 {start}。")
    emit(lambda identifier: lstm_steps_html(identifier, numbers, units, wave, title, start), "lstm-steps")
    return numbers


# ---------------------------------------------------------------- 带声音的图


def mu_law(wave) -> tuple[dict, np.ndarray]:
    """波形 (N,) → 嵌进网页的 8 位 μ 律编码，与网页解出来的波形（float32）。"""
    wave = np.asarray(wave, float)
    peak = float(np.abs(wave).max()) or 1.0
    code = np.rint(127 * np.sign(wave) * np.log1p(255 * np.abs(wave) / peak) / np.log(256))
    decoded = peak * np.sign(code) * (256 ** (np.abs(code) / 127) - 1) / 255
    return packed(code + 128, "u1") | {"peak": peak}, decoded.astype(np.float32)


def colours() -> dict[str, str]:
    """全书的色图，(级数, 3) 的 8 位 RGB。"""
    from lstm_lib.book.figures.charts import LEVELS, colormap

    return packed(np.rint(255 * colormap()(np.arange(LEVELS))[:, :3]), "u1")


def network_parts(network: dict[str, np.ndarray], noisy, clean) -> tuple[dict, dict]:
    """小网络与两段波形：要嵌进网页的数，与网页解出来的同一份数；参数见 :func:`quantizer`。"""
    kinds = {"W": "f2", "U": "f2", "bias": "f4", "head": "f2", "headBias": "f4"}
    hidden, shapes = np.shape(network["U"])[1], {name: np.shape(network[name]) for name in kinds}
    wanted = {"W": (4 * hidden, 256), "U": (4 * hidden, hidden), "bias": (4 * hidden,)}
    wanted |= {"head": (257, hidden), "headBias": (257,)}
    wrong = [name for name in kinds if shapes[name] != wanted[name]]
    if wrong:
        raise ValueError(f"{wrong[0]} 的形状是 {shapes[wrong[0]]}，应为 {wanted[wrong[0]]}。")
    data = {name: packed(network[name], kind) for name, kind in kinds.items()}
    given = {name: network[name].astype(kind).astype(float) for name, kind in kinds.items()}
    for name, wave in (("noisy", noisy), ("clean", clean)):
        data[name], given[name] = mu_law(wave)
    return data | {"hidden": hidden, "colors": colours()}, given


def quantizer_html(identifier: str, data: dict, title: str) -> str:
    """拨量化位数的图；``data`` 来自 :func:`network_parts`。"""
    return live_html(
        "quantizer", identifier, "量化的位数", data | {"title": title}, ("sound.js", "network.js")
    )


def quantizer(network: dict[str, np.ndarray], noisy, clean, title: str) -> dict[str, np.ndarray]:
    """显示拨量化位数的图：网页里跑整个网络，看掩蔽、听声音；返回网页用的那一份数。

    ``network``：``W`` (4H, 256)、``U`` (4H, H)、``bias`` (4H,)、``head`` (257, H)、``headBias`` (257,)，门按
    i f g o 排；网页里存成半精度，H 在 24 上下才放得下。``noisy``、``clean``：同样长的波形，两秒上下，
    网页里存成 8 位 μ 律。
    """
    data, given = network_parts(network, noisy, clean)
    emit(lambda identifier: quantizer_html(identifier, data, title), "quantizer")
    return given


def gate_workshop_html(identifier: str, data: dict, title: str) -> str:
    """排门的次序的图；``data`` 来自 :func:`network_parts`。"""
    shared = ("sound.js", "network.js")
    return live_html("gate_workshop", identifier, "门排错了，听一听", data | {"title": title}, shared)


def gate_workshop(network: dict[str, np.ndarray], noisy, clean, title: str) -> dict[str, np.ndarray]:
    """显示排门的次序的图：四块权重排成任意次序，网页照 i f g o 读，看掩蔽、听声音；返回网页用的那一份数。

    参数与 :func:`quantizer` 的相同。
    """
    data, given = network_parts(network, noisy, clean)
    emit(lambda identifier: gate_workshop_html(identifier, data, title), "gate-workshop")
    return given


def mask_explorer_parts(clean, noise, low: float, high: float) -> tuple[dict, dict]:
    """掩蔽那张图要嵌进网页的数，与网页解出来的两段波形；参数见 :func:`mask_explorer`。"""
    if np.shape(clean) != np.shape(noise) or not np.any(clean) or not np.any(noise):
        raise ValueError(
            f"clean 与 noise 应当一样长、都不是全零，得到的形状是 {np.shape(clean)} 与 {np.shape(noise)}。"
        )
    data, given = {"low": low, "high": high, "colors": colours()}, {}
    for name, wave in (("clean", clean), ("noise", noise)):
        data[name], given[name] = mu_law(wave)
    return data, given


def mask_explorer_html(identifier: str, data: dict, title: str) -> str:
    """拨信噪比与掩蔽的图；``data`` 来自 :func:`mask_explorer_parts`。"""
    return live_html("mask_explorer", identifier, "信噪比与理想掩蔽", data | {"title": title}, ("sound.js",))


def mask_explorer(clean, noise, title: str, low: float, high: float) -> dict[str, np.ndarray]:
    """显示拨信噪比与 β 的图：看理想掩蔽、听结果，还能把掩蔽困在 (low, high)；返回网页用的两段波形。

    ``clean``、``noise``：同样长的波形，两秒上下，网页里存成 8 位 μ 律；信噪比由网页自己调。
    """
    data, given = mask_explorer_parts(clean, noise, low, high)
    emit(lambda identifier: mask_explorer_html(identifier, data, title), "mask-explorer")
    return given


# ---------------------------------------------------------------- 屋顶线


def roofline_explorer_html(identifier: str) -> str:
    """拨尺寸与机器的屋顶线。"""
    return live_html("roofline_explorer", identifier, "屋顶线：拨网络的尺寸与机器的上限", {})


def roofline_explorer() -> None:
    """显示拨屋顶线的图：网络多大、几帧几路一起算、机器多快，看先到头的是带宽还是算力。"""
    emit(roofline_explorer_html, "roofline-explorer")
