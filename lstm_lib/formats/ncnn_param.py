"""ncnn 的文本结构文件 .param：解析成普通对象，并检查计数与连线。

格式依据：ncnn 源码 src/net.cpp、src/paramdict.cpp（2026 年 7 月的版本）。
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = 7767517
_MAX_PARAMS = 32  # ncnn 的 NCNN_MAX_PARAM_COUNT
# pnnx 自己的算子；别的带点的名字（如 rife.Warp）是自定义的 ncnn 层
PNNX = ("pnnx.", "nn.", "F.", "torch.", "Tensor.", "torchvision.", "aten::", "prim::")
_TOKEN = re.compile(r'[^\s"]*"[^"]*"|\S+')  # 以空白分开；引号里的空白与逗号属于同一项


@dataclass(frozen=True)
class NcnnLayer:
    """.param 的一行：``类型 名字 输入数 输出数 输入… 输出… 键=值…``；``line`` 是行号。"""

    type: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: dict[int, Any]
    line: int
    path: str = ""

    @property
    def where(self) -> str:
        return f"{self.path}：第 {self.line} 行（{self.name}）"


@dataclass(frozen=True)
class NcnnParam:
    """整个 .param 文件。"""

    path: str
    layers: tuple[NcnnLayer, ...]
    blob_count: int
    notes: tuple[str, ...] = ()  # 与规矩不合、但 ncnn 容得下的地方


def read_param(path: str | os.PathLike) -> NcnnParam:
    """解析 ncnn 的文本 .param；格式不对时报 ``ValueError``，指明文件和行。

    计数与内容不合而 ncnn 照样能读的，按 ncnn 的读法读，并记在 ``notes`` 里。
    """
    raw = existing(path, ".param").read_bytes()
    if raw[:4] == MAGIC.to_bytes(4, "little"):
        raise ValueError(f"{path}：这是二进制的 .param.bin，请改用文本的 .param")
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}：第 {error.start} 字节起不是文本，这不是 .param 文件") from None
    rows = [(number, _TOKEN.findall(line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows or rows[0][1] != [str(MAGIC)]:
        raise ValueError(f"{path}：第 1 行应是 ncnn 的标记 {MAGIC}，这不是 .param 文件")
    if len(rows) < 2 or len(rows[1][1]) != 2:
        raise ValueError(f"{path}：第 2 行应是“层数 数据块数”两个整数")
    number, counts = rows[1]
    layer_count, blob_count = (_integer(path, number, value) for value in counts)
    found = len(rows) - 2
    if layer_count > found or layer_count <= 0:
        raise ValueError(f"{path}：第 {number} 行声明 {layer_count} 层，文件里却有 {found} 层")
    notes = []
    if layer_count < found:
        notes.append(
            f"第 {number} 行声明 {layer_count} 层，后面却有 {found} 行；ncnn 只读前 {layer_count} 层，这里也一样"
        )
    for line, (kind, *_) in rows[2:]:
        if kind.startswith(PNNX):
            whole = any(fields[0] == "pnnx.Input" for _, fields in rows)
            hint = "请给 .ncnn.param，不是 .pnnx.param" if whole else "它没能换成 ncnn 的层，ncnn 也载入不了"
            raise ValueError(f"{path}：第 {line} 行的 {kind} 是 pnnx 的算子；{hint}")
    layers = tuple(_parse_layer(path, line, fields) for line, fields in rows[2 : 2 + layer_count])
    notes += _check_wiring(path, layers, blob_count, number)
    return NcnnParam(str(path), layers, blob_count, tuple(notes))


def existing(path: str | os.PathLike, what: str) -> Path:
    """要读的 ``what`` 文件；没有或是文件夹就报错。"""
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} 是文件夹，不是 {what} 文件")
    if not os.path.exists(path):
        raise FileNotFoundError(f"找不到 {what} 文件：{path}")
    return Path(path)


def _integer(path: str | os.PathLike, line: int, text: str) -> int:
    digits = text[1:] if text[:1] in "+-" else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or abs(int(text)) >= 2**31:
        raise ValueError(f"{path}：第 {line} 行的 {text[:40]!r} 不是 32 位整数")
    return int(text)


def _value(path: str | os.PathLike, line: int, text: str) -> int | float | str:
    if not text:
        raise ValueError(f"{path}：第 {line} 行有一个参数没有值")
    if text[0].isalpha() or text[0] == '"':
        return text.strip('"')
    if "." in text or "e" in text.lower():
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{path}：第 {line} 行的 {text[:40]!r} 不是数") from None
    return _integer(path, line, text)


def _parse_layer(path: str | os.PathLike, line: int, fields: Sequence[str]) -> NcnnLayer:
    if len(fields) < 4:
        raise ValueError(f"{path}：第 {line} 行太短，至少要有“类型 名字 输入数 输出数”")
    kind, name = fields[:2]
    n_in, n_out = (_integer(path, line, value) for value in fields[2:4])
    if n_in < 0 or n_out < 0 or 4 + n_in + n_out > len(fields):
        raise ValueError(f"{path}：第 {line} 行声明 {n_in} 个输入、{n_out} 个输出，后面却没有这么多名字")
    blobs = fields[4 : 4 + n_in + n_out]
    params: dict[int, Any] = {}
    for text in fields[4 + n_in + n_out :]:
        number, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{path}：第 {line} 行的 {text[:40]!r} 不是“键=值”；输入输出的个数是否写对了？")
        key = _integer(path, line, number)
        items = [value] if value.startswith('"') else value.split(",")
        if key <= -23300:  # 旧写法的数组：-233键=个数,值,值……
            key = -key - 23300
            if _integer(path, line, items[0]) != len(items) - 1:
                raise ValueError(
                    f"{path}：第 {line} 行的数组声明 {items[0][:40]} 个数，实际 {len(items) - 1} 个"
                )
            params[key] = tuple(_value(path, line, item) for item in items[1:])
        else:
            values = tuple(_value(path, line, item) for item in items)
            params[key] = values if len(items) > 1 else values[0]
        if not 0 <= key < _MAX_PARAMS:
            raise ValueError(f"{path}：第 {line} 行的键 {key} 超出 0…{_MAX_PARAMS - 1}")
    return NcnnLayer(kind, name, tuple(blobs[:n_in]), tuple(blobs[n_in:]), params, line, str(path))


def _check_wiring(
    path: str | os.PathLike, layers: Sequence[NcnnLayer], blob_count: int, line: int
) -> list[str]:
    """查连线与数据块的个数；ncnn 容得下的不合之处作为附注返回。"""
    made: set[str] = set()
    free: dict[str, int] = {}  # 没有哪一层产生的输入：ncnn 当作模型的输入；各自先在哪一行用到
    for layer in layers:
        for blob in layer.bottoms:
            if blob not in made:
                free.setdefault(blob, layer.line)
        for blob in layer.tops:
            if blob in made or blob in free:
                raise ValueError(f"{path}：第 {layer.line} 行的输出 {blob[:40]!r} 与前面的重名")
            made.add(blob)
    count = len(made) + len(free)
    if count > blob_count:  # ncnn 会写到数组外面去
        for blob, at in free.items():
            raise ValueError(f"{path}：第 {at} 行的输入 {blob[:40]!r} 在前面没有哪一层产生")
        raise ValueError(f"{path}：第 {line} 行声明 {blob_count} 个数据块，文件里却有 {count} 个")
    notes = [
        f"第 {at} 行的输入 {blob[:40]!r} 没有哪一层产生，ncnn 当作模型的输入" for blob, at in free.items()
    ]
    if count < blob_count:
        notes.append(f"第 {line} 行声明 {blob_count} 个数据块，文件里只有 {count} 个；ncnn 容得下多报的")
    return notes


def find_lstm(param: NcnnParam, name: str | None = None) -> NcnnLayer:
    """LSTM 层；有几个时必须用 ``name`` 指定。"""
    found = [layer for layer in param.layers if layer.type == "LSTM"]
    if not found:
        said = "".join(f"（{note}）" for note in param.notes)
        others = sorted({layer.type for layer in param.layers} & {"GRU", "RNN"})
        hint = f"，有的是 {'、'.join(others)}" if others else ""
        raise ValueError(f"{param.path}：里面没有 LSTM 层{hint}{said}")
    names = "、".join(layer.name for layer in found)
    if name is None and len(found) > 1:
        raise ValueError(f"{param.path}：有 {len(found)} 个 LSTM 层（{names}），请用 name 指定一个")
    chosen = found if name is None else [layer for layer in found if layer.name == name]
    if len(chosen) != 1:
        raise ValueError(f"{param.path}：没有名为 {name!r} 的 LSTM 层（或重名）；有的是：{names}")
    return chosen[0]
