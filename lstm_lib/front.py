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
    def from_onnx(cls, model_or_path, name=None, batch_first=None):
        """取 ONNX 图里的 LSTM 节点；有好几个时用 ``name`` 指名。见 ``formats.onnx_lstm.load_lstm``。

        ``batch_first`` 缺省照图认（LSTM 前后有没有对调批与时间的 Transpose），根据写在 repr 里；也可以指定。
        """
        from lstm_lib.formats import onnx_lstm

        return onnx_lstm.load_lstm(cls, model_or_path, name, batch_first)

    @classmethod
    def from_ncnn(cls, param_path, bin_path, name=None):
        """取 ncnn 模型里的 LSTM 层，首尾相接的一叠读成一个；别的情形用 ``name`` 指名。见 ``formats.ncnn_bin.load_lstm``。"""
        from lstm_lib.formats import ncnn_bin

        return ncnn_bin.load_lstm(cls, param_path, bin_path, name)

    @classmethod
    def from_keras(cls, kernel, recurrent_kernel=None, bias=None, *more, **options):
        """取 Keras 的 LSTM 层的数组 ``*layer.get_weights()``，不必装 Keras。见 ``formats.keras_weights.load_lstm``。

        kernel (I, 4H)、recurrent_kernel (H, 4H)、bias (4H,) 或 None；``options`` 是 backward（``Bidirectional``
        的反向层的数组）、activation、recurrent_activation、go_backwards、merge_mode，照抄层的 ``get_config()``。
        """
        from lstm_lib.formats import keras_weights

        return keras_weights.load_lstm(cls, kernel, recurrent_kernel, bias, *more, **options)

    def to_ncnn(self, param_path, bin_path, *, streaming=False):
        """写成 ncnn 的 .param 与 .bin，读回来逐位比过才出现；返回两个路径。见 ``formats.writers.to_ncnn``。"""
        from lstm_lib.formats import writers

        return writers.to_ncnn(self, param_path, bin_path, streaming=streaming)
