"""给 .param 逐词作注：每个数是什么意思，并当场核对。"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lstm_lib.book.tables import Code, Table
from lstm_lib.formats.ncnn_bin import bin_layout
from lstm_lib.formats.ncnn_param import MAGIC, NcnnLayer, read_param

_DIRECTIONS = {0: "正向", 1: "反向", 2: "双向"}


@dataclass(frozen=True)
class Note:
    """一行里的一个词：行号、原文、意思、核对的式子、是否相符。"""

    line: int
    text: str
    meaning: str
    check: str = ""
    ok: bool = True


class Notes(list[Note]):
    """一串注解；显示成表，同一行的词合成一组。"""

    def table(self) -> Table:
        rows = [
            [n.line, Code(n.text), n.meaning, f"{'✓' if n.ok else '✗'} {n.check}" if n.check else ""]
            for n in self
        ]
        return Table(["行", "写着", "意思", "核对"], rows, group=True)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __repr__(self) -> str:
        return repr(self.table())


def annotate(param_path: str | os.PathLike, bin_path: str | os.PathLike | None = None) -> Notes:
    """读 .param，给每个词作注；给了 ``bin_path`` 就连权重的个数一起核对。

    个数来自 ``bin_layout``：它按 .param 走完整个 .bin，一个字节不差，才会给出来。没有东西可比的词，``check`` 是空的。
    文件本身有错时，报 ``read_param`` 与 ``bin_layout`` 的 ``ValueError``。
    """
    param = read_param(param_path)
    blocks: dict[str, dict[str, int]] = {}
    for block in bin_layout(param_path, bin_path) if bin_path is not None else ():
        blocks.setdefault(block.layer, {})[block.label] = block.count
    lines = {}
    with open(param_path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            lines[number] = line.split()
    made = sum(len(layer.tops) for layer in param.layers)
    notes = Notes()
    numbers = [number for number, fields in lines.items() if fields]
    magic = lines[numbers[0]][0]
    notes.append(Note(numbers[0], magic, "ncnn 文本模型的标记，固定不变", f"= {MAGIC}", magic == str(MAGIC)))
    layers, blobs = lines[numbers[1]]
    count = len(numbers) - 2
    notes.append(Note(numbers[1], layers, "层数", f"后面有 {count} 行", int(layers) == count))
    notes.append(
        Note(
            numbers[1],
            blobs,
            "数据块（blob）数，即各层输出的总数",
            f"各行输出共 {made} 个",
            int(blobs) == made,
        )
    )
    for layer in param.layers:
        notes += _layer_notes(layer, blocks.get(layer.name, {}))
    return notes


def _layer_notes(layer: NcnnLayer, counts: Mapping[str, int]) -> Iterator[Note]:
    yield Note(layer.line, layer.type, "层的类型")
    yield Note(layer.line, layer.name, "层的名字")
    yield Note(layer.line, f"{len(layer.bottoms)} {len(layer.tops)}", "输入、输出各有几个")
    for blob in layer.bottoms:
        yield Note(layer.line, blob, "输入")
    roles: tuple[str, ...] = (
        ("每帧的隐藏状态", "末帧的 h", "末帧的 c") if layer.type == "LSTM" and len(layer.tops) == 3 else ("",)
    )
    for blob, role in zip(layer.tops, roles * len(layer.tops), strict=False):
        yield Note(layer.line, blob, f"输出：{role}" if role else "输出")
    if layer.type == "LSTM":
        yield from _lstm_notes(layer, counts)
    else:
        for key, value in layer.params.items():
            yield Note(layer.line, f"{key}={value}", f"第 {key} 号参数")


def _lstm_notes(layer: NcnnLayer, counts: Mapping[str, int]) -> Iterator[Note]:
    p = layer.params
    directions = 2 if p.get(2, 0) == 2 else 1
    output = p.get(0, 0)
    hidden = p.get(3, output)
    inputs, rest = divmod(p.get(1, 0), 4 * hidden * directions or 1)
    for key, value in p.items():
        meaning, check, ok = f"第 {key} 号参数", "", True
        if key == 0:
            meaning = "num_output，每帧输出几个数"
            if "weight_hc" in counts:
                ok = counts["weight_hc"] == directions * 4 * hidden * output
                times = f"{directions}×" if directions > 1 else ""
                check = f".bin 里 weight_hc 有 {counts['weight_hc']} = {times}4×{hidden}×{output} 个数"
        elif key == 1:
            meaning = "weight_data_size，只数 x 的权重，不含 h 的权重与偏置"
            check = f"{f'{directions}×' if directions > 1 else ''}4×{hidden}×{inputs} = {value}"
            ok = rest == 0 and counts.get("weight_xc", value) == value
        elif key == 2:
            ok = value in _DIRECTIONS
            meaning = f"direction：{_DIRECTIONS[value]}（0 正向，1 反向，2 双向）" if ok else "direction"
            check = "" if ok else "应是 0、1、2 之一"
        elif key == 3:
            meaning = "hidden_size；与 num_output 不同时，后面还有投影矩阵"
            check, ok = (
                f"{'=' if value == output else '≠'} num_output",
                value == output or "weight_hr" in counts,
            )
        elif key == 8:
            meaning = "int8_scale_term，不为 0 就是 int8 权重"
        yield Note(layer.line, f"{key}={value}", meaning, check, ok)
    if 3 not in p:
        meaning, check, ok = "省略时 hidden_size 等于 num_output", "", True
        if "weight_hc" in counts:
            rows = counts["weight_hc"] // output
            ok = rows == directions * 4 * output
            check = f"weight_hc 有 {rows} 行 = {f'{directions}×' if directions > 1 else ''}4×{output}"
        yield Note(layer.line, "（没有 3=）", meaning, check, ok)


def blocks_table(param_path: str | os.PathLike, bin_path: str | os.PathLike) -> Table:
    """.bin 里的各块权重排成表：一块一行，从哪个字节起、标志、存法、个数、字节数。"""
    rows = []
    for block in bin_layout(param_path, bin_path):
        flag = "（没有）" if block.flag is None else Code(f"0x{block.flag:08X}")
        storage = block.storage.replace("fp32", "float32")
        rows.append([block.offset, Code(block.label), flag, storage, block.count, block.size])
    return Table(["起始字节", "是什么", "标志", "存法", "个数", "字节"], rows)
