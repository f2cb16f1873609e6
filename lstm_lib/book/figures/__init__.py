"""本书的插图：调色板、样式、图表与各章的示意图。

每章开头 ``figures.use_style()``，画好后 ``figures.show(fig, alt="…", caption="…")``；
``python -m lstm_lib.book.figures`` 重新生成 ``img/`` 里的全部示意图。
"""

from lstm_lib.book.figures.charts import colormap, heatmap, label_lines, spectrogram, waveform
from lstm_lib.book.figures.comparison import bars, parity_ladder, roofline
from lstm_lib.book.figures.interactive import gate_explorer
from lstm_lib.book.figures.palette import (
    BLUE,
    GATE_COLORS,
    GREEN,
    GREY,
    GRID,
    INK,
    ORANGE,
    PANEL,
    PAPER,
    PURPLE,
    RED,
)
from lstm_lib.book.figures.style import show, style_context, use_style
from lstm_lib.lstm.layouts import GATE_NAMES

__all__ = [
    "BLUE",
    "GATE_COLORS",
    "GATE_NAMES",
    "GREEN",
    "GREY",
    "GRID",
    "INK",
    "ORANGE",
    "PANEL",
    "PAPER",
    "PURPLE",
    "RED",
    "bars",
    "colormap",
    "gate_explorer",
    "heatmap",
    "label_lines",
    "parity_ladder",
    "roofline",
    "show",
    "spectrogram",
    "style_context",
    "use_style",
    "waveform",
]
