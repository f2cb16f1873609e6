"""本书自己的二进制权重文件：编码、解码，坏文件指明第几个字节、为什么。

每个字节由 ``HEADER_FIELDS`` 与 ``array_layout`` 说明，布局如下（全部小端）：

====== ==== ===================================================================
偏移    长度  内容
====== ==== ===================================================================
0       8    魔数 ``89 4C 53 54 4D 0D 0A 1A``（0x89、"LSTM"、回车、换行、0x1A）
8       4    uint32 版本号，现为 1
12      4    uint32 文件头长度，版本 1 恒为 64
16      4    uint32 标志位：1 有偏置；2 batch_first；4 双向；8 只有反向；其余必须为 0
20      4    uint32 input_size
24      4    uint32 hidden_size
28      4    uint32 num_layers
32      4    uint32 proj_size，0 表示没有投影
36      4    uint32 数的类型：1 是 float32，2 是 float64
40      8    uint64 数据区的字节数
48      4    uint32 数据区的 CRC-32（zlib、PNG 所用的那一种）
52      8    保留，必须全为 0
60      4    uint32 文件头前 60 个字节的 CRC-32
64      …    数据区：逐层、每层先正向后反向，依次放 weight_ih、weight_hh、bias（若有）、
             weight_hr（若有投影）；按行存放，门顺序 i f g o，数组之间没有空隙
====== ==== ===================================================================
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lstm_lib.lstm.layouts import LSTMConfig

MAGIC = b"\x89LSTM\r\n\x1a"
VERSION = 1
HEADER_SIZE = 64
FLAG_BIAS, FLAG_BATCH_FIRST, FLAG_BIDIRECTIONAL, FLAG_REVERSE = 1, 2, 4, 8
DTYPES: dict[int, np.dtype] = {1: np.dtype("<f4"), 2: np.dtype("<f8")}

HEADER_FIELDS = [  # (偏移, 长度, struct 格式, 名字, 说明)
    (0, 8, "8s", "magic", "魔数"),
    (8, 4, "I", "version", "版本号"),
    (12, 4, "I", "header_size", "文件头长度"),
    (16, 4, "I", "flags", "标志位"),
    (20, 4, "I", "input_size", "输入维数"),
    (24, 4, "I", "hidden_size", "隐藏单元数"),
    (28, 4, "I", "num_layers", "层数"),
    (32, 4, "I", "proj_size", "投影维数"),
    (36, 4, "I", "dtype", "数的类型"),
    (40, 8, "Q", "data_size", "数据区字节数"),
    (48, 4, "I", "data_crc", "数据区 CRC-32"),
    (52, 8, "8s", "reserved", "保留"),
    (60, 4, "I", "header_crc", "文件头 CRC-32"),
]
_HEADER = struct.Struct("<" + "".join(field[2] for field in HEADER_FIELDS))


class WeightFileError(ValueError):
    """权重文件不可用；``offset`` 是出问题的字节在文件里的位置（从 0 数起）。"""

    def __init__(self, message: str, offset: int, name: str | None = None) -> None:
        self.offset = offset
        where = f"权重文件 {name}" if name else "权重数据"
        super().__init__(f"{where}：第 {offset} 字节处，{message}")


def array_layout(config: LSTMConfig) -> list[tuple[str, int, tuple[int, ...]]]:
    """数据区里每个数组的 (参数名, 文件偏移, 形状)。"""
    itemsize, offset, rows = np.dtype(config.dtype).itemsize, HEADER_SIZE, []
    for name, shape in config.shapes().items():
        rows.append((name, offset, shape))
        offset += itemsize * _count(shape)
    return rows


def file_size(config: LSTMConfig) -> int:
    """权重文件的总字节数。第 1 层以上各层尺寸相同，所以只数两层：读到荒唐的层数也不会卡住。"""
    one, two = (sum(map(_count, replace(config, num_layers=layers).shapes().values())) for layers in (1, 2))
    return HEADER_SIZE + np.dtype(config.dtype).itemsize * (one + (two - one) * (config.num_layers - 1))


def encode(config: LSTMConfig, arrays: Mapping[str, np.ndarray]) -> bytes:
    """把配置与参数（名字到数组，形状须合 ``config.shapes()``）编成权重文件的全部字节。"""
    code = {np.dtype(d).name: k for k, d in DTYPES.items()}[config.dtype]
    chunks = []
    for name, shape in config.shapes().items():
        if np.shape(arrays[name]) != shape:
            raise ValueError(f"参数 {name} 的形状应为 {shape}，得到 {np.shape(arrays[name])}")
        chunks.append(np.ascontiguousarray(arrays[name], dtype=DTYPES[code]).tobytes())
    data = b"".join(chunks)
    flags = flag_bits(config)
    sizes = (config.input_size, config.hidden_size, config.num_layers, config.proj_size, code)
    fields = (MAGIC, VERSION, HEADER_SIZE, flags, *sizes, len(data), zlib.crc32(data), bytes(8), 0)
    header = _HEADER.pack(*fields)[:-4]
    return header + struct.pack("<I", zlib.crc32(header)) + data


def flag_bits(config: LSTMConfig) -> int:
    """配置里的真假与方向 → 标志位。"""
    flags = FLAG_BIAS * config.bias | FLAG_BATCH_FIRST * config.batch_first
    return flags | {"bidirectional": FLAG_BIDIRECTIONAL, "reverse": FLAG_REVERSE}.get(config.direction, 0)


def read_header(data: bytes, name: str | None = None) -> dict[str, Any]:
    """检查文件头并返回各字段（名字见 ``HEADER_FIELDS``）；不合规格抛 ``WeightFileError``，指明字节与原因。

    只需要文件的前 64 个字节；``name`` 是文件名，只用在报错里。
    """
    check_magic(data, name)
    if len(data) < 12:
        raise WeightFileError(f"文件在这里断了：连版本号都不全（共 {len(data)} 字节）", len(data), name)
    version = struct.unpack_from("<I", data, 8)[0]
    if version != VERSION:
        advice = "它由更新的程序写成，请升级本程序" if version > VERSION else "这个版本号从未用过，文件已损坏"
        if version == 2:
            advice = "版本 2 是整个网络的文件，请用 lstm_lib.formats.network_file.load 读"
        raise WeightFileError(f"版本号是 {version}，这里只认版本 {VERSION}；{advice}", 8, name)
    if len(data) < HEADER_SIZE:
        raise WeightFileError(f"文件在这里断了：文件头应有 {HEADER_SIZE} 字节", len(data), name)
    fields = dict(zip((f[3] for f in HEADER_FIELDS), _HEADER.unpack_from(data), strict=True))
    crc = zlib.crc32(data[: HEADER_SIZE - 4])
    if crc != fields["header_crc"]:
        raise WeightFileError(
            f"文件头的 CRC-32 记的是 {fields['header_crc']:08x}，按前 60 字节算出 {crc:08x}；文件头已损坏",
            60,
            name,
        )
    if fields["header_size"] != HEADER_SIZE:
        raise WeightFileError(f"文件头长度是 {fields['header_size']}，版本 1 应为 {HEADER_SIZE}", 12, name)
    flags = fields["flags"]
    if flags > 15 or flags & 12 == 12:
        raise WeightFileError(f"标志位 {flags:#x} 里有版本 1 没有的组合", 16, name)
    for offset, _, _, field, label in HEADER_FIELDS[4:7]:
        if fields[field] == 0:
            raise WeightFileError(f"{label} {field} 是 0", offset, name)
    if fields["dtype"] not in DTYPES:
        raise WeightFileError(f"数的类型是 {fields['dtype']}，只认 1（float32）与 2（float64）", 36, name)
    if fields["reserved"] != bytes(8):
        raise WeightFileError("保留字节不全为 0", 52, name)
    expected = file_size(header_config(fields)) - HEADER_SIZE
    if fields["data_size"] != expected:
        raise WeightFileError(f"数据区长度记为 {fields['data_size']}，按各尺寸应为 {expected}", 40, name)
    return fields


def header_config(fields: Mapping[str, Any]) -> LSTMConfig:
    """文件头各字段对应的配置。"""
    flags = fields["flags"]
    return LSTMConfig(
        fields["input_size"],
        fields["hidden_size"],
        fields["num_layers"],
        {0: "forward", FLAG_BIDIRECTIONAL: "bidirectional", FLAG_REVERSE: "reverse"}[flags & 12],
        bias=bool(flags & FLAG_BIAS),
        batch_first=bool(flags & FLAG_BATCH_FIRST),
        proj_size=fields["proj_size"],
        dtype=DTYPES[fields["dtype"]].name,
    )


def decode(data: bytes, name: str | None = None) -> tuple[LSTMConfig, dict[str, np.ndarray]]:
    """权重文件的全部字节 → (配置, 参数名到数组)；截断、损坏、别的格式、未来的版本都会被拒绝。"""
    fields = read_header(data, name)
    end = HEADER_SIZE + fields["data_size"]
    if len(data) < end:
        raise WeightFileError(
            f"文件在这里断了：应有 {end} 字节，还缺 {end - len(data)} 字节", len(data), name
        )
    if len(data) > end:
        raise WeightFileError(f"从这里起多出 {len(data) - end} 字节", end, name)
    crc = zlib.crc32(memoryview(data)[HEADER_SIZE:])
    if crc != fields["data_crc"]:
        raise WeightFileError(
            f"这里记的数据区 CRC-32 是 {fields['data_crc']:08x}，"
            f"按第 {HEADER_SIZE}–{end - 1} 字节算出 {crc:08x}；"
            "数据区某处已损坏（CRC 查不出具体位置），请重新下载或重新导出",
            48,
            name,
        )
    config, dtype = header_config(fields), DTYPES[fields["dtype"]]
    arrays = {
        key: np.frombuffer(data, dtype, _count(shape), offset).reshape(shape).astype(config.dtype)
        for key, offset, shape in array_layout(config)
    }
    return config, arrays


def check_magic(data: bytes, name: str | None) -> None:
    """魔数不对时，指出第一个不同的字节；文本方式传输弄坏的换行单独说明。"""
    if bytes(data[:8]) == MAGIC:
        return
    if MAGIC.startswith(bytes(data[:8])):
        raise WeightFileError(f"文件在这里断了：只有 {len(data)} 字节，连魔数都不全", len(data), name)
    at = next(k for k in range(8) if bytes(data[k : k + 1]) != MAGIC[k : k + 1])
    hint = "；换行符被改过，请用二进制方式传文件" if 5 <= at < 7 else "，这不是本书的权重文件"
    found = f"{data[at]:#04x}"
    raise WeightFileError(f"魔数应为 {MAGIC[at]:#04x}，读到 {found}{hint}", at, name)


def _count(shape: Iterable[int]) -> int:
    """数组的元素个数；用 Python 整数算，尺寸再大也不溢出。"""
    count = 1
    for size in shape:
        count *= size
    return count
