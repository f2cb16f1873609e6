"""《LSTM 实现与优化》一书的共用小程序包。

各部分：``lstm``（LSTM 本身）、``formats``（ONNX 与 ncnn 的文件）、``enhance``（语音增强）、``engines``（各家引擎）、
``native``（C 内核）、``training``（用自己的数据训练）、``corpus``（内置语料）、``cli``（命令行）、``book``（页面上的图、表与播放器）。
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["LSTM", "AnyRateEnhancer", "NativeLSTM", "StreamingEnhancer"]

_HOMES = {
    "LSTM": "lstm_lib.front",
    "AnyRateEnhancer": "lstm_lib.enhance.streaming",
    "NativeLSTM": "lstm_lib.native",
    "StreamingEnhancer": "lstm_lib.enhance.streaming",
}


def __getattr__(name):
    """``from lstm_lib import LSTM`` 用到时才载入，``import lstm_lib`` 本身不拖入任何依赖。"""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
