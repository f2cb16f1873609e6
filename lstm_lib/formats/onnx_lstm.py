"""ONNX 图里的 LSTM 节点：原样读出，再翻译成本书的 LSTM（换门顺序、合并偏置、认方向，不懂的一律点名拒绝）。

格式依据：ONNX 算子规范 LSTM（opset 7、14、22）。
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import onnx

from lstm_lib.formats import onnx_axes, onnx_graph, onnx_scopes, onnx_stacks, onnx_without_lstm, stacks
from lstm_lib.formats.onnx_rules import Known, Unknown, Value
from lstm_lib.formats.onnx_values import Values
from lstm_lib.lstm import LSTM, layouts
from lstm_lib.lstm.conventions import State

AnyLSTM = TypeVar("AnyLSTM", bound=LSTM)


@dataclass(frozen=True)
class OnnxLSTM:
    """一个 LSTM 节点的全部内容，原样，不解释。

    ``W`` 形状 [D, 4H, I]，``R`` [D, 4H, H]，``B`` [D, 8H]（前一半是 Wb，后一半是 Rb）或 None，
    ``P`` [D, 3H]（窥视孔）或 None；门顺序 i o f c，D 是方向数。
    ``initial_h``、``initial_c`` 形状 [D, B, H]（layout=1 时 [B, D, H]），``sequence_lens`` [B]，是图中的常量；
    B 随输入而变、而各序列的值相同时没有 B 那一维（[D, H] 与一个数）。没有给出或要运行才知道时为 None：
    ``inputs`` 是节点八个输入的名字（空串表示没有给），``unknown`` 是要运行才知道的那几个输入与原因。
    ``name`` 是节点的全名（在 If、Loop、Scan 的体或函数里时带着路径），``attributes`` 是其余属性
    （clip、activations、input_forget……）。
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
    unknown: Mapping[str, str] = field(default_factory=dict)


def read_lstm(model_or_path: onnx_graph.Model, name: str | None = None) -> OnnxLSTM:
    """读出图中的 LSTM 节点；有几个时用 ``name`` 指定：节点名、它的输出名，或带路径的全名。

    If、Loop、Scan 的体与模型自带的函数里的也找，全名如 ``If_5/then_branch/LSTM_3``。
    W、R、B、P 必须是常量，或者由常量算得出来（切片、拼接、反量化……）；初态与 sequence_lens 能算的也算。
    找不到节点、权重依赖输入、形状或类型与规范不符时报 ``ValueError``。
    """
    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    model = onnx_graph.load_model(model_or_path)
    try:
        root = onnx_scopes.scopes(model)
    except ValueError as error:
        raise ValueError(f"{where}：{error}") from error
    scope, node = _find_lstm(root, name, where)
    label = scope.label(node)
    inputs = tuple(node.input) + ("",) * (8 - len(node.input))
    try:
        attributes = {a.name: _attribute(a) for a in node.attribute}
        values = Values(root)
        known = [values.get(scope, i) if i else None for i in inputs[:8]]
    except Exception as error:  # 损坏的张量：维数、类型、数据长度对不上；要展开的常量过大
        raise ValueError(f"{where}：LSTM 节点 {label} 的权重或初态读不出来（{error}）") from error
    _check_types(attributes, f"{where}：LSTM 节点 {label}")
    weights: dict[str, Any] = {}
    for key, text in ((1, "W"), (2, "R"), (3, "B"), (7, "P")):
        value = known[key]
        if inputs[key] and not (isinstance(value, Value) and value.exact):
            reason = value.source if isinstance(value, Unknown) else "的形状随输入而变"
            raise ValueError(
                f"{where}：LSTM 节点 {label} 的权重 {text}（{inputs[key]}）不是常量：它{reason}；"
                "请先用 onnxsim 化简，或导出时不要把权重当输入"
            )
        weights[text] = value.base if isinstance(value, Value) else None
    if weights["W"] is None or weights["R"] is None:
        raise ValueError(f"{where}：LSTM 节点 {label} 缺少权重 {'W' if weights['W'] is None else 'R'}")
    r = weights["R"]
    hidden = attributes.pop("hidden_size", r.shape[-1] if r.ndim else None)
    direction = attributes.pop("direction", "forward")
    lstm = OnnxLSTM(
        name=label, **weights, initial_h=None, initial_c=None, sequence_lens=None, hidden_size=hidden,
        direction=direction, layout=attributes.pop("layout", 0), attributes=attributes, inputs=inputs[:8],
        outputs=tuple(node.output),
    )  # fmt: skip
    given = dict(zip(("sequence_lens", "initial_h", "initial_c"), known[4:7], strict=True))
    _check_projection(lstm, given, where)
    _check_shapes(lstm, where)
    return replace(lstm, **_optional_inputs(lstm, given, where))


