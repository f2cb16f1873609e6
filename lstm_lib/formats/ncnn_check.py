"""转换的结果与原模型核对一次：ncnn 在子进程里跑，崩溃了也只是一个错误；pnnx 的两处错先修好。"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lstm_lib.formats.ncnn_param import NcnnLayer, NcnnParam, read_param

# 允许的差，相对于输出里最大的绝对值。float32 只差在加法的次序；fp16 的权重只有 11 位有效数字
TOLERANCE = {False: 1e-3, True: 3e-2}
RECURRENT = {"LSTM": 3, "GRU": 2, "RNN": 2}  # 带初态时各有几个输入
_VIEWS = {"Split", "Reshape", "Squeeze", "ExpandDims", "Flatten", "Noop", "Dropout"}


@dataclass
class Reference:
    """原模型在示例输入上的结果，都照原模型的次序。"""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    batch_axes: dict[int, int] = field(default_factory=dict)  # pnnx 以为各输入的批在哪一维


class Mismatch(ValueError):
    """ncnn 的结果与原模型不同，或者根本跑不起来。"""


def natural(name: str) -> tuple[str, int]:
    """out2 排在 out10 前面。"""
    digits = re.search(r"\d*$", name)
    tail = digits[0] if digits else ""
    return name[: len(name) - len(tail)], int(tail or -1)


def index_inputs(param: NcnnParam) -> set[str]:
    """当作编号用的输入：直接（或只隔着不改数的层）送进 Embed。ncnn 按 int32 读它们的字节。"""
    source = {layer.tops[0]: layer.tops[0] for layer in param.layers if layer.type == "Input"}
    found = set()
    for layer in param.layers:
        if not layer.bottoms or layer.bottoms[0] not in source:
            continue
        if layer.type in _VIEWS:
            source |= dict.fromkeys(layer.tops, source[layer.bottoms[0]])
        elif layer.type == "Embed":
            found.add(source[layer.bottoms[0]])
    return found


# ---- 修 pnnx 的错 ----


def repair(path: Path) -> list[str]:
    """把 .param 的几种可能写法按可信的次序列出；没有什么可修时只有原文。

    一、初态在 torch 里是 [D, 1, H]，pnnx 原样写成三维；ncnn 要二维的 (D, H)，双向时会读到别处去。
    二、pnnx 把参数当初态时，常量排到了 x 前面；ncnn 要 x、h、c。
    """
    param = read_param(path)
    lines = path.read_text("utf-8").split("\n")
    for memory in _stacked(param):
        _rewrite(lines, memory, shape=(memory.params[0], memory.params[2]))
    texts, constant = [], _constants(param)
    for choice in (0, 1):
        changed = list(lines)
        for layer in _misordered(param, constant):
            _rewrite(changed, layer, bottoms=_reordered(layer, constant, choice))
        texts.append("\n".join(changed))
    return list(dict.fromkeys([*texts, "\n".join(lines)]))


def miswired(param: NcnnParam) -> str:
    """ncnn 一跑就会崩溃或读错的初态，说成一句话；没有就是空的。"""
    for layer in _misordered(param, _constants(param)):
        return (
            f"{layer.where} 的输入里常量排在 x 前面，ncnn 要的次序是 x、h、c，这样跑会崩溃；"
            "这是 pnnx 写错的，请用 ncnn_run.convert 重新转换"
        )
    for memory in _stacked(param):
        if memory.params[0] % 4:  # 每个通道补齐到 16 字节；宽是 4 的倍数时恰好没有空隙
            return (
                f"{memory.where} 是 LSTM 的初态，写成了三维（2={memory.params[2]}），ncnn 会读到补齐的空隙里；"
                f"请改成二维 0={memory.params[0]} 1={memory.params[2]}，或用 ncnn_run.convert 重新转换"
            )
    return ""


def _stacked(param: NcnnParam) -> Iterator[NcnnLayer]:
    """当初态用的、写成三维 (D, 1, H) 的 MemoryData。"""
    producer = {blob: layer for layer in param.layers for blob in layer.tops}
    seen = set()
    for layer in param.layers:
        if len(layer.bottoms) != RECURRENT.get(layer.type):
            continue
        for blob in layer.bottoms:
            memory = _memory_behind(blob, producer)
            if memory is None or memory.name in seen:
                continue
            if memory.params.get(2, 1) > 1 and memory.params.get(1, 1) == 1:
                seen.add(memory.name)
                yield memory


def _misordered(param: NcnnParam, constant: set[str]) -> Iterator[NcnnLayer]:
    """常量排在前面、后面却还有不是常量的输入的循环层。"""
    for layer in param.layers:
        if len(layer.bottoms) == RECURRENT.get(layer.type) and layer.bottoms[0] in constant:
            if not constant.issuperset(layer.bottoms):
                yield layer


def _constants(param: NcnnParam) -> set[str]:
    found: set[str] = set()
    for layer in param.layers:
        if layer.type == "MemoryData" or (layer.bottoms and found.issuperset(layer.bottoms)):
            found.update(layer.tops)
    return found


def _memory_behind(blob: str, producer: dict[str, NcnnLayer]) -> NcnnLayer | None:
    layer = producer.get(blob)
    while layer is not None and layer.type in ("Split", "Slice") and layer.bottoms:
        layer = producer.get(layer.bottoms[0])
    return layer if layer is not None and layer.type == "MemoryData" and 11 not in layer.params else None


def _reordered(layer: NcnnLayer, constant: set[str], choice: int) -> list[str]:
    """常量与别的输入各按原来的先后，合成 x、h、c；只有一个常量时，它是 h 还是 c 有两种可能。"""
    fixed = [blob for blob in layer.bottoms if blob in constant]
    moving = [blob for blob in layer.bottoms if blob not in constant]
    if len(fixed) == 1 and len(moving) == 2:
        return [moving[0], *((moving[1], fixed[0]) if choice == 0 else (fixed[0], moving[1]))]
    return moving + (fixed if choice == 0 else fixed[::-1])


def _rewrite(
    lines: list[str],
    layer: NcnnLayer,
    bottoms: Sequence[str] | None = None,
    shape: tuple[int, int] | None = None,
) -> None:
    """就地改 .param 的一行：换输入的次序，或把 MemoryData 写成二维 (宽, 高)。"""
    head, *rest = re.findall(r"\S+|\s+", lines[layer.line - 1])
    words = [head, *rest]
    places = [k for k, word in enumerate(words) if not word.isspace()]
    for k, blob in zip(places[4:], bottoms or (), strict=False):
        words[k] = blob
    text = "".join(words)
    if shape is not None:
        first = 4 + len(layer.bottoms) + len(layer.tops)
        text = "".join(words[: places[first]]) + f"0={shape[0]} 1={shape[1]}"
        text += f" 21={layer.params[21]}" if 21 in layer.params else ""
    lines[layer.line - 1] = text


# ---- 跑一次，比一比 ----


def compare(param_path: Path, bin_path: Path, reference: Reference, fp16: bool) -> tuple[float, str]:
    """ncnn 的输出与原模型的最大差（相对于最大的绝对值），与一句附注（没有时为空）；对不上时抛 ``Mismatch``。"""
    param = read_param(param_path)
    reasons = []
    for arrays, note in _views(reference):
        try:
            outputs = _run(param, param_path, bin_path, arrays)
            return _difference(param, outputs, reference, TOLERANCE[fp16]), note + _unused(param, arrays)
        except Mismatch as error:
            reasons.append(error)
    raise reasons[0]


def _unused(param: NcnnParam, arrays: Sequence[np.ndarray]) -> str:
    held = {layer.tops[0] for layer in param.layers if layer.type == "Input"}
    lost = [f"in{k}" for k in range(len(arrays)) if f"in{k}" not in held]
    return f"输入 {'、'.join(lost)} 没有用到，ncnn 模型里没有它" if lost else ""


def _views(reference: Reference) -> Iterator[tuple[list[np.ndarray], str]]:
    """ncnn 没有批：示例输入各去掉哪一维。先照形状看，再照 pnnx 说的。"""
    by_shape = [next((k for k in (0, 1) if k < a.ndim and a.shape[k] == 1), None) for a in reference.inputs]
    by_pnnx = [
        axis if (axis := reference.batch_axes.get(k, 233)) < a.ndim and a.ndim > 1 else None
        for k, a in enumerate(reference.inputs)
    ]
    seen = []
    # 一维、二维的输入可能本来就没有批
    low = [None if a.ndim < 3 else axis for axis, a in zip(by_shape, reference.inputs, strict=True)]
    views = [by_shape, by_pnnx, low]
    if any(a.ndim > 2 and axis is None for a, axis in zip(reference.inputs, by_shape, strict=True)):
        views[:2] = by_pnnx, by_shape
    for axes in views:
        if axes in seen:
            continue
        seen.append(axes)
        pairs = list(zip(reference.inputs, axes, strict=True))
        size = max((a.shape[k] for a, k in pairs if k is not None), default=1)
        note = "" if size == 1 else f"示例输入的批是 {size}；ncnn 没有批这一维，只核对了其中第一条"
        yield [a if k is None else a.take(0, k) for a, k in pairs], note


def _run(
    param: NcnnParam, param_path: Path, bin_path: Path, arrays: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    names = sorted((layer.tops[0] for layer in param.layers if layer.type == "Input"), key=natural)
    indices = index_inputs(param)
    where = {blob: layer for layer in param.layers for blob in layer.tops}
    given: dict[str, Any] = {}
    for name in names:
        number = natural(name)[1]
        if not 0 <= number < len(arrays):
            raise Mismatch(f"ncnn 模型多出输入 {name}，原模型只有 {len(arrays)} 个")
        given[name] = arrays[number].astype(np.int32 if name in indices else np.float32)
    wanted = [blob for layer in param.layers if layer.type != "Input" for blob in layer.tops]
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(inputs, **(given | {"?": np.array(wanted)}))
        child = Path(__file__).with_name("ncnn_child.py")
        command = [
            sys.executable,
            "-P",
            str(child),
            str(param_path),
            str(bin_path),
            str(inputs),
            str(outputs),
        ]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=600, check=False
            )
        except subprocess.TimeoutExpired:
            raise Mismatch("ncnn 跑了 600 秒还没有跑完") from None
        if result.returncode == 0 and outputs.is_file():
            with np.load(outputs) as made:
                return {name: made[name] for name in made.files}
    reached = result.stdout.split()
    layer = where.get(reached[-1]) if reached else None
    said = (result.stderr.strip().split("\n") or [""])[-1][:200]
    if layer is None:
        raise Mismatch(f"ncnn 载入这个模型失败：{said}")
    how = f"崩溃（信号 {-result.returncode}）" if result.returncode < 0 else f"算不下去（{said}）"
    raise Mismatch(f"ncnn 跑到第 {layer.line} 行的 {layer.type} 层 {layer.name} 时{how}")


def _difference(
    param: NcnnParam, outputs: dict[str, np.ndarray], reference: Reference, tolerance: float
) -> float:
    where = {blob: layer for layer in param.layers for blob in layer.tops}
    worst = 0.0
    for k, expected in enumerate(reference.outputs):
        name = f"out{k}"
        if name not in outputs:
            raise Mismatch(f"ncnn 模型没有第 {k} 个输出 {name}：转换时丢了")
        layer, got = where[name], outputs[name].squeeze()
        title = f"第 {layer.line} 行的 {layer.type} 层 {layer.name} 给出的第 {k} 个输出 {name} "
        fits = [a for a in _without_batch(expected) if a.shape == got.shape]
        if not fits:
            raise Mismatch(f"{title}的形状是 {outputs[name].shape}，原模型的是 {expected.shape}")
        gaps = [_gap(got, a) for a in fits]
        if not min(gaps) <= tolerance:
            raise Mismatch(f"{title}与原模型相差 {min(gaps):.1e}（相对于最大的绝对值），超过 {tolerance:.0e}")
        worst = max(worst, min(gaps))
    return worst


def _without_batch(expected: np.ndarray) -> Iterator[np.ndarray]:
    yield expected.squeeze()
    for axis in range(min(expected.ndim, 2)):
        if expected.shape[axis] > 1:
            yield expected.take(0, axis).squeeze()


def _gap(got: np.ndarray, expected: np.ndarray) -> float:
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isnan(got), np.isnan(expected)):
        return np.inf
    same = (got == expected) | np.isnan(got)  # 两边同为无穷
    difference = np.abs(np.where(same, 0, got) - np.where(same, 0, expected)).max(initial=0)
    finite = np.abs(expected[np.isfinite(expected)])
    return float(difference / max(finite.max(initial=0), 1e-30)) if difference else 0.0
