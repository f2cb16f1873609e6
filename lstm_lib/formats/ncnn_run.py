"""在 Python 里转换与运行 ncnn 模型；模型文件的解析见 ``ncnn_param`` 与 ``ncnn_bin``。"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.files import atomic_path
from lstm_lib.formats.ncnn_bin import bin_layout
from lstm_lib.formats.ncnn_param import NcnnParam, read_param


@dataclass(frozen=True)
class ConvertedModel:
    """转换的结果：两个文件，与 pnnx 的运行记录。"""

    param: Path
    bin: Path
    log: str


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
    inputs: Sequence[Any] | None = None,
    fp16: bool = False,
    timeout: float = 300,
) -> ConvertedModel:
    """用 pnnx 转成 ``stem.param`` 与 ``stem.bin``。

    ``source`` 是 .onnx 文件、.pt（TorchScript）文件，或者 torch 模块（``inputs`` 给出示例输入的元组，
    转 .pt 文件时也用它的形状）。pnnx 会在模型旁边写下许多中间文件，所以在临时文件夹里运行，只取回两个结果。
    ``fp16=False`` 存 float32；pnnx 自己的默认是 fp16。失败时报 ``ValueError``，附 pnnx 的记录。
    """
    stem = Path(stem)
    arguments = [f"fp16={int(fp16)}"]
    if inputs is not None:
        arguments.append("inputshape=" + ",".join("[" + ",".join(map(str, x.shape)) + "]" for x in inputs))
    with tempfile.TemporaryDirectory() as folder:
        name = _stage(source, inputs, Path(folder))
        try:
            result = subprocess.run(
                [str(pnnx_path()), name, *arguments], cwd=folder, capture_output=True, text=True,
                errors="replace", timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ValueError(f"pnnx 转换 {_title(source)} 超过 {timeout} 秒，已停止") from None
        log = result.stdout + result.stderr
        made = [Path(folder) / f"model.ncnn.{kind}" for kind in ("param", "bin")]
        if result.returncode or not all(path.is_file() for path in made):
            raise ValueError(
                f"pnnx 转换 {_title(source)} 失败（返回码 {result.returncode}），"
                f"记录的末尾是：\n{log.strip()[-2000:]}"
            )
        try:
            read_param(made[0])
        except ValueError as error:
            raise ValueError(
                f"pnnx 写出的 {_title(source)} 的 .param 不能用：{error}\n多半有 ncnn 不支持的算子"
            ) from error
        param, weights = (stem.with_name(f"{stem.name}.{kind}") for kind in ("param", "bin"))
        for path, target in zip(made, (param, weights), strict=True):
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
    return ConvertedModel(param, weights, log)


def _title(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _stage(source: Any, inputs: Sequence[Any] | None, folder: Path) -> str:
    """把要转换的模型放进临时文件夹，用一个不含空格与中文的名字。"""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"找不到要转换的模型：{path}")
        if path.suffix == ".pt":
            shutil.copyfile(path, folder / "model.pt")
            return "model.pt"
        if path.suffix != ".onnx":
            raise ValueError(f"{path}：只能转换 .onnx 或 .pt（TorchScript）")
        import onnx

        from lstm_lib.formats.onnx_graph import load_model

        onnx.save(load_model(path), folder / "model.onnx")  # 外部数据一并装进一个文件
        return "model.onnx"
    import torch

    from lstm_lib.formats.quiet import quiet

    if inputs is None:
        raise ValueError("转换 torch 模块要用 inputs 给出示例输入")
    with quiet(), torch.no_grad():
        torch.jit.trace(source.eval(), tuple(inputs)).save(folder / "model.pt")
    return "model.pt"


class NcnnRunner:
    """载入一个 ncnn 模型，用 NumPy 数组进出。

    先用 ``bin_layout`` 查过两个文件（ncnn 自己遇到坏文件会崩溃或只在屏幕上抱怨），再交给 ncnn。
    ``fp16`` 打开 ncnn 的半精度存储与运算（ncnn 的默认）；只在支持的 CPU（如 ARMv8.2）上起作用。
    直接送进 LSTM 的输入，每次运行前都查形状：ncnn 不查，宽不对就读到数组外面去。
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
        used = {blob for layer in param.layers for blob in layer.bottoms}
        self.inputs = [layer.tops[0] for layer in param.layers if layer.type == "Input"]
        self.outputs = sorted(
            blob for layer in param.layers if layer.type != "Input" for blob in layer.tops if blob not in used
        )
        self.shapes = _lstm_inputs(param)
        self._mat = ncnn.Mat
        self.net = ncnn.Net()
        option = self.net.opt
        option.num_threads = num_threads
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = fp16
        if self.net.load_param(str(param_path)) or self.net.load_model(str(bin_path)):
            raise ValueError(f"ncnn 载入 {param_path} 与 {bin_path} 失败")

    def __call__(self, *arrays: ArrayLike) -> Any:
        """按输入的次序给数组，按名字排序（out0、out1……）返回输出；只有一个输出时直接返回它。

        ncnn 没有批这一维：序列是 (T, 特征)，状态是 (方向数, H)。数组可以不连续，也可以是别的实数类型，
        这里会转成连续的 float32。个数、类型或 LSTM 输入的形状不对时报 ``ValueError``。
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
        """连续的 float32；形状不合 LSTM 的要求就报错，免得 ncnn 越界读写、连累整个进程。"""
        array = np.asarray(array)
        if array.dtype.kind not in "fiub":
            hint = "：复数的谱要先取幅度" if array.dtype.kind == "c" else ""
            raise ValueError(f"输入 {name} 应是实数（float32），得到 {array.dtype}{hint}")
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
    """逐帧运行：``frames`` (T, 特征)，模型的输入是 x、h、c，输出是 y、h'、c'。

    ``state`` 是初始状态 (h, c)，各 (方向数, H)。返回整段输出 (T, 输出数) 与末状态。
    """
    if len(runner.inputs) != 3 or len(runner.outputs) != 3:
        raise ValueError("逐帧运行要用带状态的模型：三个输入 x、h、c，三个输出 y、h、c")
    rows, now = [], tuple(map(np.asarray, state))
    for frame in np.asarray(frames):
        y, *after = runner(frame[None], *now)
        rows.append(y)
        now = tuple(after)
    return np.concatenate(rows), now
