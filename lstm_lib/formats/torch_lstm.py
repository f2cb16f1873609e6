"""读 torch 模块：``torch.nn.LSTM``，以及网络里接在它后面的 ``torch.nn.Linear``。

抄走的只是权重，所以模块算出来的数必须只由权重决定：自己的 ``forward``、钩子、量化之类会另外改数的，一律点名
拒绝。权重以此刻的值为准（参数化、剪枝的掩码都算进去），读的时候模块的缓冲区、训练开关与随机数的状态都不动。
依据：torch 源码 torch/nn/modules/rnn.py、module.py，torch/nn/utils/parametrize.py、prune.py。
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lstm_lib.lstm import LSTM, conventions, layouts

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made", bound=LSTM)
# 这几个方法决定前向怎么算；子类改写了哪一个，权重就说明不了它
CALLS = (
    *("forward", "forward_with_state", "__call__", "_call_impl", "_wrapped_call_impl", "permute_hidden"),
    *("_update_flat_weights", "_init_flat_weights", "_weights_have_changed"),  # 前向真正用的是这里收来的权重
)
OLD_NORMS = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}  # 旧式归一化的钩子 → 函数名
WRAPPERS = ("DataParallel", "DistributedDataParallel")


def load_lstm(cls: type[Made], module: Any) -> Made:
    """抄走 ``torch.nn.LSTM`` 的权重（层数、双向、偏置、batch_first、投影都认）；以后各走各的。

    ``torch.compile`` 与 ``torch.jit.script`` 包过的也认；float16、bfloat16 原样放宽成 float32。
    别的模块、除了权重还有东西在改数的模块，抛 ``ValueError``，点名是什么、怎么办。
    """
    module = _bare(module, "LSTM", "网络里的 LSTM 请取出那一层再给")
    if module.dropout and module.num_layers > 1 and module.training:
        raise ValueError(f"模块还在训练状态，层间 dropout={module.dropout} 会随机丢数；请先调用 .eval()")
    direction = "bidirectional" if module.bidirectional else "forward"
    sizes = (module.input_size, module.hidden_size, module.num_layers, direction)
    options = (bool(module.bias), bool(module.batch_first), module.proj_size)
    config = layouts.LSTMConfig(*sizes, *options)
    arrays = read(module, list(config.shapes(biases=("bias_ih", "bias_hh"))))
    if any(a.dtype == np.float64 for a in arrays.values()):
        config = layouts.LSTMConfig(*sizes, *options, "float64")
    for name in config.shapes():
        if name.startswith("bias"):
            halves = (arrays.pop(name.replace("bias", half)) for half in ("bias_ih", "bias_hh"))
            arrays[name] = layouts.merge_bias(*halves)
    return cls(config, arrays)


def load_linear(module: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """``torch.nn.Linear`` 的 weight (O, I) 与 bias (O,)，没有偏置时是 None；规矩同 :func:`load_lstm`。"""
    module = _bare(module, "Linear", "请给普通的线性层")
    arrays = read(module, ["weight"] if module.bias is None else ["weight", "bias"])
    return arrays["weight"], arrays.get("bias")


# ---------------------------------------------------------------- 是不是普通的那一种


def path(module: Any) -> str:
    """类的全名，例如 ``torch.ao.nn.quantized.dynamic.modules.rnn.LSTM``。"""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _bare(module: Any, name: str, advice: str) -> Any:
    """剥去 ``torch.compile`` 的壳，确认里面是普通的 ``torch.nn.<name>``；不是就抛 ``ValueError``。"""
    torch = sys.modules.get("torch")  # 还没有人导入 torch，给来的就不会是它的模块
    wanted = f"应给 torch.nn.{name}，得到 {conventions.kind(module)}"
    if torch is None or not isinstance(module, torch.nn.Module):
        raise ValueError(f"{wanted}；{advice}")
    if type(module).__module__.startswith("torch._dynamo.") and hasattr(module, "_orig_mod"):
        check_hooks(module)
        return _bare(module._orig_mod, name, advice)
    base = getattr(torch.nn, name)
    if isinstance(module, torch.jit.ScriptModule):
        check_hooks(module)
        return _scripted(module, base, wanted)
    if not isinstance(module, base):
        raise ValueError(f"{wanted}；{_why_not(module, advice)}")
    check_hooks(module)
    check_calls(module, base)
    return module


def check_calls(module: Any, base: type) -> None:
    """``module`` 的前向与 ``base`` 的不是同一份代码（子类改写，或换到了这个对象上）就抛 ``ValueError``。"""
    for name in CALLS:
        mine = name in vars(module)
        if mine or getattr(type(module), name, None) is not getattr(base, name, None):
            who = f"这个 {path(module)} 对象" if mine else f"子类 {path(module)}"
            raise ValueError(
                f"{who}改写了 {name}，算出来的不只由权重决定：请给普通的 {base.__name__}，改写的那部分另外实现"
            )


def _why_not(module: Any, advice: str) -> str:
    """不是 ``torch.nn.LSTM``（或 Linear）的模块，该怎么办。"""
    kind = path(module)
    if kind.startswith("torch.ao."):
        return "这是 torch.ao 量化用的模块，算法与权重的存法都不同；请给量化之前的那一层"
    if type(module).__name__ in WRAPPERS:
        return "这是多设备的外壳；请给里面的 .module"
    if kind.startswith("torch.distributed."):
        return "这是分布式的外壳，权重切碎了存；请先收集完整的 state_dict，装进普通的模块"
    return advice


def _scripted(module: Any, base: type, wanted: str) -> Any:
    """TorchScript 的模块：只认从 ``base`` 本身编出来、属性还在的。"""
    source = module._c._type().qualified_name()
    names = [part for part in source.split(".") if not part.startswith("___torch_mangle")]
    same = names[1:] == f"{base.__module__}.{base.__name__}".split(".")
    kept = all(hasattr(module, name) for name in getattr(base, "__constants__", []) if name != "proj_size")
    if not same or not kept or not hasattr(module, "training"):
        reason = (
            f"它由 {'.'.join(names[1:])} 编成"
            if not same
            else "追踪或冻结之后，层数、batch_first 等属性都不在了"
        )
        raise ValueError(f"{wanted}；这是 TorchScript 的模块，{reason}：请给编译之前的那一层")
    return module


def check_hooks(module: Any) -> None:
    """有前向钩子（会改输入、输出或权重）就抛 ``ValueError``；剪枝的除外，:func:`read` 会算上它的掩码。

    反向钩子改不了前向，不管。
    """
    from torch.nn.modules import module as everywhere
    from torch.nn.utils import prune

    own = [*_hooks(module, "_forward_pre_hooks"), *_hooks(module, "_forward_hooks")]
    for hook in own:
        kind = type(hook).__name__
        if isinstance(hook, prune.BasePruningMethod):
            continue
        if kind in OLD_NORMS and type(hook).__module__.startswith("torch.nn.utils."):
            old = OLD_NORMS[kind]
            raise ValueError(
                f"{path(module)} 的 {hook.name} 由旧式的 torch.nn.utils.{old} 管着，每次前向才重算，现在存着的可能已经过时；"
                f'请先 torch.nn.utils.remove_{old}(module, "{hook.name}")，或改用 torch.nn.utils.parametrizations.{old}'
            )
        raise ValueError(
            f"{path(module)} 上挂着前向钩子 {_name(hook)}，它可以改动输入、输出或权重，抄权重抄不走它；"
            "请先用登记时返回的句柄 .remove() 摘下"
        )
    shared = [everywhere._global_forward_pre_hooks, everywhere._global_forward_hooks]
    for hook in (hook for hooks in shared for hook in hooks.values()):
        raise ValueError(
            f"torch 里登记着对全部模块生效的前向钩子 {_name(hook)}，它可以改动输入与输出；请先用句柄 .remove() 摘下"
        )


def _hooks(module: Any, name: str) -> list[Any]:
    return list((vars(module).get(name) or {}).values())


def _name(hook: Callable) -> str:
    return getattr(hook, "__qualname__", None) or path(hook)


# ---------------------------------------------------------------- 权重此刻的值


def read(module: Any, names: list[str]) -> dict[str, np.ndarray]:
    """``names`` 各参数此刻的值，float32 或 float64（窄的放宽，数不变）；模块原样不动。"""
    import torch
    from torch.nn.utils import prune

    hooks = _hooks(module, "_forward_pre_hooks")
    masks = {hook._tensor_name: hook for hook in hooks if isinstance(hook, prune.BasePruningMethod)}
    arrays = {}
    _check_flat(module, masks)
    # inference_mode 里建的张量，出了那里就不许就地改；谱归一化读一次要改一次
    made_there = any(tensor.is_inference() for tensor in (*module.parameters(), *module.buffers()))
    with torch.inference_mode() if made_there else torch.no_grad(), _undisturbed(module):
        for name in names:
            # 剪枝的掩码在前向之前才乘上去，属性里存着的可能是上一次的
            tensor = masks[name].apply_mask(module) if name in masks else getattr(module, name, None)
            if tensor is None:
                raise ValueError(
                    f"{path(module)} 没有 {name}：它被删掉了，或者 bidirectional、num_layers、bias 等属性在建好以后改过；"
                    "请照想要的尺寸重新建一个，再用 load_state_dict 装入权重"
                )
            arrays[name] = _array(tensor, f"{path(module)} 的 {name}")
    return arrays


def _check_flat(module: Any, masks: dict[str, Any]) -> None:
    """前向真正用的是 ``_flat_weights``：平时就是各个属性，有人直接换掉它就不是了，抛 ``ValueError``。"""
    import torch

    flat = getattr(module, "_flat_weights", None)
    made_anew = hasattr(module, "parametrizations")  # 参数化的每次前向都照属性重新收；读一次算一次，不去惊动
    if isinstance(module, torch.jit.ScriptModule) or flat is None or made_anew:
        return
    if module._weights_have_changed():
        return  # 属性换过的，也会重新收
    for name, used in zip(module._flat_weights_names, flat, strict=False):
        mine = getattr(module, name, None)
        if mine is None or used is mine or name in masks:
            continue
        if used is None or used.shape != mine.shape or not torch.equal(used, mine):
            raise ValueError(
                f"{path(module)} 的 _flat_weights 被直接换过，前向用的是它，与 {name} 不同；"
                f"请把要的数写进 {name}（例如用 load_state_dict）再读"
            )


def _array(tensor: Any, label: str) -> np.ndarray:
    if "DTensor" in type(tensor).__name__:
        raise ValueError(f"{label} 是分布在几个进程里的 DTensor；请先收集完整的 state_dict，装进普通的模块")
    if getattr(tensor, "is_meta", False):
        raise ValueError(
            f'{label} 在 meta 设备上，只有形状没有数；请先 module.to_empty(device="cpu")，再装入权重'
        )
    array = conventions.plain(tensor, label)
    return conventions.real(array, label, np.float64 if array.dtype == np.float64 else np.float32).copy()


@contextmanager
def _undisturbed(module: "torch.nn.Module") -> Iterator[None]:
    """参数化的权重读一次算一次：训练状态下 spectral_norm 会迭代它的缓冲区，带 dropout 的会随机丢数。

    里面按 eval 读，出来时训练开关、缓冲区与随机数的状态都同原来一样；连读两次不同的，没有“此刻的值”，抛 ``ValueError``。
    """
    import torch

    parts = getattr(module, "parametrizations", None)
    if parts is None:
        yield
        return
    flags = [(part, part.training) for part in parts.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in parts.buffers()]
    devices = sorted({p.get_device() for p in module.parameters() if p.is_cuda})

    def restore() -> None:
        for buffer, saved in buffers:
            if not torch.equal(buffer, saved):
                buffer.copy_(saved)

    def once(name: str) -> "torch.Tensor":
        value = getattr(module, name)
        restore()
        return value

    with torch.random.fork_rng(devices):
        try:
            for name in parts:
                if not torch.allclose(once(name), once(name), rtol=0, atol=0, equal_nan=True):
                    raise ValueError(
                        f"{path(module)} 的 {name} 每读一次都随机变，没有确定的值；请先调用 .eval()，"
                        "还是随机的，用 torch.nn.utils.parametrize.remove_parametrizations 去掉"
                    )
            for part, _ in flags:
                part.training = False
            yield
        finally:
            for part, training in flags:
                part.training = training
            restore()
