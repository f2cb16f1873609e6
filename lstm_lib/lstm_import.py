"""把 ONNX、ncnn 文件里的 LSTM 翻译成 ``lstm.LSTM``：换门顺序、合并偏置、认方向，不懂的一律点名拒绝。"""

import numpy as np

from lstm_lib import layouts

_DIRECTIONS = ("forward", "reverse", "bidirectional")  # ncnn 的 2= 就是这个次序


def onnx_lstm(cls, model_or_path, name=None):
    """ONNX 的 LSTM 节点 → LSTM；规格见 ONNX 算子文档 LSTM（opset 1–22）。

    layout=1 对应 batch_first。方向、缺 B、P（窥视孔）、clip 都照算，常量的初态与 sequence_lens 成为缺省值；
    别的激活函数、input_forget 以及任何不认识的属性抛 ``ValueError``。
    """
    from lstm_lib import onnx_graph

    node = onnx_graph.read_lstm(model_or_path, name)
    clip = _onnx_clip(node)
    if node.layout not in (0, 1):
        raise ValueError(f"LSTM 节点 {node.name} 的属性 layout={node.layout} 不认识，应为 0 或 1")
    config = layouts.LSTMConfig(
        node.W.shape[2],
        node.hidden_size,
        direction=node.direction,
        bias=node.B is not None,
        batch_first=node.layout == 1,
        dtype="float64" if node.W.dtype == np.float64 else "float32",
    )
    parameters = {}
    for d, suffix in enumerate(config.suffixes):
        parameters[f"weight_ih_l0{suffix}"] = layouts.reorder(node.W[d], "onnx", "torch")
        parameters[f"weight_hh_l0{suffix}"] = layouts.reorder(node.R[d], "onnx", "torch")
        if config.bias:
            bias = layouts.merge_bias(*np.split(node.B[d].astype(config.dtype), 2))
            parameters[f"bias_l0{suffix}"] = layouts.reorder(bias, "onnx", "torch")
    peepholes = None
    if node.P is not None and node.P.any():
        peepholes = node.P.reshape(len(node.P), 3, node.hidden_size)[:, [0, 2, 1]]  # P 的次序是 i o f
    return cls(
        config,
        parameters,
        peepholes=peepholes,
        clip=clip,
        initial_state=_onnx_state(node),
        lengths=_onnx_lengths(node),
    )


def ncnn_lstm(cls, param_path, bin_path, name=None):
    """ncnn 的 LSTM 层 → LSTM；规格见 ncnn 源码 src/layer/lstm.cpp。

    fp16、int8 存放的权重按文件里的数还原成 float32：int8 模型在 ncnn 里还要把 x 与 h 逐步量化，这里不做。
    ncnn 没有批这一维，通常用不分批的 (T, I) 输入与它对照。
    """
    from lstm_lib import ncnn_model

    layer = ncnn_model.read_lstm(param_path, bin_path, name)
    proj_size = 0 if layer.weight_hr is None else layer.num_output
    config = layouts.LSTMConfig(
        layer.input_size, layer.hidden_size, direction=_DIRECTIONS[layer.direction], proj_size=proj_size
    )
    parameters = {}
    for d, suffix in enumerate(config.suffixes):
        for target, source in (("weight_ih", "weight_xc"), ("weight_hh", "weight_hc"), ("bias", "bias")):
            parameters[f"{target}_l0{suffix}"] = layouts.reorder(getattr(layer, source)[d], "ncnn", "torch")
        if proj_size:
            parameters[f"weight_hr_l0{suffix}"] = layer.weight_hr[d]
    return cls(config, parameters)


def _onnx_clip(node):
    """检查 layout 之外的属性，返回 clip（没有时 None）。"""
    attributes = dict(node.attributes)
    clip = attributes.pop("clip", None)
    if clip is not None and not clip > 0:
        raise ValueError(f"LSTM 节点 {node.name} 的属性 clip={clip}，应为正数")
    activations = attributes.pop("activations", None)
    expected = ["sigmoid", "tanh", "tanh"] * node.W.shape[0]
    if activations is not None and [a.lower() for a in activations] != expected:
        raise ValueError(
            f"LSTM 节点 {node.name} 的属性 activations={list(activations)} 没有实现，"
            "只支持缺省的 Sigmoid、Tanh、Tanh"
        )
    if not attributes.get("input_forget"):
        attributes.pop("input_forget", None)
    if attributes:
        names = "、".join(f"{key}={value}" for key, value in sorted(attributes.items()))
        raise ValueError(f"LSTM 节点 {node.name} 的属性 {names} 没有实现")
    return clip


def _onnx_state(node):
    """常量初态 → (h, c)，形状 (方向数, B, H)；没有或全零时 None（零本来就是缺省，且不限定批的大小）。"""
    given = [None if a is None or not a.any() else a for a in (node.initial_h, node.initial_c)]
    if all(a is None for a in given):
        return None
    shape = next(a.shape for a in given if a is not None)
    state = (np.zeros(shape, node.W.dtype) if a is None else a for a in given)
    return tuple(a.swapaxes(0, 1) if node.layout else a for a in state)


def _onnx_lengths(node):
    """sequence_lens：常量数组；没有是 None；由图的输入给出时是 "required"，调用时必须给 ``lengths``。"""
    if node.sequence_lens is None and len(node.inputs) > 4 and node.inputs[4]:
        return "required"
    return node.sequence_lens
