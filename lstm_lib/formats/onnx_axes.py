"""图里的 LSTM 节点，批在前还是时间在前。

LSTM 节点自己（layout=0）只收 (T, B, I)。``batch_first=True`` 的网络导出后，前面多一个 Transpose，后面再换回来；
只看节点就会把它读成时间在前，喂 (1, T, I) 不报错，数却全错。这里沿着 X 往前、沿着 Y 往后看它周围的图。
格式依据：ONNX 算子规范 LSTM、Transpose、Squeeze、Reshape；PyTorch 两种导出器与 tf2onnx 写出的图。
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from lstm_lib.formats import onnx_scopes
from lstm_lib.formats.onnx_rules import Value
from lstm_lib.formats.onnx_scopes import Scope
from lstm_lib.formats.onnx_values import Values

_Key = tuple[Scope, str]  # 一个张量：定义它的那一层，和它在那里的名字

# 输入输出的各轴与 LSTM 一样的循环层
_RECURRENT = {"LSTM", "GRU", "RNN"}
# 不改形状、也不改数的意思：导出器与化简器会把它们插在 Transpose 与 LSTM 之间
_SAME = {"Identity", "Cast", "CastLike", "Dropout", "QuantizeLinear", "DequantizeLinear"}
# 改了数，但第 0、1 两轴还是原来的两轴：是网络自己的层，不是导出器插的
_LAYERS = {
    "Abs", "Add", "Celu", "Clip", "Concat", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LayerNormalization", "LeakyRelu", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Pad", "Pow", "PRelu",
    "Relu", "ReverseSequence", "Selu", "Sigmoid", "Slice", "Softmax", "Softplus", "Sqrt", "Sub", "Tanh",
}  # fmt: skip
_RESHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}
_TIME, _DIRECTION, _BATCH = "TDB"
_FAR = 300  # 往后看这么多个张量还没有结果，就不看了


def batch_first(
    model: onnx.ModelProto, label: str, outputs: Sequence[str], layout: int, wanted: bool | None
) -> tuple[bool, str]:
    """全名 ``label``、输出名为 ``outputs`` 的 LSTM 节点读成 batch_first 还是不是，和一句来历（平常的时间在前没有来历）。

    ``wanted`` 是调用者说的，None 表示照图认：X 的来路上紧挨着 Transpose [1, 0, 2] 就是批在前；
    别的换轴法（卷积之后的 [2, 0, 1] 之类）两种读法都有人写，这时看输出侧换没换回来。
    """
    if wanted not in (None, True, False):
        raise ValueError(f"batch_first 应为 True、False 或 None（照图认），得到 {wanted!r}")
    root = onnx_scopes.scopes(model)
    found = [(s, n) for s, n in root.walk() if n.op_type == "LSTM" and [*n.output] == [*outputs]]
    place = next(((s, n) for s, n in found if s.label(n) == label), None)
    seen, note = bool(layout), "节点的属性 layout=1" if layout else ""
    if place is not None:
        seen, note = _Surroundings(model, root).read(*place, bool(layout))
    if wanted is None:
        return seen, note and f"batch_first={seen} 认自图：{note}"
    differs = f"，而照图认是 {seen}{note and f'（{note}）'}" if seen != wanted else ""
    return bool(wanted), f"batch_first={bool(wanted)} 是调用者指定的{differs}"


class _Surroundings:
    """一个 LSTM 节点前后的图。体里看得见外面的名字，函数的形参就是实参，所以都走得过去。"""

    def __init__(self, model: onnx.ModelProto, root: Scope) -> None:
        self.model, self.values = model, Values(root)
        self.consumers: dict[_Key, list[tuple[Scope, onnx.NodeProto]]] = {}
        self.leaving: dict[_Key, list[_Key]] = {}  # If 的分支的输出 → If 的输出
        for scope, node in root.walk():
            if scope.call(node) is None:  # 函数调用不算：用到实参的是函数里的节点
                for key in {self.origin(scope, name) for name in node.input if name}:
                    self.consumers.setdefault(key, []).append((scope, node))
            if node.op_type == "If":
                for body in scope.inside.get(id(node), {}).values():
                    for inner, outer in zip(body.outputs, node.output, strict=False):
                        self.leaving.setdefault(self.origin(body, inner), []).append((scope, outer))
        self.ends = {self.origin(root, name) for name in root.outputs}
        self._shapes: dict[tuple[str, str], list[int | str]] | None = None

    def origin(self, scope: Scope, name: str) -> _Key:
        """``scope`` 里看到的 ``name`` 究竟是哪一层的哪个张量。"""
        for _ in range(1000):  # 坏图里可能有圈
            home = scope.home(name)
            if home is None:
                break
            scope, node, owner = home, home.producer.get(name), home.owner
            called = None if node is None else home.call(node)
            if node is not None and called is not None:
                position = list(node.output).index(name)
                if position >= len(called.outputs):
                    break
                scope, name = called, called.outputs[position]
            elif node is None and home.is_function and owner is not None and home.outside is not None:
                position = home.inputs.index(name) if name in home.inputs else len(owner.input)
                if position >= len(owner.input) or not owner.input[position]:
                    break
                scope, name = home.outside, owner.input[position]
            else:
                break
        return scope, name

    def maker(self, key: _Key) -> onnx.NodeProto | None:
        """算出 ``key`` 的节点，就在 ``key[0]`` 这一层里；不是算出来的是 None。"""
        return key[0].producer.get(key[1])

    def constant(self, scope: Scope, name: str) -> np.ndarray | None:
        """``scope`` 里看到的 ``name`` 是常数时的值。"""
        value = self.values.get(scope, name)
        return value.base if isinstance(value, Value) and value.exact else None

    def read(self, scope: Scope, node: onnx.NodeProto, layout: bool) -> tuple[bool, str]:
        """(batch_first, 来历)；来历为空就是没有什么可说的。"""
        before, where = self._before(scope, node)
        after = None
        if node.output and node.output[0]:
            after = self._after((scope, node.output[0]), "BTDH" if layout else "TDBH", set())
        swapped = before == "swap" or (before == "maybe" and (after is not None and after != layout))
        seen = layout != swapped
        note = ["节点的属性 layout=1"] if layout else []
        if where is not None:
            note.append(
                f"X 之前有 {where} 对调批与时间" if swapped else f"X 之前有 {where}，看不出批与时间谁在前"
            )
        if after is not None and after != seen:
            layouts = {True: "批在前", False: "时间在前"}
            note.append(f"但图的输出侧是{layouts[after]}（y 的前两轴与这里的相反）")
        if where is not None and not swapped:
            note.append("不对就用 batch_first= 指定")
        return seen, "，".join(note)

    # ------------------------------------------------------------ 往前看 X

    def _before(self, scope: Scope, lstm: onnx.NodeProto) -> tuple[str, str | None]:
        """X 的来路：("swap", 节点的称呼) 是紧挨着对调了前两轴；"maybe" 是换过轴，但说不准；"" 是没有换过。"""
        key, near, seen = self.origin(scope, lstm.input[0]), True, set[_Key]()
        while key not in seen:  # 坏图里可能有圈
            seen.add(key)
            node = self.maker(key)
            if node is None:
                return "", None
            place = f"{node.op_type} 节点 {key[0].label(node)}"
            if node.op_type == "Transpose":
                perm = _permutation(node, 3)
                if perm != [0, 1, 2]:
                    return ("swap" if near and perm == [1, 0, 2] else "maybe"), place
                key = self.origin(key[0], node.input[0])
            elif node.op_type in _SAME:
                key = self.origin(key[0], node.input[0])
            elif node.op_type in _RESHAPES:
                below = self._recurrent_below(key[0], node)
                if below is not None:  # 叠起来的上一层：时间与批的次序一路传上来
                    if _layout(below[1]) != _layout(lstm):
                        return "", None
                    key = self.origin(below[0], below[1].input[0])
                else:
                    return ("swap", place) if near and self._is_swap(key, node) else ("", None)
            elif node.op_type in _LAYERS:
                near = near and node.op_type == "Concat"  # 两个方向分开写的上一层，拼起来就是它的输出
                key = self.origin(key[0], self._data_input(key[0], node))
            else:
                return "", None
        return "", None

    def _data_input(self, scope: Scope, node: onnx.NodeProto) -> str:
        """几个输入里来自数据的那一个。"""
        return next((i for i in node.input if i and self.constant(scope, i) is None), node.input[0])

    def _recurrent_below(self, scope: Scope, node: onnx.NodeProto) -> tuple[Scope, onnx.NodeProto] | None:
        """Squeeze（或 Transpose 加 Reshape）去掉方向那一轴时，它前面的循环层；不是这样的是 None。"""
        labels: Any = None
        for _ in range(8):
            key = self.origin(scope, node.input[0]) if node.input else None
            above = None if key is None else self.maker(key)
            if key is None or above is None:
                return None
            if above.op_type in _RECURRENT:
                return (
                    (key[0], above) if key[1] == above.output[0] and labels in (None, [0, 2, 1, 3]) else None
                )
            if above.op_type == "Transpose":
                labels = _permutation(above, 4)
            elif above.op_type not in _SAME | {"Slice", "Split"}:
                return None
            scope, node = key[0], above
        return None

    def _is_swap(self, key: _Key, node: onnx.NodeProto) -> bool:
        """只有一段时，对调批与时间不必搬数据，化简器会写成 Reshape 之类：(1, T, I) → (T, 1, I)。"""
        source = self.origin(key[0], node.input[0])
        for _ in range(4):
            above = self.maker(source)
            if above is None or above.op_type not in _RESHAPES:
                break
            source = self.origin(source[0], above.input[0])
        before, after = self._shape(source), self._shape(key)
        return (
            len(before) == len(after) == 3
            and (before[0], after[1]) == (1, 1)
            and before[1] not in (1, "")
            and before[2] == after[2]
        )

    def _shape(self, key: _Key) -> list[int | str]:
        """形状推断得到的各轴；不知道时是空表。"""
        if self._shapes is None:
            model = self.model
            try:
                model = onnx.shape_inference.infer_shapes(model, data_prop=True)
            except Exception:  # 太大或推断不了，就只用图里写着的
                pass
            root = onnx_scopes.scopes(model)
            self._shapes = {
                (scope.path, name): [d.dim_value or d.dim_param for d in kind.tensor_type.shape.dim]
                for scope in {id(s): s for s, _ in root.walk()}.values()
                for name, kind in scope.types.items()
            }
        return self._shapes.get((key[0].path, key[1]), [])

    # ------------------------------------------------------------ 往后看 Y

    def _after(self, key: _Key, labels: str, seen: set[_Key]) -> bool | None:
        """各轴是 ``labels`` 的张量，到图的输出时批在时间之前吗；一路看不清是 None。"""
        if not key[1] or key in seen or len(seen) > _FAR:
            return None
        seen.add(key)
        found = [labels.index(_BATCH) < labels.index(_TIME)] if key in self.ends else []
        found += [end for o in self.leaving.get(key, ()) if (end := self._after(o, labels, seen)) is not None]
        for scope, node in self.consumers.get(key, ()):
            moved = self._moved(scope, node, key, labels)
            if moved is None:
                continue
            outputs = [
                (scope, o) for o in (node.output[:1] if node.op_type in _RECURRENT else node.output) if o
            ]
            found += [end for o in outputs if (end := self._after(o, moved, seen)) is not None]
            if not found and node.op_type == "Transpose":
                users = [n for o in outputs for _, n in self.consumers.get(o, ())]
                # 再往后看不清，换轴这一步已经说明了；换给上面的循环层用的，不说明什么
                if not any(n.op_type in _RECURRENT for n in users):
                    found.append(moved.index(_BATCH) < moved.index(_TIME))
        return None if not found else any(found)

    def _moved(self, scope: Scope, node: onnx.NodeProto, key: _Key, labels: str) -> str | None:
        """过了 ``node`` 之后各轴是什么；看不出，或时间、批已不成轴，是 None。"""
        kind, first = node.op_type, self.origin(scope, node.input[0]) == key
        if kind == "Transpose":
            perm = _permutation(node, len(labels))
            return "".join(labels[p] for p in perm) if sorted(perm) == [*range(len(labels))] else None
        if kind in _SAME or kind in _LAYERS or kind == "Split":
            return labels if first or kind in _LAYERS else None
        if not first:
            return None
        if kind in _RECURRENT:  # 上面一层：时间与批的次序要对得上
            return {(0, "TBH"): "TDBH", (1, "BTH"): "BTDH"}.get((_layout(node), labels))
        return self._without_direction(scope, node, key, labels) if _DIRECTION in labels else None

    def _without_direction(self, scope: Scope, node: onnx.NodeProto, key: _Key, labels: str) -> str | None:
        """``node`` 去掉方向那一轴之后各轴是什么；不是去方向的是 None。"""
        kind, axis = node.op_type, _integer(node, "axis", 0)
        dropped = labels.replace(_DIRECTION, "")
        if kind == "Squeeze":
            gone = self._squeezed(scope, node, labels) in ([], [labels.index(_DIRECTION)])
        elif kind == "Gather":
            gone = labels[axis : axis + 1 or None] == _DIRECTION
        elif kind == "Reshape" and len(node.input) > 1:  # 方向并进最后一轴，或只有一个方向
            target, output = self.constant(scope, node.input[1]), self._shape((scope, node.output[0]))
            rank = len(output) if target is None else target.size
            gone = rank in (0, 3)  # 并成两维的不算
            before = dict(zip(labels, self._shape(key), strict=False))
            if before.get(_BATCH) == 1 and output[:1] == [1] and before.get(_TIME) != 1:
                dropped = dropped.replace(_TIME, "").replace(_BATCH, _BATCH + _TIME)  # 只有一段：顺手对调了
        else:
            gone = False
        return dropped if gone else None

    def _squeezed(self, scope: Scope, node: onnx.NodeProto, labels: str) -> list[int]:
        """Squeeze 去掉哪几轴；没有写是空表。opset 13 之前写在属性里。"""
        given: Any = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
        if len(node.input) > 1 and node.input[1]:
            value = self.constant(scope, node.input[1])
            given = [] if value is None else value.ravel().tolist()
        return sorted(a % len(labels) for a in given)


def _layout(node: onnx.NodeProto) -> int:
    return _integer(node, "layout", 0)


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _permutation(node: onnx.NodeProto, rank: int) -> list[int]:
    """Transpose 的 perm；没有写的是整个倒过来。"""
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [*reversed(range(rank))])
