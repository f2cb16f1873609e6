"""一个 ONNX 节点不运行就定得下来的输出：常量照算；形状随输入而变的，算出铺开前的样子。

一个值有三种：全知道的数组；知道各行是什么、不知道铺成多大的（``Value.base`` 比 ``Value.dims`` 小）；不知道的
（``Unknown``，带着原因）。形状的计算里，不知道的那几个数记作 None。算子的含义依据 ONNX 算子规范。
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_lib.formats.onnx_scopes import Scope, standard

Dims = tuple[int | None, ...] | None

_MAX_ELEMENTS = 1 << 28
_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
# 逐元素的算子：作用于铺开前的值再铺开，与铺开后再作用是一样的
_ELEMENTWISE = set(
    "Identity Cast CastLike Abs Neg Exp Log Sqrt Reciprocal Sign Floor Ceil Round Erf Tanh Sigmoid Relu Elu "
    "LeakyRelu HardSigmoid Softplus Softsign Sin Cos Not Clip Add Sub Mul Div Pow Min Max Sum Mean Mod Where "
    "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor".split()
)
# 只搬运、重复或挑选元素的算子：处处相同的值，经过它们仍处处相同
_PLACING = set(
    "Expand Tile Reshape Slice Transpose Squeeze Unsqueeze Gather GatherElements GatherND Split Flatten Compress "
    "ReverseSequence DepthToSpace SpaceToDepth ReduceMax ReduceMin ReduceMean".split()
)
# 搬运与逐元素的：ONNX 的参考实现各版 opset 都算得对，除了 _reference_is_wrong 说的
_PLAIN = _ELEMENTWISE | _PLACING | {"Concat", "Constant", "ConstantOfShape", "Shape", "Size"}
_REDUCING = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "CumSum"}  # 全零的，经过它们仍全零


@dataclass(frozen=True)
class Value:
    """``base`` 按广播的规则（右对齐、大小为 1 的轴铺开）铺成形状 ``dims``；dims 里不知道的是 None。"""

    base: np.ndarray
    dims: Dims

    @property
    def exact(self) -> bool:
        """整个数组都知道。"""
        return self.dims == self.base.shape and self.base.dtype != object

    @property
    def uniform(self) -> bool:
        """处处是同一个数。"""
        return self.base.size == 1

    @property
    def zero(self) -> bool:
        """处处是零。"""
        return self.base.dtype != object and not self.base.any()

    def padded(self) -> np.ndarray:
        """``base``，左边补上大小为 1 的轴，补到与 ``dims`` 一样多；``dims`` 要知道有几维。"""
        assert self.dims is not None
        return self.base.reshape((1,) * (len(self.dims) - self.base.ndim) + self.base.shape)


@dataclass(frozen=True)
class Unknown:
    """不运行就不知道的值：``source`` 说它从哪里来（接在名字后面读），``dims`` 是声明的形状。"""

    source: str
    dims: Dims = None
    graph_input: str = ""  # 追到头是图的哪个输入；不是图的输入时是空串


Known = Value | Unknown


def whole(array: np.ndarray) -> Known:
    """整个数组都知道的值；文字不算。"""
    if array.dtype == object and all(v is not None for v in array.flat):
        if not all(isinstance(v, int) for v in array.flat):
            return Unknown("是文字")
        array = array.astype(np.int64)
    return Value(array, array.shape)


def by_node(scope: Scope, node: onnx.NodeProto, name: str) -> Unknown:
    """不知道，原因是算出它的这个节点。"""
    domain = "" if standard(node) else f"{node.domain}."
    text = f"由节点 {scope.label(node)}（{domain}{node.op_type}）算出，它的值要运行才知道"
    return Unknown(text, scope.dims(name))


def because(scope: Scope, node: onnx.NodeProto, name: str, arguments: Sequence[Known | None]) -> Unknown:
    """不知道的原因：有一个输入不知道，就是它的原因；输入都知道，就是这个节点。"""
    for argument in arguments:
        if isinstance(argument, Unknown):
            source = argument.source
            if argument.graph_input:
                source = f"由图的输入 {argument.graph_input} 算出"
            return Unknown(source, scope.dims(name), argument.graph_input)
    return by_node(scope, node, name)


def apply(scope: Scope, node: onnx.NodeProto, arguments: Sequence[Known | None]) -> list[Known]:
    """一个没有体的节点的各个输出。"""
    names = list(node.output)
    training = len(arguments) > 2 and not (isinstance(arguments[2], Value) and arguments[2].zero)
    if not standard(node) or node.op_type in _RANDOM or (node.op_type == "Dropout" and training):
        return [because(scope, node, o, arguments) for o in names]
    if all(a is None or (isinstance(a, Value) and a.exact) for a in arguments):
        feeds = [a.base if isinstance(a, Value) else None for a in arguments]
        try:
            return [whole(v) for v in evaluate(scope, node, feeds)]
        except (TooLarge, MemoryError):
            raise
        except Exception as error:  # 求值器不认识的算子、对不上的形状，各有各的异常
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return [Unknown(f"由节点 {scope.label(node)}（{node.op_type}）算出，算不出来（{reason}）")] * len(
                names
            )
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    try:
        values = _spread(scope, node, arguments, attributes)
    except Exception:  # 形状对不上的坏图：当作不知道
        values = None
    if values is None:
        values = _uniform(node, arguments, attributes)
    if values is None:
        return [because(scope, node, o, arguments) for o in names]
    return [_normal(v) for v in values]


class TooLarge(ValueError):
    """常量展开后过大。"""


def evaluate(scope: Scope, node: onnx.NodeProto, feeds: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """算一个节点；输入或输出过大时抛 ``ValueError``。

    搬运与逐元素的先用 ONNX 的参考实现：各版 opset 都对，铺开的数组也不必真的铺开。别的先用 onnxruntime，模型本来就
    是给它跑的；它没有的再用参考实现，参考实现会悄悄算错的，就不算。
    """
    given = {i: f for i, f in zip(node.input, feeds, strict=True) if f is not None}
    if max(sum(f.size for f in given.values()), _predicted(scope, node, given)) > _MAX_ELEMENTS:
        raise TooLarge(f"节点 {scope.label(node)}（{node.op_type}）的常量过大，拒绝展开")
    outputs = [o for o in node.output if o]
    graph = onnx.helper.make_graph(
        [node], "one",
        [onnx.helper.make_value_info(i, _type(f)) for i, f in given.items()],
        [onnx.helper.make_value_info(o, onnx.TypeProto()) for o in outputs],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in scope.opsets.items()]
    engines: list[Callable[..., list]] = [_onnxruntime, _reference]
    wrong = _reference_is_wrong(node, scope.version)
    if node.op_type in _PLAIN and not wrong:
        engines.reverse()
    try:
        results = engines[0](graph, opsets, given)
    except Exception as error:  # 没有这个算子、这个类型，或这一版
        if wrong:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"onnxruntime 算不了它：{reason[:200]}；ONNX 的参考实现算得了，得数却不对，所以不用。"
                "请换成 float32、较新的 opset，或直接写入算好的常量"
            ) from error
        try:
            results = engines[1](graph, opsets, given)
        except Exception as other:
            raise (error if engines[0] is _reference else other) from None
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        raise TypeError("结果不是数组")
    found = dict(zip(outputs, results, strict=True))
    return [np.asarray(found.get(o, ())) for o in node.output]


def _reference(graph: onnx.GraphProto, opsets: Sequence[Any], given: dict[str, np.ndarray]) -> list:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(graph, opsets={o.domain: o.version for o in opsets}).run(None, given)  # type: ignore[return-value]


def _onnxruntime(graph: onnx.GraphProto, opsets: Sequence[Any], given: dict[str, np.ndarray]) -> list:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.enable_cpu_mem_arena = False  # 常量可以很大，算完就还
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)


def _reference_is_wrong(node: onnx.NodeProto, version: int) -> bool:
    """ONNX 的参考实现（1.23 为止）不报错却算错的：各版 opset 与 onnxruntime 逐个算子比过。"""
    op, attributes = node.op_type, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if op in ("Softmax", "LogSoftmax", "Hardmax"):  # 旧的是 axis 之后摊成一行再算，它只算 axis 这一轴
        return version < 13
    if op == "BatchNormalization":  # 旧的它当作在训练，把这一批的均值方差混了进来
        return version < 14
    if op == "LpNormalization":  # 忘了取绝对值
        return attributes.get("p", 2) % 2 == 1
    if op == "Unsqueeze":  # axes 不从小到大的
        return list(attributes.get("axes", ())) != sorted(attributes.get("axes", ()))
    if op == "LpPool":
        return bool(attributes.get("ceil_mode"))
    # LRN 把通道数当成了批的大小；opset 7 之前的广播，axis 说从哪一轴对齐，它不看
    return op == "LRN" or (op in _ELEMENTWISE and "axis" in attributes)


def _type(array: np.ndarray) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _predicted(scope: Scope, node: onnx.NodeProto, given: dict[str, np.ndarray]) -> int:
    """输出会有多少个数；推不出来的算 0（输出不比输入大的那些算子）。"""
    types = {i: _type(f) for i, f in given.items()}
    data = {i: numpy_helper.from_array(f, i) for i, f in given.items() if f.size <= 64}
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in scope.opsets.items()]
    schema = onnx.defs.get_schema(node.op_type, scope.version)
    inferred = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=opsets)
    total = 0
    for kind in inferred.values():
        sizes = [d.dim_value for d in kind.tensor_type.shape.dim]
        total += math.prod(sizes) if kind.tensor_type.HasField("shape") else 0
    return total


# ---------------------------------------------------------------- 铺开的值，与只知道一部分的形状


def _normal(value: Value) -> Value:
    """形状的数全知道了，就是普通的整数数组；铺成多大全知道了，就铺开。"""
    base, dims = value.base, value.dims
    if base.dtype == object and all(v is not None for v in base.flat):
        base = base.astype(np.int64)
    if dims is not None and None not in dims and math.prod(n or 0 for n in dims) <= _MAX_ELEMENTS:
        base = np.broadcast_to(base, [n or 0 for n in dims])
    return Value(base, dims)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """两个知道的数组，类型与数都相同。"""
    return a.dtype == b.dtype != object and np.array_equal(a, b)


def agree(a: Dims, b: Dims) -> Dims:
    """两个形状里一致的部分；维数不同时整个是 None。"""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else None for m, n in zip(a, b, strict=True))


def _broadcast(shapes: Sequence[Dims]) -> Dims:
    """几个形状广播之后的形状。"""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known))
    result: list[int | None] = []
    for sizes in zip(*((1,) * (rank - len(s)) + s for s in known), strict=True):
        larger = [n for n in sizes if n is not None and n != 1]
        result.append(larger[0] if larger else None if None in sizes else 1)
    return tuple(result)


def _ints(argument: Known | None) -> list[int | None] | None:
    """一串整数（形状、重复次数……），不知道的是 None；连有几个都不知道时整个是 None。"""
    if not isinstance(argument, Value) or argument.dims is None or None in argument.dims:
        return None
    full = np.broadcast_to(argument.base, argument.dims)  # type: ignore[arg-type]
    return [None if v is None else int(v) for v in full.reshape(-1)]


def _known_ints(argument: Known | None) -> list[int] | None:
    values = _ints(argument)
    return None if values is None or None in values else values  # type: ignore[return-value]


def _axes(arguments: Sequence[Known | None], attributes: dict, position: int = 1) -> list[int] | None:
    """Squeeze、Unsqueeze 的 axes：旧的是属性，新的是输入。"""
    if "axes" in attributes:
        return list(attributes["axes"])
    return _known_ints(arguments[position]) if len(arguments) > position else None


def _spread(
    scope: Scope, node: onnx.NodeProto, arguments: Sequence[Known | None], attributes: dict
) -> list[Value] | None:
    """各算子在 ``Value`` 上的含义；没有把握的返回 None。"""
    op, data = node.op_type, arguments[0] if arguments else None
    if op in ("Shape", "Size"):
        return _shape(op, data, attributes)
    if op == "ConstantOfShape":
        tensor, sizes = attributes.get("value"), _ints(data)
        fill = np.zeros((), np.float32) if tensor is None else numpy_helper.to_array(tensor).reshape(())
        return [Value(fill, None if sizes is None else tuple(sizes))]
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return _quantized(scope, node, arguments, attributes)
    if op in _ELEMENTWISE or op == "Dropout":
        return _elementwise(scope, node, arguments[:1] if op == "Dropout" else arguments)
    rule = _RULES.get(op)
    if rule is None or not isinstance(data, Value) or (data.dims is None and op not in ("Expand", "Concat")):
        return None
    return rule(node, data, arguments, attributes)


def _shape(op: str, data: Known | None, attributes: dict) -> list[Value]:
    dims = data.dims if data is not None else None
    if dims is None or op == "Size":
        return [Value(np.array(None, object), (None,) if op == "Shape" else ())]
    part = dims[slice(attributes.get("start", 0), attributes.get("end"))]
    return [Value(np.array(part, object).reshape(len(part)), (len(part),))]


def _elementwise(scope: Scope, node: onnx.NodeProto, arguments: Sequence[Known | None]) -> list[Value] | None:
    given = [a for a in arguments if a is not None]
    if node.op_type == "Where" and all(isinstance(a, Value) for a in given[1:]):
        _, yes, no = given
        if isinstance(yes, Value) and isinstance(no, Value) and yes.uniform and same(yes.base, no.base):
            return [Value(yes.base, _broadcast([a.dims for a in given]))]
    values = [a for a in given if isinstance(a, Value)]
    if len(values) < len(given) or not values:
        return None
    dims = _broadcast([v.dims for v in values])
    if node.op_type in ("Dropout", "Identity"):
        return [values[0]]
    if any(v.base.dtype == object for v in values):
        function = _PARTIAL.get(node.op_type)
        if function is None:
            return [Value(np.array(None, object), dims)]
        return [
            Value(
                np.asarray(np.frompyfunc(function, len(values), 1)(*(v.base for v in values)), object), dims
            )
        ]
    bases = iter(v.base for v in values)
    return [Value(evaluate(scope, node, [None if a is None else next(bases) for a in arguments])[0], dims)]


def _either(function: Callable) -> Callable:
    return lambda *v: None if None in v else function(*v)


def _one_hot(node: onnx.NodeProto, indices: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    """torch 的 repeat_interleave 这样拼出 Tile 的次数。"""
    count, pair = _known_ints(arguments[1]), _ints(arguments[2])
    if not indices.exact or count is None or pair is None:
        return None
    if attributes.get("axis", -1) != -1 or count[0] * indices.base.size > 64:
        return None
    if np.any((indices.base < -count[0]) | (indices.base >= count[0])):
        return None
    hot = (indices.base % count[0])[..., None] == np.arange(count[0])
    result = np.array([pair[int(h)] for h in hot.flat], object).reshape(hot.shape)
    return [Value(result, result.shape)]


def _quantized(
    scope: Scope, node: onnx.NodeProto, arguments: Sequence[Known | None], attributes: dict
) -> list[Value] | None:
    """量化、反量化也是逐元素的；一轴一个 scale 的，那一轴要照样铺开。分块的不认。"""
    data, *scales = arguments
    known = [v for v in scales if v is not None]
    if not isinstance(data, Value) or data.dims is None or data.base.dtype == object:
        return None
    if not all(isinstance(v, Value) and v.exact for v in known) or attributes.get("block_size"):
        return None
    base, count = data.padded(), max(v.base.size for v in known if isinstance(v, Value))
    if count > 1:
        axis = attributes.get("axis", 1) % len(data.dims)
        if data.dims[axis] != count:
            return None
        base = np.repeat(base, count, axis) if base.shape[axis] == 1 else base
    feeds = [base, *(v.base if isinstance(v, Value) else None for v in scales)]
    return [Value(evaluate(scope, node, feeds)[0], data.dims)]


_PARTIAL: dict[str, Callable] = {
    "Cast": lambda v: v,
    "Add": _either(lambda a, b: a + b),
    "Sub": _either(lambda a, b: a - b),
    "Mul": lambda a, b: 0 if a == 0 or b == 0 else None if a is None or b is None else a * b,
    "Max": _either(max),
    "Equal": _either(lambda a, b: a == b),
    "Where": lambda c, a, b: (a if a == b else None) if c is None else a if c else b,
}


def _tile(
    node: onnx.NodeProto, data: Value, arguments: Sequence[Known | None], attributes: dict
) -> list[Value] | None:
    repeats = _ints(arguments[1])
    base, dims = data.padded(), data.dims
    assert dims is not None
    if repeats is None or len(repeats) != len(dims):
        return None
    for axis, count in enumerate(repeats):
        if base.shape[axis] != 1 and count != 1:
            if count is None or count * base.size > _MAX_ELEMENTS:
                return None
            base = np.concatenate([base] * count, axis)
    sizes = [None if n is None or r is None else n * r for n, r in zip(dims, repeats, strict=True)]
    return [Value(base, tuple(sizes))]


def _transpose(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    dims = data.dims
    assert dims is not None
    perm = list(attributes.get("perm", range(len(dims))[::-1]))
    return [Value(data.padded().transpose(perm), tuple(dims[p] for p in perm))]


def _unsqueeze(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    axes, dims = _axes(arguments, attributes), list(data.dims or ())
    if axes is None:
        return None
    rank = len(dims) + len(axes)
    base = data.padded()
    for axis in sorted(a % rank for a in axes):
        base = np.expand_dims(base, axis)
        dims.insert(axis, 1)
    return [Value(base, tuple(dims))]


def _squeeze(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    axes, dims = _axes(arguments, attributes), list(data.dims or ())
    if axes is None:
        if None in dims or len(arguments) > 1:
            return None
        axes = [k for k, n in enumerate(dims) if n == 1]
    gone = sorted({a % len(dims) for a in axes}, reverse=True)
    base = data.padded()
    for axis in gone:
        base = base.squeeze(axis)
        del dims[axis]
    return [Value(base, tuple(dims))]


def _slice(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    dims, base = list(data.dims or ()), data.padded()
    if "starts" in attributes:
        given: list[Any] = [attributes.get(key) for key in ("starts", "ends", "axes")]
    else:
        given = [None if a is None else _ints(a) for a in arguments[1:]]
        if any(g is None and a is not None for g, a in zip(given, arguments[1:], strict=True)):
            return None
    starts, ends, axes, steps = (*given, None, None)[:4]
    axes, steps = axes or range(len(starts)), steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis is None:
            return None
        axis %= len(dims)
        cut = None if None in (start, end, step) else slice(start, end, step)
        if base.shape[axis] != 1:
            if cut is None:
                return None
            base = base[(slice(None),) * axis + (cut,)]
        size = dims[axis]
        dims[axis] = None if cut is None or size is None else len(range(*cut.indices(size)))
    return [Value(base, tuple(dims))]


def _gather(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    dims, indices = data.dims, arguments[1]
    assert dims is not None
    if not isinstance(indices, Value) or indices.dims is None or indices.base.dtype == object:
        return None
    axis, base, picked = attributes.get("axis", 0) % len(dims), data.padded(), indices.padded()
    if base.shape[axis] == 1:
        picked = np.zeros_like(picked)
    new = dims[:axis] + indices.dims + dims[axis + 1 :]
    return [Value(np.asarray(np.take(base, picked, axis)), new)]


def _split(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    dims, base, count = list(data.dims or ()), data.padded(), len(node.output)
    axis = attributes.get("axis", 0) % len(dims)
    size = dims[axis]
    if "split" in attributes:
        sizes: Any = list(attributes["split"])
    elif len(arguments) > 1 and arguments[1] is not None:
        sizes = _known_ints(arguments[1])
    elif size is None:
        sizes = [None] * count
    else:
        each = -(-size // count)
        sizes = [each] * (count - 1) + [size - each * (count - 1)]
    if sizes is None:
        return None
    parts = [base] * count
    if base.shape[axis] != 1:
        parts = np.split(base, np.cumsum(sizes)[:-1], axis)
    return [Value(p, (*dims[:axis], n, *dims[axis + 1 :])) for p, n in zip(parts, sizes, strict=True)]


def _reshape(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    target, dims = _ints(arguments[1]), data.dims
    assert dims is not None
    if target is None:
        return None
    if not attributes.get("allowzero"):
        target = [dims[k] if n == 0 and k < len(dims) else n for k, n in enumerate(target)]
    if target.count(-1) == 1 and None not in dims and None not in target:
        rest = math.prod(n or 0 for n in target if n != -1)
        if rest:
            target = [math.prod(n or 0 for n in dims) // rest if n == -1 else n for n in target]
    sizes = tuple(None if n in (-1, None) else n for n in target)
    if data.uniform:
        return [Value(data.base.reshape(()), sizes)]
    if None not in dims and None not in sizes:
        return [Value(np.broadcast_to(data.base, dims).reshape(sizes), sizes)]  # type: ignore[arg-type]
    # 不知道大小的那几轴上处处相同：它们前后各有多少个数不变，前后照常换形状
    base = data.padded()
    for a, b in _runs(dims):
        if any(n != 1 for n in base.shape[a:b]):
            continue
        for c, d in _runs(sizes):
            if _count(dims[:a]) == _count(sizes[:c]) and _count(dims[b:]) == _count(sizes[d:]):
                full = np.broadcast_to(base, (*dims[:a], *base.shape[a:b], *dims[b:]))  # type: ignore[arg-type]
                return [Value(full.reshape(*sizes[:c], *[1] * (d - c), *sizes[d:]), sizes)]  # type: ignore[arg-type]
    return None


def _runs(sizes: tuple[int | None, ...]) -> list[tuple[int, int]]:
    """把不知道大小的轴全包在内的各段 [a, b)，短的在前；一个不知道的也没有时，包着至少一轴的各段。"""
    gaps = [k for k, n in enumerate(sizes) if n is None]
    first, last = (gaps[0], gaps[-1]) if gaps else (len(sizes), -1)
    spans = [(a, b) for a in range(len(sizes)) for b in range(a + 1, len(sizes) + 1)]
    return sorted((s for s in spans if s[0] <= first and s[1] > last), key=lambda s: s[1] - s[0])


def _count(sizes: tuple[int | None, ...]) -> int:
    return math.prod(n or 0 for n in sizes)


def _concat(arguments: Sequence[Known | None], axis: int) -> list[Value] | None:
    values = [a for a in arguments if isinstance(a, Value)]
    if len(values) < len(arguments) or any(v.dims is None for v in values):
        return None
    shapes = [v.dims for v in values if v.dims is not None]
    rank = len(shapes[0])
    if any(len(s) != rank for s in shapes) or not rank:
        return None
    axis %= rank
    bases = [v.padded() for v in values]
    lengths: list[Any] = [s[axis] for s in shapes]
    dims = list(_broadcast([(*s[:axis], 1, *s[axis + 1 :]) for s in shapes]) or ())
    if None in lengths:
        if any(b.shape[axis] != 1 for b in bases) or not all(same(bases[0], b) for b in bases):
            return None
        dims[axis] = None
        return [Value(bases[0], tuple(dims))]
    dims[axis] = sum(lengths)
    others = np.broadcast_shapes(*((*b.shape[:axis], 1, *b.shape[axis + 1 :]) for b in bases))
    if sum(lengths) * math.prod(others) > _MAX_ELEMENTS:
        return None
    parts = [
        np.broadcast_to(b, (*others[:axis], n, *others[axis + 1 :]))
        for b, n in zip(bases, lengths, strict=True)
    ]
    if any(p.dtype == object for p in parts):
        parts = [p.astype(object) for p in parts]
    return [Value(np.concatenate(parts, axis), tuple(dims))]


def _expand(node: onnx.NodeProto, data: Value, arguments: Any, attributes: dict) -> list[Value] | None:
    sizes = _ints(arguments[1])
    return [Value(data.base, None if sizes is None else _broadcast([data.dims, tuple(sizes)]))]


_RULES: dict[str, Callable[..., list[Value] | None]] = {
    "Expand": _expand,
    "Concat": lambda node, data, arguments, attributes: _concat(arguments, attributes["axis"]),
    "OneHot": _one_hot,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Reshape": _reshape,
}


def _only(value: Known | None) -> np.ndarray | None:
    """处处是同一个数时，这个数；否则 None。"""
    if isinstance(value, Value) and value.uniform:
        return value.base.reshape(())
    return np.zeros((), value.base.dtype) if isinstance(value, Value) and value.zero else None


def _uniform(node: onnx.NodeProto, arguments: Sequence[Known | None], attributes: dict) -> list[Value] | None:
    """形状跟不上了，但值处处相同：结果的形状不知道，值仍然知道。"""
    op, count = node.op_type, len(node.output)
    data = arguments[0] if arguments else None
    if op in ("Mul", "MatMul") and any(isinstance(a, Value) and a.zero for a in arguments):
        # 有限的数乘零是零；x 里真有 inf、nan 时，LSTM 的结果本来也是 nan
        zero = next(a for a in arguments if isinstance(a, Value) and a.zero)
        return [Value(np.zeros((), zero.base.dtype), None)]
    only = _only(data)
    if only is None or not isinstance(data, Value):
        return None
    scalar = Value(only, None)
    if op in _PLACING or (op in _REDUCING and data.zero):
        return [scalar] * count
    if op in ("Concat", "ScatterND", "ScatterElements"):
        parts = arguments if op == "Concat" else (arguments[0], arguments[2])
        equal = all((other := _only(a)) is not None and same(other, only) for a in parts)
        return [scalar] if equal and attributes.get("reduction", b"none") == b"none" else None
    if op == "Pad" and data.zero:
        fill = arguments[2] if len(arguments) > 2 else None
        zeros = fill is None or (isinstance(fill, Value) and fill.zero)
        return [scalar] if zeros and not attributes.get("value") else None
    return None
