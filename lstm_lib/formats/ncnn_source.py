"""要交给 pnnx 的 torch 模块：包成张量进、张量出的样子，示例输入与结果一并取出。"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

# pnnx 的 inputshape= 里，形状后面跟的类型；float32 不写
SUFFIXES = {
    "float32": "",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}


def tensors(value: Any) -> list[Any]:
    """嵌套的元组、列表、字典里的全部张量（或数组），从前到后。"""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in tensors(item)]
    return [value] if hasattr(value, "shape") and hasattr(value, "dtype") else []


def shapes(inputs: Any) -> str:
    """pnnx 的 inputshape=：``[1,10,6],[1,5]i64``。"""
    parts = []
    for k, tensor in enumerate(tensors(inputs)):
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in SUFFIXES:
            raise ValueError(f"inputs 的第 {k} 个是 {kind}，pnnx 不支持；请改用 float32 或 int64")
        if not len(tensor.shape):
            raise ValueError(f"inputs 的第 {k} 个是单个数，没有形状；pnnx 只收至少一维的张量")
        parts.append("[" + ",".join(map(str, tensor.shape)) + "]" + SUFFIXES[kind])
    return ",".join(parts)


def normalized(inputs: Any) -> Any:
    """单独一个张量也算一个输入；NumPy 数组换成张量。"""
    import torch

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Mapping):
            return {key: convert(item) for key, item in value.items()}
        return tuple(map(convert, value)) if isinstance(value, tuple | list) else value

    return convert(inputs if isinstance(inputs, tuple | list | Mapping) else (inputs,))


def _filled(template: Any, leaves: Iterator[Any]) -> Any:
    if isinstance(template, Mapping):
        return {key: _filled(item, leaves) for key, item in template.items()}
    if isinstance(template, tuple | list):
        return tuple(_filled(item, leaves) for item in template)
    return next(leaves) if tensors(template) else template


def bare(module: Any) -> Any:
    """剥去 ``torch.compile`` 的壳；参数化的权重照 eval 时的值写死（在副本里），pnnx 不会算。

    没有数的（meta）、torch.ao 量化过的抛 ``ValueError``。
    """
    import copy

    from torch.nn.utils import parametrize

    if type(module).__module__.startswith("torch._dynamo."):
        module = getattr(module, "_orig_mod", module)
    kind = type(module).__name__
    for name, part in module.named_modules():
        if type(part).__module__.startswith("torch.ao.nn."):
            raise ValueError(
                f"{kind} 的 {name or '根'} 是 torch.ao 量化用的模块，pnnx 转不了；请给量化之前的"
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f'{kind} 的 {name} 在 meta 设备上，只有形状没有数；请先 .to_empty(device="cpu")，再装入权重'
            )
    if not any(parametrize.is_parametrized(part) for part in module.modules()):
        return module
    module = copy.deepcopy(module).eval()
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    return module


def caller(module: Any, inputs: Any) -> Callable[..., Any]:
    """``inputs`` 是字典时按关键字参数调用，否则按位置。"""
    if isinstance(inputs, Mapping):
        return lambda *leaves: module(**_filled(inputs, iter(leaves)))
    return lambda *leaves: module(*_filled(inputs, iter(leaves)))


def needs_wrapping(module: Any, inputs: Any, result: Any) -> bool:
    """pnnx 只认张量进、一层元组出；torch 自带的模块做根时，它认不出那是哪一层。"""
    flat_in = not isinstance(inputs, Mapping) and all(len(tensors(x)) == 1 for x in inputs)
    nested = any(isinstance(x, tuple | list | Mapping) for x in inputs)
    simple = hasattr(result, "shape") or (
        isinstance(result, tuple) and all(hasattr(item, "shape") for item in result)
    )
    builtin = type(module).__module__.startswith("torch.nn.modules") and not list(module.children())
    return builtin or nested or not flat_in or not simple


def wrapped(module: Any, inputs: Any) -> Any:
    """包一层：张量依次进，结果里的张量依次出（LSTM 就是 y、h、c）。"""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *leaves: Any) -> Any:
            found = tuple(tensors(caller(self.inner, inputs)(*leaves)))
            return found[0] if len(found) == 1 else found

    return Flat()


@contextmanager
def prepared(module: Any) -> Iterator[None]:
    """转换期间：进入 eval；写死的初态先过一步 clone，pnnx 才会照 x、h、c 的次序接。离开时恢复原样。"""
    import torch

    modes = [(m, m.training) for m in module.modules()]
    kept = [*module.parameters(), *module.buffers()]
    for m in module.modules():
        kept += tensors([v for v in vars(m).values() if isinstance(v, torch.Tensor | tuple | list)])

    def renewed(value: Any) -> Any:
        if isinstance(value, tuple | list):
            if len(value) == 2 and value[0] is value[1] and isinstance(value[0], torch.Tensor):
                return value[0].clone(), value[1].clone()  # h 与 c 是同一个张量，pnnx 认不出
            return tuple(map(renewed, value))
        return value.clone() if any(value is tensor for tensor in kept) else value

    def hook(_: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        state = {key: renewed(value) if key == "hx" else value for key, value in kwargs.items()}
        return (*args[:1], *map(renewed, args[1:])), state

    handles = [
        m.register_forward_pre_hook(hook, with_kwargs=True)
        for m in module.modules()
        if isinstance(m, torch.nn.RNNBase)
    ]
    module.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for m, training in modes:
            m.training = training


def probes(inputs: Any) -> list[Any]:
    """核对用的输入：处处相同的（多半是占位的零）换成随机数，否则 h 与 c 接反了也看不出来。"""
    import torch

    generator = torch.Generator().manual_seed(0)
    found = []
    for tensor in tensors(inputs):
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            tensor = torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
        found.append(tensor)
    return found


def arrays(values: Any) -> list[np.ndarray]:
    """张量 → NumPy 数组；bfloat16 先换成 float32。"""
    found = []
    for tensor in tensors(values):
        tensor = tensor.detach().cpu()
        found.append((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())
    return found
