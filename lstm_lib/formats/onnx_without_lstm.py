"""图里没有 LSTM 节点时，说清有的是什么、怎么办：别的循环层、量化过的 LSTM、拆成小算子的 LSTM。"""

from collections import Counter

import onnx

from lstm_lib.formats.onnx_scopes import Scope, standard

_SIGMOID, _TANH = {"Sigmoid", "HardSigmoid"}, {"Tanh"}
# 门算好之后、相乘之前，可能还要切开、换形状
_PASSING = set(
    "Identity Split Slice Squeeze Unsqueeze Reshape Cast Transpose Gather QuantizeLinear DequantizeLinear".split()
)


def describe(root: Scope) -> str:
    """一两句话：图里有什么，该怎么办。"""
    nodes = [node for _, node in root.walk()]
    counts = Counter((node.op_type if standard(node) else f"{node.domain}.{node.op_type}") for node in nodes)
    parts = []
    for op, text in (("GRU", "只有两个门的循环层"), ("RNN", "没有门的循环层")):
        if counts[op]:
            parts.append(f"有 {counts[op]} 个 {op}：那是{text}，这里只读 LSTM")
    quantized = counts["com.microsoft.DynamicQuantizeLSTM"]
    if quantized:
        parts.append(
            f"有 {quantized} 个 DynamicQuantizeLSTM：权重已经动态量化成 int8，请给量化之前的 float32 模型"
        )
    others = {
        op: n
        for op, n in counts.items()
        if "lstm" in op.lower() and op != "com.microsoft.DynamicQuantizeLSTM"
    }
    if others:
        names = "、".join(f"{n} 个 {op}" for op, n in others.items())
        parts.append(
            f"有 {names}：不是 ONNX 标准的 LSTM 算子，请重新导出成标准的 LSTM，或从训练框架里的原模型读"
        )
    cells = sum(_cells(scope) for scope in {id(s): s for s, _ in root.walk()}.values())
    if cells:
        parts.append(
            f"看上去是拆开的 LSTM：有 {cells} 处 Sigmoid、Tanh 的门与 c = f·c + i·g、h = o·tanh(c) 的乘加，权重在 MatMul 或 "
            "Gemm 里。门的次序从图上看不出来，请从训练框架里的原模型读权重（torch 用 LSTM.from_torch），"
            "或重新导出成带 LSTM 算子的图"
        )
    if not parts:
        top = "、".join(f"{op} {n} 个" for op, n in counts.most_common(6))
        parts.append(f"有的是：{top}{'……' if len(counts) > 6 else ''}。请确认给的是含有 LSTM 的那个文件")
    return "；".join(parts)


def _cells(scope: Scope) -> int:
    """这一层里有几处 LSTM 的乘加：c = σ·c + σ·tanh，接着 tanh(c)·σ。"""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in scope.nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)

    def source(name: str) -> onnx.NodeProto | None:
        """``name`` 由哪个节点算出，越过只搬运的。"""
        for _ in range(8):
            node = scope.producer.get(name)
            if node is None or node.op_type not in _PASSING or not node.input:
                return node
            name = node.input[0]
        return None

    def kinds(node: onnx.NodeProto | None) -> list[str]:
        """一个 Mul 的两个因子各是什么算子算出的；不是 Mul 时是空的。"""
        if node is None or node.op_type != "Mul":
            return []
        return [getattr(source(i), "op_type", "") for i in node.input]

    def after(name: str, op: str) -> list[onnx.NodeProto]:
        """用到 ``name`` 的 ``op`` 节点，越过只搬运的。"""
        found, names = [], [name]
        for _ in range(8):
            users = [n for x in names for n in consumers.get(x, [])]
            found += [n for n in users if n.op_type == op]
            names = [o for n in users if n.op_type in _PASSING for o in n.output]
        return found

    count = 0
    for node in scope.nodes:
        if node.op_type not in ("Add", "Sum") or len(node.input) != 2:
            continue
        terms = [kinds(source(i)) for i in node.input]
        for write, keep in (terms, terms[::-1]):
            gated = len(write) == 2 and bool(_SIGMOID & set(write)) and bool(_TANH & set(write))
            if gated and _SIGMOID & set(keep):
                shown = [m for t in after(node.output[0], "Tanh") for m in after(t.output[0], "Mul")]
                if any(_SIGMOID & set(kinds(m)) for m in shown):
                    count += 1
                    break
    return count
