"""ONNX 里的名字分层：外层的图、If/Loop/Scan 的体、模型自带的函数。格式依据：onnx.proto、IR.md。

体里的节点看得见外面的名字；函数看不见，只收实参与属性。每一次函数调用展开成自己的一层。
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

# 函数调用函数，展开后层数可以按指数涨；正常的模型不过几百层
_MAX_SCOPES = 20_000


def node_label(node: onnx.NodeProto) -> str:
    """节点的称呼：有名字用名字，没有就用第一个输出的名字。"""
    return node.name or next((o for o in node.output if o), node.op_type)


def standard(node: onnx.NodeProto) -> bool:
    """是不是 ONNX 标准里的算子。"""
    return node.domain in ("", "ai.onnx")


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """节点带着的体：（属性名, 子图）。If 有两个，Loop、Scan 各一个。"""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for k, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}_{k}", graph


def captured(node: onnx.NodeProto) -> set[str]:
    """节点的体从外面取用的名字；没有体的节点没有。"""
    names: set[str] = set()
    for _, graph in bodies(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {t.values.name for t in graph.sparse_initializer}
        own |= {o for n in graph.node for o in n.output}
        used = {i for n in graph.node for i in n.input} | {v.name for v in graph.output}
        used = used.union(*(captured(n) for n in graph.node))
        names |= used - own - {""}
    return names


class Scope:
    """一层名字：``nodes`` 是这一层的节点，``path`` 是它在哪里（最外层是空串，如 ``If_5/then_branch``）。

    ``parent`` 是看得见的外层（函数没有）；``owner`` 是带着这个体或发起这次调用的节点，在 ``outside`` 这一层里。
    """

    def __init__(
        self,
        graph: onnx.GraphProto | onnx.FunctionProto,
        path: str,
        opsets: Mapping[str, int],
        outside: "Scope | None" = None,
        owner: onnx.NodeProto | None = None,
    ) -> None:
        self.path, self.opsets, self.outside, self.owner = path, opsets, outside, owner
        self.is_function = isinstance(graph, onnx.FunctionProto)
        self.parent = None if self.is_function else outside
        self.inside: dict[int, dict[str, Scope]] = {}  # id(节点) → 它的体；函数调用的那一层键是空串
        self.initial: dict[str, onnx.TensorProto] = {}
        self.sparse: set[str] = set()
        self.types: dict[str, onnx.TypeProto] = {}
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        if isinstance(graph, onnx.FunctionProto):
            self.inputs, self.outputs = list(graph.input), list(graph.output)
            given = {a.name: a for a in graph.attribute_proto}
            given |= {a.name: a for a in owner.attribute} if owner is not None else {}
            self.nodes = [_bind(node, given) for node in graph.node]
        else:
            self.inputs, self.outputs = [v.name for v in graph.input], [v.name for v in graph.output]
            self.initial = {t.name: t for t in graph.initializer}
            self.sparse = {t.values.name for t in graph.sparse_initializer}
            self.types = {v.name: v.type for v in (*graph.value_info, *graph.output, *graph.input)}
        self.producer = {o: n for n in self.nodes for o in n.output if o}

    @property
    def version(self) -> int:
        """标准算子的 opset 版本。"""
        return self.opsets.get("", self.opsets.get("ai.onnx", 1))

    def label(self, node: onnx.NodeProto) -> str:
        """节点的全名：路径加称呼（torch 的称呼以 / 开头，接在路径后面时不重复）。"""
        return f"{self.path}/{node_label(node).lstrip('/')}" if self.path else node_label(node)

    def home(self, name: str) -> "Scope | None":
        """``name`` 是在哪一层定义的；哪里都没有时是 None。"""
        scope: Scope | None = self
        while scope is not None:
            if any(name in names for names in (scope.producer, scope.initial, scope.sparse, scope.inputs)):
                return scope
            scope = scope.parent
        return None

    def call(self, node: onnx.NodeProto) -> "Scope | None":
        """``node`` 是函数调用时，展开的那一层；否则 None。"""
        return self.inside.get(id(node), {}).get("")

    def dims(self, name: str) -> tuple[int | None, ...] | None:
        """名为 ``name`` 的张量声明的各维；不定的是 None，连维数都没有声明的整个是 None。

        图的输入以声明为准；中间结果的声明可能是旧的（导出、改图之后没有更新），只信维数。
        """
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        fixed = self.outside is None and name in self.inputs
        return tuple(
            d.dim_value if fixed and d.HasField("dim_value") and d.dim_value >= 0 else None
            for d in kind.tensor_type.shape.dim
        )

    def walk(self) -> Iterator[tuple["Scope", onnx.NodeProto]]:
        """这一层与里面各层的全部节点，按出现的次序。"""
        for node in self.nodes:
            yield self, node
            for scope in self.inside.get(id(node), {}).values():
                yield from scope.walk()


def _bind(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """函数体里的节点，引用函数属性（ref_attr_name）的地方换成调用时给的值；没有给的就是没有。"""
    bound = onnx.NodeProto()
    bound.CopyFrom(node)
    del bound.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in given:
                continue
            copy = bound.attribute.add()
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
            continue
        copy = bound.attribute.add()
        copy.CopyFrom(attribute)
        for graph in [copy.g] if copy.type == onnx.AttributeProto.GRAPH else copy.graphs:
            nodes = [_bind(inner, given) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
    return bound


def _key(domain: str, name: str, overload: str) -> tuple[str, str, str]:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def scopes(model: onnx.ModelProto) -> Scope:
    """整个模型展开成一层层的名字，返回最外层。函数调用自己、展开过大时抛 ``ValueError``。"""
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    opsets = {o.domain: o.version for o in model.opset_import}
    root, count = Scope(model.graph, "", opsets), 1
    todo: list[tuple[Scope, tuple]] = [(root, ())]
    while todo:
        scope, calls = todo.pop()
        for node in scope.nodes:
            inner: dict[str, Scope] = {}
            key = _key(node.domain, node.op_type, node.overload)
            function = functions.get(key)
            if function is not None:
                if key in calls:
                    raise ValueError(f"函数 {node.op_type} 调用了自己，文件已损坏")
                called = opsets | {o.domain: o.version for o in function.opset_import}
                inner[""] = Scope(function, scope.label(node), called, scope, node)
                todo.append((inner[""], (*calls, key)))
            else:
                for name, graph in bodies(node):
                    inner[name] = Scope(graph, f"{scope.label(node)}/{name}", scope.opsets, scope, node)
                    todo.append((inner[name], calls))
            count += len(inner)
            if count > _MAX_SCOPES:
                raise ValueError(f"函数与体展开后超过 {_MAX_SCOPES} 层，拒绝展开")
            if inner:
                scope.inside[id(node)] = inner
    return root


def count_operators(model: onnx.ModelProto) -> Counter[str]:
    """各算子的个数，连同体里的与每次函数调用里的；次序是第一次出现的次序。"""
    return Counter(node.op_type for _, node in scopes(model).walk())
