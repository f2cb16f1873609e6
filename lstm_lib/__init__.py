"""《LSTM 实现与优化》一书的共用小程序包。"""

__version__ = "0.1.0"
__all__ = ["LSTM"]


def __getattr__(name):
    """``from lstm_lib import LSTM`` 用到时才载入，``import lstm_lib`` 本身不拖入任何依赖。"""
    if name == "LSTM":
        from lstm_lib.lstm import LSTM

        return LSTM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
