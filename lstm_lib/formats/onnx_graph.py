"""ONNX 计算图：导出、化简、数算子、逐节点求值、折出图中的常量。格式依据：onnx.proto。"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lstm_lib.book.tables import Code, Table
from lstm_lib.formats import onnx_dynamic, onnx_values
from lstm_lib.formats.onnx_scopes import Scope, bodies, captured, count_operators, node_label, scopes
from lstm_lib.formats.quiet import quiet

Model = onnx.ModelProto | str | os.PathLike


def load_model(model_or_path: Model) -> onnx.ModelProto:
    """读入 ONNX 模型（连同外部数据）；已是 ``ModelProto`` 的原样返回。

    文件不存在、不是 ONNX、外部数据缺失时报 ``ValueError`` 或 ``OSError``，消息写明文件。
    """
    if isinstance(model_or_path, onnx.ModelProto):
        return model_or_path
    if not isinstance(model_or_path, str | os.PathLike):
        raise ValueError(
            f"应给 .onnx 文件的路径或 onnx.ModelProto，得到 {type(model_or_path).__name__}"
            + (
                "（文件的内容请用 onnx.load_from_string 读成模型）"
                if isinstance(model_or_path, bytes)
                else ""
            )
        )
    path = Path(model_or_path)
    if not path.is_file():
        reason = "是文件夹，不是 ONNX 文件" if path.is_dir() else "找不到这个 ONNX 文件"
        raise FileNotFoundError(f"{path}：{reason}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf、外部数据各有各的异常类型
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}：不是能读的 ONNX 文件，或它的 .data 外部数据不在同一文件夹（{reason}）"
        ) from error
    if not model.graph.node:
        raise ValueError(f"{path}：文件里没有任何节点，不是一个 ONNX 模型")
    for node in _every_node([*model.graph.node, *(n for f in model.functions for n in f.node)]):
        # 不是 UTF-8 的名字，protobuf 不报错，给的是 bytes
        if not all(isinstance(text, str) for text in (node.name, node.op_type, *node.input, *node.output)):
            raise ValueError(f"{path}：有节点的名字不是 UTF-8，文件已损坏")
    return model


def _every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """这些节点，连同它们的体里的。"""
    for node in nodes:
        yield node
        for _, graph in bodies(node):
            yield from _every_node(graph.node)


def with_state(network: Any) -> Any:
    """包一层：``forward(x, h, c) -> (掩蔽, h, c)``，于是初始状态成为图的输入。单独的 ``nn.LSTM`` 不用它，直接导出就是。

    参数:
        network: 要有 ``forward_with_state(x, (h, c))``，见 ``irm.IRMNetwork``；h、c 各 (层数 × 方向数, B, H)
    """
    import torch

    class WithState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
            mask, (h, c) = self.network.forward_with_state(x, (h, c))
            return mask, h, c

    return WithState().eval()


def export(
    module: Any,
    inputs: Sequence[Any],
    path: str | os.PathLike,
    *,
    exporter: str = "torchscript",
    input_names: Sequence[str] = ("x",),
    output_names: Sequence[str] = ("y",),
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> Path:
    """把 torch 模块导出成 ONNX 文件；导出器的闲话都收起来。

    参数:
        module: ``torch.nn.Module``
        inputs: 示例输入的元组；``nn.LSTM`` 要带状态，就给 ``(x, (h, c))``
        path: 要写的 .onnx
        exporter: "torchscript"（``dynamo=False``）或 "dynamo"；后者把权重写在同名的 .data 文件里
        input_names: 输入的名字，依次
        output_names: 输出的名字，依次
        dynamic: 长度可变的轴，形如 ``{"x": {1: "T"}}``；声明了就换别的长度试跑，与 torch 比
    返回:
        写出的路径。
    抛出:
        ValueError: 导不出，或声明可变的轴并不可变；什么文件也不留下
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"要导出的应是 torch.nn.Module，得到 {type(module).__name__}")
    _check_exportable(module)
    if exporter not in ("torchscript", "dynamo"):
        raise ValueError(f"exporter 只能是 torchscript 或 dynamo，不能是 {exporter!r}")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"找不到要写进去的文件夹：{path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} 是文件夹，请给要写的 .onnx 文件的路径")
    inputs, dynamic = _checked(inputs, input_names, output_names, dynamic or {})
    names = {"input_names": list(input_names), "output_names": list(output_names)}
    modes, caught = {part: part.training for part in module.modules()}, list[warnings.WarningMessage]()
    module.eval()
    try:
        # 在旁边的临时文件夹里写好、试过，再挪过去：.data 的名字记在 .onnx 里，所以文件名不变
        with tempfile.TemporaryDirectory(prefix=".onnx-", dir=path.parent) as folder:
            made = Path(folder) / path.name
            try:
                with quiet():
                    if exporter == "dynamo":
                        shapes = _dynamic_shapes(inputs, input_names, dynamic) if dynamic else None
                        onnx_dynamic.dynamo_export(module, inputs, made, names, shapes)
                    else:
                        free = {k: {a: t for a, t in axes.items() if a >= 0} for k, axes in dynamic.items()}
                        axes = {"dynamic_axes": free or None}
                        with warnings.catch_warnings(record=True) as caught:
                            warnings.simplefilter("always")
                            torch.onnx.export(module, inputs, str(made), dynamo=False, **names, **axes)
            except Exception as error:
                raise _not_exported(module, inputs, path, exporter, error) from error
            if dynamic:
                onnx_dynamic.rename_axes(made, dynamic)
                _check_axes(made, path, dynamic, exporter)
                onnx_dynamic.check(made, str(path), module, inputs, input_names, dynamic, exporter)
            for file in sorted(Path(folder).iterdir(), key=lambda f: f == made):  # .onnx 最后出现
                os.replace(file, path.with_name(file.name))
    finally:  # 导出不改模块：各部分原来是训练还是求值，照原样
        for part, training in modes.items():
            part.training = training
    _warn_branches(path, caught)
    return path


