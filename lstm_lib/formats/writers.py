"""把 LSTM（之后可以再接线性层与 sigmoid）写成别家的模型：ONNX 与 ncnn，float32 或 int8。

写出来的都是带状态的图：输入 x、h、c，输出 y 与新的 h、c；一段或一帧都能算，接着算时把新的 h、c 交回去。
格式依据：ONNX 算子规范 LSTM（opset 14）与 onnx.proto；ncnn 源码 src/modelbin.cpp、src/layer/lstm.cpp、
innerproduct.cpp、slice.cpp、concat.cpp。只写单向、无投影的 LSTM，别的抛 ``ValueError``。
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_lib.formats.ncnn_bin import FLAG_FP32, FLAG_INT8
from lstm_lib.formats.ncnn_param import MAGIC
from lstm_lib.formats.quiet import quiet
from lstm_lib.lstm import LSTM, layouts
from lstm_lib.native.pack import quantize_rows

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8


def check_writable(lstm: LSTM) -> None:
    """``lstm`` 能不能原样写出去；不能就抛 ``ValueError``，说明是哪一项。"""
    config = lstm.config
    if config.direction != "forward":
        raise ValueError(
            f"只支持单向（forward）的 LSTM，这个的 direction 是 {config.direction}：要看到未来的帧"
        )
    if config.proj_size:
        raise ValueError(f"只支持没有投影的 LSTM，这个的 proj_size 是 {config.proj_size}")
    options = {"peepholes": "窥视孔", "clip": "截幅", "initial_state": "缺省初态", "lengths": "各序列长度"}
    for name, label in options.items():
        value = getattr(lstm, name)
        if name == "initial_state" and isinstance(value, str):
            raise ValueError(
                f"这个 LSTM 的初态由调用者给（{value}）；只要权重、初态从零开始的话，"
                "请用 LSTM(lstm.config, lstm.parameters)"
            )
        if value is not None:
            raise ValueError(f"只支持普通的 LSTM，这个带有{label}（{name}）")


def _layers(lstm: LSTM) -> Iterator[tuple]:
    """逐层给出 (weight_ih (4H, K), weight_hh (4H, H), bias (4H,) 或 None)，float32，门顺序 i f g o。"""
    for layer in range(lstm.config.num_layers):
        w, r = (np.asarray(lstm.parameters[f"weight_{kind}_l{layer}"], np.float32) for kind in ("ih", "hh"))
        bias = lstm.parameters.get(f"bias_l{layer}")
        yield w, r, None if bias is None else np.asarray(bias, np.float32)


def check_head(weight: Any, bias: Any, hidden: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """线性层的两个数组，float32；形状不对抛 ``ValueError``。"""
    if weight is None:
        if bias is not None:
            raise ValueError("给了线性层的 bias，却没有给 weight")
        return None, None
    weight = np.ascontiguousarray(weight, np.float32)
    if weight.ndim != 2 or weight.shape[1] != hidden:
        raise ValueError(f"线性层 weight 的形状应为 (输出数, {hidden})，得到 {weight.shape}")
    if bias is None:
        return weight, None
    bias = np.ascontiguousarray(bias, np.float32)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"线性层 bias 的形状应为 {weight.shape[:1]}，得到 {bias.shape}")
    return weight, bias


def _by_layer(names: Iterable[str], count: int) -> tuple[list[str], ...]:
    """各状态逐层的名字：一层时就是图的输入输出，多层时加层号，另由分合状态的节点接上。"""
    return tuple([name] if count == 1 else [f"{name}_{k}" for k in range(count)] for name in names)


# ---------------------------------------------------------------- ONNX


def onnx_model(lstm: LSTM, weight: Any = None, bias: Any = None, sigmoid: bool = False) -> "onnx.ModelProto":
    """最朴素的 ONNX 图：一层一个 LSTM 节点，初态是图的输入。

    x (T, 1, I)、h 与 c (L, 1, H) → y (T, 1, 1, O)、h1 与 c1 (L, 1, H)；L 是层数，T 可变，y 的第二轴是
    LSTM 节点自己的方向轴。``weight`` (O, H)、``bias`` (O,) 是线性层（O 缺省为 H），``sigmoid`` 说最后过不过 σ。
    规范：https://onnx.ai/onnx/operators/onnx__LSTM.html 。
    """
    from onnx import TensorProto, helper, numpy_helper

    check_writable(lstm)
    config, node = lstm.config, helper.make_node
    head, head_bias = check_head(weight, bias, config.hidden_size)
    count, size = config.num_layers, config.hidden_size
    h, c, h1, c1 = _by_layer(("h", "c", "h1", "c1"), count)
    after: list[tuple[str, list[str]]] = []  # LSTM 之后的节点，各带什么常量
    after += [] if weight is None else [("MatMul", ["head_weight"])]
    after += [] if bias is None else [("Add", ["head_bias"])]
    after += [("Sigmoid", [])] if sigmoid else []
    nodes: list[Any] = []
    tensors: dict[str, np.ndarray] = {}
    x = "x"
    if count > 1:
        nodes += [node("Split", [whole], parts, axis=0) for whole, parts in (("h", h), ("c", c))]
    for k, (w, r, b) in enumerate(_layers(lstm)):
        tensors[f"W{k}"] = layouts.reorder(w, "torch", "onnx")[None]
        tensors[f"R{k}"] = layouts.reorder(r, "torch", "onnx")[None]
        if b is not None:
            tensors[f"B{k}"] = np.concatenate(layouts.split_bias(layouts.reorder(b, "torch", "onnx")))[None]
        last = k + 1 == count
        y = f"lstm{k}" if after or not last else "y"
        inputs = [x, f"W{k}", f"R{k}", f"B{k}" if b is not None else "", "", h[k], c[k]]
        nodes.append(node("LSTM", inputs, [y, h1[k], c1[k]], name=f"lstm{k}", hidden_size=size))
        x = y
        if not last:  # 下一层的 x 没有方向轴，先去掉
            tensors["direction_axis"] = np.array([1], np.int64)
            nodes.append(node("Squeeze", [x, "direction_axis"], [f"x{k + 1}"]))
            x = f"x{k + 1}"
    if count > 1:
        nodes += [node("Concat", parts, [whole], axis=0) for whole, parts in (("h1", h1), ("c1", c1))]
    tensors |= {} if head is None else {"head_weight": head.T}
    tensors |= {} if head_bias is None else {"head_bias": head_bias}
    for k, (kind, names) in enumerate(after, 1):
        y = "y" if k == len(after) else f"head{k}"
        nodes.append(node(kind, [x, *names], [y]))
        x = y
    outputs = size if head is None else len(head)
    state = [count, 1, size]
    sides: tuple[dict[str, list[Any]], dict[str, list[Any]]] = (
        {"x": ["T", 1, config.input_size], "h": state, "c": state},
        {"y": ["T", 1, 1, outputs], "h1": state, "c1": state},
    )
    given, results = (
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in side.items()] for side in sides
    )
    initializers = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in tensors.items()]
    return helper.make_model(
        helper.make_graph(nodes, "lstm", given, results, initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def quantize_onnx(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """用 onnxruntime 的 ``quantize_dynamic`` 把 LSTM 节点换成 DynamicQuantizeLSTM：权重逐行 int8，线性层不动。

    有 LSTM 没有换成时抛 ``RuntimeError``。
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_dynamic(
            source, target, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8, per_channel=True
        )
        made = onnx.load(target)
    if any(node.op_type == "LSTM" for node in made.graph.node):
        raise RuntimeError("quantize_dynamic 没有把 LSTM 换成 DynamicQuantizeLSTM：换一个 onnxruntime 版本")
    return made


