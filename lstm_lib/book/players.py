"""一排播放器：点了才读的压缩音频，下面是语谱图。"""

import base64
import html
import io

import numpy as np
import soundfile
from PIL import Image

from lstm_lib.book.figures.charts import colormap, magnitude
from lstm_lib.waves import SAMPLE_RATE, as_wave, write_blocks

RANGE_DB = 65
ROW_STYLE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:0.75rem 0.6rem"
IMAGE_STYLE = "display:block;width:100%;height:110px;image-rendering:auto;border-radius:3px"


def row(waves: dict[str, np.ndarray], title: str | None = None) -> None:
    """显示一排播放器：``{"带噪": 波形, "增强": 波形, …}``，16 kHz 单声道。

    同一排共用一个音量与一个色标，因此响度与亮度可以互相比较。
    """
    from IPython.display import HTML, display

    display(HTML(row_html(waves, title)))


def row_html(waves: dict[str, np.ndarray], title: str | None = None) -> str:
    """:func:`row` 的 HTML；不引用任何外部文件。"""
    if not waves:
        raise ValueError("没有可播放的波形；请给出至少一个“名字: 波形”。")
    waves = {name: as_wave(wave, name) for name, wave in waves.items()}
    for name, wave in waves.items():
        if len(wave) == 0:
            raise ValueError(f"“{name}”里一个样点也没有，没法播放。")
    peak = max(np.abs(wave).max() for wave in waves.values())
    gain = 0.9 / peak if peak > 0 else 1.0
    levels = {name: 20 * np.log10(magnitude(wave) + 1e-9) for name, wave in waves.items()}
    top = max(level.max() for level in levels.values())
    cells = "".join(cell(name, wave * gain, levels[name] - top, title) for name, wave in waves.items())
    heading = f'<p style="margin:0 0 0.4rem"><strong>{html.escape(title)}</strong></p>' if title else ""
    return f'<div class="book-players">{heading}<div style="{ROW_STYLE}">{cells}</div></div>'


def cell(name: str, wave: np.ndarray, level: np.ndarray, title: str | None) -> str:
    """一个播放器与它的语谱图；``level`` 是相对全排最大值的分贝数 (T, 257)。"""
    label = html.escape(f"{title}：{name}" if title else name)
    seconds = f"{len(wave) / SAMPLE_RATE:.1f}"
    return (
        '<figure style="margin:0;min-width:0">'
        f'<figcaption style="margin:0 0 0.2rem;text-align:left">{html.escape(name)}</figcaption>'
        f'<audio controls preload="none" aria-label="{label}" style="width:100%;height:2.2rem" '
        f'src="{data_uri(mp3(wave), "audio/mpeg")}"></audio>'
        f'<img loading="lazy" style="{IMAGE_STYLE}" src="{data_uri(spectrogram_webp(level), "image/webp")}" '
        f'alt="{label}的语谱图：横轴 0 到 {seconds} 秒，纵轴 0 到 8 kHz，越亮越强">'
        "</figure>"
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
