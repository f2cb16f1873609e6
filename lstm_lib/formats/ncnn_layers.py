"""ncnn 自带的层在 .bin 里依次存哪几块权重；没有列出块的层一个字节也不存。

格式依据：ncnn 源码 src/layer/*.cpp 的 load_param 与 load_model（2026 年 7 月的版本）。
"""

import math
from collections.abc import Callable, Iterator

from lstm_lib.formats.ncnn_param import NcnnLayer

Blocks = Iterator[tuple[str, int, bool]]  # 一层依次存的（名字，元素个数，有没有 4 字节标志）


def blocks(layer: NcnnLayer) -> Blocks:
    """这一层依次存的（名字，元素个数，有没有 4 字节标志）；``known`` 为假的层不能问。"""
    return _BLOCKS[layer.type](layer) if layer.type in _BLOCKS else iter(())


def known(layer: NcnnLayer) -> bool:
    """是不是 ncnn 自带的层；自定义的层存了什么，从文件里看不出来。"""
    return layer.type in _BLOCKS or layer.type in _WEIGHTLESS


def integer(layer: NcnnLayer, key: int, default: int = 0) -> int:
    """整数参数 ``key``；写成了小数或数组就报 ``ValueError``。"""
    value = layer.params.get(key, default)
    if not isinstance(value, int):
        raise ValueError(f"{layer.where} 的 {key}={str(value)[:40]} 应是整数")
    return value


def lstm_sizes(layer: NcnnLayer) -> tuple[int, int, int, int, int]:
    """LSTM 层的 num_output、hidden_size、方向（2=）、方向数、输入宽；几个数对不上时报 ``ValueError``。"""
    num_output, total, direction = (integer(layer, key) for key in (0, 1, 2))
    hidden = integer(layer, 3, num_output)
    for key, value in ((0, num_output), (1, total), (3, hidden)):
        if value <= 0:
            raise ValueError(f"{layer.where} 的 {key}={value} 应是正整数")
    if direction not in (0, 1, 2):
        raise ValueError(f"{layer.where} 的方向 2={direction} 应是 0、1 或 2")
    directions = 2 if direction == 2 else 1
    inputs, rest = divmod(total, directions * hidden * 4)
    if rest or not inputs:
        raise ValueError(
            f"{layer.where} 的权重个数 1={total} 不是 方向数×4×hidden_size={directions * hidden * 4} 的整数倍"
        )
    return num_output, hidden, direction, directions, inputs


def _lstm(layer: NcnnLayer) -> Blocks:
    num_output, hidden, _, directions, _ = lstm_sizes(layer)
    yield "weight_xc", layer.params[1], True
    yield "bias", 4 * hidden * directions, True
    yield "weight_hc", 4 * hidden * num_output * directions, True
    if num_output != hidden:
        yield "weight_hr", hidden * num_output * directions, True
    if integer(layer, 8):
        yield "weight_xc_scales", 4 * hidden * directions, False
        yield "weight_hc_scales", 4 * hidden * directions, False


def _recurrent(gates: int, biases: int) -> Callable[[NcnnLayer], Blocks]:
    """GRU 与 RNN：每个方向有几块门的权重、几份偏置。"""

    def rule(layer: NcnnLayer) -> Blocks:
        hidden, directions = integer(layer, 0), 2 if integer(layer, 2) == 2 else 1
        unit = directions * hidden * gates
        if hidden <= 0 or integer(layer, 1) % unit:
            raise ValueError(f"{layer.where} 的权重个数 1={integer(layer, 1)} 不是 {unit} 的整数倍")
        yield "weight_xc", integer(layer, 1), True
        yield "bias", biases * hidden * directions, True
        yield "weight_hc", unit * hidden, True
        if integer(layer, 8):
            yield "weight_xc_scales", unit, False
            yield "weight_hc_scales", unit, False

    return rule


def _packed(layer: NcnnLayer) -> tuple[int, int, bool] | None:
    """按块量化的权重（18=）：每个数几位、几个数一块、有没有输入的 scale；不是这种时 None。"""
    term = integer(layer, 18)
    bits, form, block = term // 100, term % 100 // 10, term % 10
    if term < 400:
        return None
    if bits not in (4, 6, 8) or form > 1 or block > 2:
        raise ValueError(f"{layer.where} 的量化方式 18={term}，ncnn 也不认识")
    return bits, 32 << block, form == 1


