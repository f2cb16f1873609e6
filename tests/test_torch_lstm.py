"""从 torch 模块抄权重：此刻的值抄得准，模块原样不动；另有东西在改数的，点名拒绝。"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lstm_lib import LSTM, engines
from lstm_lib.enhance import irm
from lstm_lib.formats import torch_lstm

torch.set_num_threads(1)


def plain(**options):
    torch.manual_seed(0)
    return nn.LSTM(3, 4, **options)


class Doubling(nn.LSTM):
    def forward(self, x, state=None):
        return super().forward(2 * x, state)


class WithExtras(nn.LSTM):
    """没有改写前向的子类。"""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.unused = nn.Linear(2, 2)

    def parameter_count(self):
        return sum(p.numel() for p in self.parameters())


class StateKept(nn.LSTM):
    def permute_hidden(self, state, permutation):
        return tuple(0 * a for a in state)


class Dropped(nn.Module):
    """一种参数化：训练时随机丢权重。"""

    def forward(self, weight):
        return nn.functional.dropout(weight, 0.5, self.training)


class Noisy(nn.Module):
    def forward(self, weight):
        return weight + torch.randn_like(weight)


class Counting(nn.Module):
    """一种参数化：每读一次就记一笔，eval 也记。"""

    def __init__(self):
        super().__init__()
        self.register_buffer("reads", torch.zeros(1))

    def forward(self, weight):
        self.reads += 1
        return weight


class FlatDoubled(nn.LSTM):
    def _update_flat_weights(self):
        super()._update_flat_weights()
        self._flat_weights = [2 * w for w in self._flat_weights]


def without(name):
    module = plain()
    delattr(module, name)
    return module


def changed(**attributes):
    module = plain()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def parametrized(part, **options):
    module = plain(**options)
    parametrize.register_parametrization(module, "weight_hh_l0", part)
    return module


def hooked(register, hook, **options):
    module = plain()
    getattr(module, register)(hook, **options)
    return module


def quantized(dtype):
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(nn.Sequential(plain()), {nn.LSTM}, dtype=dtype)[0]


def reference():
    from torch.ao.nn.quantized.reference import LSTM as Reference

    return Reference(3, 4)


def rebound():
    module = plain()
    module.forward = lambda x, state=None: (x, state)
    return module


def quantizable():
    from torch.ao.nn.quantizable import LSTM as Quantizable

    return Quantizable(3, 4)


def change_input(module, inputs):
    return (2 * inputs[0], *inputs[1:])


def change_input_by_name(module, inputs, named):
    return (2 * inputs[0], *inputs[1:]), named


def change_output(module, inputs, outputs):
    return 2 * outputs[0], outputs[1]


REFUSED = {
    "旧式 weight_norm": (
        lambda: nn.utils.weight_norm(plain(), "weight_hh_l0"),
        r"weight_hh_l0 由旧式的 torch.nn.utils.weight_norm 管着.*remove_weight_norm\(module, \"weight_hh_l0\"\)",
    ),
    "旧式 spectral_norm": (
        lambda: nn.utils.spectral_norm(plain(), "weight_ih_l0"),
        r"weight_ih_l0 由旧式的 torch.nn.utils.spectral_norm 管着.*parametrizations.spectral_norm",
    ),
    "自己的 forward": (lambda: Doubling(3, 4), r"子类 .*\.Doubling改写了 forward"),
    "换掉的 forward": (rebound, r"这个 torch\.nn\.modules\.rnn\.LSTM 对象改写了 forward"),
    "自己的 permute_hidden": (lambda: StateKept(3, 4), r"\.StateKept改写了 permute_hidden"),
    "自己收权重": (lambda: FlatDoubled(3, 4), r"\.FlatDoubled改写了 _update_flat_weights"),
    "换掉的 _flat_weights": (
        lambda: changed(_flat_weights=[2 * w.detach() for w in plain()._flat_weights]),
        r"_flat_weights 被直接换过，前向用的是它，与 weight_ih_l0 不同.*load_state_dict",
    ),
    "网络上的钩子": (lambda: hook_on(nn.Sequential(plain()), None), r"得到 Sequential.*取出那一层"),
    "删掉了偏置": (lambda: without("bias_hh_l0"), r"没有 bias_hh_l0：它被删掉了"),
    "建好以后改成双向": (lambda: changed(bidirectional=True), r"没有 weight_ih_l0_reverse：.*bidirectional"),
    "前向钩子": (lambda: hooked("register_forward_hook", change_output), r"前向钩子 change_output.*\.remove"),
    "前置钩子": (lambda: hooked("register_forward_pre_hook", change_input), r"前向钩子 change_input，"),
    "带名字的前置钩子": (
        lambda: hooked("register_forward_pre_hook", change_input_by_name, with_kwargs=True),
        r"前向钩子 change_input_by_name，",
    ),
    "编译之后挂的钩子": (
        lambda: torch.compile(hooked("register_forward_hook", change_output)),
        r"前向钩子 change_output",
    ),
    "动态量化": (lambda: quantized(torch.qint8), r"得到 LSTM（torch\.ao\.nn\.quantized\.dynamic\..*量化之前"),
    "动态 fp16": (lambda: quantized(torch.float16), r"得到 LSTM（torch\.ao\.nn\.quantized\.dynamic\."),
    "量化的参照": (reference, r"得到 LSTM（torch\.ao\.nn\.quantized\.reference\..*量化之前"),
    "可量化": (quantizable, r"得到 LSTM（torch\.ao\.nn\.quantizable\."),
    "追踪": (
        lambda: torch.jit.trace(plain(), torch.zeros(2, 1, 3)),
        r"TorchScript 的模块，追踪或冻结之后.*请给编译之前的",
    ),
    "多设备的壳": (lambda: nn.DataParallel(plain()), r"得到 DataParallel.*请给里面的 \.module"),
    "装在网络里": (lambda: nn.Sequential(plain()), r"得到 Sequential.*取出那一层"),
    "没有数": (lambda: plain(device="meta"), r"weight_ih_l0 在 meta 设备上，只有形状没有数.*to_empty"),
    "训练时随机丢权重": (lambda: parametrized(Dropped()), r"weight_hh_l0 每读一次都随机变.*eval"),
    "总是随机": (
        lambda: parametrized(Noisy()).eval(),
        r"weight_hh_l0 每读一次都随机变.*remove_parametrizations",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_changes_more_than_weights_is_refused_by_name(kind):
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        LSTM.from_torch(make())


@pytest.mark.parametrize("place", ["pre_hook", "hook"])
def test_hooks_on_every_module_are_refused(place):
    hook = {"pre_hook": change_input, "hook": change_output}[place]
    handle = getattr(nn.modules.module, f"register_module_forward_{place}")(hook)
    try:
        with pytest.raises(ValueError, match=f"对全部模块生效的前向钩子 {hook.__name__}"):
            LSTM.from_torch(plain())
    finally:
        handle.remove()
    LSTM.from_torch(plain())


def test_a_refusal_leaves_the_random_state_alone():
    module, state = parametrized(Noisy()), torch.get_rng_state()
    with pytest.raises(ValueError, match="随机"):
        LSTM.from_torch(module)
    assert torch.equal(state, torch.get_rng_state())


def compiled_in_place():
    module = plain()
    nn.Module.compile(module)
    return module


def pruned(container=False):
    module = prune.l1_unstructured(plain(), "weight_hh_l0", 0.5)
    if container:
        prune.random_unstructured(module, "weight_hh_l0", 0.3)
    prune.random_unstructured(module, "bias_ih_l0", 0.3)
    return module


READ = {
    "weight_norm": lambda: parametrizations.weight_norm(plain(), "weight_hh_l0"),
    "spectral_norm": lambda: parametrizations.spectral_norm(plain(), "weight_hh_l0"),
    "orthogonal": lambda: parametrizations.orthogonal(plain(), "weight_hh_l0"),
    "eval 的随机丢权重": lambda: parametrized(Dropped()).eval(),
    "记数": lambda: parametrized(Counting()),
    "剪枝": pruned,
    "剪了两回": lambda: pruned(True),
    "没有改写前向的子类": lambda: WithExtras(3, 4),
    "反向钩子": lambda: hooked("register_full_backward_hook", lambda *_: None),
    "保存时的钩子": lambda: hooked("register_state_dict_pre_hook", lambda *_: None),
    "torch.compile": lambda: torch.compile(plain(), backend="eager"),
    "就地 compile": compiled_in_place,
    "窥探不到的缓冲区": lambda: hooked("register_buffer", "mark", tensor=torch.ones(2)),
    "不求导": lambda: plain().requires_grad_(False),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", READ)
def test_the_present_value_is_read_and_nothing_is_touched(kind, training):
    """参数改过一步之后再抄：与模块此刻（eval 时）的输出相同；缓冲区、开关、随机数都没有动。"""
    module = READ[kind]()
    module.train(training and "随机" not in kind)
    with torch.no_grad():
        for parameter in module.parameters():  # 训练走了一步：属性里存着的权重可能已经过时
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    flags = [m.training for m in module.modules()]
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    state = torch.get_rng_state()
    lstm = LSTM.from_torch(module)
    assert torch.equal(state, torch.get_rng_state())
    assert flags == [m.training for m in module.modules()]
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), f"{name} 变了"
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, (h, c) = getattr(module, "_orig_mod", module).eval()(x)
    ours, (ours_h, ours_c) = lstm(x)
    for a, b in ((ours, y), (ours_h, h), (ours_c, c)):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-6)


def test_modules_made_in_inference_mode_are_read():
    """在 torch.inference_mode 里建的张量，出来就不许就地改；谱归一化读一次要改一次。"""
    for training in (True, False):
        with torch.inference_mode():
            module = parametrizations.spectral_norm(plain(), "weight_hh_l0").train(training)
        before = module.parametrizations.weight_hh_l0[0]._u.numpy().copy()
        lstm = LSTM.from_torch(module)
        np.testing.assert_array_equal(before, module.parametrizations.weight_hh_l0[0]._u.numpy())
        with torch.inference_mode():
            x = torch.rand(4, 2, 3)
            want = module.eval()(x)[0].numpy()
        np.testing.assert_allclose(lstm(x.numpy())[0], want, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_scripted_modules_are_read():
    lstm = LSTM.from_torch(torch.jit.script(plain(num_layers=2, batch_first=True)))
    assert lstm.config == LSTM.from_torch(plain(num_layers=2, batch_first=True)).config
    np.testing.assert_array_equal(
        lstm.parameters["weight_hh_l1"],
        LSTM.from_torch(plain(num_layers=2, batch_first=True)).parameters["weight_hh_l1"],
    )


class LSTMLike(nn.Module):
    """名字与属性都像，算的却不是。"""

    def __init__(self):
        super().__init__()
        self.mode, self.weight_ih_l0 = "LSTM", nn.Parameter(torch.zeros(16, 3))
        self.input_size, self.hidden_size, self.num_layers, self.proj_size = 3, 4, 1, 0
        self.bias, self.batch_first, self.bidirectional, self.dropout = False, False, False, 0.0
        self.weight_hh_l0 = nn.Parameter(torch.zeros(16, 4))

    def forward(self, x):
        return 2 * x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [LSTMLike, lambda: torch.jit.script(LSTMLike())])
def test_lookalikes_are_refused(make):
    with pytest.raises(ValueError, match=r"应给 torch\.nn\.LSTM，得到 .*LSTMLike|由 .*LSTMLike 编成"):
        LSTM.from_torch(make())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_widths_are_kept_exactly(dtype):
    module = plain().to(dtype)
    lstm = LSTM.from_torch(module)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert lstm.config.dtype == str(wide).removeprefix("torch.")
    for name in ("weight_ih_l0", "weight_hh_l0"):
        np.testing.assert_array_equal(lstm.parameters[name], getattr(module, name).detach().to(wide).numpy())
    total = module.bias_ih_l0.detach().to(wide) + module.bias_hh_l0.detach().to(wide)  # 放宽之后再加
    np.testing.assert_array_equal(lstm.parameters["bias_l0"], total.numpy())


def test_sparse_and_mixed_weights():
    module, expected = plain(), LSTM.from_torch(plain()).parameters
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach().to_sparse())
    np.testing.assert_array_equal(
        LSTM.from_torch(module).parameters["weight_hh_l0"], expected["weight_hh_l0"]
    )
    module = plain()
    module.weight_hh_l0.data = module.weight_hh_l0.data.double() / 3  # 只有一个是 float64：不悄悄变窄
    lstm = LSTM.from_torch(module)
    assert lstm.config.dtype == "float64"
    np.testing.assert_array_equal(lstm.parameters["weight_hh_l0"], module.weight_hh_l0.detach().numpy())


def network(**changes):
    made = irm.IRMNetwork(irm.NetworkConfig(hidden_size=8)).eval()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class Squared(irm.IRMNetwork):
    def forward_with_state(self, mag, state=None):
        mask, state = super().forward_with_state(mag, state)
        return mask**2, state


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: hook_on(network(), "mask"), "前向钩子 change_output"),
        (lambda: hook_on(network(), "head"), "前向钩子 change_output"),
        (lambda: hook_on(network(), "activation"), "前向钩子 change_output"),
        (lambda: hook_on(network(), None), "IRMNetwork 上挂着前向钩子 change_output"),
        (lambda: Squared(irm.NetworkConfig(hidden_size=8)), "Squared改写了 forward_with_state"),
        (lambda: network(activation=nn.Tanh()), "activation 应是 Sigmoid，得到 Tanh"),
        (lambda: network(head=nn.utils.weight_norm(nn.Linear(8, 257))), "weight 由旧式的"),
        (lambda: network(head=nn.Sequential(nn.Linear(8, 257))), "head 应是 Linear 或 Identity"),
        (plain, r"得到 LSTM（torch\.nn\.modules\.rnn\.LSTM）；.*LSTM\.from_torch"),
    ],
)
def test_engines_take_only_what_they_compute(make, message):
    with pytest.raises(ValueError, match=message):
        engines.describe(make())


def hook_on(made, name):
    (getattr(made, name) if name else made).register_forward_hook(change_output)
    return made


def test_the_heads_present_value_is_read():
    head = prune.l1_unstructured(nn.Linear(8, 257), "weight", 0.5)
    with torch.no_grad():
        head.weight_orig.mul_(3)
    made = network(head=head)
    described = engines.describe(made)
    with torch.no_grad():
        head(torch.zeros(8))  # 前向之后，属性才是新的
    np.testing.assert_array_equal(described.weight, head.weight.detach().numpy())
    normed = parametrizations.weight_norm(nn.Linear(8, 257))
    described = engines.describe(network(head=normed))
    np.testing.assert_array_equal(described.weight, normed.weight.detach().numpy())
    assert torch_lstm.load_linear(nn.Linear(2, 3, bias=False))[1] is None


def test_names_the_class_like_ours_in_another_library():
    with pytest.raises(ValueError, match=r"应给 torch\.nn\.LSTM，得到 LSTM（lstm_lib\.front\.LSTM）"):
        LSTM.from_torch(LSTM.from_torch(plain()))
