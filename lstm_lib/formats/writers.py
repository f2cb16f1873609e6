"""把 LSTM（之后可以再接线性层与 sigmoid）写成别家的模型：ONNX 与 ncnn，float32 或 int8。

写出来的是带状态的图：输入 x、h、c，输出 y 与新的 h、c；一段或一帧都能算，接着算时把新的 h、c 交回去。
格式依据：ONNX 算子规范 LSTM（opset 14）与 onnx.proto；ncnn 源码 src/modelbin.cpp、src/layer/lstm.cpp、
innerproduct.cpp、slice.cpp、concat.cpp、memorydata.cpp。带线性层的只写单向、无投影的 LSTM，别的抛 ``ValueError``；
``to_ncnn`` 只写 LSTM，方向与投影不限，状态可以不做成输入输出。
"""

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_lib.files import atomic_paths
from lstm_lib.formats import ncnn_bin
from lstm_lib.formats.ncnn_bin import FLAG_FP32, FLAG_INT8
from lstm_lib.formats.ncnn_param import MAGIC
from lstm_lib.formats.quiet import quiet
from lstm_lib.lstm import LSTM, conventions, layouts
from lstm_lib.lstm.conventions import State
from lstm_lib.native.quantize import quantize_rows

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8
_NCNN_DIRECTIONS = ("forward", "reverse", "bidirectional")  # 2= 的 0、1、2


def check_writable(lstm: LSTM) -> None:
    """``lstm`` 能不能原样写出去；不能就抛 ``ValueError``，说明是哪一项。"""
    config = lstm.config
    if config.direction != "forward":
        raise ValueError(
            f"只支持单向（forward）的 LSTM，这个的 direction 是 {config.direction}：要看到未来的帧"
        )
    if config.proj_size:
        raise ValueError(f"只支持没有投影的 LSTM，这个的 proj_size 是 {config.proj_size}")
    for name, label in conventions.OPTIONS.items():
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
    """按 ncnn 的格式写出带状态的网络，.param 与 .bin，返回两个路径。

    in0 (T, I)、in1 与 in2 (L, H)，即 x、h、c → out0 (T, O)、out1 与 out2 (L, H)，即 y 与新的 h、c；名字同
    pnnx，所以 ``ncnn_run.NcnnRunner`` 直接能跑。一层一个 LSTM 层，多层时用 Slice、Concat 分合状态。
    ``int8``：LSTM 的权重逐行对称量化（8=2），线性层仍是 float32。ncnn 的 LSTM 总有偏置，没有的写成零。
    """
    check_writable(lstm)
    head, head_bias = check_head(weight, bias, lstm.config.hidden_size)
    texts = _ncnn_model(lstm, True, None, head, head_bias, sigmoid, int8)
    paths = Path(param_path), Path(bin_path)
    for path, data in zip(paths, texts, strict=True):
        path.write_bytes(data)
    return paths


def to_ncnn(
    lstm: LSTM, param_path: str | Path, bin_path: str | Path, *, streaming: bool = False
) -> tuple[Path, Path]:
    """只写一个 LSTM：层数、方向、投影任意，float32；返回 .param 与 .bin 两个路径。

    in0 (T, I) → out0 (T, D·P)，ncnn 没有批这一维，``batch_first`` 不进文件。常量的缺省初态写成 MemoryData。
    ``streaming``：状态也是图的输入输出，多出 in1 (L·D, P)、in2 (L·D, H) 与 out1、out2，从哪里接着算由调用者定；
    缺省初态是文字（必须由调用者给）的，总是这样写。没有偏置的写成零，ncnn 的 LSTM 总有偏置。
    float64 的权重舍入成 float32，发 ``UserWarning`` 说明；放不下的（窥视孔、截幅、各序列长度……）抛 ``ValueError``。
    写好先读回来逐位比过，两个文件才一齐出现；出错时原有的文件保持原样。
    """
    state = getattr(lstm, "initial_state", None)
    if isinstance(state, str):
        streaming, state = True, None
    _check_ncnn(lstm, streaming, state)
    _check_pair(param_path, bin_path)
    parameters = _as_float32(lstm)
    state = _constant_state(lstm, state)
    config = replace(lstm.config, bias=True, batch_first=False, dtype="float32")
    param, weights = _ncnn_model(LSTM(config, parameters), streaming, state)
    with atomic_paths(bin_path, param_path) as made:  # .param 最后出现：看见它，就说明 .bin 已经在了
        made[0].write_bytes(weights)
        made[1].write_bytes(param)
        _check_read_back(config, parameters, state, made[1], made[0], param_path)
    return Path(param_path), Path(bin_path)


