"""门顺序、权重布局，以及本书自己的二进制权重文件。

一个 LSTM 的四个门叠在同一个矩阵里，先后次序各家不同。本模块把次序写成一张表（``GATE_ORDERS``），
其余函数都照表办事。权重文件的每个字节由 ``HEADER_FIELDS`` 与 ``array_layout`` 说明，布局如下（全部小端）：

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
from dataclasses import dataclass, replace

import numpy as np

GATE_ORDERS = {
    "torch": "ifgo",  # PyTorch、cuDNN、Keras（Keras 把 g 写作 c）
    "onnx": "iofg",  # ONNX 标准写作 i o f c，其 c 就是候选值 g
    "ncnn": "ifog",  # ncnn 写作 I F O G
}
GATE_NAMES = {"i": "输入门", "f": "遗忘门", "g": "候选值", "o": "输出门"}

MAGIC = b"\x89LSTM\r\n\x1a"
VERSION = 1
HEADER_SIZE = 64
FLAG_BIAS, FLAG_BATCH_FIRST, FLAG_BIDIRECTIONAL, FLAG_REVERSE = 1, 2, 4, 8
DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8")}

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

    def __init__(self, message, offset, name=None):
        self.offset = offset
        where = f"权重文件 {name}" if name else "权重数据"
        super().__init__(f"{where}：第 {offset} 字节处，{message}")


# ---------------------------------------------------------------- 门顺序


def gate_order(name) -> str:
    """把 ``"torch"``、``"onnx"``、``"ncnn"`` 或任意一个 i f g o 的排列，变成四个字母的门顺序。"""
    order = GATE_ORDERS.get(name, name)
    if not isinstance(order, str) or sorted(order) != sorted("ifgo"):
        raise ValueError(
            f"不认识的门顺序 {name!r}：请用 {'、'.join(GATE_ORDERS)}，或 i f g o 四个字母的一个排列"
        )
    return order


def split_gates(array, order="torch", axis=0) -> dict:
    """把四个门叠在一起的数组切成四块：``{"i": …, "f": …, "g": …, "o": …}``，每块是原数组的视图。"""
    order, array = gate_order(order), np.asarray(array)
    if array.shape[axis] % 4:
        raise ValueError(f"第 {axis} 维长 {array.shape[axis]}，不是 4 的倍数，切不成四个门")
    blocks = dict(zip(order, np.split(array, 4, axis=axis), strict=True))
    return {gate: blocks[gate] for gate in "ifgo"}


def join_gates(blocks, order="torch", axis=0) -> np.ndarray:
    """``split_gates`` 的逆：按 ``order`` 把四块叠成一个数组。"""
    return np.concatenate([blocks[gate] for gate in gate_order(order)], axis=axis)


def reorder(array, source, target, axis=0) -> np.ndarray:
    """把门顺序从 ``source`` 换成 ``target``，返回新数组；``axis`` 是四个门叠放的那一维（长 4H）。"""
    return join_gates(split_gates(array, source, axis), target, axis)


# ---------------------------------------------------------------- 偏置


def merge_bias(bias_ih, bias_hh) -> np.ndarray:
    """两个偏置合成一个：它们在公式里只以和的形式出现，所以导出时相加。"""
    bias_ih, bias_hh = np.asarray(bias_ih), np.asarray(bias_hh)
    if bias_ih.shape != bias_hh.shape:
        raise ValueError(f"两个偏置的形状不同：{bias_ih.shape} 与 {bias_hh.shape}")
    return bias_ih + bias_hh


def split_bias(bias) -> tuple:
    """一个偏置拆回两个，供只认两个偏置的格式使用：全放进 bias_ih，bias_hh 填零（拆法不唯一）。"""
    bias = np.array(bias)
    return bias, np.zeros_like(bias)


# ---------------------------------------------------------------- 形状


@dataclass(frozen=True)
class LSTMConfig:
    """一个 LSTM 的全部尺寸。``direction`` 取 forward、reverse 或 bidirectional；proj_size 为 0 即无投影。"""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    direction: str = "forward"
    bias: bool = True
    batch_first: bool = False
    proj_size: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        for name, least in (("input_size", 1), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} 应为整数，得到 {value!r}")
            if not least <= value < 2**32:
                raise ValueError(f"{name} 应在 {least} 与 2³²−1 之间，得到 {value}")
            object.__setattr__(self, name, int(value))
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise ValueError(f"direction 应为 forward、reverse 或 bidirectional，得到 {self.direction!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype 应为 float32 或 float64，得到 {self.dtype!r}")

    @property
    def suffixes(self) -> tuple:
        """每个方向的参数名后缀，与 PyTorch 相同：正向没有，反向是 ``_reverse``。"""
        return {"forward": ("",), "reverse": ("_reverse",), "bidirectional": ("", "_reverse")}[self.direction]

    @property
    def num_directions(self) -> int:
        return len(self.suffixes)

    @property
    def output_size(self) -> int:
        """一个方向上 h 的维数 P：有投影时是 proj_size，否则是 hidden_size。"""
        return self.proj_size or self.hidden_size

    def layer_input_size(self, layer) -> int:
        """第 ``layer`` 层吃进的维数：第 0 层是 input_size，往上是下一层各方向输出之和。"""
        return self.num_directions * self.output_size if layer else self.input_size

    def shapes(self, biases=("bias",)) -> dict:
        """参数名到形状，次序即权重文件里的存放次序。``biases`` 是每组偏置的名字，缺省合成一个。"""
        gates, shapes = 4 * self.hidden_size, {}
        for layer in range(self.num_layers):
            for suffix in self.suffixes:
                end = f"_l{layer}{suffix}"
                shapes["weight_ih" + end] = (gates, self.layer_input_size(layer))
                shapes["weight_hh" + end] = (gates, self.output_size)
                shapes |= {name + end: (gates,) for name in biases if self.bias}
                if self.proj_size:
                    shapes["weight_hr" + end] = (self.proj_size, self.hidden_size)
        return shapes


def torch_shapes(input_size, hidden_size, num_layers=1, bidirectional=False, bias=True, proj_size=0) -> dict:
    """``torch.nn.LSTM`` 全部参数的名字与形状，次序同 ``named_parameters()``（每个方向两个偏置）。"""
    direction = "bidirectional" if bidirectional else "forward"
    config = LSTMConfig(input_size, hidden_size, num_layers, direction, bias, proj_size=proj_size)
    return config.shapes(biases=("bias_ih", "bias_hh"))


def onnx_shapes(input_size, hidden_size, bidirectional=False, bias=True) -> dict:
    """ONNX 的 LSTM 节点（恒为一层）的 W、R、B 形状；方向在最前一维，B 里两个偏置首尾相接。"""
    directions, gates = 1 + bool(bidirectional), 4 * hidden_size
    shapes = {"W": (directions, gates, input_size), "R": (directions, gates, hidden_size)}
    return shapes | ({"B": (directions, 2 * gates)} if bias else {})


def ncnn_shapes(input_size, hidden_size, bidirectional=False, proj_size=0) -> dict:
    """ncnn 的 LSTM 层（恒为一层）在 .bin 里依次存放的数组；偏置永远在，且已合成一个。"""
    directions, gates = 1 + bool(bidirectional), 4 * hidden_size
    shapes = {
        "weight_xc": (directions, gates, input_size),
        "bias": (directions, gates),
        "weight_hc": (directions, gates, proj_size or hidden_size),
    }
    return shapes | ({"weight_hr": (directions, proj_size, hidden_size)} if proj_size else {})


# ---------------------------------------------------------------- 二进制文件


def array_layout(config) -> list:
    """数据区里每个数组的 (参数名, 文件偏移, 形状)。"""
    itemsize, offset, rows = np.dtype(config.dtype).itemsize, HEADER_SIZE, []
    for name, shape in config.shapes().items():
        rows.append((name, offset, shape))
        offset += itemsize * _count(shape)
    return rows


def file_size(config) -> int:
    """权重文件的总字节数。第 1 层以上各层尺寸相同，所以只数两层：读到荒唐的层数也不会卡住。"""
    one, two = (sum(map(_count, replace(config, num_layers=layers).shapes().values())) for layers in (1, 2))
    return HEADER_SIZE + np.dtype(config.dtype).itemsize * (one + (two - one) * (config.num_layers - 1))


def encode(config, arrays) -> bytes:
    """把配置与参数（名字到数组，形状须合 ``config.shapes()``）编成权重文件的全部字节。"""
    code = {np.dtype(d).name: k for k, d in DTYPES.items()}[config.dtype]
    chunks = []
    for name, shape in config.shapes().items():
        if np.shape(arrays[name]) != shape:
            raise ValueError(f"参数 {name} 的形状应为 {shape}，得到 {np.shape(arrays[name])}")
        chunks.append(np.ascontiguousarray(arrays[name], dtype=DTYPES[code]).tobytes())
    data = b"".join(chunks)
    flags = FLAG_BIAS * config.bias | FLAG_BATCH_FIRST * config.batch_first
    flags |= {"forward": 0, "bidirectional": FLAG_BIDIRECTIONAL, "reverse": FLAG_REVERSE}[config.direction]
    sizes = (config.input_size, config.hidden_size, config.num_layers, config.proj_size, code)
    fields = (MAGIC, VERSION, HEADER_SIZE, flags, *sizes, len(data), zlib.crc32(data), bytes(8), 0)
    header = _HEADER.pack(*fields)[:-4]
    return header + struct.pack("<I", zlib.crc32(header)) + data


def read_header(data, name=None) -> dict:
    """检查文件头并返回各字段（名字见 ``HEADER_FIELDS``）；不合规格抛 ``WeightFileError``，指明字节与原因。

    只需要文件的前 64 个字节；``name`` 是文件名，只用在报错里。
    """
    _check_magic(data, name)
    if len(data) < 12:
        raise WeightFileError(f"文件在这里断了：连版本号都不全（共 {len(data)} 字节）", len(data), name)
    version = struct.unpack_from("<I", data, 8)[0]
    if version != VERSION:
        advice = "它由更新的程序写成，请升级本程序" if version > VERSION else "这个版本号从未用过，文件已损坏"
        raise WeightFileError(f"版本号是 {version}，本程序只认版本 {VERSION}；{advice}", 8, name)
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


def header_config(fields) -> LSTMConfig:
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


def decode(data, name=None) -> tuple:
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


def _check_magic(data, name):
    """魔数不对时，指出第一个不同的字节；文本方式传输弄坏的换行单独说明。"""
    if bytes(data[:8]) == MAGIC:
        return
    if MAGIC.startswith(bytes(data[:8])):
        raise WeightFileError(f"文件在这里断了：只有 {len(data)} 字节，连魔数都不全", len(data), name)
    at = next(k for k in range(8) if bytes(data[k : k + 1]) != MAGIC[k : k + 1])
    hint = "；换行符被改过，请用二进制方式传文件" if 5 <= at < 7 else "，这不是本书的权重文件"
    found = f"{data[at]:#04x}"
    raise WeightFileError(f"魔数应为 {MAGIC[at]:#04x}，读到 {found}{hint}", at, name)


def _count(shape) -> int:
    """数组的元素个数；用 Python 整数算，尺寸再大也不溢出。"""
    count = 1
    for size in shape:
        count *= size
    return count
