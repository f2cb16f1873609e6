"""别家的文件一层一个 LSTM；首尾直接相接的几层，合成本书一个多层的 LSTM。"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from lstm_lib.formats.ncnn_param import NcnnLayer, NcnnParam
from lstm_lib.lstm import LSTM

AnyLSTM = TypeVar("AnyLSTM", bound=LSTM)
Names = str | Sequence[str] | None  # 一层的名字，一叠的名字（自下而上），或者由文件自己说


def stack(layers: Sequence[AnyLSTM], title: str) -> AnyLSTM:
    """单层的 LSTM 自下而上叠成一个 ``num_layers`` 层的；``title`` 用在报错里。

    要求各层的方向、H、P 相同，上一层的输入宽等于下一层各方向输出之和；不合的抛 ``ValueError``，说明是哪一项。
    """
    first = layers[0]
    for k, layer in enumerate(layers):
        reason = _mismatch(first, layer, k)
        if reason:
            raise ValueError(
                f"{title}：几层 LSTM 合不成一个：第 {k} 层（从 0 数起）{reason}；请用 name 逐层读"
            )
    config = replace(
        first.config,
        num_layers=len(layers),
        bias=any(layer.config.bias for layer in layers),
        dtype=np.result_type(*(layer.config.dtype for layer in layers)).name,
    )
    parameters = {}
    for name, shape in config.shapes().items():
        kind, number, end = re.split(r"_l(\d+)", name)
        value = layers[int(number)].parameters.get(f"{kind}_l0{end}")
        parameters[name] = np.zeros(shape) if value is None else value  # 没有偏置的那层，偏置是零
    return type(first)(
        config,
        parameters,
        clip=first.clip,
        initial_state=_stack_states(layers, title),
        lengths=first.lengths,
        note=first.note,
    )


def _mismatch(first: LSTM, layer: LSTM, k: int) -> str | None:
    """第 ``k`` 层叠不上去的缘由；叠得上去是 None。"""
    one, other = first.config, layer.config
    if layer.peepholes is not None:
        return "带有窥视孔，本书只有单层的 LSTM 能带"
    for key, label in (
        ("direction", "方向"),
        ("hidden_size", "hidden_size"),
        ("proj_size", "proj_size"),
        ("batch_first", "batch_first"),
        ("num_layers", "层数"),
    ):
        if getattr(one, key) != getattr(other, key):
            return f"的{label}是 {getattr(other, key)}，第 0 层的是 {getattr(one, key)}"
    wanted = one.num_directions * one.output_size
    if k and other.input_size != wanted:
        return f"的输入宽 {other.input_size}，下面一层却输出 {wanted} 个数"
    if first.clip != layer.clip:
        return f"的 clip 是 {layer.clip}，第 0 层的是 {first.clip}"
    if not np.array_equal(np.array(first.lengths), np.array(layer.lengths)):
        unknown = isinstance(first.lengths, str) or isinstance(layer.lengths, str)
        why = "要运行才知道，看不出与第 0 层的是不是同一个" if unknown else "与第 0 层的不同"
        return f"的各序列长度（sequence_lens）{why}"
    return None


def _stack_states(layers: Sequence[LSTM], title: str) -> Any:
    """各层的缺省初态叠起来；有一层要求调用者给（字符串），就都由调用者给。"""
    states = [layer.initial_state for layer in layers]
    required = [state for state in states if isinstance(state, str)]
    if required or all(state is None for state in states):
        return required[0] if required else None
    # 没有批那一维的 (D, H) 适合任意大小的批，遇到限定了批的就照它铺开
    batches = {np.shape(state[0])[1] for state in states if state is not None and np.ndim(state[0]) == 3}
    if len(batches) > 1:
        raise ValueError(f"{title}：几层 LSTM 合不成一个：缺省初态的批大小不同（{sorted(batches)}）")
    directions, made = layers[0].config.num_directions, []
    for part, width in enumerate((layers[0].config.output_size, layers[0].config.hidden_size)):
        whole = (directions, *batches, width)
        arrays = [np.zeros(whole) if state is None else np.asarray(state[part]) for state in states]
        made.append(
            np.concatenate([np.broadcast_to(a[:, None] if a.ndim < len(whole) else a, whole) for a in arrays])
        )
    return tuple(made)


# ---------------------------------------------------------------- ncnn


def ncnn_chain(param: NcnnParam, name: Names = None) -> list[str | None]:
    """要读哪几层，自下而上。``name`` 是一个名字时就是它；是几个名字时，查过它们确是首尾直接相接的一叠。

    ``name`` 为 None 时：只有一个 LSTM 层就是它；有几个而正好是一叠，就是这一叠，每层的输出只送给上一层；
    否则抛 ``ValueError``，说明哪里不是，并列出名字。中间只允许隔着 Split、Noop 与不改变数的 Dropout。
    """
    found = [layer for layer in param.layers if layer.type == "LSTM"]
    if isinstance(name, str) or (name is None and len(found) < 2):
        return [name]
    if name is None:
        names, chosen = "、".join(layer.name for layer in found), found
        title = f"{param.path}：有 {len(found)} 个 LSTM 层（{names}）"
    else:
        chosen, title = _named(param, found, list(name)), f"{param.path}：{'、'.join(name)}"
    reason = _broken(param, chosen, alone=name is None)
    if reason:
        raise ValueError(f"{title}，不是首尾直接相接的一叠：{reason}；请用 name 指定一个")
    return [layer.name for layer in chosen]


def _named(param: NcnnParam, found: Sequence[NcnnLayer], names: Sequence[str]) -> list[NcnnLayer]:
    have = "、".join(layer.name for layer in found)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{param.path}：name 应是几个不同的 LSTM 层名，自下而上，得到 {names}；有的是：{have}"
        )
    chosen = []
    for name in names:
        same = [layer for layer in found if layer.name == name]
        if len(same) != 1:
            raise ValueError(f"{param.path}：没有名为 {name!r} 的 LSTM 层（或重名）；有的是：{have}")
        chosen += same
    return chosen


def _passes(layer: NcnnLayer) -> bool:
    """原样转手的层：Dropout 的 scale（0=，缺省 1）不是 1 时会乘上去。"""
    return layer.type in ("Split", "Noop") or (layer.type == "Dropout" and layer.params.get(0, 1) == 1)


def _broken(param: NcnnParam, chosen: Sequence[NcnnLayer], alone: bool) -> str | None:
    """``chosen`` 不是自下而上的一叠的缘由；``alone``：下层的输出不许另作他用。"""
    maker = {blob: layer for layer in param.layers for blob in layer.tops}

    def origin(blob: str) -> str:
        while _passes(maker[blob]):
            blob = maker[blob].bottoms[0]
        return blob

    for lower, upper in pairwise(chosen):
        if not upper.bottoms or not lower.tops:
            return f"{upper.name} 没有输入" if lower.tops else f"{lower.name} 没有输出"
        # 三个输入的次序各家不同，x 是从下层来的那一个
        if lower.tops[0] not in map(origin, upper.bottoms):
            source = origin(upper.bottoms[0])
            other = maker[source]
            return (
                f"{upper.name} 的输入来自 {other.type} 层 {other.name} 的 {source}，不是 {lower.name} 的输出"
            )
        if alone:
            reason = _used_elsewhere(param, lower, upper)
            if reason:
                return reason
    for k, layer in enumerate(chosen):
        x = chosen[k - 1].tops[0] if k else origin(layer.bottoms[0]) if layer.bottoms else None
        for blob in layer.bottoms:
            above = next((a for a in _before(maker, blob) if a.type == "LSTM"), None)
            if above is not None and origin(blob) != x:
                return f"{layer.name} 的初态由 {above.name} 算出"
    return None


def _used_elsewhere(param: NcnnParam, lower: NcnnLayer, upper: NcnnLayer) -> str | None:
    """下层每一步的输出除了给上层，还去了哪里。"""
    blobs = [lower.tops[0]]
    for blob in blobs:
        users = [layer for layer in param.layers if blob in layer.bottoms]
        if not users:
            return f"{lower.name} 的输出（{blob}）也是整个模型的输出"
        for user in users:
            if _passes(user):
                blobs += user.tops
            elif user is not upper:
                return f"{lower.name} 的输出也送给了 {user.type} 层 {user.name}"
    return None


def _before(maker: dict[str, NcnnLayer], blob: str) -> Iterator[NcnnLayer]:
    """算出 ``blob`` 的各层。"""
    todo, seen = [blob], set()
    while todo:
        layer = maker[todo.pop()]
        if layer.line not in seen:
            seen.add(layer.line)
            yield layer
            todo += layer.bottoms
