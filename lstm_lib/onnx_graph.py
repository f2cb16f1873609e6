"""ONNX 计算图：导出、化简、数算子、逐节点求值，以及原样读出一个 LSTM 节点。

格式依据：ONNX 算子规范 LSTM（opset 7、14、22）与 onnx.proto。
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_lib.quiet import quiet

# 读权重时允许就地算出的算子：只搬运数据，不会凭空变大；Concat 另查总量
_FOLDABLE = {"Identity", "Slice", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Cast", "Split"}
_MAX_ELEMENTS = 1 << 28


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
    attributes: Mapping = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def load_model(model_or_path) -> onnx.ModelProto:
    """读入 ONNX 模型（连同外部数据）；已是 ``ModelProto`` 的原样返回。

    文件不存在、不是 ONNX、外部数据缺失时报 ``ValueError`` 或 ``OSError``，消息写明文件。
    """
    if isinstance(model_or_path, onnx.ModelProto):
        return model_or_path
    path = Path(model_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"找不到 ONNX 文件：{path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf、外部数据各有各的异常类型
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}：不是能读的 ONNX 文件，或它的 .data 外部数据不在同一文件夹（{reason}）"
        ) from error
    if not model.graph.node:
        raise ValueError(f"{path}：文件里没有任何节点，不是一个 ONNX 模型")
    return model


def with_state(network):
    """包一层：``forward(x, h, c) -> (掩蔽, h, c)``，于是初始状态成为图的输入。

    ``network`` 要有 ``forward_with_state(x, (h, c))``，见 ``irm.IRMNetwork``；h、c 形状 [层数×方向数, B, H]。
    """
    import torch

    class WithState(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, h, c):
            mask, (h, c) = self.network.forward_with_state(x, (h, c))
            return mask, h, c

    return WithState().eval()


def export(
    module, inputs, path, *, exporter="torchscript", input_names=("x",), output_names=("y",), dynamic=None
):
    """把 torch 模块导出成 ONNX 文件，返回路径；导出器的闲话都收起来。

    ``inputs`` 是示例输入的元组；``exporter`` 取 "torchscript"（``dynamo=False``）或 "dynamo"；
    ``dynamic`` 形如 ``{"x": {1: "T"}}``，列出长度可变的轴。dynamo 把权重写在同名的 .data 文件里。
    """
    import torch

    if exporter not in ("torchscript", "dynamo"):
        raise ValueError(f"exporter 只能是 torchscript 或 dynamo，不能是 {exporter!r}")
    dynamic = dynamic or {}
    names = {"input_names": list(input_names), "output_names": list(output_names)}
    if exporter == "dynamo":
        axes = {axis: torch.export.Dim(axis) for sizes in dynamic.values() for axis in sizes.values()}
        shapes = tuple({k: axes[v] for k, v in dynamic.get(name, {}).items()} or None for name in input_names)
        extra = {"dynamo": True, "verbose": False, "dynamic_shapes": shapes if dynamic else None}
    else:
        extra = {"dynamo": False, "dynamic_axes": dynamic or None}
    # torch 2.13 为可变长度临时换上另一种 LSTM 分解，却忘了清派发缓存：先导出过一次，轴就会悄悄变回固定的
    cache = getattr(torch.ops.aten.lstm.input, "_dispatch_cache", {})
    cache.clear()
    try:
        with quiet():
            torch.onnx.export(module.eval(), tuple(inputs), str(path), **names, **extra)
    finally:
        cache.clear()
    _check_axes(path, dynamic)
    return Path(path)


def _check_axes(path, dynamic):
    """导出器有时不听话：要求可变的输入轴必须真的可变，输出轴补上名字。"""
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in dynamic.get(value.name, {}).items():
            dim = value.type.tensor_type.shape.dim[axis]
            if dim.dim_param == name:
                continue
            if value in model.graph.input:
                raise ValueError(
                    f"{path}：要求 {value.name} 的第 {axis} 轴可变，导出的图里却固定成了 {dim.dim_value}"
                )
            dim.dim_param = name
            onnx.save(model, path)


def simplify(model_or_path, path=None, **options) -> onnx.ModelProto:
    """用 onnxsim 化简，在一组随机输入上比过化简前后的输出；给了 ``path`` 就写成文件。

    ``options`` 原样交给 ``onnxsim.simplify``，但 ``check_n`` 在这里默认为 1：它自己的默认是 0，什么也不比就说一致。
    可变的轴换成一个小的长度来比。输出不同时报 ``ValueError``。
    """
    import onnxsim

    source = load_model(model_or_path)
    fixed = options.get("overwrite_input_shapes") or {}
    options = {"check_n": 1, "test_input_shapes": _trial_shapes(source, fixed)} | options
    with quiet():
        model, same = onnxsim.simplify(source, **options)
    if not same:
        raise ValueError("onnxsim 化简前后的输出不一致，不要用这个结果")
    if path is not None:
        onnx.save(model, path)
    return model


def _trial_shapes(model, fixed):
    """有可变的轴、又不在 ``fixed`` 里的输入，各给一个试算用的形状；同名的轴同长，不同名的不同长。"""
    sizes, shapes, known = {}, {}, axes(model)
    for value in model.graph.input:
        shape = known[value.name]
        if value.name not in fixed and not all(isinstance(size, int) for size in shape):
            shapes[value.name] = [
                size if isinstance(size, int) else sizes.setdefault(size, 3 + len(sizes)) for size in shape
            ]
    return shapes


def operator_counts(model_or_path) -> dict[str, int]:
    """各算子的个数，按图中第一次出现的次序。"""
    return dict(Counter(node.op_type for node in load_model(model_or_path).graph.node))


def operator_table(models: Mapping):
    """几个模型的算子并排成表：``{标题: 模型或路径}``，一行一种算子，最后一行是总数。"""
    from lstm_lib.tables import Code, Table

    counts = [operator_counts(model) for model in models.values()]
    operators = sorted({op for c in counts for op in c}, key=lambda op: (op != "LSTM", op))
    rows = [[Code(op), *(c.get(op, "") for c in counts)] for op in operators]
    return Table(["算子", *models], [*rows, ["合计", *(sum(c.values()) for c in counts)]])


def axes(model_or_path) -> dict[str, list]:
    """图的输入输出各有哪些轴：固定的是整数，可变的是名字。"""
    graph = load_model(model_or_path).graph
    return {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def run(model_or_path, *arrays, optimize=True) -> list[np.ndarray]:
    """用 onnxruntime（单线程）跑一次，``arrays`` 按图的输入次序给；返回全部输出。"""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:  # 关掉图优化，中间结果才一个不少
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = load_model(model_or_path)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    if len(names) != len(arrays):
        raise ValueError(f"这个图有 {len(names)} 个输入（{'、'.join(names)}），给了 {len(arrays)} 个")
    return session.run(None, dict(zip(names, arrays, strict=True)))


def ancestors(model_or_path, tensor: str) -> list[onnx.NodeProto]:
    """算出名为 ``tensor`` 的中间结果要经过的节点，按图里的次序。"""
    graph = load_model(model_or_path).graph
    wanted, found = {tensor}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            found.insert(0, node)
            wanted |= set(node.input)
    if not found:
        raise ValueError(f"图里没有哪个节点算出 {tensor!r}")
    return found


def trace(model_or_path, nodes, *arrays) -> dict[str, np.ndarray]:
    """在真实输入上求出 ``nodes`` 每个输出的值：把它们都添成图的输出，再跑一遍。"""
    model = onnx.ModelProto()
    model.CopyFrom(load_model(model_or_path))
    names = [output for node in nodes for output in node.output if output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, run(model, *arrays, optimize=False), strict=True))


def constants(model_or_path):
    """返回一个函数：给它张量的名字，得到图中的常数；依赖图的输入的，得到 None。"""
    return _Constants(load_model(model_or_path)).get


def node_label(node: onnx.NodeProto) -> str:
    """节点的称呼：有名字用名字，没有就用第一个输出的名字。"""
    return node.name or next((o for o in node.output if o), node.op_type)


def read_lstm(model_or_path, name: str | None = None) -> OnnxLSTM:
    """读出图中的 LSTM 节点；有几个时用 ``name``（节点名或它的输出名）指定。

    W、R、B、P 必须是常量，或者由常量经搬运类算子（切片、拼接、转置……，即 dynamo 导出器的写法）得到。
    找不到节点、权重依赖输入、形状与 hidden_size 不符时报 ``ValueError``。
    """
    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    model = load_model(model_or_path)
    node = _find_lstm(model, name, where)
    label = node_label(node)
    inputs = tuple(node.input) + ("",) * (8 - len(node.input))
    try:
        attributes = {a.name: _attribute(a) for a in node.attribute}
        constants = _Constants(model)
        _, w, r, b, lens, h0, c0, p = (constants.get(i) if i else None for i in inputs[:8])
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
        if not inputs[key] and text in "WR":
            raise ValueError(f"{where}：LSTM 节点 {label} 缺少权重 {text}")
    hidden = attributes.pop("hidden_size", r.shape[-1] if r.ndim else None)
    direction = attributes.pop("direction", "forward")
    lstm = OnnxLSTM(
        name=label, W=w, R=r, B=b, P=p, initial_h=h0, initial_c=c0, sequence_lens=lens, hidden_size=hidden,
        direction=direction, layout=attributes.pop("layout", 0), attributes=attributes, inputs=inputs[:8],
        outputs=tuple(node.output),
    )  # fmt: skip
    _check_shapes(lstm, where)
    return lstm


def _find_lstm(model, name, where):
    nodes = [n for n in model.graph.node if n.op_type == "LSTM" and n.domain in ("", "ai.onnx")]
    if not nodes:
        raise ValueError(f"{where}：图里没有 LSTM 节点")
    labels = "、".join(node_label(n) for n in nodes)
    if name is None:
        if len(nodes) > 1:
            raise ValueError(f"{where}：图里有 {len(nodes)} 个 LSTM 节点（{labels}），请用 name 指定一个")
        return nodes[0]
    chosen = [n for n in nodes if n.name == name] or [n for n in nodes if name in n.output]
    if len(chosen) != 1:
        raise ValueError(f"{where}：没有名为 {name!r} 的 LSTM 节点（或重名）；有的是：{labels}")
    return chosen[0]


def _attribute(attribute):
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple) or type(value).__name__.startswith("Repeated"):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


def _check_shapes(lstm, where):
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


class _Constants:
    """按名字取图中的常量；必要时把只搬运数据的算子就地算出来。"""

    def __init__(self, model):
        self.model = model
        self.known = {t.name: t for t in model.graph.initializer}
        self.producer = {o: n for n in model.graph.node for o in n.output if o}

    def get(self, name):
        """名为 ``name`` 的常量；依赖图的输入时返回 None。"""
        order, seen, placed, stack = [], set(), set(), [name]
        while stack:  # 自下而上排出要算的节点；不用递归，图再深也不怕
            current = stack[-1]
            node = self.producer.get(current)
            if current in self.known or node is None:
                stack.pop()
                if current not in self.known:
                    return None
                continue
            if node.op_type == "Constant" or id(node) in seen:
                stack.pop()
                if id(node) not in placed:
                    placed.add(id(node))
                    order.append(node)
                continue
            if node.op_type not in _FOLDABLE:
                return None
            seen.add(id(node))
            stack += [i for i in node.input if i and i not in self.known]
        for node in order:
            if not all(o in self.known for o in node.output if o):
                self._evaluate(node)
        value = self.known.get(name)
        return None if value is None else self._array(value)

    def _array(self, value):
        return value if isinstance(value, np.ndarray) else numpy_helper.to_array(value)

    def _evaluate(self, node):
        from onnx.reference import ReferenceEvaluator

        feeds = {i: self._array(self.known[i]) for i in node.input if i}
        if sum(v.size for v in feeds.values()) > _MAX_ELEMENTS:
            raise ValueError(f"节点 {node_label(node)} 的常量过大，拒绝展开")
        values = ReferenceEvaluator(
            onnx.helper.make_graph(
                [node], "one",
                [onnx.helper.make_value_info(i, onnx.TypeProto()) for i in feeds],
                [onnx.helper.make_value_info(o, onnx.TypeProto()) for o in node.output if o],
            ),
            opsets={o.domain: o.version for o in self.model.opset_import},
        ).run(None, feeds)  # fmt: skip
        self.known.update(zip([o for o in node.output if o], values, strict=True))
