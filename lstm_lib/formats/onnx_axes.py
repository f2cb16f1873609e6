"""图里的 LSTM 节点，批在前还是时间在前。

LSTM 节点自己（layout=0）只收 (T, B, I)。``batch_first=True`` 的网络导出后，前面多一个 Transpose，后面再换回来；
只看节点就会把它读成时间在前，喂 (1, T, I) 不报错，数却全错。这里沿着 X 往前、沿着 Y 往后看它周围的图。
格式依据：ONNX 算子规范 LSTM、Transpose、Squeeze、Reshape；PyTorch 两种导出器与 tf2onnx 写出的图。
"""

from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from lstm_lib.formats import onnx_graph

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
    model: onnx.ModelProto, outputs: Sequence[str], layout: int, wanted: bool | None
) -> tuple[bool, str]:
    """输出名为 ``outputs`` 的 LSTM 节点读成 batch_first 还是不是，和一句来历（平常的时间在前没有来历）。

    ``wanted`` 是调用者说的，None 表示照图认：X 的来路上紧挨着 Transpose [1, 0, 2] 就是批在前；
    别的换轴法（卷积之后的 [2, 0, 1] 之类）两种读法都有人写，这时看输出侧换没换回来。
    """
    if wanted not in (None, True, False):
        raise ValueError(f"batch_first 应为 True、False 或 None（照图认），得到 {wanted!r}")
    node = next((n for n in _nodes(model.graph) if n.op_type == "LSTM" and [*n.output] == [*outputs]), None)
    seen, note = bool(layout), "节点的属性 layout=1" if layout else ""
    if node is not None:
        seen, note = _Surroundings(model).read(node, bool(layout))
    if wanted is None:
        return seen, note and f"batch_first={seen} 认自图：{note}"
    differs = f"，而照图认是 {seen}{note and f'（{note}）'}" if seen != wanted else ""
    return bool(wanted), f"batch_first={bool(wanted)} 是调用者指定的{differs}"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """图里的全部节点，连同分支与循环体里的。"""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


