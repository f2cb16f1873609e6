"""ONNX 图里的 LSTM 节点：原样读出，再翻译成本书的 LSTM（换门顺序、合并偏置、认方向，不懂的一律点名拒绝）。

格式依据：ONNX 算子规范 LSTM（opset 7、14、22）。
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx

from lstm_lib.formats import onnx_axes, onnx_graph
from lstm_lib.lstm import LSTM, layouts
from lstm_lib.lstm.conventions import State

AnyLSTM = TypeVar("AnyLSTM", bound=LSTM)


@dataclass(frozen=True)
class OnnxLSTM:
    """一个 LSTM 节点的全部内容，原样，不解释。

    ``W`` 形状 [D, 4H, I]，``R`` [D, 4H, H]，``B`` [D, 8H]（前一半是 Wb，后一半是 Rb）或 None，
    ``P`` [D, 3H]（窥视孔）或 None；门顺序 i o f c，D 是方向数。
    ``initial_h``、``initial_c``、``sequence_lens`` 是图中的常量；没有给出或由图的输入算出时为 None，
    这时看 ``inputs``（节点八个输入的名字，空串表示没有给）。
    ``attributes`` 是其余属性（clip、activations、input_forget……）。
    """

    name: str
    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None
    P: np.ndarray | None
    initial_h: np.ndarray | None
    initial_c: np.ndarray | None
    sequence_lens: np.ndarray | None
    hidden_size: int
    direction: str = "forward"
    layout: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def read_lstm(model_or_path: onnx_graph.Model, name: str | None = None) -> OnnxLSTM:
    """读出图中的 LSTM 节点；有几个时用 ``name``（节点名或它的输出名）指定。

    W、R、B、P 必须是常量，或者由常量经搬运类算子（切片、拼接、转置……，即 dynamo 导出器的写法）得到。
    找不到节点、权重依赖输入、形状与 hidden_size 不符时报 ``ValueError``。
    """
    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    model = onnx_graph.load_model(model_or_path)
    node = _find_lstm(model, name, where)
    label = onnx_graph.node_label(node)
    inputs = tuple(node.input) + ("",) * (8 - len(node.input))
    try:
        attributes = {a.name: _attribute(a) for a in node.attribute}
        _check_types(attributes, f"{where}：LSTM 节点 {label}")
        constant = onnx_graph.constants(model)
        _, w, r, b, lens, h0, c0, p = (constant(i) if i else None for i in inputs[:8])
    except ValueError:
        raise
    except Exception as error:  # 损坏的张量：维数、类型、数据长度对不上
        raise ValueError(f"{where}：LSTM 节点 {label} 的权重读不出来（{error}）") from error
    for value, text, key in ((w, "W", 1), (r, "R", 2), (b, "B", 3), (p, "P", 7)):
        if inputs[key] and value is None:
            raise ValueError(
                f"{where}：LSTM 节点 {label} 的权重 {text}（{inputs[key]}）不是常量；"
                "请先用 onnxsim 化简，或导出时不要把权重当输入"
            )
    if w is None or r is None:
        raise ValueError(f"{where}：LSTM 节点 {label} 缺少权重 {'W' if w is None else 'R'}")
    hidden = attributes.pop("hidden_size", r.shape[-1] if r.ndim else None)
    direction = attributes.pop("direction", "forward")
    lstm = OnnxLSTM(
        name=label, W=w, R=r, B=b, P=p, initial_h=h0, initial_c=c0, sequence_lens=lens, hidden_size=hidden,
        direction=direction, layout=attributes.pop("layout", 0), attributes=attributes, inputs=inputs[:8],
        outputs=tuple(node.output),
    )  # fmt: skip
    _check_shapes(lstm, where)
    return lstm


def _find_lstm(model: onnx.ModelProto, name: str | None, where: str) -> onnx.NodeProto:
    nodes = [n for n in model.graph.node if n.op_type == "LSTM" and n.domain in ("", "ai.onnx")]
    if not nodes:
        raise ValueError(f"{where}：图里没有 LSTM 节点")
    labels = "、".join(onnx_graph.node_label(n) for n in nodes)
    if name is None:
        if len(nodes) > 1:
            raise ValueError(f"{where}：图里有 {len(nodes)} 个 LSTM 节点（{labels}），请用 name 指定一个")
        return nodes[0]
    chosen = [n for n in nodes if n.name == name] or [n for n in nodes if name in n.output]
    if len(chosen) != 1:
        raise ValueError(f"{where}：没有名为 {name!r} 的 LSTM 节点（或重名）；有的是：{labels}")
    return chosen[0]


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value: Any = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple) or type(value).__name__.startswith("Repeated"):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


# 规范里各属性的类型；损坏的文件里什么都可能有
_TYPES: dict[str, Any] = {
    "hidden_size": int,
    "direction": str,
    "layout": int,
    "clip": int | float,
    "input_forget": int,
    "activations": list,
}


def _check_types(attributes: Mapping[str, Any], where: str) -> None:
    for name, value in attributes.items():
        wrong = not isinstance(value, _TYPES.get(name, object))
        if wrong or (name == "activations" and not all(isinstance(a, str) for a in value)):
            raise ValueError(f"{where} 的属性 {name}={value!r} 类型不对")


def _check_shapes(lstm: OnnxLSTM, where: str) -> None:
    directions = {"forward": 1, "reverse": 1, "bidirectional": 2}.get(lstm.direction)
    if directions is None:
        raise ValueError(f"{where}：LSTM 节点 {lstm.name} 的 direction={lstm.direction!r} 不认识")
    h = lstm.hidden_size
    if not isinstance(h, int) or h <= 0:
        raise ValueError(f"{where}：LSTM 节点 {lstm.name} 的 hidden_size={h!r} 不是正整数")
    i = lstm.W.shape[-1] if lstm.W.ndim else 0
    wanted = {
        "W": (directions, 4 * h, i),
        "R": (directions, 4 * h, h),
        "B": (directions, 8 * h),
        "P": (directions, 3 * h),
    }
    for key, shape in wanted.items():
        value = getattr(lstm, key)
        if value is None:
            continue
        if value.shape != shape or value.size == 0:
            raise ValueError(
                f"{where}：LSTM 节点 {lstm.name} 的 {key} 形状是 {value.shape}，"
                f"按 hidden_size={h} 应为 {shape}"
            )
        if value.dtype.kind != "f":
            raise ValueError(f"{where}：LSTM 节点 {lstm.name} 的 {key} 是 {value.dtype}，不是浮点数")


def load_lstm(
    cls: type[AnyLSTM],
    model_or_path: onnx_graph.Model,
    name: str | None = None,
    batch_first: bool | None = None,
) -> AnyLSTM:
    """ONNX 的 LSTM 节点 → LSTM；规格见 ONNX 算子文档 LSTM（opset 1–22）。

    ``batch_first`` 缺省照图认（``onnx_axes``：layout=1，或 LSTM 前后换轴的 Transpose），认的根据写在 repr 里；
    给 True、False 就照给的。方向、缺 B、P（窥视孔）、clip 都照算，常量的初态与 sequence_lens 成为缺省值；
    别的激活函数、input_forget 以及任何不认识的属性抛 ``ValueError``。
    """
    node = read_lstm(model_or_path, name)
    clip = _onnx_clip(node)
    if node.layout not in (0, 1):
        raise ValueError(f"LSTM 节点 {node.name} 的属性 layout={node.layout} 不认识，应为 0 或 1")
    model = onnx_graph.load_model(model_or_path)
    first, note = onnx_axes.batch_first(model, node.outputs, node.layout, batch_first)
    config = layouts.LSTMConfig(
        node.W.shape[2],
        node.hidden_size,
        direction=node.direction,
        bias=node.B is not None,
        batch_first=first,
        dtype="float64" if node.W.dtype == np.float64 else "float32",
    )
    parameters = {}
    for d, suffix in enumerate(config.suffixes):
        parameters[f"weight_ih_l0{suffix}"] = layouts.reorder(node.W[d], "onnx", "torch")
        parameters[f"weight_hh_l0{suffix}"] = layouts.reorder(node.R[d], "onnx", "torch")
        if node.B is not None:
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
        note=note,
    )


def _onnx_clip(node: OnnxLSTM) -> float | None:
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


def _onnx_state(node: OnnxLSTM) -> State | None:
    """常量初态 → (h, c)，形状 (方向数, B, H)；没有或全零时 None（零本来就是缺省，且不限定批的大小）。"""
    given = [None if a is None or not a.any() else a for a in (node.initial_h, node.initial_c)]
    if all(a is None for a in given):
        return None
    shape = next(a.shape for a in given if a is not None)
    state = (np.zeros(shape, node.W.dtype) if a is None else a for a in given)
    h, c = (a.swapaxes(0, 1) if node.layout else a for a in state)
    return h, c


def _onnx_lengths(node: OnnxLSTM) -> np.ndarray | str | None:
    """sequence_lens：常量数组；没有是 None；由图的输入给出时是 "required"，调用时必须给 ``lengths``。"""
    if node.sequence_lens is None and len(node.inputs) > 4 and node.inputs[4]:
        return "required"
    return node.sequence_lens