def _find_lstm(
    root: onnx_scopes.Scope, name: str | None, where: str
) -> tuple[onnx_scopes.Scope, onnx.NodeProto]:
    found = [(s, n) for s, n in root.walk() if _is_lstm(s, n)]
    if not found:
        raise ValueError(f"{where}：图里没有 LSTM 节点。{onnx_without_lstm.describe(root)}")
    labels = "、".join(s.label(n) for s, n in found)
    if name is None:
        if len(found) > 1:
            raise ValueError(f"{where}：图里有 {len(found)} 个 LSTM 节点（{labels}），请用 name 指定一个")
        return found[0]
    chosen = [(s, n) for s, n in found if s.label(n) == name]
    chosen = chosen or [(s, n) for s, n in found if n.name == name]
    chosen = chosen or [(s, n) for s, n in found if name in n.output]
    if not chosen:
        raise ValueError(f"{where}：没有名为 {name!r} 的 LSTM 节点；有的是：{labels}")
    if len(chosen) > 1:
        full = "、".join(s.label(n) for s, n in chosen)
        raise ValueError(f"{where}：有 {len(chosen)} 个 LSTM 节点都叫 {name!r}，请用全名指定：{full}")
    return chosen[0]


def _is_lstm(scope: onnx_scopes.Scope, node: onnx.NodeProto) -> bool:
    return node.op_type == "LSTM" and onnx_scopes.standard(node) and scope.call(node) is None


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
            narrow = key == "R" and value.shape[:2] == shape[:2] and value.shape[2:] < (h,)
            raise ValueError(
                f"{where}：LSTM 节点 {lstm.name} 的 {key} 形状是 {value.shape}，"
                f"按 hidden_size={h} 应为 {shape}"
                + ("；看上去是带投影的 LSTM，ONNX 的 LSTM 没有投影" if narrow else "")
            )
        if not value.dtype.name.startswith(("float", "bfloat")):  # bfloat16 不在 NumPy 的类型树上
            raise ValueError(f"{where}：LSTM 节点 {lstm.name} 的 {key} 是 {value.dtype}，不是浮点数")


def _check_projection(lstm: OnnxLSTM, given: Mapping[str, Known | None], where: str) -> None:
    """带投影的 LSTM：ONNX 没有，有的导出器（torch 的 dynamo）不作声地写出无效的节点，h 与 c 一窄一宽。"""
    widths = {}
    for key in ("initial_h", "initial_c"):
        value = given[key]
        dims = None if value is None else value.dims
        widths[key] = dims[-1] if dims else None
    narrow, wide = widths["initial_h"], widths["initial_c"]
    if isinstance(narrow, int) and isinstance(wide, int) and 0 < narrow < wide:
        raise ValueError(
            f"{where}：LSTM 节点 {lstm.name} 是带投影的（initial_h 宽 {narrow}，initial_c 宽 {wide}，即 "
            f"proj_size={narrow}、hidden_size={wide}）：ONNX 的 LSTM 没有投影，这个节点是导出器写坏的，权重也不全。"
            "请用 LSTM.from_torch 直接读那个模块，或改用 proj_size=0 的 LSTM 再接 Linear"
        )


