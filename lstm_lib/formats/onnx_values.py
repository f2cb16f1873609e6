"""ONNX 图里不运行就定得下来的值：常量照算；形状随输入而变、值却处处相同的（按批铺开的初态），认出铺开前的样子。

一个节点怎样算见 ``onnx_rules``；这里管顺藤摸瓜：穿过 If 的分支、循环里不变的量、函数的形参与实参。
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_lib.formats.onnx_rules import Known, Unknown, Value, agree, apply, because, by_node, same, whole
from lstm_lib.formats.onnx_scopes import Scope, standard

_Key = tuple[Scope, str]


class Values:
    """按（层, 名字）求值；算过的记住。"""

    def __init__(self, root: Scope) -> None:
        self.root = root
        self._done: dict[tuple[int, str], Known] = {}

    def get(self, scope: Scope, name: str) -> Known:
        """``scope`` 里看到的 ``name``。要展开的常量过大时抛 ``ValueError``。"""
        stack, waiting = [(scope, name)], set[tuple[int, str]]()
        while stack:  # 自己管着栈，不用递归：图再深也不怕
            where, wanted = stack[-1]
            mark = (id(where), wanted)
            if mark in self._done:
                stack.pop()
                continue
            result = self._step(where, wanted)
            if isinstance(result, list):
                waiting.add(mark)
                if any((id(s), n) in waiting for s, n in result):
                    self._done[mark] = Unknown("绕成了一圈，文件已损坏")
                else:
                    stack += result
                continue
            self._done[mark] = result
            waiting.discard(mark)
        return self._done[id(scope), name]

    def _missing(self, keys: Sequence[_Key]) -> list[_Key]:
        """这些值里还没有算好的。"""
        return [(s, n) for s, n in keys if (id(s), n) not in self._done]

    def _alias(self, scope: Scope, name: str) -> Known | list[_Key]:
        known = self._done.get((id(scope), name))
        return [(scope, name)] if known is None else known

    def _step(self, scope: Scope, name: str) -> Known | list[_Key]:
        """一个值；还缺别的值时，返回缺的那些。"""
        home = scope.home(name)
        if home is None:
            return Unknown("在图里没有来源")
        if home is not scope:
            return self._alias(home, name)
        if name in scope.sparse:
            return Unknown("是稀疏存放的常量，这里不读")
        if name in scope.initial:
            tensor = scope.initial[name]
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ValueError(
                    f"常量 {name} 的数在外部数据文件里，没有载入；请直接给 .onnx 的路径，"
                    "或用 onnx.load(路径) 连同外部数据一起载入，不要 load_external_data=False"
                )
            return whole(numpy_helper.to_array(tensor))
        node = scope.producer.get(name)
        return self._input(scope, name) if node is None else self._output(scope, node, name)

    def _output(self, scope: Scope, node: onnx.NodeProto, name: str) -> Known | list[_Key]:
        """节点的输出：函数调用就是函数里的那个，If 看分支，别的照算。"""
        called, position = scope.call(node), list(node.output).index(name)
        if called is not None:
            if position >= len(called.outputs):
                return Unknown("在图里没有来源")
            return self._alias(called, called.outputs[position])
        if node.op_type == "If" and standard(node):
            return self._if(scope, node, name)
        if scope.inside.get(id(node)):
            return by_node(scope, node, name)
        missing = self._missing([(scope, i) for i in node.input if i])
        if missing:
            return missing
        arguments = [self._done[id(scope), i] if i else None for i in node.input]
        for output, value in zip(node.output, apply(scope, node, arguments), strict=False):
            self._done[id(scope), output] = value
        return self._done.get((id(scope), name), by_node(scope, node, name))

    def _input(self, scope: Scope, name: str) -> Known | list[_Key]:
        """一层的输入：图的输入不知道；函数的形参就是实参；循环里从不改变的量，就是循环外的初值。"""
        position, owner, outside = scope.inputs.index(name), scope.owner, scope.outside
        if owner is None or outside is None:
            return Unknown("由图的输入给出", scope.dims(name), name)
        if scope.is_function:
            given = owner.input[position] if position < len(owner.input) else ""
            return self._alias(outside, given) if given else Unknown(f"是函数 {owner.op_type} 没有给的参数")
        unknown = Unknown(f"由 {owner.op_type} 节点 {outside.label(owner)} 一圈圈带来", scope.dims(name))
        # Loop 的体：输入 (次数, 条件, 状态…)，输出 (条件, 状态…)；Scan：状态在前，扫描的序列在后
        ahead = {"Loop": (2, 1), "Scan": (0, 0)}.get(owner.op_type)
        if ahead is None or not standard(owner) or outside.version < 9:
            return unknown
        skip, shift = ahead
        sequences = next((a.i for a in owner.attribute if a.name == "num_scan_inputs"), 0)
        if not skip <= position < len(scope.inputs) - sequences or position - shift >= len(scope.outputs):
            return unknown
        back = scope.outputs[position - shift]
        while back in scope.producer and scope.producer[back].op_type == "Identity":
            back = scope.producer[back].input[0]
        if back != name or position >= len(owner.input):
            return unknown
        return self._alias(outside, owner.input[position])

    def _if(self, scope: Scope, node: onnx.NodeProto, name: str) -> Known | list[_Key]:
        """条件是常量就看那一支；否则两支一样才知道。"""
        condition = self._alias(scope, node.input[0])
        if isinstance(condition, list):
            return condition
        position, inside = list(node.output).index(name), scope.inside.get(id(node), {})
        branches = [inside[b] for b in ("then_branch", "else_branch") if b in inside]
        if len(branches) != 2 or any(position >= len(b.outputs) for b in branches):
            return Unknown("在图里没有来源")
        if isinstance(condition, Value) and condition.exact and condition.base.size == 1:
            chosen = branches[0 if condition.base.item() else 1]
            return self._alias(chosen, chosen.outputs[position])
        missing = self._missing([(b, b.outputs[position]) for b in branches])
        if missing:
            return missing
        first, second = (self._done[id(b), b.outputs[position]] for b in branches)
        if isinstance(first, Value) and isinstance(second, Value) and same(first.base, second.base):
            dims = agree(first.dims, second.dims)
            return (
                Value(first.base, dims) if dims is not None or first.uniform else by_node(scope, node, name)
            )
        return because(scope, node, name, [condition, first, second])


def constants(root: Scope) -> Callable[[str], np.ndarray | None]:
    """返回一个函数：最外层图里名为 ``name`` 的常数；定不下来的是 None。"""
    values = Values(root)

    def get(name: str) -> np.ndarray | None:
        value = values.get(root, name)
        return value.base if isinstance(value, Value) and value.exact else None

    return get
