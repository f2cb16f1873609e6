"""门面：``from lstm_lib import LSTM`` 得到的类。手写的 LSTM 只懂 NumPy，从别家文件读权重的入口加在这里。"""

from lstm_lib import lstm


class LSTM(lstm.LSTM):
    __doc__ = lstm.LSTM.__doc__

    @classmethod
    def from_torch(cls, module):
        """抄走 ``torch.nn.LSTM`` 的权重，以后各走各的。

        参数:
            module: ``torch.nn.LSTM``，层数、方向、投影、类型任意
        抛出:
            ValueError: 不是 ``nn.LSTM``；还在训练状态、层间有 dropout；改过（钩子、别的 forward），照抄会算错
        """
        from lstm_lib.formats import torch_lstm

        return torch_lstm.load_lstm(cls, module)

    @classmethod
    def from_onnx(cls, model_or_path, name=None, batch_first=None):
        """取 ONNX 图里的 LSTM 节点；首尾相接的一叠读成一个。

        参数:
            model_or_path: .onnx 文件或 ``ModelProto``
            name: 有好几个时指名：节点名、它的输出名，或带路径的全名
            batch_first: 缺省照图认（LSTM 前后有没有对调批与时间的 Transpose），根据写在 repr 里；也可以指定
        抛出:
            ValueError: 没有 LSTM、有好几个而没有指名、权重随输入而变、激活函数不是缺省的……消息说明是哪一个节点
        """
        from lstm_lib.formats import onnx_lstm

        return onnx_lstm.load_lstm(cls, model_or_path, name, batch_first)

    @classmethod
    def from_ncnn(cls, param_path, bin_path, name=None):
        """取 ncnn 模型里的 LSTM 层；首尾相接的一叠读成一个，fp16 与 int8 的权重解成 float32。

        参数:
            param_path: 文本的 .param
            bin_path: .bin
            name: 有好几个时指名
        抛出:
            ValueError: 两个文件对不上、坏了，或有好几个而没有指名；消息说明是哪一行、哪一个字节
        """
        from lstm_lib.formats import ncnn_bin

        return ncnn_bin.load_lstm(cls, param_path, bin_path, name)

    @classmethod
    def from_keras(cls, kernel, recurrent_kernel=None, bias=None, *more, **options):
        """取 Keras 的 LSTM 层的数组 ``*layer.get_weights()``，不必装 Keras；读成 ``batch_first=True``。

        参数:
            kernel: (I, 4H)，门横着排，次序 i f c o
            recurrent_kernel: (H, 4H)
            bias: (4H,)，``use_bias=False`` 的是 None
            more: 不该有；多给了（``Bidirectional`` 的六个、几层的），据此说明怎样分开给
            options: backward（``Bidirectional`` 的反向层的数组）、activation、recurrent_activation、go_backwards、
                merge_mode，照抄层的 ``get_config()``；整个 ``**layer.get_config()`` 也行，名字、初始化之类与推理无关的不看
        抛出:
            ValueError: 形状不对；激活函数不是 tanh 与 sigmoid（旧版 Keras 缺省的 hard_sigmoid）；merge_mode 不是 concat；
                units、use_bias 与数组不符；有不认识的项
        """
        from lstm_lib.formats import keras_weights

        return keras_weights.load_lstm(cls, kernel, recurrent_kernel, bias, *more, **options)

    def to_ncnn(self, param_path, bin_path, *, streaming=False):
        """写成 ncnn 的两个文件，读回来逐位比过才出现。

        参数:
            param_path: 要写的 .param
            bin_path: 要写的 .bin
            streaming: 状态 h、c 也作图的输入输出（in1、in2、out1、out2），供逐帧运行
        返回:
            两个路径。
        抛出:
            ValueError: ncnn 放不下的：窥视孔、截幅、各序列长度
        """
        from lstm_lib.formats import writers

        return writers.to_ncnn(self, param_path, bin_path, streaming=streaming)
