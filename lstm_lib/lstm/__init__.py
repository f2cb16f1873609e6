"""LSTM 本身：前向、反向、门顺序与权重布局、权重文件、输入的约定、门顺序的检查。只用 NumPy。"""

from lstm_lib.lstm.forward import LSTM, Gates, sigmoid, step

__all__ = ["LSTM", "Gates", "sigmoid", "step"]
