"""门面：``from lstm_lib import LSTM`` 得到的类。手写的 LSTM 只懂 NumPy，从别家文件读权重的入口加在这里。"""

from lstm_lib import lstm


class LSTM(lstm.LSTM):
    __doc__ = lstm.LSTM.__doc__

    @classmethod
    def from_onnx(cls, model_or_path, name=None, batch_first=None):
        """取 ONNX 图里的 LSTM 节点；有好几个时用 ``name`` 指名。见 ``formats.onnx_lstm.load_lstm``。

        ``batch_first`` 缺省照图认（LSTM 前后有没有对调批与时间的 Transpose），根据写在 repr 里；也可以指定。
        """
        from lstm_lib.formats import onnx_lstm

        return onnx_lstm.load_lstm(cls, model_or_path, name, batch_first)

    @classmethod
    def from_ncnn(cls, param_path, bin_path, name=None):
        """取 ncnn 模型里的 LSTM 层；有好几个时用 ``name`` 指名。见 ``formats.ncnn_bin.load_lstm``。"""
        from lstm_lib.formats import ncnn_bin

        return ncnn_bin.load_lstm(cls, param_path, bin_path, name)