def _check_ncnn(lstm: LSTM, streaming: bool, state: State | None) -> None:
    """ncnn 的 LSTM 层放得下 ``lstm`` 吗；放不下就抛 ``ValueError``，说明是哪一项。"""
    if not isinstance(lstm, LSTM):
        raise ValueError(f"to_ncnn 写的是本书的 LSTM，得到 {type(lstm).__name__}")
    config = lstm.config
    if lstm.peepholes is not None:
        raise ValueError("ncnn 的 LSTM 层没有窥视孔，这个 LSTM 带着（peepholes），写不成 ncnn")
    if lstm.clip is not None:
        raise ValueError(f"ncnn 的 LSTM 层不截幅，这个 LSTM 的 clip={lstm.clip}，写不成 ncnn")
    if lstm.lengths is not None:
        raise ValueError(
            "ncnn 的 LSTM 层没有批，也没有各序列的长度，这个 LSTM 带着（lengths），写不成 ncnn；"
            "请去掉它，运行时只把有效的那几帧交给 ncnn"
        )
    if config.proj_size == config.hidden_size:
        raise ValueError(
            f"proj_size 与 hidden_size 都是 {config.hidden_size}：ncnn 见两者相同就不读投影矩阵，写不成 ncnn"
        )
    if streaming and state is not None:
        raise ValueError(
            "streaming 的模型由调用者给初态，放不下这个 LSTM 的缺省初态（initial_state）；"
            "请用 streaming=False，或者自己把那组初态交给模型"
        )


def _check_pair(param_path: str | Path, bin_path: str | Path) -> None:
    if (Path(param_path).suffix, Path(bin_path).suffix) == (".bin", ".param"):
        raise ValueError(f"两个路径的次序反了：先 .param 后 .bin，得到 {param_path} 与 {bin_path}")
    if os.path.realpath(param_path) == os.path.realpath(bin_path):
        raise ValueError(f"{param_path}：.param 与 .bin 是两个文件，不能写到同一个路径")


def _as_float32(lstm: LSTM) -> dict[str, np.ndarray]:
    """全部参数，float32；有舍入时发警告，超出 float32 的范围抛 ``ValueError``。没有的偏置补零。"""
    parameters = {}
    worst = 0.0
    for name, shape in replace(lstm.config, bias=True).shapes().items():
        value = lstm.parameters.get(name)
        if value is None:
            parameters[name] = np.zeros(shape, np.float32)
            continue
        with np.errstate(over="ignore", under="ignore"):
            parameters[name] = value.astype(np.float32)
        if (np.isinf(parameters[name]) & np.isfinite(value)).any():
            raise ValueError(f"参数 {name} 里有 float32 放不下的数（绝对值超过 3.4e38），ncnn 只存 float32")
        with np.errstate(invalid="ignore"):
            worst = max(worst, float(np.nanmax(np.abs(parameters[name] - value), initial=0)))
    if lstm.config.dtype == "float64":
        warnings.warn(f"这个 LSTM 是 float64，ncnn 只存 float32：权重舍入后最多差 {worst:.1e}", stacklevel=4)
    return parameters


def _constant_state(lstm: LSTM, state: State | None) -> State | None:
    """缺省初态 → h (L·D, P)、c (L·D, H)，float32；没有或全是零时 None，ncnn 本来就从零出发。"""
    if state is None:
        return None
    batches = {np.shape(a)[1] for a in state if np.ndim(a) == 3}
    if batches - {1}:
        raise ValueError(
            f"缺省初态（initial_state）是给 {max(batches)} 条一批的，ncnn 没有批这一维，只放得下一条；"
            "请取出要用的那一条，如 h[:, :1]、c[:, :1]"
        )
    flat = [np.asarray(a)[:, 0] if np.ndim(a) == 3 else a for a in state]
    h, c = (a[:, 0] for a in conventions.initial_state(flat, lstm.config, 1, True, np.float32))
    return (h, c) if h.any() or c.any() else None


