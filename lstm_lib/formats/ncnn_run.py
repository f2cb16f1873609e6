"""在 Python 里转换与运行 ncnn 模型；模型文件的解析见 ``ncnn_param`` 与 ``ncnn_bin``。"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.files import atomic_path
from lstm_lib.formats import ncnn_check, ncnn_layers, ncnn_source
from lstm_lib.formats.ncnn_bin import bin_layout
from lstm_lib.formats.ncnn_param import PNNX, NcnnLayer, NcnnParam, read_param
from lstm_lib.lstm import conventions


@dataclass(frozen=True)
class ConvertedModel:
    """转换的结果：两个文件、pnnx 的运行记录，与原模型核对的结果。"""

    param: Path
    bin: Path
    log: str
    difference: float | None = None  # 与原模型的最大差，相对于输出里最大的绝对值；没有核对是 None
    notes: tuple[str, ...] = ()  # 没有核对的原因、替 pnnx 改了什么


def pnnx_path() -> Path:
    """pnnx 的可执行文件。它随 PyPI 的 pnnx 包安装在包目录里，不必在 PATH 上。"""
    spec = importlib.util.find_spec("pnnx")  # 不 import：那会顺带载入 torch
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("没有安装 pnnx；请运行 pip install pnnx")
    path = Path(spec.submodule_search_locations[0]) / ("pnnx.exe" if sys.platform == "win32" else "pnnx")
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(
            f"pnnx 的可执行文件不在或不能执行：{path}；请重装 pip install --force-reinstall pnnx"
        )
    return path


def convert(
    source: Any,
    stem: str | os.PathLike,
    *,
    inputs: Any = None,
    fp16: bool = False,
    timeout: float = 300,
    compare: bool = True,
) -> ConvertedModel:
    """用 pnnx 转成 ``stem.param`` 与 ``stem.bin``，并在子进程里与原模型核对一次。

    模块的输出不论怎样嵌套，都依次成为 out0、out1……；单独一个 ``nn.LSTM`` 就是 y、h、c。
    pnnx 会在模型旁边写下许多中间文件，所以在临时文件夹里运行，只取回两个结果。

    参数:
        source: .onnx 文件、.pt（TorchScript）文件，或 torch 模块
        stem: 两个文件的名字，不带扩展名
        inputs: 示例输入的元组（关键字参数给字典，也可以嵌套），形状与类型都照它；转 torch 模块时必须给，
            转 .pt 时给了才核对得了
        fp16: 权重存成 fp16；pnnx 自己的默认就是它，这里默认存 float32
        timeout: 至多等几秒
        compare: 核对：相差超过最大绝对值的 0.1%（fp16 是 3%）或 ncnn 崩溃，就什么也不写
    返回:
        ``ConvertedModel``：``param``、``bin`` 两个路径，``log``，最大相对差 ``difference``，``notes``。
    抛出:
        ValueError: 转换失败（附 pnnx 的记录），或核对不上
    """
    stem = Path(stem)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, shapes, reference, notes = _stage(source, inputs, folder, compare)
        arguments = [f"fp16={int(fp16)}", *([f"inputshape={shapes}"] if shapes else [])]
        try:
            result = subprocess.run(
                [str(pnnx_path()), file, *arguments], cwd=folder, capture_output=True, text=True,
                errors="replace", timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ValueError(f"pnnx 转换 {_title(source)} 超过 {timeout} 秒，已停止") from None
        log = result.stdout + result.stderr
        made = [folder / f"model.ncnn.{kind}" for kind in ("param", "bin")]
        if result.returncode or not all(path.is_file() for path in made):
            hint = _why_crashed(source) if result.returncode < 0 else ""
            raise ValueError(
                f"pnnx 转换 {_title(source)} 失败（返回码 {result.returncode}）。{hint}"
                f"记录的末尾是：\n{log.strip()[-2000:]}"
            )
        difference = _checked(source, folder, reference, fp16, notes)
        param, weights = (stem.with_name(f"{stem.name}.{kind}") for kind in ("param", "bin"))
        with atomic_path(param) as new_param, atomic_path(weights) as new_weights:
            shutil.copyfile(made[0], new_param)
            shutil.copyfile(made[1], new_weights)
    return ConvertedModel(param, weights, log, difference, tuple(notes))


def _why_crashed(source: Any) -> str:
    """pnnx 崩溃时什么也不说；已知的几种缘由里，看得出的点名，看不出的都列上。"""
    if not hasattr(source, "named_modules"):
        return "pnnx 自己崩溃了；TorchScript 里嵌套的输出会这样，请改给 torch 模块与 inputs。"
    if "ScriptModule" in {base.__name__ for base in type(source).__mro__}:
        return "pnnx 自己崩溃了；torch.jit.script 的模块会这样，请给原来的 torch 模块。"
    names = [name for name, _ in (*source.named_modules(), *source.named_parameters()) if not name.isascii()]
    if names:
        return f"pnnx 自己崩溃了；它不认 ASCII 以外的名字，模块里有 {names[0]}：请改成英文字母的属性名。"
    return (
        "pnnx 自己崩溃了；会这样的有：一个 LSTM 的末状态交给另一个作初态（请拆成两个模型，状态作输入输出）、"
        "pack_padded_sequence（ncnn 没有批，请去掉）。"
    )


def _title(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _checked(
    source: Any, folder: Path, reference: ncnn_check.Reference | None, fp16: bool, notes: list[str]
) -> float | None:
    """读一遍 pnnx 写的 .param，修好它的错，与原模型核对；返回相差多少，没有核对是 None。"""
    param_path, bin_path = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    original = param_path.read_text("utf-8")
    foreign = _foreign(original)
    if foreign:
        hint = "；只取末状态 h[-1] 的，单向时可以改取 y[:, -1]" if "unbind" in foreign else ""
        raise ValueError(
            f"pnnx 没能把 {_title(source)} 全换成 ncnn 的层，剩下的是：{foreign}。请换一种写法，"
            f"或把这些运算移到模型外面（整数换成小数、取随机数之类）{hint}"
        )
    try:
        texts = ncnn_check.repair(param_path)
    except ValueError as error:
        said = str(error).replace(f"{param_path}：", "")
        raise ValueError(f"pnnx 写出的 {_title(source)} 的 .param 不能用：{said}") from error
    script = folder / "model_ncnn.py"
    if reference is not None and script.is_file():
        found = re.findall(r'ex\.input\("in(\d+)".*?batch_index=(\d+)', script.read_text("utf-8"))
        reference.batch_axes = {int(k): int(axis) for k, axis in found}
    failures = []
    for text in texts:
        param_path.write_text(text, "utf-8")
        if text != original:
            note = "初态的形状或输入的次序改成了 ncnn 要的（x、h、c，各 (方向数, H)）；pnnx 写的不是"
        else:
            note = ""
        if reference is None:
            notes += [note] if note else []
            return None
        try:
            difference, view = ncnn_check.compare(param_path, bin_path, reference, fp16)
        except ncnn_check.Mismatch as error:
            failures.append(error)
            continue
        notes += [said for said in (note, view) if said]
        return difference
    raise ValueError(
        f"{_title(source)} 转成 ncnn 以后与原模型不符，没有写出文件：{failures[0]}。"
        "pnnx 会接错的有：只取末状态（请连 y 一起返回）、TorchScript 里多层 LSTM 的常量初态"
        "（请做成模块的输入）、跨批的运算。请改写这一层；确信没问题时用 compare=False 跳过核对"
    )


def _foreign(text: str) -> str:
    """.param 里 ncnn 没有的层，前五个；都有时为空。"""
    found = []
    for number, line in enumerate(text.split("\n")[2:], 3):
        kind, *rest = line.split() or [""]
        layer = NcnnLayer(kind, "", (), (), {}, number)
        if kind and (kind.startswith(PNNX) or not ncnn_layers.known(layer)):
            found.append(f"第 {number} 行的 {kind}（{rest[0] if rest else ''}）")
    return "、".join(found[:5]) + (f" 等 {len(found)} 个" if len(found) > 5 else "")


def _stage(
    source: Any, inputs: Any, folder: Path, compare: bool
) -> tuple[str, str, ncnn_check.Reference | None, list[str]]:
    """把要转换的模型放进临时文件夹，用一个不含空格与中文的名字；返回名字、inputshape、原模型的结果、附注。"""
    if not isinstance(source, str | os.PathLike):
        if inputs is None:
            raise ValueError("转换 torch 模块要用 inputs 给出示例输入")
        return _stage_torch(source, inputs, folder, compare)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"找不到要转换的模型：{path}")
    if path.suffix == ".pt":
        if inputs is None:
            shutil.copyfile(path, folder / "model.pt")
            return "model.pt", "", None, ["没有给 inputs，不知道输入的形状，没有与原模型核对"]
        import torch

        from lstm_lib.formats.quiet import quiet

        try:
            with quiet():
                module = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            raise ValueError(f"pnnx 转换 {path} 失败：torch 也读不了它（{str(error)[:200]}）") from None
        return _stage_torch(module, inputs, folder, compare)
    if path.suffix != ".onnx":
        raise ValueError(f"{path}：只能转换 .onnx 或 .pt（TorchScript）")
    import onnx

    from lstm_lib.formats.onnx_graph import load_model

    model = load_model(path)
    onnx.save(model, folder / "model.onnx")  # 外部数据一并装进一个文件
    shapes = "" if inputs is None else ncnn_source.shapes(_sequence(inputs))
    reference, notes = _onnx_reference(model, inputs) if compare else (None, [])
    return "model.onnx", shapes, reference, notes


def _sequence(inputs: Any) -> Any:
    return inputs if isinstance(inputs, tuple | list | Mapping) else (inputs,)


def _stage_torch(
    module: Any, inputs: Any, folder: Path, compare: bool
) -> tuple[str, str, ncnn_check.Reference | None, list[str]]:
    import torch

    from lstm_lib.formats.quiet import quiet

    if not hasattr(module, "named_modules"):
        raise ValueError(f"应给 torch 模块，或 .onnx、.pt 文件，得到 {type(module).__name__}")
    inputs = ncnn_source.normalized(inputs)
    module = ncnn_source.bare(module)
    small = {str(p.dtype) for p in module.parameters()} & {"torch.float16", "torch.bfloat16"}
    if small:
        raise ValueError(
            f"{type(module).__name__} 的权重是 {'、'.join(sorted(small))}，pnnx 转不了；"
            "请先用 .float() 换成 float32（示例输入也换），要小文件就用 fp16=True"
        )
    shapes = ncnn_source.shapes(inputs)
    with ncnn_source.prepared(module), quiet(), torch.no_grad():
        run = ncnn_source.caller(module, inputs)
        try:
            result = run(*ncnn_source.tensors(inputs))
        except Exception as error:  # 模块里什么错都可能有
            raise ValueError(f"{type(module).__name__} 在示例输入上跑不起来：{error}") from error
        outer = (
            ncnn_source.wrapped(module, inputs)
            if ncnn_source.needs_wrapping(module, inputs, result)
            else module
        )
        if isinstance(outer, torch.jit.ScriptModule):
            outer.save(str(folder / "model.pt"))
        else:
            leaves = tuple(ncnn_source.tensors(inputs))
            try:
                torch.jit.trace(outer.eval(), leaves, check_trace=False).save(folder / "model.pt")
            except Exception as error:  # 里层还有编译过的、随数值改变走向的……
                raise ValueError(f"{type(module).__name__} 不能用 torch.jit.trace 追踪：{error}") from error
        if not compare:
            return "model.pt", shapes, None, []
        probes = ncnn_source.probes(inputs)
        first, second = (ncnn_source.arrays(run(*probes)) for _ in range(2))
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True)):
        return "model.pt", shapes, None, ["模块两次的输出不同（里面有随机数），没有与原模型核对"]
    return "model.pt", shapes, ncnn_check.Reference(ncnn_source.arrays(probes), first), []


def _onnx_reference(model: Any, inputs: Any) -> tuple[ncnn_check.Reference | None, list[str]]:
    """用 onnxruntime 跑一次 ONNX 模型；没有给 ``inputs`` 时照图里声明的形状取随机数。"""
    import onnx

    from lstm_lib.formats import onnx_graph

    if inputs is not None:
        arrays = [np.asarray(x) for x in ncnn_source.tensors(_sequence(inputs))]
    else:
        held = {value.name for value in model.graph.initializer}
        rng, arrays = np.random.default_rng(0), []
        for value in model.graph.input:
            if value.name in held:
                continue
            sizes = [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
            # 不定的那几维：第一维多半是批，别的是长度
            shape = [size or (1 if k == 0 and 1 not in sizes else 7) for k, size in enumerate(sizes)]
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            array = rng.random(shape) if np.dtype(kind).kind == "f" else np.ones(shape)
            arrays.append(array.astype(kind))
    try:
        outputs = onnx_graph.run(model, *arrays)
    except Exception as error:  # onnxruntime 的错误各种各样；没有它就没有可比的
        return None, [f"onnxruntime 跑不了这个模型，没有核对：{str(error)[:200]}"]
    return ncnn_check.Reference(arrays, [np.asarray(a) for a in outputs]), []


class NcnnRunner:
    """载入一个 ncnn 模型，用 NumPy 数组进出。

    先用 ``bin_layout`` 查过两个文件（ncnn 自己遇到坏文件会崩溃或只在屏幕上抱怨），再交给 ncnn。
    直接送进 LSTM 的输入，每次运行前都查形状：ncnn 不查，宽不对就读到数组外面去。

    参数:
        param_path: .param
        bin_path: .bin
        num_threads: 几个线程
        fp16: 打开 ncnn 的半精度存储与运算（ncnn 的默认）；只在支持的 CPU（如 ARMv8.2）上起作用
    抛出:
        ValueError: 文件坏了，或 ncnn 载入不了
    """

    def __init__(
        self,
        param_path: str | os.PathLike,
        bin_path: str | os.PathLike,
        *,
        num_threads: int = 1,
        fp16: bool = False,
    ) -> None:
        import ncnn

        bin_layout(param_path, bin_path)
        param = read_param(param_path)
        if said := ncnn_check.miswired(param):
            raise ValueError(said)
        used = {blob for layer in param.layers for blob in layer.bottoms}
        made = {blob for layer in param.layers for blob in layer.tops}
        self.inputs = [layer.tops[0] for layer in param.layers if layer.type == "Input"]
        self.inputs += dict.fromkeys(b for layer in param.layers for b in layer.bottoms if b not in made)
        self.outputs = sorted(
            (
                blob
                for layer in param.layers
                if layer.type != "Input"
                for blob in layer.tops
                if blob not in used
            ),
            key=ncnn_check.natural,
        )
        self.indices = ncnn_check.index_inputs(param)
        self.shapes = _lstm_inputs(param)
        self._mat = ncnn.Mat
        self.net = ncnn.Net()
        option = self.net.opt
        option.num_threads = num_threads
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = fp16
        if self.net.load_param(str(param_path)) or self.net.load_model(str(bin_path)):
            raise ValueError(f"ncnn 载入 {param_path} 与 {bin_path} 失败")

    def __call__(self, *arrays: ArrayLike) -> Any:
        """跑一次。数组可以不连续，也可以是别的实数类型或 torch 张量，这里会转成连续的 float32。

        参数:
            arrays: 按输入的次序给；ncnn 没有批这一维：序列是 (T, 特征)，状态是 (方向数, H)
        返回:
            按名字排序（out0、out1……）的输出；只有一个时直接是它。
        抛出:
            ValueError: 个数、类型或 LSTM 输入的形状不对
        """
        if len(arrays) != len(self.inputs):
            names = "、".join(self.inputs)
            raise ValueError(f"这个模型有 {len(self.inputs)} 个输入（{names}），给了 {len(arrays)} 个")
        # Mat 不认跨步与其他类型，先转成连续的 float32；clone 让它有自己的内存：
        # 只借用数组的 Mat，第一层若是就地改写的（如 Sigmoid），ncnn 会崩溃
        held = [self._checked(*pair) for pair in zip(self.inputs, arrays, strict=True)]
        extractor = self.net.create_extractor()
        for name, array in zip(self.inputs, held, strict=True):
            extractor.input(name, self._mat(array).clone())
        results = []
        for name in self.outputs:
            code, mat = extractor.extract(name)
            if code:
                raise ValueError(
                    f"ncnn 算不出 {name}（返回码 {code}）；输入的形状对吗：{[a.shape for a in held]}"
                )
            results.append(np.array(mat))  # 复制一份，不借用 ncnn 的内存
        return results[0] if len(results) == 1 else tuple(results)

    def _checked(self, name: str, array: ArrayLike) -> np.ndarray:
        """连续的 float32，编号（送进 Embed 的）是 int32；形状不合 LSTM 的要求就报错，免得 ncnn 越界读写、连累整个进程。"""
        given, array = array, conventions.plain(array, f"输入 {name}")
        if array.dtype.kind not in "fiub":
            hint = "：复数的谱要先取幅度" if array.dtype.kind == "c" else ""
            got = type(given).__name__ if array.dtype.kind == "O" else array.dtype
            raise ValueError(f"输入 {name} 应是实数（float32），得到 {got}{hint}")
        if name in self.shapes:
            rows, width = self.shapes[name]
            wanted, hint = f"({rows or 'T'}, {width})", ""
            if array.ndim != 2:
                hint = "ncnn 没有批这一维，要先去掉" if array.ndim > 2 else "一帧也要写成二维，如 frame[None]"
            elif array.shape[1] != width:
                hint = f"最后一维应为 {width}" + ("，是不是转置了？" if len(array) == width else "")
            elif not len(array) or (rows and len(array) != rows):
                hint = f"第一维（方向数）应为 {rows}" if rows else "一帧也没有"
            if hint:
                raise ValueError(f"输入 {name} 的形状应为 {wanted}，得到 {array.shape}：{hint}")
        if name in self.indices:
            if array.dtype.kind == "f" and (array != np.floor(array)).any():
                raise ValueError(f"输入 {name} 是 Embed 的编号，应是整数，得到 {array.dtype}")
            return np.ascontiguousarray(array, np.int32)
        return np.ascontiguousarray(array, np.float32)


def _lstm_inputs(param: NcnnParam) -> dict[str, tuple[int | None, int]]:
    """直接（或只隔着 Split）送进 LSTM 的输入：{名字: (行数, 宽)}，行数 None 是任意的帧数。"""
    source: dict[str, str] = {}  # 数据块 → 它原样来自哪个输入
    shapes: dict[str, tuple[int | None, int]] = {}
    for layer in param.layers:
        if layer.type == "Input":
            source[layer.tops[0]] = layer.tops[0]
        elif layer.type == "Split":
            source |= {top: source[layer.bottoms[0]] for top in layer.tops if layer.bottoms[0] in source}
        elif layer.type == "LSTM":  # 各个数 bin_layout 已经查过
            output, total = layer.params[0], layer.params[1]
            hidden, both = layer.params.get(3, output), 2 if layer.params.get(2) == 2 else 1
            wanted = (None, total // (4 * hidden * both)), (both, output), (both, hidden)
            for blob, shape in zip(layer.bottoms, wanted, strict=False):
                if blob in source:
                    shapes.setdefault(source[blob], shape)
    return shapes


def run_streaming(
    runner: NcnnRunner, frames: ArrayLike, state: Iterable[ArrayLike]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """逐帧运行：模型的输入是 x、h、c，输出是 y、h'、c'。

    参数:
        runner: 带状态的模型
        frames: (T, 特征)
        state: 初始状态 (h, c)，各 (方向数, H)
    返回:
        整段输出 (T, 输出数) 与末状态。
    抛出:
        ValueError: 不是三进三出的模型，或形状不对
    """
    if len(runner.inputs) != 3 or len(runner.outputs) != 3:
        raise ValueError("逐帧运行要用带状态的模型：三个输入 x、h、c，三个输出 y、h、c")
    now: tuple[Any, ...] = tuple(state) if isinstance(state, Iterable) else ()
    if len(now) != 2:
        raise ValueError("初始状态 state 应是 (h, c) 两个数组")
    frames = conventions.plain(frames, "frames")
    if frames.ndim != 2 or not len(frames):
        raise ValueError(f"frames 的形状应为 (T, 特征)，至少一帧，得到 {frames.shape}")
    rows = []
    for frame in frames:
        y, *after = runner(frame[None], *now)
        rows.append(y)
        now = tuple(after)
    return np.concatenate(rows), now
