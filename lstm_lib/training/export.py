"""把训练好的网络交给别的引擎：ONNX、ncnn、本书的二进制文件；先与 torch 对过，再让文件出现。"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from lstm_lib import engines
from lstm_lib.engines import Engine
from lstm_lib.enhance.irm import IRMNetwork
from lstm_lib.files import REASONS, atomic_path
from lstm_lib.formats import network_file

LENGTHS = (1, 10, 37)  # 用几种帧数核对：只对一种，查不出写死在图里的长度
TOLERANCES = {  # 权重的类型 → 掩蔽与 torch 最多差多少
    "float32": 1e-5,  # 求和次序不同，相差约 1e-7 到 1e-6
    "float16": 1e-2,  # 权重有 11 位有效数字
    "int8": 5e-2,  # 权重与输入各舍去一点，界的推导见“int8”一章
}
SUFFIXES = {"onnx": (".onnx",), "ncnn": (".param", ".bin"), "bin": (".lstm", ".bin")}


class ExportError(ValueError):
    """导出的结果与 torch 不符，参数不合，或写不了；前两种时什么文件也没有写。"""


def export(
    network: IRMNetwork,
    to: str,
    out,
    streaming: bool = False,
    fp16: bool = False,
    int8: bool = False,
    origin=None,
):
    """导出并与 torch 核对；核对不上，什么也不写。

    参数:
        network: 训练好的网络
        to: onnx、ncnn 或 bin
        out: 文件名，可以不带扩展名：onnx 补 .onnx，ncnn 补 .param 与 .bin，bin 补 .lstm
        streaming: 状态 h、c 也作为图的输入输出，供逐帧运行
        fp16: 权重存成 fp16，只用于 ncnn 与 bin
        int8: 权重存成 int8，只用于 bin
        origin: 网络是从这个检查点读来的，不能盖掉它
    返回:
        （写出的文件, 最大差）。
    抛出:
        ExportError: 核对不上、参数不合、要写的名字已是文件夹、检查点或别的 ncnn 模型的权重；它也是 ``ValueError``
    """
    network = network.eval()
    out = Path(out)
    if to not in WRITERS:
        raise ExportError(f"--to {to} 不认识；可选 {'、'.join(WRITERS)}。")
    if fp16 and to == "onnx":
        raise ExportError("--fp16 只用于 --to ncnn 与 --to bin。")
    if int8 and to != "bin":
        raise ExportError("--int8 只用于 --to bin。")
    if fp16 and int8:
        raise ExportError("--fp16 与 --int8 只能选一个。")
    if to == "bin" and streaming:
        raise ExportError("--streaming 只用于 onnx 与 ncnn；bin 总是逐帧算的。")
    dtype = "float16" if fp16 else "int8" if int8 else "float32"
    with tempfile.TemporaryDirectory() as folder:
        made, engine = WRITERS[to](network, Path(folder), streaming, dtype)
        worst = verify(network, engine, streaming, TOLERANCES[dtype])
        targets = [_target(out, to, source.name) for source in made]
        _check_targets(targets, to, origin)
        for source, target in zip(made, targets, strict=True):
            try:
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)
            except OSError as error:  # error.filename 是临时文件，使用者不认得
                raise ExportError(f"{target} 写不了：{REASONS.get(error.errno, error.strerror)}。") from error
    return targets, worst


def _target(out: Path, to: str, name: str) -> Path:
    """``model.param`` 之类的临时名 → 使用者要的名字。"""
    stem = out.with_suffix("") if out.suffix in SUFFIXES[to] else out
    if to == "bin" and name == "model.lstm" and out.suffix == ".bin":
        return out  # 使用者指明要 .bin
    return stem.with_name(stem.name + name.removeprefix("model"))


def _check_targets(targets, to: str, origin) -> None:
    for target in targets:
        if origin and target.exists() and os.path.exists(origin) and target.samefile(origin):
            raise ExportError(
                f"{target} 就是要导出的检查点 {origin}，写了会毁掉它；请换一个文件名。没有写文件。"
            )
        if target.is_dir():
            raise ExportError(f"{target} 是一个已有的文件夹；请换一个文件名。没有写文件。")
        param = target.with_suffix(".param")
        if to != "ncnn" and target.suffix == ".bin" and param.exists():
            raise ExportError(
                f"{target} 是 ncnn 模型 {param} 的权重，盖掉它那个模型就坏了；请换一个文件名，"
                "或把 --out 的扩展名写成 .lstm。没有写文件。"
            )


def verify(network, engine: Engine, streaming: bool, tolerance: float) -> float:
    """同样的输入给 torch 与装着导出模型的引擎，返回掩蔽（与末状态）的最大差；超过 ``tolerance`` 抛错。"""
    rng, config = np.random.default_rng(0), network.config
    worst = 0.0
    for frames in (1,) if streaming else LENGTHS:
        x = np.abs(rng.normal(size=(frames, config.input_size))).astype(np.float32)
        shape = (config.num_layers, config.hidden_size)
        state = [rng.uniform(-0.5, 0.5, shape).astype(np.float32) for _ in range(2)]
        given = tuple(torch.from_numpy(s)[:, None] for s in state) if streaming else None
        with torch.inference_mode():
            mask, (h, c) = network.forward_with_state(torch.from_numpy(x)[None], given)
        if streaming:
            got, after = engine.advance(x[0], engine.to_state(*state))
            pairs = zip(("掩蔽", "h", "c"), (mask, h, c), (got, *engine.from_state(after)), strict=True)
        else:
            pairs = [("掩蔽", mask, engine.sequence(x))]
        for name, one, other in pairs:
            one, other = one.numpy().reshape(-1), other.reshape(-1)
            if one.shape != other.shape:
                raise ExportError(
                    f"{name}的大小不同：torch {one.shape}，导出的模型 {other.shape}；没有写文件。"
                )
            worst = max(worst, float(np.abs(one - other).max()))
    if not worst <= tolerance:
        raise ExportError(f"导出的模型与 torch 相差 {worst:.1e}，超过 {tolerance:.0e}；没有写文件。")
    return worst


def _examples(config):
    """导出用的示例：几帧输入 (1, T, input_size)，与状态 (层数, 1, hidden_size)。"""
    x = torch.zeros(1, LENGTHS[1], config.input_size)
    return x, torch.zeros(config.num_layers, 1, config.hidden_size)


def _write_onnx(network, folder, streaming, dtype):
    from lstm_lib.formats import onnx_graph

    path, raw = folder / "model.onnx", folder / "raw.onnx"
    x, state = _examples(network.config)
    if streaming:
        onnx_graph.export(
            onnx_graph.with_state(network), (x[:, :1], state, state.clone()), raw,
            input_names=("x", "h", "c"), output_names=("mask", "h_next", "c_next"),
        )  # fmt: skip
    else:
        axes = {"x": {1: "T"}, "mask": {1: "T"}}
        onnx_graph.export(network, (x,), raw, output_names=("mask",), dynamic=axes)
    onnx_graph.simplify(raw, path)
    return [path], engines.load("onnxruntime", path)


def _write_ncnn(network, folder, streaming, dtype):
    from lstm_lib.formats import ncnn_run, onnx_graph

    # 直接转 torch 模块：经过 batch_first 的 ONNX 会多出一个 Reshape，把示例的帧数写死在图里
    x, state = _examples(network.config)
    module, inputs = (
        (onnx_graph.with_state(network), (x[:, :1], state, state.clone())) if streaming else (network, (x,))
    )
    made = ncnn_run.convert(module, folder / "model", inputs=inputs, fp16=dtype == "float16")
    # .param 最后出现：看见它，就说明 .bin 已经在了
    return [made.bin, made.param], engines.load("ncnn", made.param, made.bin)


def _write_bin(network, folder, streaming, dtype):
    path, pieces, config = folder / "model.lstm", engines.describe(network), network.config
    network_file.save(
        path, pieces.lstm, pieces.weight, pieces.bias, pieces.sigmoid, engines.conventions(config),
        dtype,
    )  # fmt: skip
    # 有 C 就用 C 读：设备上跑的是它，文件里是哪一种，就按哪一种算
    return [path], engines.load(engines.preferred(), path)


WRITERS = {"onnx": _write_onnx, "ncnn": _write_ncnn, "bin": _write_bin}