def _warn_branches(path: Path, caught: Sequence[warnings.WarningMessage]) -> None:
    """torchscript 只记下示例走过的那一路：forward 里看着数据分支的，另一支不在图里，换了数据就悄悄地错。"""
    import torch

    own = os.path.dirname(torch.__file__)
    for warning in caught:
        if "Python boolean" in str(warning.message) and not warning.filename.startswith(own):
            warnings.warn(
                f"{path}：{Path(warning.filename).name} 第 {warning.lineno} 行把张量当成真假来分支，"
                "torchscript 只把示例走过的那一支写进了图，换了数据可能不对；请改用 torch.where",
                stacklevel=3,
            )


def _checked(
    inputs: Any, input_names: Any, output_names: Any, dynamic: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, dict[int, str]]]:
    """查过的 ``inputs`` 与 ``dynamic``；输入的轴从末尾数的（-1）换成从头数的。"""
    import torch
    from torch.utils import _pytree

    if not isinstance(inputs, tuple | list):
        raise ValueError(f"inputs 应是示例输入的元组，如 (x,)，得到 {type(inputs).__name__}")
    for label, names in (("input_names", input_names), ("output_names", output_names)):
        if isinstance(names, str):
            raise ValueError(f"{label} 应是几个名字，如 [{names!r}]，得到文字 {names!r}")
    unknown = [name for name in dynamic if name not in (*input_names, *output_names)]
    if unknown:
        raise ValueError(
            f"dynamic 里的 {'、'.join(unknown)} 不是输入或输出的名字；有的是：{'、'.join((*input_names, *output_names))}"
        )
    tensors = [leaf for leaf in _pytree.tree_leaves(tuple(inputs)) if isinstance(leaf, torch.Tensor)]
    ranks = {name: tensor.dim() for name, tensor in zip(input_names, tensors, strict=False)}
    checked: dict[str, dict[int, str]] = {}
    for name, axes in dynamic.items():
        if not isinstance(axes, Mapping) or not all(
            isinstance(a, int) and isinstance(t, str) for a, t in axes.items()
        ):
            raise ValueError(
                f'dynamic 里 {name} 的写法应为 {{轴: 名字}}，如 {{"x": {{1: "T"}}}}，得到 {axes!r}'
            )
        rank = ranks.get(name)
        for axis in axes:
            if rank is not None and not -rank <= axis < rank:
                raise ValueError(f"dynamic 里 {name} 的第 {axis} 轴不存在：示例的 {name} 只有 {rank} 轴")
        checked[name] = {axis % rank if rank else axis: title for axis, title in axes.items()}
    return tuple(inputs), checked


