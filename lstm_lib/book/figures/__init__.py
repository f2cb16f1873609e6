"""本书的插图：调色板、样式、图表与各章的示意图。

每章开头 ``figures.use_style()``，画好后 ``figures.show(fig, alt="…", caption="…")``；
``python -m lstm_lib.book.figures`` 重新生成 ``img/`` 里的全部示意图。
"""

import importlib

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
    "Picture",
    "bars",
    "colormap",
    "gate_explorer",
    "gate_workshop",
    "heatmap",
    "label_lines",
    "lstm_steps",
    "mask_explorer",
    "parity_ladder",
    "quantizer",
    "roofline",
    "roofline_explorer",
    "show",
    "spectrogram",
    "style_context",
    "use_style",
    "waveform",
]

# 要 matplotlib 的函数用到才载入：建书时只取现成的 SVG，不必每次等它
_HOMES = {
    "charts": ("colormap", "heatmap", "label_lines", "spectrogram", "waveform"),
    "comparison": ("bars", "parity_ladder", "roofline"),
    "interactive": (
        "gate_explorer",
        "gate_workshop",
        "lstm_steps",
        "mask_explorer",
        "quantizer",
        "roofline_explorer",
    ),
    "style": ("Picture", "show", "style_context", "use_style"),
}


def __getattr__(name):
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"{__name__} 里没有 {name}")