class _Surroundings:
    """一个 LSTM 节点前后的图。"""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.producer: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in _nodes(model.graph):
            self.producer |= {name: node for name in node.output if name}
            for name in set(node.input):
                self.consumers.setdefault(name, []).append(node)
        self.ends = {value.name for value in model.graph.output}
        self.constant = onnx_graph.constants(model)
        self._shapes: dict[str, list[int | str]] | None = None

    def read(self, node: onnx.NodeProto, layout: bool) -> tuple[bool, str]:
        """(batch_first, 来历)；来历为空就是没有什么可说的。"""
        before, where = self._before(node)
        after = self._after(node.output[0], "BTDH" if layout else "TDBH", set()) if node.output else None
        swapped = before == "swap" or (before == "maybe" and (after is not None and after != layout))
        seen = layout != swapped
        note = ["节点的属性 layout=1"] if layout else []
        if where is not None:
            place = f"{where.op_type} 节点 {onnx_graph.node_label(where)}"
            note.append(
                f"X 之前有 {place} 对调批与时间" if swapped else f"X 之前有 {place}，看不出批与时间谁在前"
            )
        if after is not None and after != seen:
            layouts = {True: "批在前", False: "时间在前"}
            note.append(f"但图的输出侧是{layouts[after]}（y 的前两轴与这里的相反）")
        if where is not None and not swapped:
            note.append("不对就用 batch_first= 指定")
        return seen, "，".join(note)

    # ------------------------------------------------------------ 往前看 X

    def _before(self, lstm: onnx.NodeProto) -> tuple[str, onnx.NodeProto | None]:
        """X 的来路：("swap", 节点) 是紧挨着对调了前两轴；"maybe" 是换过轴，但说不准；"" 是没有换过。"""
        name, near = lstm.input[0], True
        for _ in range(len(self.producer) + 1):  # 坏图里可能有圈
            node = self.producer.get(name)
            if node is None:
                return "", None
            if node.op_type == "Transpose":
                perm = _permutation(node, 3)
                if perm != [0, 1, 2]:
                    return ("swap" if near and perm == [1, 0, 2] else "maybe"), node
                name = node.input[0]
            elif node.op_type in _SAME:
                name = node.input[0]
            elif node.op_type in _RESHAPES:
                below = self._lstm_below(node)
                if below is not None:  # 叠起来的上一层：时间与批的次序一路传上来
                    if _layout(below) != _layout(lstm):
                        return "", None
                    name = below.input[0]
                else:
                    return ("swap", node) if near and self._is_swap(name, node) else ("", None)
            elif node.op_type in _LAYERS:
                near = near and node.op_type == "Concat"  # 两个方向分开写的上一层，拼起来就是它的输出
                name = self._data_input(node)
            else:
                return "", None
        return "", None

    def _data_input(self, node: onnx.NodeProto) -> str:
        """几个输入里来自数据的那一个。"""
        return next((i for i in node.input if i and self.constant(i) is None), node.input[0])

    def _lstm_below(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Squeeze（或 Transpose 加 Reshape）去掉方向那一轴时，它前面的 LSTM；不是这样的是 None。"""
        labels: Any = None
        for _ in range(8):
            name = node.input[0] if node.input else ""
            above = self.producer.get(name)
            if above is None:
                return None
            if above.op_type == "LSTM":
                return above if name == above.output[0] and labels in (None, [0, 2, 1, 3]) else None
            if above.op_type == "Transpose":
                labels = _permutation(above, 4)
            elif above.op_type not in _SAME | {"Slice", "Split"}:
                return None
            node = above
        return None

    def _is_swap(self, name: str, node: onnx.NodeProto) -> bool:
        """只有一段时，对调批与时间不必搬数据，化简器会写成 Reshape 之类：(1, T, I) → (T, 1, I)。"""
        source = node.input[0]
        for _ in range(4):
            above = self.producer.get(source)
            if above is None or above.op_type not in _RESHAPES:
                break
            source = above.input[0]
        before, after = self._shape(source), self._shape(name)
        return (
            len(before) == len(after) == 3
            and (before[0], after[1]) == (1, 1)
            and before[1] not in (1, "")
            and before[2] == after[2]
        )

    def _shape(self, name: str) -> list[int | str]:
        """形状推断得到的各轴；不知道时是空表。"""
        if self._shapes is None:
            model = self.model
            try:
                model = onnx.shape_inference.infer_shapes(model, data_prop=True)
            except Exception:  # 太大或推断不了，就只用图里写着的
                pass
            graph = model.graph
            self._shapes = {
                value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
                for value in (*graph.value_info, *graph.input, *graph.output)
            }
        return self._shapes.get(name, [])

    # ------------------------------------------------------------ 往后看 Y

    def _after(self, name: str, labels: str, seen: set[str]) -> bool | None:
        """名为 ``name``、各轴是 ``labels`` 的张量，到图的输出时批在时间之前吗；一路看不清是 None。"""
        if not name or name in seen or len(seen) > _FAR:
            return None
        seen.add(name)
        found = [labels.index(_BATCH) < labels.index(_TIME)] if name in self.ends else []
        for node in self.consumers.get(name, ()):
            moved = self._moved(node, name, labels)
            if moved is not None:
                outputs = node.output[:1] if node.op_type == "LSTM" else node.output
                found += [end for o in outputs if (end := self._after(o, moved, seen)) is not None]
                if not found and node.op_type == "Transpose":  # 再往后看不清，换轴这一步已经说明了
                    found.append(moved.index(_BATCH) < moved.index(_TIME))
        return None if not found else any(found)

    def _moved(self, node: onnx.NodeProto, name: str, labels: str) -> str | None:
        """过了 ``node`` 之后各轴是什么；看不出，或时间、批已不成轴，是 None。"""
        kind = node.op_type
        if kind == "Transpose":
            perm = _permutation(node, len(labels))
            return "".join(labels[p] for p in perm) if sorted(perm) == [*range(len(labels))] else None
        if kind in _SAME or kind in _LAYERS or kind == "Split":
            return labels if name == node.input[0] or kind in _LAYERS else None
        if name != node.input[0]:
            return None
        if kind == "LSTM":  # 上面一层：时间与批的次序要对得上
            return {(0, "TBH"): "TDBH", (1, "BTH"): "BTDH"}.get((_layout(node), labels))
        return self._without_direction(node, name, labels) if _DIRECTION in labels else None

    def _without_direction(self, node: onnx.NodeProto, name: str, labels: str) -> str | None:
        """``node`` 去掉方向那一轴之后各轴是什么；不是去方向的是 None。"""
        kind, axis = node.op_type, _integer(node, "axis", 0)
        dropped = labels.replace(_DIRECTION, "")
        if kind == "Squeeze":
            gone = self._squeezed(node, labels) in ([], [labels.index(_DIRECTION)])
        elif kind == "Gather":
            gone = labels[axis : axis + 1 or None] == _DIRECTION
        elif kind == "Reshape" and len(node.input) > 1:  # 方向并进最后一轴，或只有一个方向
            target = self.constant(node.input[1])
            rank = len(self._shape(node.output[0])) if target is None else target.size
            gone = rank in (0, 3)  # 并成两维的不算
            before, after = dict(zip(labels, self._shape(name), strict=False)), self._shape(node.output[0])
            if before.get(_BATCH) == 1 and after[:1] == [1] and before.get(_TIME) != 1:
                dropped = dropped.replace(_TIME, "").replace(_BATCH, _BATCH + _TIME)  # 只有一段：顺手对调了
        else:
            gone = False
        return dropped if gone else None

    def _squeezed(self, node: onnx.NodeProto, labels: str) -> list[int]:
        """Squeeze 去掉哪几轴；没有写是空表。opset 13 之前写在属性里。"""
        given: Any = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
        if len(node.input) > 1 and node.input[1]:
            value = self.constant(node.input[1])
            given = [] if value is None else value.ravel().tolist()
        return sorted(a % len(labels) for a in given)


def _layout(node: onnx.NodeProto) -> int:
    return _integer(node, "layout", 0)


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _permutation(node: onnx.NodeProto, rank: int) -> list[int]:
    """Transpose 的 perm；没有写的是整个倒过来。"""
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [*reversed(range(rank))])