def _optional_inputs(lstm: OnnxLSTM, given: Mapping[str, Known | None], where: str) -> dict[str, Any]:
    """检查初态与 sequence_lens 的类型与形状（是零也查），能知道的给数组，不能的给原因。"""
    directions, hidden = len(lstm.W), lstm.hidden_size
    found: dict[str, Any] = {"unknown": {}}
    batch: dict[str, int] = {}
    for key, value in given.items():
        if value is None:
            continue
        name = lstm.inputs[list(_OPTIONAL).index(key) + 4]
        text = f"{where}：LSTM 节点 {lstm.name} 的 {key}（{name}）"
        shape: tuple[int | None, ...] = (None,)  # 批的那一维是 None
        letters = "[B]"
        if key != "sequence_lens":
            shape = (None, directions, hidden) if lstm.layout else (directions, None, hidden)
            letters = "[B, 方向数, H]" if lstm.layout else "[方向数, B, H]"
        dims = value.dims
        if dims is None and isinstance(value, Value):
            dims = (None,) * (len(shape) - value.base.ndim) + tuple(
                n if n > 1 else None for n in value.base.shape
            )
        wrong = dims is not None and (
            len(dims) != len(shape)
            or any(None not in (n, m) and n != m for n, m in zip(dims, shape, strict=True))
        )
        if dims is not None and wrong:
            got, wanted = (str(s).replace("None", "B") for s in (dims, shape))
            raise ValueError(f"{text}的形状是 {got}，应为 {wanted}，即 {letters}")
        kind = value.base.dtype if isinstance(value, Value) and value.base.dtype != object else None
        right = np.dtype(np.int32) if key == "sequence_lens" else lstm.W.dtype
        if kind is not None and kind != right:
            raise ValueError(f"{text}是 {kind}，应为 {right}")
        axis = shape.index(None)
        if dims is not None and dims[axis] is not None:
            batch[key] = dims[axis]  # type: ignore[assignment]
        if kind is None or not isinstance(value, Value):
            source = value.source if isinstance(value, Unknown) else "的值由输入的形状算出"
            found["unknown"][key] = f"{key} {source}（{name}）"
            continue
        base = value.base.reshape((1,) * (len(shape) - value.base.ndim) + value.base.shape)
        full = tuple(base.shape[k] if n is None else n for k, n in enumerate(shape))
        size = dims[axis] if dims is not None else None
        if size is None and base.shape[axis] != 1:
            found["unknown"][key] = f"{key} 的批有多大要运行才知道（{name}）"
            continue
        array = np.broadcast_to(
            base, full if size is None else (*full[:axis], size, *full[axis + 1 :])
        ).copy()
        found[key] = array.squeeze(axis) if size is None else array
    if len(set(batch.values())) > 1:
        sizes = "、".join(f"{key} 是 {n}" for key, n in batch.items())
        raise ValueError(f"{where}：LSTM 节点 {lstm.name} 各输入的批大小 B 不一样：{sizes}")
    return found


_OPTIONAL = ("sequence_lens", "initial_h", "initial_c")


def load_lstm(
    cls: type[AnyLSTM],
    model_or_path: onnx_graph.Model,
    name: stacks.Names = None,
    batch_first: bool | None = None,
) -> AnyLSTM:
    """ONNX 的 LSTM 节点 → LSTM；规格见 ONNX 算子文档 LSTM（opset 1–22）。

    不给 ``name`` 而几个节点首尾直接相接，就读成一个多层的 LSTM；``name`` 也可以是一叠的几个名字，自下而上。
    ``batch_first`` 缺省照图认（``onnx_axes``：layout=1，或 LSTM 前后换轴的 Transpose），认的根据写在 repr 里；
    给 True、False 就照给的。方向、缺 B、P（窥视孔）、clip 都照算，常量的初态与 sequence_lens 成为缺省值，
    不是常量的，调用时必须给 ``state``、``lengths``；
    别的激活函数、input_forget 以及任何不认识的属性抛 ``ValueError``。
    """
    model = onnx_graph.load_model(model_or_path)
    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    names = onnx_stacks.chain(model_or_path, name)
    lowest, *above = (read_lstm(model_or_path, each) for each in names)
    layer = _translate(cls, model, lowest, batch_first)
    if not above:
        return layer
    # 批与时间谁在前由整叠的两头定：最下面一层看得见 X 的来路，也看得穿上面各层
    layers = [layer, *(_translate(cls, model, node, layer.config.batch_first) for node in above)]
    if _same_lengths(model, [lowest, *above]):
        for other in layers:
            other.lengths = layer.lengths
    return stacks.stack(layers, where)


