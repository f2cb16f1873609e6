"""ncnn 的权重文件 .bin：按 .param 走过每一块，原样读出 LSTM 层，再翻译成本书的 LSTM。

格式依据：ncnn 源码 src/modelbin.cpp、src/layer/*.cpp（2026 年 7 月的版本）。
整数一律小端，与 ncnn 写文件的习惯相同。
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

import numpy as np

from lstm_lib.formats import ncnn_layers, ncnn_state, stacks
from lstm_lib.formats.ncnn_param import NcnnLayer, NcnnParam, existing, find_lstm, read_param
from lstm_lib.lstm import LSTM, layouts

AnyLSTM = TypeVar("AnyLSTM", bound=LSTM)

FLAG_FP32 = 0
FLAG_FP16 = 0x01306B47
FLAG_INT8 = 0x000D4B38
FLAG_FP32_RAW = 0x0002C056  # 也是 float32，旧版量化工具写的
STORAGE = {FLAG_FP32: "fp32", FLAG_FP32_RAW: "fp32", FLAG_FP16: "fp16", FLAG_INT8: "int8"}
_ITEM_SIZE = {FLAG_FP32: 4, FLAG_FP32_RAW: 4, FLAG_FP16: 2, FLAG_INT8: 1}


@dataclass(frozen=True)
class BinBlock:
    """.bin 里的一块权重。``flag`` 为 None 表示没有 4 字节的标志；``size`` 连标志和补齐在内，单位字节。

    ``storage`` 是 fp32、fp16、int8，或 table：旧工具的查表量化，先是 256 个 float32，再是一个数一字节的下标。
    """

    layer: str
    label: str
    offset: int
    flag: int | None
    count: int
    size: int

    @property
    def storage(self) -> str:
        return "fp32" if self.flag is None else STORAGE.get(self.flag, "table")


@dataclass(frozen=True)
class NcnnLSTM:
    """一个 LSTM 层。权重一律解码成 float32，门顺序仍是文件里的 I F O G。

    ``weight_xc`` [D, 4H, I]，``bias`` [D, 4H]（torch 的两个偏置已相加），
    ``weight_hc`` [D, 4H, num_output]，``weight_hr`` [D, num_output, H] 或 None（只有投影 LSTM 有）。
    ``storage`` 是 x 权重在文件里的存法；int8 时另有原始整数与每行的 scale（整数 = 权重 × scale，取整）。
    ``direction``：0 正向，1 反向，2 双向。
    ``initial_state``：图里写死的初态 h [D, num_output]、c [D, H]；没有或全零时是 None；
    由图的输入给出或随输入而变时是文字，说明原因。
    """

    name: str
    input_size: int
    num_output: int
    hidden_size: int
    direction: int
    weight_xc: np.ndarray
    bias: np.ndarray
    weight_hc: np.ndarray
    weight_hr: np.ndarray | None
    storage: str
    weight_xc_int8: np.ndarray | None = None
    weight_hc_int8: np.ndarray | None = None
    weight_xc_scales: np.ndarray | None = None
    weight_hc_scales: np.ndarray | None = None
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    params: dict[int, Any] = field(default_factory=dict)
    initial_state: tuple[np.ndarray, np.ndarray] | str | None = None

    @property
    def has_state(self) -> bool:
        """输入里是否带初始的 h、c。"""
        return len(self.bottoms) == 3


# ---- .bin：沿 .param 走过每一块 ----


def _walk(
    param: NcnnParam,
    file: BinaryIO,
    length: int,
    bin_path: str | os.PathLike,
    target: NcnnLayer | None = None,
) -> Iterator[tuple[NcnnLayer, BinBlock]]:
    """沿 .param 的次序走过 .bin，不读权重本身；越界或标志不认识就报错。

    给了 ``target``，遇到它后面的自定义层就停下：那以后存了什么与它无关。
    """
    offset, passed, doubt = 0, False, ""
    for layer in param.layers:
        if not ncnn_layers.known(layer):
            if passed:
                if doubt:
                    raise ValueError(doubt)
                return
            wanted = f" {target.type} 层 {target.name} " if target else ""
            raise ValueError(
                f"{param.path}：第 {layer.line} 行的 {layer.type} 层（{layer.name}）不是 ncnn 自带的层，"
                f"它存没有存权重、存了多少，从文件里看不出来，因此找不到它后面{wanted}的权重；"
                "请从转换前的 torch 或 ONNX 模型读"
            )
        for label, count, flagged in ncnn_layers.blocks(layer):
            if not isinstance(count, int) or count <= 0:
                raise ValueError(
                    f"{param.path}：第 {layer.line} 行（{layer.name}）的 {label} 个数 {count} 应是正整数"
                )
            flag = None
            if flagged:
                file.seek(offset)
                head = file.read(4)
                flag = int.from_bytes(head, "little") if len(head) == 4 else FLAG_FP32
                if flag not in STORAGE and not doubt:
                    # ncnn 把别的标志都当作查表量化；是不是真的，要看字节数最后对不对得上
                    doubt = (
                        f"{bin_path}：第 {offset} 字节处（{layer.name} 的 {label}）"
                        f"的标志 0x{flag:08X} 不认识；.bin 与 .param 是一对吗？"
                    )
            block = BinBlock(layer.name, label, offset, flag, count, _block_size(flag, count))
            if offset + block.size > length:
                raise ValueError(
                    doubt
                    or f"{bin_path}：文件只有 {length} 字节，{layer.name} 的 {label} 却要从第 {offset} "
                    f"字节起读 {block.size} 字节；文件不完整，或与 .param 不是一对"
                )
            yield layer, block
            offset += block.size
        passed |= layer is target
    if offset != length:
        raise ValueError(
            doubt or f"{bin_path}：读完所有权重后还多出 {length - offset} 字节，.bin 与 .param 不是一对"
        )


def _block_size(flag: int | None, count: int) -> int:
    """一块占的字节：标志 4 字节，数据补齐到 4 的倍数；查表量化的先有 256 个 float32。"""
    if flag is None:
        return 4 * count
    table = 0 if flag in STORAGE else 4 * 256
    return 4 + table + -(-count * _ITEM_SIZE.get(flag, 1) // 4) * 4


def bin_layout(param_path: str | os.PathLike, bin_path: str | os.PathLike) -> list[BinBlock]:
    """.bin 里从头到尾的每一块：层、名字、起点、标志、个数与字节数。

    抛出:
        ValueError: 多一个字节、少一个字节；消息说明是哪一个文件、哪一块
    """
    param = read_param(param_path)
    with existing(bin_path, ".bin").open("rb") as file:
        length = file.seek(0, 2)
        return [block for _, block in _walk(param, file, length, bin_path)]


def read_lstm(
    param_path: str | os.PathLike, bin_path: str | os.PathLike, name: str | None = None
) -> NcnnLSTM:
    """读出一个 LSTM 层的全部权重；有几个 LSTM 层时用 ``name`` 指定。

    .param、.bin 有任何不对（标记、计数、标志、长度）时报 ``ValueError``，指明文件与行或字节。
    """
    param = read_param(param_path)
    target = find_lstm(param, name)
    num_output, hidden, direction, directions, inputs = ncnn_layers.lstm_sizes(target)
    state = ncnn_state.State(param, target)
    with existing(bin_path, ".bin").open("rb") as file:
        length = file.seek(0, 2)
        blocks: dict[str, tuple[BinBlock, np.ndarray]] = {}
        for layer, block in _walk(param, file, length, bin_path, target):
            if layer is target:
                blocks[block.label] = block, _read_block(file, block)
            elif state.wants(layer):
                state.data[layer.name] = _read_block(file, block).astype(np.float32)
    shapes = {
        "weight_xc": (directions, 4 * hidden, inputs),
        "bias": (directions, 4 * hidden),
        "weight_hc": (directions, 4 * hidden, num_output),
        "weight_hr": (directions, num_output, hidden),
        "weight_xc_scales": (directions, 4 * hidden),
        "weight_hc_scales": (directions, 4 * hidden),
    }
    raw = {label: array.reshape(shapes[label]) for label, (_, array) in blocks.items()}
    decoded: dict[str, Any] = {
        label: _decode(bin_path, target, label, raw)
        for label in ("weight_xc", "bias", "weight_hc", "weight_hr")
    }
    scales: dict[str, Any] = {k: raw.get(k) for k in ("weight_xc_scales", "weight_hc_scales")}
    return NcnnLSTM(
        name=target.name,
        input_size=inputs,
        num_output=num_output,
        hidden_size=hidden,
        direction=direction,
        **decoded,
        storage=blocks["weight_xc"][0].storage,
        **{f"{k}_int8": raw[k] for k in ("weight_xc", "weight_hc") if raw[k].dtype == np.int8},
        **scales,
        bottoms=target.bottoms,
        tops=target.tops,
        params=dict(target.params),
        initial_state=state.value(),
    )


def _read_block(file: BinaryIO, block: BinBlock) -> np.ndarray:
    file.seek(block.offset + (0 if block.flag is None else 4))
    if block.storage == "table":
        table = np.frombuffer(file.read(4 * 256), "<f4")
        return table[np.frombuffer(file.read(block.count), np.uint8)]
    dtype = {"fp32": "<f4", "fp16": "<f2", "int8": "i1"}[block.storage]
    return np.frombuffer(file.read(block.count * np.dtype(dtype).itemsize), dtype)


def _decode(
    path: str | os.PathLike, layer: NcnnLayer, label: str, raw: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    value = raw.get(label)
    if value is None:
        return None
    if value.dtype != np.int8:
        return value.astype(np.float32)
    scales = raw.get(f"{label}_scales")
    if scales is None:
        raise ValueError(
            f"{path}：{layer.name} 的 {label} 存成 int8，.param 里却没有 8=（量化标记），不知道 scale"
        )
    if not np.all(np.isfinite(scales) & (scales > 0)):
        raise ValueError(f"{path}：{layer.name} 的 {label} 的 scale 里有零、负数或非数")
    return value.astype(np.float32) / scales[..., None]


# ---- 翻译成本书的 LSTM ----

_DIRECTIONS = ("forward", "reverse", "bidirectional")  # 2= 的 0、1、2


def load_lstm(
    cls: type[AnyLSTM], param_path: str | os.PathLike, bin_path: str | os.PathLike, name: stacks.Names = None
) -> AnyLSTM:
    """ncnn 的 LSTM 层 → LSTM；规格见 ncnn 源码 src/layer/lstm.cpp。

    不给 ``name`` 而几层首尾直接相接，就读成一个多层的 LSTM；``name`` 也可以是一叠的几个名字，自下而上。
    fp16、int8 存放的权重按文件里的数还原成 float32：int8 模型在 ncnn 里还要把 x 与 h 逐步量化，这里不做。
    ncnn 没有批这一维，通常用不分批的 (T, I) 输入与它对照。图里写死的初态成为缺省值；
    初态由图的输入给出或随输入而变的，调用时必须给 ``state``。
    """
    name, *above = stacks.ncnn_chain(read_param(param_path), name)
    if above:
        layers = [load_lstm(cls, param_path, bin_path, each) for each in (name, *above)]
        return stacks.stack(layers, str(param_path))
    layer = read_lstm(param_path, bin_path, name)
    proj_size = 0 if layer.weight_hr is None else layer.num_output
    config = layouts.LSTMConfig(
        layer.input_size, layer.hidden_size, direction=_DIRECTIONS[layer.direction], proj_size=proj_size
    )
    parameters = {}
    for d, suffix in enumerate(config.suffixes):
        for target, source in (("weight_ih", "weight_xc"), ("weight_hh", "weight_hc"), ("bias", "bias")):
            parameters[f"{target}_l0{suffix}"] = layouts.reorder(getattr(layer, source)[d], "ncnn", "torch")
        if layer.weight_hr is not None:
            parameters[f"weight_hr_l0{suffix}"] = layer.weight_hr[d]
    state = layer.initial_state
    if isinstance(state, tuple):  # 补上批这一维
        state = state[0][:, None], state[1][:, None]
    return cls(config, parameters, initial_state=state)
