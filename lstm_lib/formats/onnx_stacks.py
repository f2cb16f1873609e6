"""ONNX 的 LSTM 节点恒为一层；图里首尾直接相接的几个节点，认出是一叠（合成一个见 ``stacks``）。

两个节点之间总隔着几个搬数的节点：LSTM 的 Y 是 [T, D, B, H]，下一个要 [T, B, D·H]。写法各家不同（Squeeze、
Transpose 加 Reshape、Shape 与 Concat 拼出形状……），所以不认写法，只认结果：把中间这一段单独跑几遍，看是不是恰好如此。
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lstm_lib.formats import onnx_graph, onnx_scopes, stacks
from lstm_lib.formats.onnx_rules import Value
from lstm_lib.formats.onnx_scopes import Scope
from lstm_lib.formats.onnx_values import Values

_Place = tuple[Scope, onnx.NodeProto]
SIZES = ((3, 2), (5, 1))  # 试哪几种 (T, B)
_WHOLE = (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64)  # 装得下任何长度
MOST = 2**24  # 试算的数组最多多少个数
MOVING = set(
    "Squeeze Unsqueeze Transpose Reshape Flatten Identity Cast CastLike Dropout Shape Size Slice Gather Concat Split"
    " Mul Constant ConstantOfShape Expand ReduceProd".split()
)


def chain(model_or_path: onnx_graph.Model, name: stacks.Names = None) -> list[str | None]:
    """要读哪几个节点，自下而上，约定同 ``stacks.ncnn_chain``；不是一叠的抛 ``ValueError``，说明哪里不是。"""
    if isinstance(name, str):
        return [name]
    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    if name is not None and not (isinstance(name, Sequence) and all(isinstance(n, str) for n in name)):
        raise ValueError(f"{where}：name 应是一个 LSTM 节点的名字，或自下而上的几个名字，得到 {name!r}")
    try:
        root = onnx_scopes.scopes(onnx_graph.load_model(model_or_path))
    except ValueError as error:
        raise ValueError(f"{where}：{error}") from error
    found = [(s, n) for s, n in root.walk() if n.op_type == "LSTM" and onnx_scopes.standard(n)]
    found = [(s, n) for s, n in found if s.call(n) is None]
    if name is None:
        if len(found) < 2:
            return [None]
        chosen = found
        title = f"{where}：图里有 {len(found)} 个 LSTM 节点（{_labels(found)}）"
    else:
        chosen, title = _named(found, list(name), where), f"{where}：{'、'.join(name)}"
    scope = chosen[0][0]
    reason = None
    if any(s is not scope for s, _ in chosen):
        reason = "它们不在同一个图（同一个分支、同一次函数调用）里"
    try:
        reason = reason or _Graph(root, scope).broken([n for _, n in chosen], alone=name is None)
    except Exception as error:  # 损坏的、没有载入的、过大的常量
        raise ValueError(f"{title}，是不是首尾相接的一叠看不出来：{error}") from error
    if reason:
        raise ValueError(f"{title}，不是首尾直接相接的一叠：{reason}；请用 name 指定一个")
    return [_key(scope, node, found) for _, node in chosen]


def _labels(found: Sequence[_Place]) -> str:
    return "、".join(scope.label(node) for scope, node in found)


def _key(scope: Scope, node: onnx.NodeProto, found: Sequence[_Place]) -> str:
    """只指着这一个节点的名字：全名；重名的用它的输出。"""
    label = scope.label(node)
    same = [n for s, n in found if s.label(n) == label]
    return label if len(same) == 1 else next(filter(None, node.output))


def origin(scope: Scope, name: str) -> tuple[int, str, tuple[Any, ...]]:
    """``name`` 是从哪里来的：顺着 Identity 与 Cast 追到头。可能丢掉一部分数的 Cast 也记下，都一样才算同一个。"""
    casts, seen = list[Any](), set[tuple[int, str]]()
    home = scope.home(name)
    while home is not None and (id(home), name) not in seen:  # 坏文件里可以绕成一圈
        seen.add((id(home), name))
        node = home.producer.get(name)
        if node is None or not onnx_scopes.standard(node) or node.op_type not in ("Identity", "Cast"):
            break
        if not node.input or home.home(node.input[0]) is None:
            break
        if node.op_type == "Cast":
            to = [a.i or a.s for a in node.attribute if a.name == "to"]
            casts += [t for t in to if t not in _WHOLE]
        name = node.input[0]
        home = home.home(name)
    return id(home), name, tuple(casts)


def _named(found: Sequence[_Place], names: Sequence[str], where: str) -> list[_Place]:
    chosen: list[_Place] = []
    for name in names:
        same = [p for p in found if p[0].label(p[1]) == name]
        same = same or [p for p in found if p[1].name == name] or [p for p in found if name in p[1].output]
        if len(same) != 1:
            raise ValueError(f"{where}：没有名为 {name!r} 的 LSTM 节点（或重名）；有的是：{_labels(found)}")
        if any(same[0][1] is node for _, node in chosen):
            raise ValueError(f"{where}：name 里 {name!r} 出现了两次")
        chosen += same
    if not chosen:
        raise ValueError(f"{where}：name 是空的；请给 LSTM 节点的名字，自下而上，有的是：{_labels(found)}")
    return chosen


class _Graph:
    """LSTM 节点所在的那一层里，谁算出谁；从外面取用的只认常数。"""

    def __init__(self, root: Scope, scope: Scope) -> None:
        self.scope, self.values = scope, Values(root)
        self.maker = scope.producer

    def constant(self, name: str) -> np.ndarray | None:
        value = self.values.get(self.scope, name)
        return value.base if isinstance(value, Value) and value.exact else None

    def broken(self, chosen: Sequence[onnx.NodeProto], alone: bool) -> str | None:
        """``chosen`` 不是自下而上的一叠的缘由；``alone``：下层的 Y 不许另作他用。"""
        for lower, upper in pairwise(chosen):
            one, other = onnx_graph.node_label(lower), onnx_graph.node_label(upper)
            between = self.before(upper.input[0], stop=(lower,))
            if not any(node is lower for node in between):
                return f"{other} 的输入不是由 {one} 算出的"
            between = [node for node in between if node is not lower]
            reason = self.apart(lower, upper, between)
            if reason is None and alone:
                reason = self.elsewhere(lower, upper, between)
            if reason:
                return reason
        for node in chosen:
            for name in node.input[5:7]:
                above = next((a for a in self.before(name, shapes=False) if a.op_type == "LSTM"), None)
                if above is not None:
                    return f"{onnx_graph.node_label(node)} 的初态由 {onnx_graph.node_label(above)} 算出"
        return None

    def before(
        self, name: str, stop: Sequence[onnx.NodeProto] = (), shapes: bool = True
    ) -> list[onnx.NodeProto]:
        """算出 ``name`` 的节点，按图里的次序，走到 ``stop`` 里的为止（它也在内）；``shapes`` 为假时不越过 Shape。"""
        todo, found = [name], list[onnx.NodeProto]()
        while todo:
            node = self.maker.get(todo.pop())
            if node is None or any(node is f for f in found):
                continue
            found.append(node)
            if not any(node is s for s in stop) and (shapes or node.op_type != "Shape"):
                todo += node.input
        return [node for node in self.scope.nodes if any(node is f for f in found)]

    def hidden(self, node: onnx.NodeProto) -> int | None:
        """H：hidden_size 可以不写，那就看 R 的最后一维。"""
        written = next((a.i for a in node.attribute if a.name == "hidden_size"), None)
        if written is not None:
            return written
        r = self.constant(node.input[2]) if len(node.input) > 2 else None
        return r.shape[-1] if r is not None and r.ndim else None

    def apart(
        self, lower: onnx.NodeProto, upper: onnx.NodeProto, between: Sequence[onnx.NodeProto]
    ) -> str | None:
        """中间这一段不只是把 ``lower`` 各方向的输出拼起来的缘由。"""
        one, other = onnx_graph.node_label(lower), onnx_graph.node_label(upper)
        odd = next((node for node in between if node.op_type not in MOVING), None)
        if odd is not None:
            return f"{one} 与 {other} 之间隔着 {odd.op_type} 节点 {onnx_graph.node_label(odd)}"
        hidden = self.hidden(lower)
        if hidden is None:
            return f"{one} 没有写 hidden_size，R 又不是常量，看不出它有多宽"
        if not self.merges(lower, upper, between, hidden):
            return f"{other} 的输入不是 {one} 各方向输出的拼接（中间的节点换了次序或取了一部分）"
        return None

    def merges(
        self, lower: onnx.NodeProto, upper: onnx.NodeProto, between: Sequence[onnx.NodeProto], hidden: int
    ) -> bool:
        """中间这一段是不是把 Y 的各方向拼在一起，别的什么也没做：拿随机的 Y 跑几遍就知道。"""
        attributes = {a.name: helper.get_attribute_value(a) for a in lower.attribute}
        directions = 2 if attributes.get("direction") == b"bidirectional" else 1
        layout = attributes.get("layout", 0)
        if hidden <= 0 or not between or not lower.output[0]:
            return False
        evaluate = self.evaluator(lower.output[0], upper.input[0], between)
        rng, agreed = np.random.default_rng(0), False
        fixed = self.fixed_sizes(between, directions * hidden)
        for steps, batch in (*SIZES, *fixed, *self.beyond(between, directions * hidden)):
            y = rng.normal(size=(steps, directions, batch, hidden)).astype(np.float32)
            wanted = y.transpose(0, 2, 1, 3).reshape(steps, batch, -1)
            try:
                x = evaluate(y.transpose(2, 0, 1, 3) if layout else y)
            except Exception:  # 形状写死了的图，只在它自己的长度上跑得通
                continue
            if np.size(x) != y.size:  # 截掉了一部分，或重复了一部分
                return False
            x = x.swapaxes(0, 1) if layout and np.ndim(x) == 3 else x
            if np.shape(x) == wanted.shape and not np.array_equal(x, wanted):
                return False
            agreed |= np.shape(x) == wanted.shape
        return agreed

    def evaluator(
        self, given: str, wanted: str, nodes: Sequence[onnx.NodeProto]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """只有 ``nodes`` 的图：输入 ``given``，输出 ``wanted``。"""
        made = {name for node in nodes for name in node.output} | {given, ""}
        constants = {n: self.constant(n) for node in nodes for n in node.input if n not in made}
        graph = helper.make_graph(
            nodes,
            "between",
            [helper.make_tensor_value_info(given, TensorProto.FLOAT, [None] * 4)],
            [onnx.ValueInfoProto(name=wanted)],
            [numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None],
        )
        runner: Any = ReferenceEvaluator(graph, opsets=dict(self.scope.opsets))
        return lambda y: runner.run(None, {given: y})[0]

    def fixed_sizes(self, between: Sequence[onnx.NodeProto], width: int) -> list[tuple[int, int]]:
        """Reshape 里写死的 (T, B)；只写死一个的，另一个照 ``SIZES``。"""
        found = []
        for node in between:
            shape = (
                self.constant(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
            )
            if shape is not None and shape.shape == (3,) and shape[2] in (width, -1):
                steps, batch = (
                    int(n) if n > 0 else size for n, size in zip(shape[:2], SIZES[0], strict=True)
                )
                found.append((steps, batch))
        return [pair for pair in found if math.prod(pair) * width <= MOST]

    def beyond(self, between: Sequence[onnx.NodeProto], width: int) -> list[tuple[int, int]]:
        """比 Slice、Split 里写死的长度更长的 (T, B)：只取前 100 步的，要到 101 步才看得出来。"""
        found = set[int]()
        for node in between:
            if node.op_type in ("Slice", "Split"):
                arrays = [self.constant(name) for name in node.input[1:] if name]
                arrays += [np.array(a.ints) for a in node.attribute if a.name in ("starts", "ends", "split")]
                found |= {abs(int(n)) for a in arrays if a is not None for n in a.ravel()}
        longer = [n + 1 for n in sorted(found) if (n + 1) * width <= MOST]
        return [size for n in longer for size in ((n, 1), (2, n))][:64]

    def elsewhere(
        self, lower: onnx.NodeProto, upper: onnx.NodeProto, between: Sequence[onnx.NodeProto]
    ) -> str | None:
        """下层的 Y 除了给上层，还去了哪里；只看它的形状的不算。"""
        names, label = {lower.output[0]}, onnx_graph.node_label(lower)
        for node in between:
            if node.op_type != "Shape" and names & set(node.input):
                names |= set(node.output)
        for output in self.scope.outputs:
            if output in names:
                return f"{label} 的 Y 也是图的输出（{output}）"
        for node in self.scope.nodes:
            if node is upper or node.op_type == "Shape" or any(node is b for b in between):
                continue
            if names & (set(node.input) | onnx_scopes.captured(node)):
                return f"{label} 的 Y 也送给了 {node.op_type} 节点 {onnx_graph.node_label(node)}"
        return None
