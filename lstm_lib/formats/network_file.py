"""整个网络的二进制文件：本书权重文件的版本 2，LSTM、线性层、STFT 的约定与 int8 权重都在一个文件里。

版本 1（``lstm.weight_file``）只存一个 LSTM。版本 2 的布局如下（全部小端），C 里的读法见 ``native/model.c``：

====== ==== ===================================================================
偏移    长度  内容
====== ==== ===================================================================
0       8    魔数 ``89 4C 53 54 4D 0D 0A 1A``，与版本 1 相同
8       4    uint32 版本号，现为 2
12      4    uint32 文件头长度，版本 2 恒为 128
16      4    uint32 标志位：1 LSTM 有偏置；2 batch_first；4 双向；8 只有反向；16 线性层有偏置；
             32 末尾有 sigmoid；其余必须为 0
20      4    uint32 input_size
24      4    uint32 hidden_size
28      4    uint32 num_layers
32      4    uint32 proj_size，0 表示没有投影
36      4    uint32 数的类型：1 是 float32，2 是 float64，3 是 int8，4 是 float16
40      8    uint64 数据区的字节数
48      4    uint32 数据区的 CRC-32
52      4    uint32 线性层的输出个数，0 表示没有线性层
56      4    uint32 n_fft：STFT 的窗长；0 表示不是语音增强网络，这时第 60–83 字节全为 0
60      4    uint32 帧移
64      4    uint32 采样率，Hz
68      4    uint32 窗：1 是周期型 Hann 窗的平方根（分析与合成都用它）
72      4    uint32 网络的输入：1 是幅度谱
76      4    uint32 输入从第几个频点起：0，或 1（不看直流）
80      4    uint32 网络的输出：1 是乘在带噪谱上的实数掩蔽
84      40   保留，必须全为 0
124     4    uint32 文件头前 124 个字节的 CRC-32
128     …    数据区：逐层、每层先正向后反向，依次放 weight_ih、weight_hh、bias（若有）、
             weight_hr（若有投影）；然后是线性层的 weight、bias（若有）。按行存放，门顺序 i f g o
====== ==== ===================================================================

类型是 int8 时，weight_ih、weight_hh 与线性层的 weight 逐行量化：先放 int8 的矩阵（-127 到 127），补零到 4 的倍数，
再放每行的步长（float32，非负），原数 ≈ 步长 × 整数。类型是 float16 时，同样这几个矩阵存成 IEEE 754 的 binary16，
补零到 4 字节的倍数。这两种类型的偏置与投影仍是 float32。
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_lib.files import atomic_path
from lstm_lib.formats.writers import check_head
from lstm_lib.lstm import LSTM
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.lstm.weight_file import DTYPES, MAGIC, WeightFileError, check_magic, flag_bits
from lstm_lib.native.quantize import check_half, quantize_rows

VERSION, HEADER_SIZE = 2, 128
PACKED = {3: "int8", 4: "float16"}  # 只有矩阵这样存，别的是 float32
FLAG_HEAD_BIAS, FLAG_SIGMOID = 16, 32
FIELDS = [  # (偏移, struct 格式, 名字, 说明)
    (0, "8s", "magic", "魔数"),
    (8, "I", "version", "版本号"),
    (12, "I", "header_size", "文件头长度"),
    (16, "I", "flags", "标志位"),
    (20, "I", "input_size", "输入维数"),
    (24, "I", "hidden_size", "隐藏单元数"),
    (28, "I", "num_layers", "层数"),
    (32, "I", "proj_size", "投影维数"),
    (36, "I", "dtype", "数的类型"),
    (40, "Q", "data_size", "数据区字节数"),
    (48, "I", "data_crc", "数据区 CRC-32"),
    (52, "I", "head_size", "线性层的输出个数"),
    (56, "I", "n_fft", "STFT 的窗长"),
    (60, "I", "hop_length", "帧移"),
    (64, "I", "sample_rate", "采样率"),
    (68, "I", "window", "窗的种类"),
    (72, "I", "feature", "输入的种类"),
    (76, "I", "first_bin", "输入从第几个频点起"),
    (80, "I", "mask", "输出的种类"),
    (84, "40s", "reserved", "保留"),
    (124, "I", "header_crc", "文件头 CRC-32"),
]
_HEADER = struct.Struct("<" + "".join(field[1] for field in FIELDS))


class STFT(NamedTuple):
    """语音增强网络的约定：窗是周期型 Hann 的平方根，输入是幅度谱，输出是实数掩蔽。

    ``n_fft`` 与 ``hop_length`` 的单位是样点，``sample_rate`` 是 Hz；``first_bin`` 是网络的第 0 个输入对应第几个频点。
    """

    n_fft: int
    hop_length: int
    sample_rate: int
    first_bin: int


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """一个文件里的网络；``weight`` (O, H)、``bias`` (O,) 是线性层，没有就是 None。

    ``dtype`` 是文件里权重的类型；是 float16 时，``lstm`` 与 ``weight`` 里是展宽的 float32，是 int8 时是步长乘回去的，
    ``integers`` 是原样的 ``{名字: (int8 矩阵, 步长)}``。
    """

    lstm: LSTM
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    sigmoid: bool = False
    stft: STFT | None = None
    dtype: str = "float32"
    integers: dict[str, tuple[np.ndarray, np.ndarray]] | None = None


def encode(
    lstm: LSTM,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    sigmoid: bool = False,
    stft: STFT | None = None,
    dtype: str | None = None,
) -> bytes:
    """把网络编成版本 2 的全部字节。

    ``dtype``：float32、float64、int8 或 float16，缺省同 ``lstm``。尺寸与 ``stft`` 不符、有文件里放不下的东西
    （窥视孔、截断、常量初态等）、权重不是有限数、float16 放不下（绝对值不小于 65520），抛 ``ValueError``。
    """
    lstm.to_bytes()  # 放不下的东西，版本 1 会点名拒绝
    config = lstm.config
    dtype = dtype or config.dtype
    codes = {np.dtype(d).name: code for code, d in DTYPES.items()} | {
        name: code for code, name in PACKED.items()
    }
    if dtype not in codes:
        raise ValueError(f"dtype 应为 {'、'.join(codes)} 之一，得到 {dtype!r}")
    weight, bias = check_head(weight, bias, config.num_directions * config.output_size)
    item = DTYPES[codes[dtype]] if dtype in ("float32", "float64") else np.dtype("<f4")
    chunks: list[bytes] = []
    for name, array in _arrays(lstm, weight, bias):
        if dtype == "int8" and _is_matrix(name):
            q, step = quantize_rows(array)
            chunks += [q.tobytes(), bytes(-q.size % 4), step.astype("<f4").tobytes()]
        elif dtype == "float16" and _is_matrix(name):
            check_half({name: array})
            chunks += [np.asarray(array, "<f4").astype("<f2").tobytes(), bytes(2 * array.size % 4)]
        else:
            array = np.ascontiguousarray(array, item)
            if not np.isfinite(array).all():
                raise ValueError(f"参数 {name} 里有 NaN 或无穷大；请检查训练出来的权重")
            chunks.append(array.tobytes())
    data = b"".join(chunks)
    flags = flag_bits(config) | FLAG_HEAD_BIAS * (bias is not None) | FLAG_SIGMOID * bool(sigmoid)
    outputs = config.num_directions * config.output_size if weight is None else len(weight)
    conventions = (0, 0, 0, 0, 0, 0, 0)
    if stft is not None:
        _check_stft(stft, config, outputs)
        conventions = (stft.n_fft, stft.hop_length, stft.sample_rate, 1, 1, stft.first_bin, 1)
    sizes = (config.input_size, config.hidden_size, config.num_layers, config.proj_size, codes[dtype])
    crc, head = zlib.crc32(data), 0 if weight is None else len(weight)
    fields = (MAGIC, VERSION, HEADER_SIZE, flags, *sizes, len(data), crc, head, *conventions, bytes(40), 0)
    header = _HEADER.pack(*fields)[:-4]
    return header + struct.pack("<I", zlib.crc32(header)) + data


def decode(data: bytes, name: str | None = None) -> NetworkFile:
    """:func:`encode` 的逆；版本 1 的文件也读，得到只有 LSTM 的网络。

    截断、损坏、不认识的版本或约定抛 :class:`~lstm_lib.lstm.weight_file.WeightFileError`，指明字节；``name`` 用在报错里。
    """
    check_magic(data, name)
    if len(data) >= 12 and struct.unpack_from("<I", data, 8)[0] != VERSION:
        return NetworkFile(LSTM.from_bytes(data, name))
    if len(data) < HEADER_SIZE:
        raise WeightFileError(f"文件在这里断了：版本 2 的文件头应有 {HEADER_SIZE} 字节", len(data), name)
    fields = dict(zip((field[2] for field in FIELDS), _HEADER.unpack_from(data), strict=True))
    config = _check_fields(fields, data, name)
    dtype = PACKED.get(fields["dtype"], config.dtype)
    head, flags = fields["head_size"], fields["flags"]
    width = config.num_directions * config.output_size
    tail: dict[str, tuple[int, ...]] = {"head.weight": (head, width)} if head else {}
    if flags & FLAG_HEAD_BIAS:
        tail["head.bias"] = (head,)
    expected = _data_bytes(config, tail, dtype)
    if fields["data_size"] != expected:
        raise WeightFileError(f"数据区长度记为 {fields['data_size']}，按各尺寸应为 {expected}", 40, name)
    end = HEADER_SIZE + expected
    if len(data) != end:
        what = (
            f"文件在这里断了：应有 {end} 字节" if len(data) < end else f"从这里起多出 {len(data) - end} 字节"
        )
        raise WeightFileError(what, min(len(data), end), name)
    crc = zlib.crc32(memoryview(data)[HEADER_SIZE:])
    if crc != fields["data_crc"]:
        raise WeightFileError(
            f"这里记的数据区 CRC-32 是 {fields['data_crc']:08x}，算出的是 {crc:08x}；"
            "数据区某处已损坏，请重新下载或重新导出",
            48,
            name,
        )
    arrays, integers, offset = {}, {}, HEADER_SIZE
    for key, shape in (config.shapes() | tail).items():
        size = _stored_bytes(key, shape, dtype)
        if dtype == "int8" and _is_matrix(key):
            q, step = _read_integers(data, offset, shape, name)
            integers[key], arrays[key] = (q, step), q * step[:, None]
        else:
            half = dtype == "float16" and _is_matrix(key)
            item = np.dtype("<f2") if half else DTYPES.get(fields["dtype"], np.dtype("<f4"))
            array = np.frombuffer(data, item, int(np.prod(shape)), offset).reshape(shape)
            bad = np.flatnonzero(~np.isfinite(array))
            if len(bad):
                raise WeightFileError(f"{key} 里有 NaN 或无穷大", offset + int(bad[0]) * item.itemsize, name)
            if any(data[offset + array.nbytes : offset + size]):
                raise WeightFileError("补齐的字节不是 0", offset + array.nbytes, name)
            arrays[key] = array.astype(config.dtype)
        offset += size
    weight, bias = arrays.pop("head.weight", None), arrays.pop("head.bias", None)
    stft = None
    if fields["n_fft"]:
        stft = STFT(fields["n_fft"], fields["hop_length"], fields["sample_rate"], fields["first_bin"])
    sigmoid = bool(flags & FLAG_SIGMOID)
    return NetworkFile(LSTM(config, arrays), weight, bias, sigmoid, stft, dtype, integers or None)


def save(path: str | os.PathLike, *network: Any, **options: Any) -> None:
    """:func:`encode` 之后写成文件；先写临时文件再改名，不会留下半个。"""
    data = encode(*network, **options)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(data)


def load(path: str | os.PathLike) -> NetworkFile:
    """读一个文件（版本 1 或 2）；出错同 :func:`decode`，找不到是 ``FileNotFoundError``。"""
    return decode(Path(path).read_bytes(), str(path))


def _arrays(
    lstm: LSTM, weight: np.ndarray | None, bias: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    for name in lstm.config.shapes():
        yield name, lstm.parameters[name]
    if weight is not None:
        yield "head.weight", weight
        if bias is not None:
            yield "head.bias", bias


def _is_matrix(name: str) -> bool:
    """int8 与 float16 存的是这些：两个权重矩阵与线性层；偏置与投影总是浮点。"""
    return name.startswith(("weight_ih", "weight_hh")) or name == "head.weight"


def _stored_bytes(name: str, shape: tuple[int, ...], dtype: str) -> int:
    count = 1
    for size in shape:
        count *= size
    if dtype == "int8" and _is_matrix(name):
        return -(-count // 4) * 4 + 4 * shape[0]
    if dtype == "float16" and _is_matrix(name):
        return -(-count // 2) * 4
    return count * (8 if dtype == "float64" else 4)


def _data_bytes(config: LSTMConfig, tail: dict[str, tuple[int, ...]], dtype: str) -> int:
    """数据区应有的字节数。第 1 层以上各层一样大，所以只数两层：读到荒唐的层数也不会卡住。"""
    one, two = (
        sum(
            _stored_bytes(name, shape, dtype)
            for name, shape in replace(config, num_layers=n).shapes().items()
        )
        for n in (1, 2)
    )
    end = sum(_stored_bytes(name, shape, dtype) for name, shape in tail.items())
    return one + (two - one) * (config.num_layers - 1) + end


def _check_stft(stft: STFT, config: LSTMConfig, outputs: int) -> None:
    bins = stft.n_fft // 2 + 1
    if outputs != bins or config.input_size + stft.first_bin != bins or stft.first_bin not in (0, 1):
        raise ValueError(
            f"{stft} 有 {bins} 个频点，网络却收 {config.input_size} 个数、给 {outputs} 个数：两者对不上"
        )
    if stft.n_fft % 2 or stft.n_fft % stft.hop_length or 2 * stft.hop_length > stft.n_fft:
        raise ValueError(f"{stft}：帧移应整除窗长、且不超过它的一半")


def _read_integers(
    data: bytes, offset: int, shape: tuple[int, ...], name: str | None
) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = shape
    q = np.frombuffer(data, np.int8, rows * columns, offset).reshape(shape)
    if (q == -128).any():
        at = offset + int(np.flatnonzero(q == -128)[0])
        raise WeightFileError("int8 权重是 -128，只许 -127 到 127", at, name)
    end = offset + rows * columns
    padding = -rows * columns % 4
    if any(data[end : end + padding]):
        raise WeightFileError("补齐的字节不是 0", end, name)
    step = np.frombuffer(data, "<f4", rows, end + padding).astype(np.float32)
    bad = np.flatnonzero(~(np.isfinite(step) & (step >= 0)))
    if len(bad):
        raise WeightFileError("量化步长应是非负的有限数", end + padding + 4 * int(bad[0]), name)
    return q, step


def _check_fields(fields: dict[str, Any], data: bytes, name: str | None) -> LSTMConfig:
    """文件头各字段；与版本 1 相同的部分借它的检查。"""
    crc = zlib.crc32(data[: HEADER_SIZE - 4])
    if crc != fields["header_crc"]:
        raise WeightFileError(
            f"文件头的 CRC-32 记的是 {fields['header_crc']:08x}，按前 124 字节算出 {crc:08x}；文件头已损坏",
            124,
            name,
        )
    flags, dtype = fields["flags"], fields["dtype"]
    if fields["header_size"] != HEADER_SIZE:
        raise WeightFileError(f"文件头长度是 {fields['header_size']}，版本 2 应为 {HEADER_SIZE}", 12, name)
    if flags > 63 or flags & 12 == 12 or (flags & FLAG_HEAD_BIAS and not fields["head_size"]):
        raise WeightFileError(f"标志位 {flags:#x} 里有版本 2 没有的组合", 16, name)
    for offset, _, key, label in FIELDS[4:7]:
        if not fields[key]:
            raise WeightFileError(f"{label} {key} 是 0", offset, name)
    if dtype not in (*DTYPES, *PACKED):
        raise WeightFileError(
            f"数的类型是 {dtype}，只认 1（float32）、2（float64）、3（int8）与 4（float16）", 36, name
        )
    if any(fields["reserved"]):
        raise WeightFileError("保留字节不全为 0", 84, name)
    config = LSTMConfig(
        fields["input_size"], fields["hidden_size"], fields["num_layers"],
        "bidirectional" if flags & 4 else "reverse" if flags & 8 else "forward",
        bias=bool(flags & 1), batch_first=bool(flags & 2), proj_size=fields["proj_size"],
        dtype="float64" if dtype == 2 else "float32",
    )  # fmt: skip
    outputs = fields["head_size"] or config.num_directions * config.output_size
    rest = [(offset, key, label) for offset, _, key, label in FIELDS[13:19]]
    if not fields["n_fft"]:
        wrong = next((item for item in rest if fields[item[1]]), None)
    else:
        bins, hop = fields["n_fft"] // 2 + 1, fields["hop_length"]
        good = {
            "hop_length": hop and fields["n_fft"] % hop == 0 and 2 * hop <= fields["n_fft"],
            "sample_rate": 0 < fields["sample_rate"] <= 1 << 24,
            "window": fields["window"] == 1,
            "feature": fields["feature"] == 1,
            "first_bin": fields["first_bin"] <= 1 and fields["input_size"] + fields["first_bin"] == bins,
            "mask": fields["mask"] == 1,
        }
        wrong = next((item for item in rest if not good[item[1]]), None)
        if fields["n_fft"] % 2 or bins != outputs:
            wrong = (56, "n_fft", "STFT 的窗长")
    if wrong:
        offset, key, label = wrong
        raise WeightFileError(f"{label} {key} 是 {fields[key]}：不认识，或与网络的尺寸不符", offset, name)
    return config