def _not_exported(
    module: Any, inputs: tuple[Any, ...], path: Path, exporter: str, error: Exception
) -> ValueError:
    """导不出来时说清楚：是模块自己就跑不通，还是导出器不认识它。"""
    import torch

    try:
        with quiet(), torch.no_grad():
            module(*inputs)
    except Exception as own:
        return ValueError(
            f"{path}：模块自己在示例输入上就算不下去（{onnx_dynamic.first_line(own)[:200]}），"
            "请检查 inputs 的个数、形状与类型；没有写文件"
        )
    cause = error.__cause__ or error
    if "data-dependent" in str(cause):
        return ValueError(
            f"{path}：forward 里有看着数据分支的 if、循环或长度（{onnx_dynamic.first_line(cause)[:200]}），dynamo 导不出；"
            "请改成 torch.where、torch.cond 之类的张量运算（torchscript 会把示例走过的那一支写死）；没有写文件"
        )
    other = "torchscript" if exporter == "dynamo" else "dynamo"
    return ValueError(
        f"{path}：{exporter} 导出器导不出这个模块（{type(cause).__name__}：{onnx_dynamic.first_line(cause)[:200]}）。"
        f'请检查 input_names、output_names、dynamic 与模块是否相符，或试 exporter="{other}"；没有写文件'
    )


def _check_exportable(module: Any) -> None:
    """ONNX 的 LSTM 没有投影：老导出器不支持，dynamo 不作声地写出无效的节点。"""
    for name, layer in module.named_modules():
        if getattr(layer, "mode", None) == "LSTM" and getattr(layer, "proj_size", 0):
            raise ValueError(
                f"{f'模块里的 {name}' if name else '这个 LSTM'} 带投影（proj_size={layer.proj_size}），ONNX 的 LSTM "
                "没有投影，导不出来；请改用 proj_size=0 的 LSTM 再接一个 Linear 重新训练，"
                "或用 ncnn（ncnn_run.convert），它的 LSTM 有投影"
            )


def _dynamic_shapes(
    inputs: Sequence[Any], names: Sequence[str], dynamic: Mapping[str, Mapping[int, str]]
) -> tuple[Any, ...]:
    """与 ``inputs`` 对应的 ``{轴: Dim}``；轴的名字随便什么文字都行，Dim 用自己的编号。"""
    import torch
    from torch.utils import _pytree

    titles = dict.fromkeys(title for axes in dynamic.values() for title in axes.values())
    dims = {title: torch.export.Dim(f"axis_{k}") for k, title in enumerate(titles)}
    leaves, spec = _pytree.tree_flatten(tuple(inputs))
    waiting, shapes = iter(names), []
    for leaf in leaves:
        wanted = dynamic.get(next(waiting, ""), {}) if isinstance(leaf, torch.Tensor) else {}
        shapes.append({axis: dims[title] for axis, title in wanted.items()} or None)
    return _pytree.tree_unflatten(shapes, spec)