def _check_read_back(
    config: layouts.LSTMConfig,
    parameters: Mapping[str, np.ndarray],
    state: State | None,
    param: Path,
    weights: Path,
    title: str | Path,
) -> None:
    """写好的两个文件读回来，逐位与要写的相同，否则抛 ``RuntimeError``。"""
    read = ncnn_bin.load_lstm(LSTM, param, weights)
    wrong = [] if read.config == config else ["尺寸"]
    wrong += [k for k, v in parameters.items() if read.parameters.get(k, v[:0]).tobytes() != v.tobytes()]
    if state is not None:
        data, parts = weights.read_bytes(), {}
        for block in ncnn_bin.bin_layout(param, weights):
            if block.label == "data":
                parts[block.layer] = data[block.offset : block.offset + block.size]
        for key, value in zip("hc", state, strict=True):
            kept = b"".join(parts[f"initial_{key}{k}"] for k in range(config.num_layers))
            wrong += [] if kept == np.ascontiguousarray(value).tobytes() else [f"初态 {key}"]
    if wrong:
        raise RuntimeError(f"{title}：写出的模型读回来与原来的不同（{'、'.join(wrong)}），没有写文件")


def _ncnn_model(
    lstm: LSTM,
    streaming: bool,
    state: State | None = None,
    head: np.ndarray | None = None,
    head_bias: np.ndarray | None = None,
    sigmoid: bool = False,
    int8: bool = False,
) -> tuple[bytes, bytes]:
    """.param 与 .bin 的全部字节。``streaming``：状态是图的输入输出；否则 ``state`` 是常量的初态，None 即零。"""
    config = lstm.config
    count, directions, size, cells = (
        config.num_layers, config.num_directions, config.output_size, config.hidden_size,
    )  # fmt: skip
    h, c, h1, c1 = _by_layer(("in1", "in2", "out1", "out2"), count)
    inputs = ("in0", "in1", "in2") if streaming else ("in0",)
    lines, x = [f"Input {name} 0 1 {name}" for name in inputs], "in0"
    blobs: list[bytes] = []
    if streaming and count > 1:
        sizes = f"-23300={count}" + ",-233" * count  # -233：各份平分
        for whole, parts in (("in1", h), ("in2", c)):
            lines.append(f"Slice split_{whole} 1 {count} {whole} {' '.join(parts)} {sizes} 1=0")
    if state is not None:
        h, c = ([f"initial_{key}{k}" for k in range(count)] for key in "hc")
        for names, value in zip((h, c), state, strict=True):
            for name, part in zip(names, np.split(value, count), strict=True):
                lines.append(f"MemoryData {name} 0 1 {name} 0={part.shape[1]} 1={directions}")
                blobs.append(np.ascontiguousarray(part, np.float32).tobytes())
    for k, layer in enumerate(_ncnn_layers(lstm)):
        y = f"lstm{k}" if k + 1 < count or head is not None or sigmoid else "out0"
        bottoms = [x, h[k], c[k]] if streaming or state is not None else [x]
        tops = [y, h1[k], c1[k]] if streaming else [y]
        blob_names = " ".join(bottoms + tops)
        lines.append(
            f"LSTM lstm{k} {len(bottoms)} {len(tops)} {blob_names} 0={size} 1={layer[0].size}"
            f" 2={_NCNN_DIRECTIONS.index(config.direction)} 3={cells}" + " 8=2" * int8
        )
        blobs += _ncnn_blobs(layer, int8)
        x = y
    if streaming and count > 1:
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
    tops_made = sum(int(line.split()[3]) for line in lines)
    text = "\n".join([str(MAGIC), f"{len(lines)} {tops_made}", *lines, ""])
    return text.encode(), b"".join(blobs)


def _ncnn_layers(lstm: LSTM) -> Iterator[list[np.ndarray]]:
    """逐层给出 weight_xc、bias、weight_hc（、weight_hr），方向在最前一维，float32，门顺序 i f o g。"""
    config = lstm.config
    for layer in range(config.num_layers):
        ends = [f"_l{layer}{suffix}" for suffix in config.suffixes]
        made = []
        for kind in ("weight_ih", "bias", "weight_hh"):
            parts = [lstm.parameters.get(kind + end, np.zeros(4 * config.hidden_size)) for end in ends]
            made.append(np.stack([layouts.reorder(part, "torch", "ncnn") for part in parts]))
        if config.proj_size:
            made.append(np.stack([lstm.parameters["weight_hr" + end] for end in ends]))
        yield [array.astype(np.float32) for array in made]


def _ncnn_blobs(layer: list[np.ndarray], int8: bool) -> list[bytes]:
    """一个 LSTM 层的各块：xc、bias、hc（、hr）；int8 时再加两组 scale（整数 = 权重 × scale），只有单向无投影的。"""
    if not int8:
        return [_blob(a, FLAG_FP32) for a in layer]
    (xc, x_step), bias, (hc, h_step) = quantize_rows(layer[0][0]), layer[1], quantize_rows(layer[2][0])
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
