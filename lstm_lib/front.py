"""门面：``from lstm_lib import LSTM`` 得到的类。手写的 LSTM 只懂 NumPy，从别家文件读权重的入口加在这里。"""

from lstm_lib import lstm


class LSTM(lstm.LSTM):
    __doc__ = lstm.LSTM.__doc__

    @classmethod
    def from_torch(cls, module):
        """抄走 ``torch.nn.LSTM`` 的权重，以后各走各的；见 ``formats.torch_lstm.load_lstm``。"""
        from lstm_lib.formats import torch_lstm

        return torch_lstm.load_lstm(cls, module)

    @classmethod
    def from_onnx(cls, model_or_path, name=None):
        """取 ONNX 图里的 LSTM 节点；有好几个时用 ``name`` 指名。见 ``formats.onnx_lstm.load_lstm``。"""
        from lstm_lib.formats import onnx_lstm

        return onnx_lstm.load_lstm(cls, model_or_path, name)

    @classmethod
    def from_ncnn(cls, param_path, bin_path, name=None):
        """取 ncnn 模型里的 LSTM 层；有好几个时用 ``name`` 指名。见 ``formats.ncnn_bin.load_lstm``。"""
        from lstm_lib.formats import ncnn_bin

        return ncnn_bin.load_lstm(cls, param_path, bin_path, name)