def _same_lengths(model: onnx.ModelProto, nodes: Sequence[OnnxLSTM]) -> bool:
    """各层用的是不是同一个 sequence_lens；它们在同一个图里（``onnx_stacks.chain`` 查过）。"""
    first = nodes[0]
    for scope, node in onnx_scopes.scopes(model).walk():
        if scope.label(node) == first.name and tuple(node.output) == first.outputs:
            return len({onnx_stacks.origin(scope, n.inputs[4]) for n in nodes}) == 1
    return False


def _translate(
    cls: type[AnyLSTM], model: onnx.ModelProto, node: OnnxLSTM, batch_first: bool | None
) -> AnyLSTM:
    """一个节点 → 单层的 LSTM。"""
    clip = _onnx_clip(node)
    if node.layout not in (0, 1):
        raise ValueError(f"LSTM 节点 {node.name} 的属性 layout={node.layout} 不认识，应为 0 或 1")
    first, note = onnx_axes.batch_first(model, node.name, node.outputs, node.layout, batch_first)
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
    attributes.pop("output_sequence", None)  # opset 1：要不要输出 Y，与算的数无关
    if activations is not None:  # 写明了是 Sigmoid、Tanh 的：它们没有 alpha、beta，给了也不用
        attributes.pop("activation_alpha", None)
        attributes.pop("activation_beta", None)
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


def _onnx_state(node: OnnxLSTM) -> State | str | None:
    """初态 → (h, c)，形状 (方向数, B, H)，对任何批都一样的没有 B；没有或全零时 None（零本来就是缺省，且不限定批的大小）。

    要运行才知道的是文字，说明为什么：调用时必须给 ``state``。
    """
    reasons = [node.unknown[key] for key in ("initial_h", "initial_c") if key in node.unknown]
    if reasons:
        return f"这个 ONNX 节点 {node.name} 的初态不是常量：{'，'.join(reasons)}"
    given = [None if a is None or not a.any() else a for a in (node.initial_h, node.initial_c)]
    states = [a.swapaxes(0, 1) if a is not None and a.ndim == 3 and node.layout else a for a in given]
    fixed = next((a.shape for a in states if a is not None and a.ndim == 3), None)
    shape = fixed or next((a.shape for a in states if a is not None), None)
    if shape is None:
        return None
    h, c = (
        np.zeros(shape, node.W.dtype) if a is None
        else np.repeat(a[:, None], shape[1], 1) if a.ndim < len(shape)
        else a
        for a in states
    )  # fmt: skip
    return h, c


def _onnx_lengths(node: OnnxLSTM) -> np.ndarray | str | None:
    """sequence_lens：常量数组（对任何批都一样的是一个数）；没有是 None；要运行才知道的是文字：必须给 ``lengths``。"""
    if "sequence_lens" in node.unknown:
        return f"这个 ONNX 节点 {node.name} 的 {node.unknown['sequence_lens']}"
    given = node.sequence_lens
    if given is not None and np.min(given, initial=1) < 1:
        raise ValueError(
            f"LSTM 节点 {node.name} 的 sequence_lens（{node.inputs[4]}）是 {given.tolist()}，里面有小于 1 的："
            "本书不支持长度为 0 的序列（onnxruntime 给它全零的输出与末态）；请在图里去掉这一条"
        )
    return given
