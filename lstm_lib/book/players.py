"""对比播放器：几路声音同一时刻换着听，语谱图上有走动的线；没有脚本时是一排普通的播放器。"""

import base64
import html
import io
from importlib.resources import files

import numpy as np
import soundfile
from PIL import Image

from lstm_lib.book.figures.charts import colormap, magnitude
from lstm_lib.book.figures.palette import svg_variables
from lstm_lib.waves import SAMPLE_RATE, as_wave, write_blocks

RANGE_DB = 65


def row(waves: dict[str, np.ndarray], title: str | None = None) -> None:
    """显示一个对比播放器：``{"带噪": 波形, "增强": 波形, …}``，16 kHz 单声道，一样长。

    几路共用一个音量与一个色标，因此响度与亮度可以互相比较。
    """
    from IPython.display import HTML, display

    display(HTML(row_html(waves, title)))


def row_html(waves: dict[str, np.ndarray], title: str | None = None) -> str:
    """:func:`row` 的 HTML；不引用任何外部文件。"""
    waves = same_length(waves)
    peak = max(np.abs(wave).max() for wave in waves.values())
    gain = 0.9 / peak if peak > 0 else 1.0
    levels = {name: 20 * np.log10(magnitude(wave) + 1e-9) for name, wave in waves.items()}
    top = max(level.max() for level in levels.values())
    cells = "".join(cell(name, wave * gain, levels[name] - top, title) for name, wave in waves.items())
    heading = f'<p class="title">{html.escape(title)}</p>' if title else ""
    label = html.escape(f"声音对比：{title or '、'.join(waves)}")
    seconds = len(next(iter(waves.values()))) / SAMPLE_RATE
    style, script = style_and_script()
    return (
        f'{style}<div class="book-players" role="group" aria-label="{label}" data-seconds="{seconds:.6g}">'
        f'{heading}<div class="tracks">{cells}</div></div>'
        f"{script}"
    )


def style_and_script() -> tuple[str, str]:
    """对比播放器的样式与脚本；标了 data-once 的，网站上每页只留第一份（见 book_finish）。"""
    assets = files("lstm_lib.book.figures").joinpath("assets")
    style, script = (assets.joinpath(f"players.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    style = f".book-players{{{svg_variables()}}}\n{style}"
    return f"<style data-once>{style}</style>", f"<script data-once>{script}</script>"


def same_length(waves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """检查过的波形；一路也没有、空的、不一样长的都当场报错。"""
    if not waves:
        raise ValueError("没有可播放的波形；请给出至少一个“名字: 波形”。")
    waves = {name: as_wave(wave, name) for name, wave in waves.items()}
    (first, reference), *others = waves.items()
    for name, wave in waves.items():
        if len(wave) == 0:
            raise ValueError(f"“{name}”里一个样点也没有，没法播放。")
    for name, wave in others:
        if len(wave) != len(reference):
            raise ValueError(
                f"“{first}”有 {len(reference)} 个样点，“{name}”有 {len(wave)} 个：要在同一时刻换着听，各路须一样长、"
                f"都是 {SAMPLE_RATE} Hz。采样率不同的先重采样，长短不同的先截齐或补零。"
            )
    return waves


def cell(name: str, wave: np.ndarray, level: np.ndarray, title: str | None) -> str:
    """一路声音与它的语谱图；``level`` 是相对各路最大值的分贝数 (T, 257)。"""
    label = html.escape(f"{title}：{name}" if title else name)
    picture = data_uri(spectrogram_webp(level, 512, 96), "image/webp")
    return (
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f'<audio controls preload="none" aria-label="{label}" src="{data_uri(mp3(wave), "audio/mpeg")}"></audio>'
        f'<img loading="lazy" width="512" height="96" src="{picture}" '
        f'alt="{label}的语谱图：横轴 0 到 {len(wave) / SAMPLE_RATE:.1f} 秒，纵轴 0 到 8 kHz，越亮越强"></figure>'
    )


def mp3(wave: np.ndarray) -> bytes:
    """压成单声道 MP3。"""
    buffer = io.BytesIO()
    kind = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.4}
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, **kind) as sink:
        write_blocks(sink, wave)
    return buffer.getvalue()


def spectrogram_webp(level: np.ndarray, width: int = 320, height: int = 160) -> bytes:
    """分贝谱 (T, 257) → 小图：横轴时间，纵轴频率向上，``-RANGE_DB`` 到 0 dB。"""
    scaled = Image.fromarray(np.clip(1 + level.T[::-1] / RANGE_DB, 0, 1).astype(np.float32))
    scaled = np.asarray(scaled.resize((width, height), Image.Resampling.BOX))
    colors = (255 * colormap()(scaled)[..., :3]).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, "WEBP", quality=50, method=6)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """内容直接写进网页的地址。"""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