def _gemm(layer: NcnnLayer) -> Blocks:
    m, n, k = (integer(layer, key) for key in (7, 8, 9))
    packed = _packed(layer)
    if integer(layer, 4) == 1:
        yield "A", m * k, True
    if integer(layer, 5) == 1:
        yield "B", n * (-(-k * packed[0] // 8) if packed else k), True
    if integer(layer, 6) == 1 and integer(layer, 10) != -1:
        yield "C", {0: 1, 1: m, 2: m, 3: m * n, 4: n}.get(integer(layer, 10), 0), True
    if packed:
        yield "B_scales", n * -(-k // packed[1]), False
        if packed[2]:
            yield "input_scales", k, False
    elif integer(layer, 18):
        if integer(layer, 4) == 1:
            yield "A_scales", m, False
        if integer(layer, 5) == 1:
            yield "B_scale", 1, False


def _attention(layer: NcnnLayer) -> Blocks:
    dim = integer(layer, 0)
    if dim <= 0:
        raise ValueError(f"{layer.where} 的 0={dim} 应是正整数")
    query = integer(layer, 2) // dim
    # 名字、每行几个数、几行（也是偏置的个数）
    parts = (
        ("q", query, dim),
        ("k", integer(layer, 3, dim), dim),
        ("v", integer(layer, 4, dim), dim),
        ("out", dim, query),
    )
    packed = _packed(layer)
    for name, width, rows in parts:
        yield f"{name}_weight", rows * (-(-width * packed[0] // 8) if packed else width), True
        yield f"{name}_bias", rows, False
    if packed:
        for name, width, rows in parts:
            yield f"{name}_scales", rows * -(-width // packed[1]), False
        if packed[2]:
            for name, width, _ in parts:
                yield f"{name}_input_scales", width, False
    elif integer(layer, 18):
        for name, _, _ in parts:
            yield f"{name}_scales", 1 if name == "out" else dim, False


def _dense(
    bias: int, weight: int, *, dynamic: int | None = None, scales: str = ""
) -> Callable[[NcnnLayer], Blocks]:
    """带标志的权重与不带标志的偏置。``dynamic`` 那一号参数不为 0 时，权重由别的层算出；
    ``scales`` 是 int8 时后面跟着哪些 scale：按输出、按组、或只有一个。
    """

    def rule(layer: NcnnLayer) -> Blocks:
        if dynamic is not None and integer(layer, dynamic):
            return
        yield "weight", integer(layer, weight), True
        if integer(layer, bias):
            yield "bias", integer(layer, 0), False
        term = integer(layer, 18 if scales == "one" else 8) if scales else 0
        if not term:
            return
        if scales == "one":
            yield "weight_scale", 1, False
            return
        if scales == "output":
            yield "weight_scales", integer(layer, 0), False
            yield "bottom_scales", 1, False
        elif term in (1, 101, 2, 102):
            yield "weight_scales", integer(layer, 7, 1) if term in (1, 101) else 1, False
            yield "bottom_scales", 1, False
        if term > 100 and layer.type != "InnerProduct":
            yield "top_scales", 1, False

    return rule


def _memory(layer: NcnnLayer) -> Blocks:
    shape = memory_shape(layer)
    if shape:
        yield "data", math.prod(shape), integer(layer, 21, 1) == 0


def memory_shape(layer: NcnnLayer) -> tuple[int, ...]:
    """MemoryData 的形状，照 NumPy 的次序（最后一维是宽）；没有写形状的是空的。"""
    width, height, depth, channels = (integer(layer, key) for key in (0, 1, 11, 2))
    if depth:
        return channels, depth, height, width
    if channels:
        return channels, height, width
    return (height, width) if height else (width,) if width else ()


def _vectors(
    *labels: str, size: int = 0, default: int = 0, affine: int | None = None
) -> Callable[[NcnnLayer], Blocks]:
    """几个同样长的向量，都没有标志；``affine`` 那一号参数为 0 时一个也不存。"""

    def rule(layer: NcnnLayer) -> Blocks:
        if affine is None or integer(layer, affine, 1):
            for label in labels:
                yield label, integer(layer, size, default), False

    return rule


def _scale(layer: NcnnLayer) -> Blocks:
    size = integer(layer, 0)
    if size != -233:  # −233 是说 scale 由另一个输入给出
        yield "scale", size, False
        if integer(layer, 1):
            yield "bias", size, False


def _padding(layer: NcnnLayer) -> Blocks:
    if integer(layer, 6):
        yield "pad", integer(layer, 6), False


def _requantize(layer: NcnnLayer) -> Blocks:
    for label, key in (("scale_in", 0), ("scale_out", 1))[: 2 if layer.type == "Requantize" else 1]:
        yield label, integer(layer, key, 1), False
    key = {"Requantize": 2, "Dequantize": 1}[layer.type]
    if integer(layer, key):
        yield "bias", integer(layer, key), False


_CONVOLUTION = _dense(bias=5, weight=6, dynamic=19)
_DECONVOLUTION = _dense(bias=5, weight=6, dynamic=28)
_STATIC = _dense(bias=5, weight=6)

_BLOCKS: dict[str, Callable[[NcnnLayer], Blocks]] = {
    "LSTM": _lstm,
    "GRU": _recurrent(gates=3, biases=4),
    "RNN": _recurrent(gates=1, biases=1),
    "Gemm": _gemm,
    "MultiHeadAttention": _attention,
    "InnerProduct": _dense(bias=1, weight=2, scales="output"),
    "Embed": _dense(bias=2, weight=3, scales="one"),
    "Convolution": _dense(bias=5, weight=6, dynamic=19, scales="output"),
    "ConvolutionDepthWise": _dense(bias=5, weight=6, dynamic=19, scales="group"),
    "Convolution1D": _CONVOLUTION,
    "ConvolutionDepthWise1D": _CONVOLUTION,
    "Convolution3D": _STATIC,
    "ConvolutionDepthWise3D": _STATIC,
    "DeformableConv2D": _STATIC,
    "Deconvolution": _DECONVOLUTION,
    "DeconvolutionDepthWise": _DECONVOLUTION,
    "Deconvolution1D": _DECONVOLUTION,
    "DeconvolutionDepthWise1D": _DECONVOLUTION,
    "Deconvolution3D": _STATIC,
    "DeconvolutionDepthWise3D": _STATIC,
    "MemoryData": _memory,
    "BatchNorm": _vectors("slope", "mean", "var", "bias"),
    "LayerNorm": _vectors("gamma", "beta", affine=2),
    "RMSNorm": _vectors("gamma", affine=2),
    "InstanceNorm": _vectors("gamma", "beta", affine=2),
    "GroupNorm": _vectors("gamma", "beta", size=1, affine=3),
    "PReLU": _vectors("slope"),
    "Bias": _vectors("bias"),
    "Normalize": _vectors("scale", size=3),
    "Quantize": _vectors("scale", default=1),
    "Dequantize": _requantize,
    "Requantize": _requantize,
    "Scale": _scale,
    "Padding": _padding,
}
_WEIGHTLESS = set(
    "AbsVal ArgMax BNLL BinaryOp CELU Cast Clip Concat CopyTo Crop CumulativeSum DeepCopy DetectionOutput Diag"
    " Dropout ELU Einsum Eltwise Erf Exp ExpandDims Flatten Flip Fold GELU GLU GridSample HardSigmoid HardSwish"
    " Input Interp InverseSpectrogram LRN Log MVN MatMul Mish Noop PSROIPooling Packing Permute PixelShuffle"
    " Pooling Pooling1D Pooling3D Power PriorBox Proposal ROIAlign ROIPooling ReLU Reduction Reorg Reshape"
    " RotaryEmbed SDPA SELU SPP ShuffleChannel Shrink Sigmoid Slice Softmax Softplus Spectrogram Split Squeeze"
    " StatisticsPooling Swish TanH Threshold Tile UnaryOp Unfold YoloDetectionOutput Yolov3DetectionOutput".split()
)