# ---------------------------------------------------------------- ncnn


def ncnn_files(
    lstm: LSTM,
    param_path: str | Path,
    bin_path: str | Path,
    weight: Any = None,
    bias: Any = None,
    sigmoid: bool = False,
    int8: bool = False,
) -> tuple[Path, Path]:
    """按 ncnn 的格式写出 .param 与 .bin，返回两个路径。

    in0 (T, I)、in1 与 in2 (L, H)，即 x、h、c → out0 (T, O)、out1 与 out2 (L, H)，即 y 与新的 h、c；名字同
    pnnx，所以 ``ncnn_run.NcnnRunner`` 直接能跑。一层一个 LSTM 层，多层时用 Slice、Concat 分合状态。
    ``int8``：LSTM 的权重逐行对称量化（8=2），线性层仍是 float32。ncnn 的 LSTM 总有偏置，没有的写成零。
    """
    check_writable(lstm)
    head, head_bias = check_head(weight, bias, lstm.config.hidden_size)
    count, size = lstm.config.num_layers, lstm.config.hidden_size
    h, c, h1, c1 = _by_layer(("in1", "in2", "out1", "out2"), count)
    lines, x = [f"Input {name} 0 1 {name}" for name in ("in0", "in1", "in2")], "in0"
    blobs: list[bytes] = []
    if count > 1:
        sizes = f"-23300={count}" + ",-233" * count  # -233：各份平分
        for whole, parts in (("in1", h), ("in2", c)):
            lines.append(f"Slice split_{whole} 1 {count} {whole} {' '.join(parts)} {sizes} 1=0")
    for k, (w, r, b) in enumerate(_layers(lstm)):
        y = f"lstm{k}" if k + 1 < count or head is not None or sigmoid else "out0"
        names = " ".join((x, h[k], c[k], y, h1[k], c1[k]))
        lines.append(f"LSTM lstm{k} 3 3 {names} 0={size} 1={w.size} 2=0 3={size}" + " 8=2" * int8)
        blobs += _ncnn_blobs(w, np.zeros(4 * size, np.float32) if b is None else b, r, int8)
        x = y
    if count > 1:
        for whole, parts in (("out1", h1), ("out2", c1)):
            lines.append(f"Concat join_{whole} {count} 1 {' '.join(parts)} {whole} 0=0")
    if head is not None:
        y = "head" if sigmoid else "out0"
        lines.append(
            f"InnerProduct head 1 1 {x} {y} 0={len(head)} 1={int(head_bias is not None)} 2={head.size}"
        )
        blobs += [_blob(head, FLAG_FP32)] + ([] if head_bias is None else [head_bias.tobytes()])
        x = y
    if sigmoid:
        lines.append(f"Sigmoid sigmoid 1 1 {x} out0")
    tops = sum(int(line.split()[3]) for line in lines)
    param, weights = Path(param_path), Path(bin_path)
    param.write_text("\n".join([str(MAGIC), f"{len(lines)} {tops}", *lines, ""]), encoding="utf-8")
    weights.write_bytes(b"".join(blobs))
    return param, weights


def _ncnn_blobs(w: np.ndarray, bias: np.ndarray, r: np.ndarray, int8: bool) -> list[bytes]:
    """一个 LSTM 层的各块：xc、bias、hc；int8 时再加两组 scale（整数 = 权重 × scale）。"""
    xc, bias, hc = (layouts.reorder(a, "torch", "ncnn") for a in (w, bias, r))
    if not int8:
        return [_blob(a, FLAG_FP32) for a in (xc, bias, hc)]
    (xc, x_step), (hc, h_step) = quantize_rows(xc), quantize_rows(hc)
    scales = [np.float32(1) / np.where(s > 0, s, 1).astype(np.float32) for s in (x_step, h_step)]
    return [
        _blob(xc, FLAG_INT8),
        _blob(bias, FLAG_FP32),
        _blob(hc, FLAG_INT8),
        *(s.tobytes() for s in scales),
    ]


def _blob(array: np.ndarray, flag: int) -> bytes:
    """4 字节标志 + 数据，补零到 4 的倍数。"""
    raw = np.ascontiguousarray(array).tobytes()
    return flag.to_bytes(4, "little") + raw + bytes(-len(raw) % 4)
