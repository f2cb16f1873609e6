"""Keras 的 LSTM 的数组 → 本书的 LSTM；只要 NumPy 数组，不必装 Keras。

格式依据：https://keras.io/api/layers/recurrent_layers/lstm/ 与 keras/src/layers/rnn/lstm.py；
CuDNNLSTM 的布局见 tf_keras/saving/legacy/hdf5_format.py 的 ``_convert_rnn_weights``。
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lstm_lib.lstm import LSTM, layouts

AnyLSTM = TypeVar("AnyLSTM", bound=LSTM)
Weights = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # kernel、recurrent_kernel、bias
LABELS = ("kernel", "recurrent_kernel", "bias")
# get_config() 里与推理时算的数无关的：名字、训练时才用的、给出哪几样输出、怎样实现
IDLE = set(
    "name trainable dtype batch_input_shape return_sequences return_state stateful unroll implementation"
    " zero_output_for_mask unit_forget_bias dropout recurrent_dropout seed activity_regularizer".split()
) | {
    f"{part}_{kind}"
    for part in ("kernel", "recurrent", "bias")
    for kind in ("initializer", "regularizer", "constraint")
}


def load_lstm(
    cls: type[AnyLSTM],
    kernel: ArrayLike,
    recurrent_kernel: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *more: ArrayLike,
    backward: Sequence[ArrayLike] | None = None,
    activation: Any = "tanh",
    recurrent_activation: Any = "sigmoid",
    go_backwards: bool = False,
    merge_mode: str | None = "concat",
    **config: Any,
) -> AnyLSTM:
    """Keras 的三个数组（``layer.get_weights()`` 的次序）→ LSTM，``batch_first=True``。

    kernel (I, 4H)、recurrent_kernel (H, 4H)、bias (4H,) 或 None（``use_bias=False``），门横着排，次序 i f c o，
    c 就是 g。bias (8H,) 是旧的 CuDNNLSTM，它的矩阵另有排法，照 Keras 自己的规则换过来。
    ``backward``：``Bidirectional`` 的反向层的同样几个数组，即 ``w = layer.get_weights()`` 的后一半。
    其余几项照抄层的 ``get_config()``，整个 ``**layer.get_config()`` 也行，与推理无关的不看（``IDLE``）。激活函数只能是
    tanh 与 sigmoid（**旧版 Keras 缺省的 recurrent_activation 是 hard_sigmoid**），merge_mode 只能是 concat，units、
    use_bias 要与数组相符，别的抛 ``ValueError``。
    ``go_backwards`` 的层从最后一帧往回算，Keras 的输出也就倒着放；本书的 y 总与 x 同一个次序，比较时用 ``y[:, ::-1]``。
    """
    given = (
        ([kernel, recurrent_kernel, bias, *more], None, None) if more else (kernel, recurrent_kernel, bias)
    )
    _check_activation("activation", activation, "tanh")
    _check_activation("recurrent_activation", recurrent_activation, "sigmoid")
    both = [_weights(_unpacked(*given), "")]
    _check_config(config, both[0])
    if backward is not None:
        if go_backwards:
            raise ValueError(
                "go_backwards=True 又给了 backward：这样的 Bidirectional，Keras 把两个方向都倒着放，本书没有这种排法"
            )
        if merge_mode != "concat":
            raise ValueError(
                f"Bidirectional 的 merge_mode={merge_mode!r} 没有实现，只支持 'concat'；"
                "可以照读，再自己合并 y 的前后两半"
            )
        both.append(_weights(_backward(backward), "反向层的 "))
        _check_pair(*both)
    first_kernel, first_recurrent, first_bias = both[0]
    made = layouts.LSTMConfig(
        first_kernel.shape[0],
        first_recurrent.shape[0],
        direction="bidirectional" if backward is not None else "reverse" if go_backwards else "forward",
        bias=first_bias is not None,
        batch_first=True,
        dtype=np.result_type(np.float32, *(a for weights in both for a in weights if a is not None)).name,
    )
    parameters: dict[str, np.ndarray] = {}
    for suffix, (w, r, b) in zip(made.suffixes, both, strict=True):
        parameters |= {f"weight_ih_l0{suffix}": w.T, f"weight_hh_l0{suffix}": r.T}  # i f c o 就是 i f g o
        parameters |= {} if b is None else {f"bias_l0{suffix}": b}
    return cls(made, parameters)


def _check_config(config: Mapping[str, Any], weights: Weights) -> None:
    """``get_config()`` 的其余各项：说到大小的要与数组相符，不认识的不敢当作无关。"""
    if "layer" in config:
        raise ValueError(
            "这是 Bidirectional 的 get_config()；请照抄它里面正向那一层的：**layer.forward_layer.get_config()"
        )
    actual = {"units": len(weights[1]), "use_bias": weights[2] is not None, "time_major": False}
    for key, value in config.items():
        if key in actual:
            if value != actual[key]:
                why = "x 只能批在前" if key == "time_major" else f"与给的数组不符，数组说的是 {actual[key]}"
                raise ValueError(f"{key}={value!r}：{why}")
        elif key not in IDLE:
            raise ValueError(f"{key}={value!r} 不认识，不知道它影不影响得数；确实无关的请去掉再读")


def _check_activation(key: str, given: Any, wanted: str) -> None:
    name = given if isinstance(given, str) else getattr(given, "__name__", given)
    if name == wanted:
        return
    hint = ""
    if name == "hard_sigmoid":
        hint = "（旧版 Keras 的缺省，与 sigmoid 相差近 0.08，不能互换）"
    elif name is None:
        hint = "（Keras 里 None 是没有激活函数）"
    raise ValueError(f"{key}={name!r}{hint} 没有实现，只支持 {wanted!r}")


def _unpacked(kernel: Any, recurrent_kernel: Any, bias: Any) -> tuple[Any, Any, Any]:
    """三个数组；也收 ``layer.get_weights()`` 整个列表。"""
    if recurrent_kernel is not None:
        return kernel, recurrent_kernel, bias
    if hasattr(kernel, "get_weights"):
        raise ValueError(
            "应给权重的数组，得到 Keras 的层；请写 from_keras(*layer.get_weights())，"
            "activation、recurrent_activation、go_backwards 照抄 layer.get_config()"
        )
    # 二维数组的列表才是 get_weights()；一维的列表是写成嵌套列表的 kernel
    if not isinstance(kernel, list | tuple) or not kernel or np.ndim(kernel[0]) < 2:
        raise ValueError("缺少 recurrent_kernel，形状 (H, 4H)；请写 from_keras(*layer.get_weights())")
    if len(kernel) in (4, 6):
        half = len(kernel) // 2
        raise ValueError(
            f"给了 {len(kernel)} 个数组：若是 Bidirectional 的 w = layer.get_weights()，"
            f"请写 from_keras(*w[:{half}], backward=w[{half}:])；若是几层 LSTM，请一层一层地读"
        )
    if len(kernel) == 12:
        raise ValueError(
            "给了 12 个数组：Keras 1 每个门存三个数组，请用 Keras 2 载入后另存，得到三个数组再读"
        )
    if len(kernel) not in (2, 3):
        raise ValueError(
            f"LSTM 层应有 kernel、recurrent_kernel 与 bias（可以没有）两三个数组，给了 {len(kernel)} 个"
        )
    w, r, *rest = kernel
    if rest and bias is not None:
        raise ValueError("给了两次 bias：列表里有一个，参数里又有一个")
    return w, r, rest[0] if rest else bias


def _backward(weights: Any) -> Sequence[Any]:
    if not isinstance(weights, list | tuple) or len(weights) not in (2, 3):
        got = f"{len(weights)} 个" if isinstance(weights, list | tuple) else type(weights).__name__
        raise ValueError(
            f"backward 应是反向层的两三个数组 [kernel, recurrent_kernel, bias]，"
            f"即 Bidirectional 的 get_weights() 的后一半，得到 {got}"
        )
    return *weights, *[None] * (3 - len(weights))


def _array(value: Any, label: str) -> np.ndarray:
    """float32 或 float64 的数组；更窄的浮点数与整数放宽。"""
    try:
        array = np.asarray(value)
    except Exception as error:  # 参差不齐的列表、要求梯度的或在别的设备上的张量
        raise ValueError(f"{label} 变不成 NumPy 数组；请给 layer.get_weights() 里的数组") from error
    if array.dtype.name == "bfloat16":  # 它的 kind 是 V，NumPy 不认得是浮点数
        return array.astype(np.float32)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{label} 应是实数数组，得到 {array.dtype}")
    return array.astype(np.float64 if array.dtype.kind == "f" and array.itemsize > 4 else np.float32)


def _weights(given: Sequence[Any], whose: str) -> Weights:
    """检查形状，CuDNNLSTM 的换成平常的排法。"""
    named = [f"{whose}{label}" for label in LABELS]
    kernel, recurrent = (_array(a, label) for a, label in zip(given[:2], named[:2], strict=True))
    bias = None if given[2] is None else _array(given[2], named[2])
    shapes = f"{named[0]} {kernel.shape}、{named[1]} {recurrent.shape}"
    if kernel.ndim != 2 or recurrent.ndim != 2 or not kernel.size or not recurrent.size:
        raise ValueError(f"kernel 应是 (I, 4H)、recurrent_kernel 应是 (H, 4H)，得到 {shapes}")
    hidden, gates = recurrent.shape
    if gates != 4 * hidden or kernel.shape[1] != gates:
        reason = _shape_reason(kernel.shape, recurrent.shape)
        raise ValueError(f"kernel 应是 (I, 4H)、recurrent_kernel 应是 (H, 4H)，得到 {shapes}：{reason}")
    if bias is None or bias.shape == (gates,):
        return kernel, recurrent, bias
    if bias.shape != (2 * gates,):
        raise ValueError(
            f"{named[2]} 的形状应为 ({gates},)，即 4H（CuDNNLSTM 是 8H，({2 * gates},)），得到 {bias.shape}"
        )
    # CuDNNLSTM：每个门的 kernel 是 cuDNN 的内存原样，recurrent_kernel 是转置的，两个偏置首尾相接
    kernel = np.hstack([k.T.reshape(k.shape, order="F") for k in np.hsplit(kernel, 4)])
    recurrent = np.hstack([r.T for r in np.hsplit(recurrent, 4)])
    return kernel, recurrent, layouts.merge_bias(*np.split(bias, 2))


def _shape_reason(kernel: tuple[int, ...], recurrent: tuple[int, ...]) -> str:
    """形状不对，多半是为什么。"""
    hidden, gates = recurrent
    guesses = {
        "recurrent_kernel 像是转置过的（torch 的 weight_hh 是 (4H, H)，Keras 的是 (H, 4H)），请各转置一次": (
            hidden == 4 * gates
        ),
        "每个单元只有三个门，这是 GRU": gates == 3 * hidden,
        "每个单元没有门，这是 SimpleRNN": gates == hidden,
        f"kernel 像是转置过的，应是 ({kernel[1]}, {gates})": gates == 4 * hidden and kernel[0] == gates,
        f"recurrent_kernel 说 H={hidden}，kernel 应有 {gates} 列": gates == 4 * hidden,
        "kernel 与 recurrent_kernel 像是放反了": kernel[1] == 4 * kernel[0] == gates,
    }
    return next((text for text, fits in guesses.items() if fits), "recurrent_kernel 的列数应是行数的四倍")


def _check_pair(forward: Weights, backward: Weights) -> None:
    for label, one, other in zip(LABELS, forward, backward, strict=True):
        shapes = [None if a is None else a.shape for a in (one, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"两个方向的 {label} 形状不同：正向 {shapes[0]}，反向 {shapes[1]}；"
                "它们应是同一个 Bidirectional 的前后两半"
            )
