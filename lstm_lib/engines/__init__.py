"""引擎：同一个网络放进各家推理库，同一副面孔。赛跑、流式增强、核对导出的模型，用的都是这里的引擎。

>>> from lstm_lib.engines import build, mask_step
>>> [engine] = build(lstm, ["c"])          # lstm 是 lstm_lib.LSTM；也可以给整个 IRMNetwork
>>> y = engine.sequence(x)                 # (T, I) → (T, O)
>>> y_t = engine.step(x_t)                 # 一帧，状态在引擎里
>>> step = mask_step(network, "onnxruntime")   # 一帧，状态由使用者拿着：StreamingEnhancer(step)
>>> enhancer = StreamingEnhancer(chain(network))   # 整条增强链，有 C 就都在 C 里

一种引擎是本文件夹里一个名字以 ``_engine`` 结尾的模块，写明 ``OFFERS``（若干 :class:`Offer`）；加一种引擎就是
加一个这样的文件，别处都不用改。第三方库要在造引擎时才导入，没有装的不妨碍别的。
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lstm_lib.engines.base import Engine, Network, Offer, State, describe
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.enhance.streaming import Chain, MaskChain
from lstm_lib.formats import network_file
from lstm_lib.waves import SAMPLE_RATE

__all__ = [
    "Engine", "Network", "Offer", "State", "available", "build", "chain", "conventions", "describe", "load", "mask_step", "offers",
    "preferred",
]  # fmt: skip


DTYPES = ("float32", "float16", "int8")


def offers() -> dict[str, Offer]:
    """全部引擎，装没装都在：``{名字: Offer}``；先 float32，再 float16，再 int8，各按名字排。"""
    found: dict[str, Offer] = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.endswith("_engine"):
            continue
        for offer in importlib.import_module(f"{__name__}.{info.name}").OFFERS:
            if offer.name in found:
                raise ValueError(f"有两个引擎都叫 {offer.name!r}：请改 {info.name}.py 里的名字")
            found[offer.name] = offer
    return {o.name: o for o in sorted(found.values(), key=lambda o: (DTYPES.index(o.dtype), o.name))}


def available() -> list[str]:
    """这台机器上装齐了的引擎的名字。"""
    return [name for name, offer in offers().items() if not offer.missing]


def build(source: Any, names: Iterable[str] | None = None) -> list[Engine]:
    """把一个网络放进各引擎。

    参数:
        source: ``LSTM``、``IRMNetwork`` 或 ``Network``
        names: 引擎的名字，缺省是 :func:`available` 的全部
    返回:
        引擎的列表，次序同 ``names``。
    抛出:
        ValueError: 名字不认识，或网络放不进去
        ImportError: 要用的包没有装
    """
    network = describe(source)
    made = []
    for name in available() if names is None else names:
        offer = _offer(name)
        offer.check()
        made.append(offer.sign(offer.make(network)))
    return made


def mask_step(network: Any, name: str = "numpy") -> Callable[[Any, State], tuple[Any, State]]:
    """掩蔽函数 ``step(x, state) -> (mask, state)``，给 ``StreamingEnhancer``；自己不存状态，任意多路音频可以合用。

    参数:
        network: 训练好的网络，``load_trained()`` 的返回值
        name: 引擎的名字
    返回:
        函数：x 是一帧幅度谱 (256,) float32，state 是上一帧留下的状态（None 是从零开始），mask 是 (257,)。
    """
    [engine] = build(network, [name])
    return engine.advance


def chain(network: Any, name: str | None = None) -> Chain:
    """整条增强链，给 ``StreamingEnhancer``、``AnyRateEnhancer``。本书的 C 引擎整条链都在 C 里，别的引擎只算掩蔽，其余由 NumPy 做。

    参数:
        network: 训练好的网络，带着 ``config``
        name: 引擎的名字；缺省是 c，没有 C 编译器时是 numpy
    """
    offer, config = _offer(name or preferred()), network.config
    offer.check()
    if offer.chain is None:
        return MaskChain(mask_step(network, offer.name), config)
    return offer.chain(describe(network), conventions(config))


def conventions(config: NetworkConfig) -> network_file.STFT:
    """网络的配置 → 整个网络的文件里记的 STFT 约定。"""
    return network_file.STFT(config.n_fft, config.hop_length, SAMPLE_RATE, config.bins - config.input_size)


@cache
def preferred() -> str:
    """增强时缺省的引擎：能编译 C 内核就是 ``c``，否则是 ``numpy``；两者的结果只差舍入。"""
    from lstm_lib import native

    try:
        native.levels()
    except (ImportError, OSError):
        return "numpy"
    return "c"


def load(name: str, *paths: str | Path) -> Engine:
    """由已经导出的模型文件造引擎：``load("onnxruntime", "m.onnx")``、``load("ncnn", "m.param", "m.bin")``。

    模型的第一个输入是 x，第一个输出是 y（或掩蔽）；带状态的另有 h、c 两个输入、两个输出，依此次序，名字不论。
    不带状态的模型只能 ``sequence``。

    参数:
        name: 引擎的名字
        paths: 模型的一个或两个文件
    抛出:
        ValueError: 引擎不会读文件，或模型不是这个样子
    """
    offer = _offer(name)
    if offer.load is None:
        able = "、".join(n for n, o in offers().items() if o.load)
        raise ValueError(f"引擎 {name} 不读模型文件；会读的有：{able}")
    if len(paths) != len(offer.suffixes):
        raise ValueError(f"引擎 {name} 要 {len(offer.suffixes)} 个文件（{'、'.join(offer.suffixes)}）")
    offer.check()
    return offer.sign(offer.load(*paths))


def _offer(name: str) -> Offer:
    known = offers()
    if name not in known:
        raise ValueError(f"没有名为 {name!r} 的引擎；可选：{'、'.join(known)}")
    return known[name]
