"""长度可变的轴：让 dynamo 捕获时它们真的可变，导出、化简之后换一个长度试跑。

形状里写着 T，不等于图真的算得了别的 T：导出器会把示例的长度写进 Reshape 的常数，或写进中间结果的声明。
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

Dynamic = Mapping[str, Mapping[int, str]]


# ---------------------------------------------------------------- dynamo：捕获


@contextmanager
def _lstm_by_shape_only() -> Iterator[None]:
    """捕获期间，LSTM、GRU 这两个算子只按输入推出输出的形状。

    torch 2.13 自带的两种分解都不行：逐帧展开的把 T 定成示例的长度；while_loop 的只在捕获时换上，
    随后的 run_decompositions 又用回逐帧展开的，而且批轴不能可变。算子本身仍原样留在图里，由 onnxscript 译成节点。
    """
    import torch
    from torch.export._patches import _register_rnn_while_loop_decomposition

    def shape(input: Any, hx: Any, *options: Any) -> Any:
        *_, bidirectional, _batch_first = options
        width = hx.shape[-1] * (2 if bidirectional else 1)
        return input.new_empty((*input.shape[:-1], width))

    def lstm(input: Any, hx: Any, *options: Any) -> Any:
        return shape(input, hx[0], *options), torch.empty_like(hx[0]), torch.empty_like(hx[1])

    def gru(input: Any, hx: Any, *options: Any) -> Any:
        return shape(input, hx, *options), torch.empty_like(hx)

    aten = torch.ops.aten
    with _register_rnn_while_loop_decomposition(aten.lstm.input, lstm):
        with _register_rnn_while_loop_decomposition(aten.gru.input, gru):
            yield


@contextmanager
def fresh_rules() -> Iterator[None]:
    """清掉算子的派发缓存：先导出过一次，旧的分解规则就留在里面，可变的轴会悄悄变回固定的。"""
    import torch

    caches = [
        getattr(op, "_dispatch_cache", {}) for op in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input)
    ]
    for cache in caches:
        cache.clear()
    try:
        yield
    finally:
        for cache in caches:
            cache.clear()


def dynamo_export(module: Any, inputs: Sequence[Any], path: Any, names: dict, shapes: tuple | None) -> None:
    """用 dynamo 导出；``shapes`` 与 ``inputs`` 对应，是 ``{轴: Dim}`` 或 None。"""
    import torch

    options = {"dynamo": True, "verbose": False, **names}
    if shapes is not None:
        try:
            from torch.fx.experimental import _config

            # backed_size_oblivious：示例的长度恰好是 1 时也不当成常数，torch.onnx.export 自己也这样
            with fresh_rules(), _lstm_by_shape_only(), _config.patch(backed_size_oblivious=True):
                program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
                torch.onnx.export(program, (), str(path), **options)
            return
        except (
            Exception
        ):  # 捕获不了的网络（或别的版本的 torch）交给 torch.onnx.export 自己想办法，结果照样要试跑
            pass
    with fresh_rules():  # 那条路也可能把旧规则留在缓存里
        torch.onnx.export(module, tuple(inputs), str(path), dynamic_shapes=shapes, **options)


def rename_axes(path: str | os.PathLike, dynamic: Dynamic) -> None:
    """捕获得到的轴叫 s27 之类，换成 ``dynamic`` 里的名字；表达式（2*s27）里的也换。"""
    model = onnx.load(path, load_external_data=False)
    names: dict[str, str] = {}
    for value in model.graph.input:
        for axis, name in dynamic.get(value.name, {}).items():
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            if symbol and not symbol.isdigit():  # "7" 是被定死了
                names.setdefault(symbol, name)
    if all(symbol == name for symbol, name in names.items()):
        return
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), dim.dim_param)
    onnx.save(model, path)


# ---------------------------------------------------------------- 导出之后：换一个长度试跑


class _Unrunnable(Exception):
    """图跑不通；消息说卡在哪里。"""


class _Graph:
    """导出的图，能按名字喂输入、跑出全部输出。"""

    def __init__(self, path: str | os.PathLike) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception:  # 有的算子、类型 onnxruntime 没有实现，标准自带的参照实现慢，但全
            from onnx.reference import ReferenceEvaluator

            session = ReferenceEvaluator(str(path))
        self.session = session

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(None, dict(feeds))
        except Exception as error:
            found = re.search(r"running (\w+) node\. Name:'([^']*)'", str(error))
            where = f"{found[1]} 节点 {found[2]} " if found else ""
            raise _Unrunnable(f"{where}跑不通（{first_line(error)[:160]}）") from error


def first_line(error: BaseException) -> str:
    """异常的第一行文字；没有文字的给类型名。"""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _without_padding(array: Any, shape: tuple[int, ...]) -> Any:
    """截到 ``shape``，只要截掉的全是零；否则原样。"""
    if np.ndim(array) != len(shape) or any(n < m for n, m in zip(np.shape(array), shape, strict=True)):
        return array
    kept = array[tuple(slice(n) for n in shape)]
    return kept if np.count_nonzero(kept) == np.count_nonzero(array) else array


def check(
    path: str | os.PathLike, label: str, module: Any, inputs: Sequence[Any],
    input_names: Sequence[str], dynamic: Dynamic, exporter: str,
) -> None:  # fmt: skip
    """声明可变的轴，换别的长度跑一遍图，与 torch 比；不对就抛 ``ValueError``，说是哪一轴、该怎么办。

    输出的声明里若还留着示例的长度，改成可变的（连同过时的中间形状一起删掉）。
    图在示例的长度上都跑不了（用了 onnxruntime 与参照实现都没有的东西）时没法核对，给一个警告。
    """
    trial = _Trial(path, label, module, inputs, input_names, dynamic, exporter)
    if trial.sizes:
        trial.run()


class _Trial:
    def __init__(
        self, path: str | os.PathLike, label: str, module: Any, inputs: Sequence[Any],
        input_names: Sequence[str], dynamic: Dynamic, exporter: str,
    ) -> None:  # fmt: skip
        from torch.utils import _pytree

        self.path, self.label, self.module, self.exporter = path, label, module, exporter
        self.leaves, self.spec = _pytree.tree_flatten(tuple(inputs))
        self.model = onnx.load(path, load_external_data=False)
        tensors = [k for k, leaf in enumerate(self.leaves) if hasattr(leaf, "detach")]
        names = [value.name for value in self.model.graph.input]
        self.names = dict(zip(tensors, names if len(names) == len(tensors) else input_names, strict=False))
        self.known = set(names)
        # 打包过的序列：torch 只铺到最长的那一条，ONNX 铺到 T，多出来的是零
        self.packed = any(
            node.op_type in ("LSTM", "GRU", "RNN") and len(node.input) > 4 and node.input[4]
            for node in self.model.graph.node
        )
        # 轴的名字 → 示例的长度；轴的名字 → [(输入, 第几轴)]
        self.sizes: dict[str, int] = {}
        self.places: dict[str, list[tuple[int, int]]] = {}
        for k, name in self.names.items():
            for axis, title in dynamic.get(name, {}).items():
                self.sizes.setdefault(title, self.leaves[k].shape[axis])
                self.places.setdefault(title, []).append((k, axis))

    def run(self) -> None:
        self.graph = _Graph(self.path)
        others = [
            {name: size + 3 + k for k, (name, size) in enumerate(self.sizes.items())},
            {name: 2 * size for name, size in self.sizes.items()},
            dict.fromkeys(self.sizes, 1),
        ]
        good = [sizes for sizes in (others[0], others[2]) if self.agrees(sizes)]
        if not good and not self.agrees(others[1]):
            # 几个轴一起变 torch 就不干，一个一个来
            for name in self.sizes:
                tried = [self.sizes | {name: sizes[name]} for sizes in others]
                if not any([self.agrees(sizes) for sizes in tried]):
                    raise ValueError(
                        f"{self.label}：要求{self.place(name)}可变，可 torch 自己换了长度就算不下去"
                        f"（{self.reason}）。请从 dynamic 里去掉这一轴，"
                        "或把与它同长的其余输入的轴也声明成同一个名字；没有写文件"
                    )
        self.refresh_outputs(good[0] if good else others[1])

    def place(self, name: str) -> str:
        k, axis = self.places[name][0]
        return f"输入 {self.names[k]} 的第 {axis} 轴（{name}）"

    def resized(self, sizes: Mapping[str, int]) -> list[Any]:
        """示例沿各轴重复或截短到 ``sizes``：数的范围、类型都是网络认得的。"""
        import torch

        leaves = list(self.leaves)
        for name, size in sizes.items():
            for k, axis in self.places[name]:
                rows = torch.arange(size, device=leaves[k].device) % max(leaves[k].shape[axis], 1)
                leaves[k] = leaves[k].index_select(axis, rows)
        return leaves

    def agrees(self, sizes: Mapping[str, int]) -> bool:
        """True：图与 torch 一致；False：torch 自己算不了这个长度。图错了就抛 ``ValueError``。"""
        problem = self.problem(sizes)
        if problem is None or problem == "":
            return problem == ""
        if self.problem(self.sizes):  # 示例的长度上也不行，那就不是轴的事
            import warnings

            warnings.warn(
                f"{self.label}：这台机器上跑不了导出的图，或它与 torch 本来就不一致"
                f"（{self.problem(self.sizes)}），可变的轴没有核对",
                stacklevel=5,
            )
            return True
        alone = [n for n in sizes if self.problem(self.sizes | {n: sizes[n]})] or list(sizes)
        advice = (
            '请改用 exporter="torchscript"，或把网络里按示例长度写死的形状改成由 x.shape 算出'
            if self.exporter == "dynamo"
            else "网络里有按示例的长度写死的 Python 数（len(x)、int(x.shape[1])、range 循环之类）："
            '请改用张量运算，或试 exporter="dynamo"'
        )
        raise ValueError(
            f"{self.label}：要求{'、'.join(map(self.place, alone))}可变，导出的图却只认示例的长度"
            f"（{'、'.join(str(self.sizes[n]) for n in alone)}）：换成 "
            f"{'、'.join(str(sizes[n]) for n in alone)}，{problem}。{advice}；"
            "或去掉 dynamic，按固定的长度导出。没有写文件"
        )

    def problem(self, sizes: Mapping[str, int]) -> str | None:
        """图与 torch 在这组长度上差在哪里：空串是一致，None 是 torch 自己算不了。"""
        import torch
        from torch.utils import _pytree

        leaves = self.resized(sizes)
        try:
            with torch.no_grad():
                result = self.module(*_pytree.tree_unflatten(leaves, self.spec))
            feeds = {
                name: leaves[k].detach().cpu().numpy() for k, name in self.names.items() if name in self.known
            }
        except Exception as error:
            self.reason = first_line(error)[:160]
            return None
        try:
            self.outputs = self.graph(feeds)
        except _Unrunnable as error:
            return str(error)
        theirs = [t.detach().cpu().numpy() for t in _pytree.tree_leaves(result) if hasattr(t, "detach")]
        names = [value.name for value in self.model.graph.output]
        if len(theirs) != len(names):
            return ""  # 导出器去掉了重复的输出，对不上号；能跑通就算
        for name, ours, other in zip(names, self.outputs, theirs, strict=True):
            if self.packed:
                ours = _without_padding(ours, other.shape)
            if np.shape(ours) != other.shape:
                return f"输出 {name} 的形状是 {np.shape(ours)}，torch 的是 {other.shape}"
            coarse = other.dtype == np.float16
            scale = max(1.0, float(np.abs(other.astype(np.float64)).max(initial=0))) if other.size else 1.0
            bound = (2e-2 if coarse else 1e-3) * scale
            if not np.allclose(ours, other, rtol=0, atol=bound, equal_nan=other.dtype.kind in "fc"):
                gap = np.nanmax(np.abs(np.asarray(ours, np.float64) - other.astype(np.float64)))
                return f"输出 {name} 与 torch 差 {gap:.1e}"
        return ""

    def refresh_outputs(self, sizes: Mapping[str, int]) -> None:
        """输出的声明里还写着示例的长度，就换成轴的名字（认不出是哪个轴的，只去掉数）。"""
        if self.problem(sizes) != "":
            return
        lengths: dict[int, str | None] = {}
        for name, size in sizes.items():
            lengths[size] = None if size in lengths else name
        stale = False
        for value, array in zip(self.model.graph.output, self.outputs, strict=True):
            for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(array), strict=False):
                if dim.dim_value and dim.dim_value != size:
                    stale = True
                    dim.ClearField("dim_value")
                    dim.dim_param = lengths.get(size) or ""
        if stale:
            del self.model.graph.value_info[:]
            onnx.save(self.model, self.path)


# ---------------------------------------------------------------- 化简：用什么长度比


def trial_shapes(model: onnx.ModelProto, fixed: Mapping[str, Any]) -> list[dict[str, list[int]]]:
    """给有可变的轴、又不在 ``fixed`` 里的输入，各几种试算的形状，先试靠前的；没有可变的轴时只有一个空的。

    同名的轴同长，不同名的不同长，最查得出错；可 tf2onnx 给每个批轴各起一个名字（unk__187、unk__188），
    其实要相等，于是再试全部等长、全部为 1。
    """
    given = {tensor.name for tensor in model.graph.initializer} | set(fixed)
    names: dict[str, int] = {}
    wanted: dict[str, list[int | str]] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in given and not all(dim.HasField("dim_value") for dim in dims):
            wanted[value.name] = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{k}"
                for k, dim in enumerate(dims)
            ]
            for size in wanted[value.name]:
                if isinstance(size, str):
                    names.setdefault(size, 3 + len(names))
    choices = [names, dict.fromkeys(names, 3), dict.fromkeys(names, 1)] if names else [names]
    shapes = [
        {name: [s if isinstance(s, int) else sizes[s] for s in shape] for name, shape in wanted.items()}
        for sizes in choices
    ]
    return [shape for k, shape in enumerate(shapes) if shape not in shapes[:k]]


def other_lengths(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """同一批输入换一组长度：可变的轴从 n 变成 2n + 3，原来相等的仍相等。没有可变的轴时是空的。"""
    changed = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        sizes = shapes.get(value.name)
        if sizes is not None and len(sizes) == len(dims) and not all(d.HasField("dim_value") for d in dims):
            changed[value.name] = [
                size if dim.HasField("dim_value") else 2 * size + 3
                for size, dim in zip(sizes, dims, strict=True)
            ]
    return changed