def _check_axes(made: Path, path: Path, dynamic: Mapping[str, Mapping[int, str]], exporter: str) -> None:
    """导出器有时不听话：要求可变的输入轴必须真的可变，输出轴补上名字。"""
    model = onnx.load(made, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in dynamic.get(value.name, {}).items():
            dims = value.type.tensor_type.shape.dim
            if not -len(dims) <= axis < len(dims):
                raise ValueError(
                    f"{path}：dynamic 里 {value.name} 的第 {axis} 轴不存在：图里的 {value.name} 只有 {len(dims)} 轴；没有写文件"
                )
            dim = dims[axis]
            if dim.dim_param == name:
                continue
            if value in model.graph.input:
                other = "torchscript" if exporter == "dynamo" else "dynamo"
                raise ValueError(
                    f"{path}：要求 {value.name} 的第 {axis} 轴（{name}）可变，导出的图里却固定成了 {dim.dim_value}："
                    f'{exporter} 导出器没有听。请改用 exporter="{other}"，或从 dynamic 里去掉这一轴；没有写文件'
                )
            dim.dim_param = name
            onnx.save(model, made)


def simplify(model_or_path: Model, path: str | os.PathLike | None = None, **options: Any) -> onnx.ModelProto:
    """用 onnxsim 化简，在随机输入上比过化简前后的输出。可变的轴换成两组不同的长度来比。

    参数:
        model_or_path: .onnx 文件或 ``ModelProto``
        path: 要写的文件，None 是不写
        options: 原样交给 ``onnxsim.simplify``；``check_n`` 在这里默认为 1，它自己的默认 0 是什么也不比；图不收试的
            长度时，用 ``test_input_shapes={输入: 形状}`` 自己给
    返回:
        化简后的 ``ModelProto``。
    抛出:
        ValueError: 输出不同，或 onnxsim 处理不了
    """
    import onnxsim

    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    source = load_model(model_or_path)
    shapes, known = options.get("test_input_shapes"), [value.name for value in source.graph.input]
    if shapes and not (isinstance(shapes, Mapping) and set(shapes) <= set(known)):
        raise ValueError(
            f"test_input_shapes 应为 {{输入名: 形状}}，图的输入是 {'、'.join(known)}；得到 {shapes!r}"
        )
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(f"找不到要写进去的文件夹：{Path(path).parent}")
    if not all(value.type.tensor_type.HasField("shape") for value in source.graph.output):
        source = onnx.shape_inference.infer_shapes(source)  # onnxsim 不收没有写形状的输出
    options = {"check_n": 1} | options
    given = options.pop("test_input_shapes", None)
    choices = (
        [given] if given else onnx_dynamic.trial_shapes(source, options.get("overwrite_input_shapes") or {})
    )
    failures: list[Exception] = []
    for shapes in choices:
        try:
            with quiet():
                model, same = onnxsim.simplify(source, test_input_shapes=shapes, **options)
                same = same and _same_elsewhere(source, model, shapes, options)
            break
        except Exception as error:  # 试算的长度图不收，或 onnxsim 自己处理不了
            failures.append(error)
    else:
        raise _not_simplified(source, where, choices, failures[-1], options) from failures[-1]
    if not same:
        raise ValueError(f"{where}：onnxsim 化简前后的输出不一致，不要用这个结果")
    if path is not None:
        onnx.save(model, path)
    return model


def _not_simplified(
    source: onnx.ModelProto, where: str, choices: Sequence[Any], error: Exception, options: Mapping[str, Any]
) -> ValueError:
    """没能化简时说清楚：是 onnxsim 自己处理不了，还是试算的长度图不收。"""
    import onnxsim

    try:
        with quiet():
            onnxsim.simplify(source, **{**options, "check_n": 0})
    except Exception as own:
        return ValueError(
            f"{where}：onnxsim 处理不了这张图（{onnx_dynamic.first_line(own)[:200]}）。换 test_input_shapes 也不行；"
            "形状没有写全的，用 overwrite_input_shapes 给全，否则请用原图，不要化简"
        )
    known = axes(source)
    free = "；".join(f"{name} {known[name]}" for name in choices[0] or ())
    tried = "、".join(str(shapes) for shapes in choices)
    return ValueError(
        f"{where}：化简了，但没法核对（{onnx_dynamic.first_line(error)[:500]}）。"
        + (f"可变的轴（{free}）试了 {tried} 都不行：" if free else "")
        + "请用 test_input_shapes={输入名: 形状} 给出图收得下的形状；onnxruntime 本来就跑不了这张图的，"
        "用 check_n=0 放弃核对"
    )


def _same_elsewhere(
    source: onnx.ModelProto, model: onnx.ModelProto, shapes: Mapping[str, Any], options: Mapping[str, Any]
) -> bool:
    """换一组长度再比一次：只比一种，看不出写死在图里的长度。原图自己收不下的长度不算。"""
    from onnxsim import model_checking

    others = onnx_dynamic.other_lengths(model, shapes)
    if not options["check_n"] or not others or options.get("input_data") is not None:
        return True
    keep = {
        "custom_lib": "custom_lib",
        "check_rtol": "rtol",
        "check_atol": "atol",
        "input_fill": "input_fill",
    }
    how = {keep[name]: value for name, value in options.items() if name in keep}
    how |= {"n_times": options["check_n"], "input_shapes": {**shapes, **others}, "verbose": False}
    try:
        return bool(model_checking.compare(model, source, **how))
    except Exception:
        try:
            model_checking.compare(source, source, **how)
        except Exception:  # 原图也不收：这个长度本来就不该试
            return True
        return False


def operator_counts(model_or_path: Model) -> dict[str, int]:
    """各算子的个数，按第一次出现的次序；If、Loop、Scan 的体里的、每次函数调用里的也数。"""
    return dict(count_operators(load_model(model_or_path)))


def operator_table(models: Mapping[str, Model]) -> Table:
    """几个模型的算子并排成表：``{标题: 模型或路径}``，一行一种算子，最后一行是总数。"""
    counts = [operator_counts(model) for model in models.values()]
    operators = sorted({op for c in counts for op in c}, key=lambda op: (op != "LSTM", op))
    rows = [[Code(op), *(c.get(op, "") for c in counts)] for op in operators]
    return Table(["算子", *models], [*rows, ["合计", *(sum(c.values()) for c in counts)]])


def axes(model_or_path: Model) -> dict[str, list[int | str]]:
    """图的输入输出各有哪些轴：固定的是整数，可变的是名字。"""
    graph = load_model(model_or_path).graph
    return {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def run(model_or_path: Model, *arrays: np.ndarray, optimize: bool = True) -> list[np.ndarray]:
    """用 onnxruntime（单线程）跑一次。

    参数:
        model_or_path: .onnx 文件或 ``ModelProto``
        arrays: 按图的输入次序给
        optimize: 为假时关掉图优化，中间结果才一个不少
    返回:
        全部输出的列表。
    抛出:
        ValueError: 个数、类型、形状不对，或 onnxruntime 不收；消息列出图要的与给的
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:  # 关掉图优化，中间结果才一个不少
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    where = "模型" if isinstance(model_or_path, onnx.ModelProto) else str(model_or_path)
    model = load_model(model_or_path)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(
            f"{where}：onnxruntime 读不了这张图（{onnx_dynamic.first_line(error)[:500]}）"
        ) from error
    known = session.get_inputs()
    if len(known) != len(arrays):
        names = "、".join(value.name for value in known)
        raise ValueError(f"这个图有 {len(known)} 个输入（{names}），给了 {len(arrays)} 个")
    feeds = {value.name: np.asarray(array) for value, array in zip(known, arrays, strict=True)}
    for name, array in feeds.items():  # 图里有 LSTM 时，onnxruntime 遇到空的输入会让整个进程退出
        if array.size == 0:
            raise ValueError(f"{where}：输入 {name} 是空的，形状 {list(array.shape)}：至少要有一帧、一个序列")
    try:
        return session.run(None, feeds)
    except Exception as error:
        wanted = "、".join(f"{value.name} {value.type}{value.shape}" for value in known)
        got = "、".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
        raise ValueError(
            f"{where}：onnxruntime 没能跑完（{onnx_dynamic.first_line(error)[:500]}）。图的输入是 {wanted}，给的是 {got}"
        ) from error


def ancestors(model_or_path: Model, tensor: str) -> list[onnx.NodeProto]:
    """算出名为 ``tensor`` 的中间结果要经过的节点，按图里的次序。

    ``tensor`` 可以在 If、Loop、Scan 的体或函数里（几处同名时写上路径，如 ``If_5/then_branch/h``）：外层的节点在前，
    体从外面取用的、函数的实参都追出去。
    """
    root = scopes(load_model(model_or_path))
    every: dict[int, Scope] = {id(scope): scope for scope, _ in root.walk()}
    homes = [s for s in every.values() if tensor in s.producer]
    if not homes:  # 带着路径的
        homes = [s for s in every.values() if s.path and tensor.removeprefix(f"{s.path}/") in s.producer]
        tensor = tensor.removeprefix(f"{homes[0].path}/") if homes else tensor
    if not homes:
        raise ValueError(f"图里没有哪个节点算出 {tensor!r}")
    if len(homes) > 1:
        names = "、".join(f"{s.path}/{tensor}" if s.path else tensor for s in homes)
        raise ValueError(f"图里有 {len(homes)} 处叫 {tensor!r}，请写上路径：{names}")
    scope: Scope | None = homes[0]
    wanted, found = {tensor}, list[onnx.NodeProto]()
    while scope is not None:
        here = _walk_back(scope.nodes, wanted)
        if scope.owner is not None and not scope.is_function and wanted & set(scope.inputs):
            here = _walk_back(
                scope.nodes, wanted := wanted | set(scope.outputs)
            )  # 循环：上一圈的输出是这一圈的输入
        found = here + found
        if scope.owner is not None:  # 体要不要执行、执行几次，函数拿到什么，都看外层这个节点的输入
            wanted = set(scope.owner.input) | (set() if scope.is_function else wanted)
        scope = scope.outside
    return found


def _walk_back(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """``nodes`` 里算出 ``wanted`` 的那些，按原来的次序；它们用到的名字添进 ``wanted``。"""
    found = list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted & set(node.output):
            found.append(node)
            wanted |= (set(node.input) | captured(node)) - {""}
    return found[::-1]


def trace(
    model_or_path: Model, nodes: Iterable[onnx.NodeProto], *arrays: np.ndarray
) -> dict[str, np.ndarray]:
    """在真实输入上求出 ``nodes`` 每个输出的值：把它们都添成图的输出，再跑一遍。"""
    model = onnx.ModelProto()
    model.CopyFrom(load_model(model_or_path))
    nodes = list(nodes)
    if not nodes:
        return {}
    outer = {output for node in model.graph.node for output in node.output}
    for node in nodes:
        if not outer.issuperset(node.output):
            raise ValueError(f"节点 {node_label(node)} 在 If、Loop 之类的体或函数里，它的值不能从外面取出来")
    names = [output for node in nodes for output in node.output if output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, run(model, *arrays, optimize=False), strict=True))


def constants(model_or_path: Model) -> Callable[[str], np.ndarray | None]:
    """返回一个函数：给它张量的名字，得到图中的常数；依赖图的输入的，得到 None。"""
    return onnx_values.constants(scopes(load_model(model_or_path)))
