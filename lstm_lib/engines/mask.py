"""同一个掩蔽网络，几种引擎：每种都变成 :data:`lstm_lib.enhance.streaming.MaskStep` 那样的函数。

``step(x, state) -> (mask, state)``：x 是一帧幅度谱 (256,) float32，state 是上一帧留下的状态（None 表示从零
开始），mask 是 (257,)。函数自己不存状态，可以被任意多路音频合用。全部单线程。
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np


def numpy_step(network):
    """本书手写的 LSTM（:class:`lstm_lib.lstm.LSTM`）。"""
    from lstm_lib.lstm import LSTM

    return lstm_step(LSTM.from_torch(network.mask), network)


def lstm_step(lstm, network):
    """任何与 ``LSTM`` 同一副面孔的对象 + 网络余下的线性层与 sigmoid。"""
    head = numpy_head(network)
    shape = (1, 1, -1)  # 一批、一帧；两轴都是 1，batch_first 与否都一样

    def step(x, state):
        y, state = lstm(x.reshape(shape), state)
        return head(y.reshape(-1)), state

    return step


def numpy_head(network):
    """LSTM 之后的部分：线性层（没有就跳过）与 sigmoid，(257,) → (257,)。"""
    from lstm_lib.lstm import sigmoid

    weight = getattr(network.head, "weight", None)
    if weight is not None:
        weight = weight.detach().numpy()
        bias = network.head.bias.detach().numpy()

    def head(h):
        return sigmoid(h if weight is None else weight @ h + bias)

    return head


def torch_step(network):
    """torch.nn.LSTM 整个网络，一次一帧。"""
    import torch

    def step(x, state):
        with torch.inference_mode():
            mask, state = network.forward_with_state(torch.from_numpy(x).view(1, 1, -1), state)
        return mask.view(-1).numpy(), state

    return step


def torch_cell_step(network):
    """torch.nn.LSTMCell：同样的权重，为「一次一步」而设的模块。"""
    import torch

    lstm = network.mask
    if lstm.num_layers != 1 or lstm.bidirectional or lstm.proj_size:
        raise ValueError("LSTMCell 引擎只支持单层、单向、无投影的 LSTM。")
    cell = torch.nn.LSTMCell(lstm.input_size, lstm.hidden_size, bias=lstm.bias)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})

    def step(x, state):
        with torch.inference_mode():
            h, c = cell(torch.from_numpy(x).view(1, -1), state)
            mask = network.activation(network.head(h))
        return mask.view(-1).numpy(), (h, c)

    return step


def stateful_onnx(network, folder) -> Path:
    """把 h、c 也变成图的输入输出，导出成 ONNX：(x, h, c) → (mask, h_next, c_next)，一次一帧。"""
    import torch

    from lstm_lib.formats import onnx_graph

    lstm = network.mask
    h = torch.zeros(lstm.num_layers * (1 + lstm.bidirectional), 1, lstm.hidden_size)
    return onnx_graph.export(
        onnx_graph.with_state(network),
        (torch.zeros(1, 1, lstm.input_size), h, h.clone()),
        Path(folder) / "mask.onnx",
        input_names=("x", "h", "c"),
        output_names=("mask", "h_next", "c_next"),
    )


def onnxruntime_step(network):
    """onnxruntime，状态由调用者拿着。"""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        model = stateful_onnx(network, folder).read_bytes()
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    zeros = np.zeros(session.get_inputs()[1].shape, np.float32)

    def step(x, state):
        h, c = (zeros, zeros) if state is None else state
        mask, h, c = session.run(None, {"x": x.reshape(1, 1, -1), "h": h, "c": c})
        return mask.reshape(-1), (h, c)

    return step


def ncnn_step(network):
    """ncnn，模型由 pnnx 从带状态的 ONNX 转换而来。"""
    import ncnn
    import pnnx

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    with tempfile.TemporaryDirectory() as folder:
        command = [pnnx.EXEC_PATH, stateful_onnx(network, folder).name, "fp16=0"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if net.load_param(f"{folder}/mask.ncnn.param") or net.load_model(f"{folder}/mask.ncnn.bin"):
            raise RuntimeError(f"pnnx 没能把网络转成 ncnn 模型，它最后说：{result.stderr[-300:]}")
    zeros = np.zeros((1, network.mask.hidden_size), np.float32)

    def step(x, state):
        # 数组要有名字：ncnn.Mat 只借用内存，临时数组一释放，读到的就是别人的数据
        x = np.ascontiguousarray(x).reshape(1, -1)
        h, c = (zeros, zeros) if state is None else state
        with net.create_extractor() as extractor:
            for name, array in (("in0", x), ("in1", h), ("in2", c)):
                extractor.input(name, ncnn.Mat(array))
            mask, h, c = (np.array(extractor.extract(name)[1]) for name in ("out0", "out1", "out2"))
        return mask.reshape(-1), (h.reshape(1, -1), c.reshape(1, -1))

    return step


def native_step(network, dtype="float32"):
    """本书的 C 内核（:mod:`lstm_lib.native`）；每路音频的状态留在内核自己的 ``stream`` 里。"""
    from lstm_lib.lstm import LSTM
    from lstm_lib.native import NativeLSTM

    fast = NativeLSTM(LSTM.from_torch(network.mask), dtype=dtype)
    head = numpy_head(network)

    def step(x, stream):
        stream = fast.stream() if stream is None else stream
        return head(stream.step(x)), stream

    return step


ENGINES = {
    "numpy": numpy_step,
    "torch": torch_step,
    "torch-cell": torch_cell_step,
    "onnxruntime": onnxruntime_step,
    "ncnn": ncnn_step,
    "c": native_step,
    "c-int8": lambda network: native_step(network, dtype="int8"),
}


def mask_step(network, engine: str = "numpy"):
    """由训练好的网络（``load_trained()`` 的返回值）得到掩蔽函数；``engine`` 是 ``ENGINES`` 的键。"""
    if engine not in ENGINES:
        raise ValueError(f"没有名为 {engine!r} 的引擎；可选：{'、'.join(ENGINES)}。")
    return ENGINES[engine](network)
