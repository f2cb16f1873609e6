"""引擎赛跑：同一个 LSTM（单层、单向、无投影）放进各家引擎，轮流计时。

每个引擎是一个 ``Engine``：``sequence(x)`` 算整段 (T, I) → (T, H)；``step(x_t)`` 算一帧、状态留在引擎里，
``reset()`` 清零状态。全部单线程。第三方库在用到时才导入；OpenVINO 没装就没有它。
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lstm_lib.formats.quiet import quiet
from lstm_lib.lstm import layouts


@dataclass
class Engine:
    """一个引擎。``quantized`` 说它用不用 int8；没有的能力为 None。"""

    name: str
    quantized: bool
    sequence: Callable | None
    step: Callable | None
    reset: Callable | None
    ours: bool = False


def build(lstm, names=None) -> list[Engine]:
    """把 ``lstm``（``lstm_lib.LSTM``）放进各引擎；``names`` 只取其中几个，名字见 ``MAKERS``。"""
    config = lstm.config
    if config.num_layers != 1 or config.direction != "forward" or config.proj_size:
        raise ValueError("引擎对比只做单层、单向、无投影的 LSTM")
    unknown = set(names or ()) - set(MAKERS)
    if unknown:
        raise ValueError(f"没有名为 {'、'.join(sorted(unknown))} 的引擎；可选：{'、'.join(MAKERS)}")
    with quiet():  # 转换工具爱往屏幕上写字
        return [MAKERS[name](lstm) for name in names or available()]


def available() -> list[str]:
    """这台机器上能跑的引擎。"""
    return [name for name in MAKERS if name != "OpenVINO" or importlib.util.find_spec("openvino")]


def _native(name, dtype):
    def make(lstm):
        from lstm_lib.native import NativeLSTM

        fast = NativeLSTM(lstm, dtype)
        stream = fast.stream()
        return Engine(name, dtype == "int8", lambda x: fast(x)[0], stream.step, stream.reset, ours=True)

    return make


class _Carried:
    """把“(x, h, c) → (y, h, c)”的函数变成自带状态的 ``step``。"""

    def __init__(self, run, zeros):
        self.run, self.zeros = run, zeros
        self.reset()

    def reset(self):
        self.h, self.c = self.zeros, self.zeros

    def step(self, x):
        y, self.h, self.c = self.run(x, self.h, self.c)
        return y


def _torch_module(lstm):
    import torch

    config = lstm.config
    module = torch.nn.LSTM(config.input_size, config.hidden_size, bias=config.bias).eval()
    with torch.no_grad():
        for name, value in lstm.parameters.items():
            target = getattr(module, name.replace("bias", "bias_ih"))
            target.copy_(torch.tensor(value))
        if config.bias:
            module.bias_hh_l0.zero_()
    return module


def _torch(lstm):
    import torch

    module = _torch_module(lstm)
    zeros = torch.zeros(1, lstm.config.hidden_size)

    def run(x, h, c):
        with torch.inference_mode():
            y, (h, c) = module(torch.from_numpy(x), (h, c))
        return y.numpy(), h, c

    carried = _Carried(lambda x, h, c: run(x[None], h, c), zeros)
    return Engine("torch LSTM", False, lambda x: run(x, zeros, zeros)[0], carried.step, carried.reset)


def _torch_cell(lstm):
    import torch

    module = _torch_module(lstm)
    cell = torch.nn.LSTMCell(module.input_size, module.hidden_size, bias=module.bias)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})

    def run(x, h, c):
        with torch.inference_mode():
            h, c = cell(torch.from_numpy(x), (h, c))
        return h.numpy(), h, c

    carried = _Carried(run, torch.zeros(lstm.config.hidden_size))
    return Engine("torch LSTMCell", False, None, carried.step, carried.reset)


def onnx_model(lstm):
    """最朴素的 ONNX 图：一个 LSTM 节点，初态是图的输入。"""
    from onnx import TensorProto, helper, numpy_helper

    config, p = lstm.config, lstm.parameters
    bias = p["bias_l0"] if config.bias else np.zeros(4 * config.hidden_size, np.float32)
    weights = {
        "W": layouts.reorder(p["weight_ih_l0"], "torch", "onnx")[None],
        "R": layouts.reorder(p["weight_hh_l0"], "torch", "onnx")[None],
        "B": np.concatenate(layouts.split_bias(layouts.reorder(bias, "torch", "onnx")))[None],
    }
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v, np.float32), k) for k, v in weights.items()]
    node = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "h1", "c1"], hidden_size=config.hidden_size
    )
    size = config.hidden_size
    shapes = {"x": ["T", 1, config.input_size], "h": [1, 1, size], "c": [1, 1, size]}
    results = {"y": ["T", 1, 1, size], "h1": [1, 1, size], "c1": [1, 1, size]}
    sides = (
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in d.items()]
        for d in (shapes, results)
    )
    return helper.make_model(
        helper.make_graph([node], "lstm", *sides, tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def _onnxruntime(name, quantized):
    def make(lstm):
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "lstm.onnx")
            onnx.save(onnx_model(lstm), path)
            if quantized:
                from onnxruntime.quantization import QuantType, quantize_dynamic

                source, path = path, Path(folder, "int8.onnx")
                quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)
                if not any(node.op_type == "DynamicQuantizeLSTM" for node in onnx.load(path).graph.node):
                    raise RuntimeError(
                        "quantize_dynamic 没有换上 DynamicQuantizeLSTM：换一个 onnxruntime 版本"
                    )
            session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        return _three_in_three_out(
            name, quantized, lstm, lambda x, h, c: session.run(None, {"x": x, "h": h, "c": c})
        )

    return make


def _three_in_three_out(name, quantized, lstm, call):
    """x (T, 1, I)、h、c (1, 1, H) 进，y、h、c 出的引擎。"""
    zeros = np.zeros((1, 1, lstm.config.hidden_size), np.float32)

    def one(x, h, c):
        y, h, c = call(x.reshape(1, 1, -1), h, c)
        return y.reshape(-1), h, c

    def sequence(x):
        return call(x[:, None], zeros, zeros)[0].reshape(len(x), -1)

    carried = _Carried(one, zeros)
    return Engine(name, quantized, sequence, carried.step, carried.reset)


def write_ncnn(lstm, folder, quantized) -> tuple[Path, Path]:
    """按 ncnn 的格式写出 .param 与 .bin（``quantized`` 时 8=2：逐行对称 int8）；返回两个路径。"""
    from lstm_lib.formats.ncnn_bin import FLAG_FP32, FLAG_INT8
    from lstm_lib.native.pack import quantize_rows

    config, p = lstm.config, lstm.parameters
    size, count = config.hidden_size, p["weight_ih_l0"].size
    param, data = Path(folder, "lstm.param"), Path(folder, "lstm.bin")
    line = f"LSTM lstm 3 3 x h c y h1 c1 0={size} 1={count} 2=0 3={size}" + " 8=2" * quantized
    inputs = [f"Input {name} 0 1 {name}" for name in "xhc"]
    param.write_text("\n".join(["7767517", "4 6", *inputs, line, ""]))

    def blob(array, flag):
        raw = np.ascontiguousarray(array).tobytes()
        return flag.to_bytes(4, "little") + raw + bytes(-len(raw) % 4)

    bias = p["bias_l0"] if config.bias else np.zeros(4 * size, np.float32)
    xc, bias, hc = (layouts.reorder(a, "torch", "ncnn") for a in (p["weight_ih_l0"], bias, p["weight_hh_l0"]))
    if not quantized:
        data.write_bytes(b"".join(blob(a, FLAG_FP32) for a in (xc, bias, hc)))
        return param, data
    (xc, x_scale), (hc, h_scale) = quantize_rows(xc), quantize_rows(hc)
    scales = [np.float32(1) / np.where(s > 0, s, 1).astype(np.float32) for s in (x_scale, h_scale)]
    blobs = [blob(xc, FLAG_INT8), blob(bias, FLAG_FP32), blob(hc, FLAG_INT8), *(s.tobytes() for s in scales)]
    data.write_bytes(b"".join(blobs))
    return param, data


def _ncnn(name, quantized):
    def make(lstm):
        from lstm_lib.formats.ncnn_run import NcnnRunner

        with tempfile.TemporaryDirectory() as folder:
            runner = NcnnRunner(*write_ncnn(lstm, folder, quantized))
        net, mat = runner.net, runner._mat
        zeros = np.zeros((1, lstm.config.hidden_size), np.float32)

        def run(x, h, c):
            with net.create_extractor() as extractor:  # x、h、c 都有名字：Mat 只借用它们的内存
                extractor.input("x", mat(x))
                extractor.input("h", mat(h))
                extractor.input("c", mat(c))
                return tuple(np.array(extractor.extract(name)[1]) for name in ("y", "h1", "c1"))

        def one(x, h, c):
            y, h, c = run(x.reshape(1, -1), h, c)
            return y[0], h, c

        carried = _Carried(one, zeros)
        return Engine(name, quantized, lambda x: run(x, zeros, zeros)[0], carried.step, carried.reset)

    return make


def _openvino(lstm):
    import openvino

    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        import onnx

        path = Path(folder, "lstm.onnx")
        onnx.save(onnx_model(lstm), path)
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def call(x, h, c):
        result = request.infer({"x": x, "h": h, "c": c})
        return tuple(np.array(value) for value in result.values())

    return _three_in_three_out("OpenVINO", False, lstm, call)


MAKERS = {
    "torch LSTM": _torch,
    "torch LSTMCell": _torch_cell,
    "onnxruntime": _onnxruntime("onnxruntime", False),
    "ncnn": _ncnn("ncnn", False),
    "OpenVINO": _openvino,
    "本书 C": _native("本书 C", "float32"),
    "onnxruntime int8": _onnxruntime("onnxruntime int8", True),
    "ncnn int8": _ncnn("ncnn int8", True),
    "本书 C int8": _native("本书 C int8", "int8"),
}


# ---------------------------------------------------------------- 计时


def alternate(functions, rounds, calls=1) -> np.ndarray:
    """轮流计时：每一轮把各函数依次各调 ``calls`` 次，返回 (函数, 轮) 的单次秒数。

    轮流做，机器一时忙一时闲对大家就是一样的；先各跑一遍不计时，缓存与惰性初始化都热了再开始。
    """
    for function in functions:
        function()
    times = np.empty((len(functions), rounds))
    for turn in range(rounds):
        for k, function in enumerate(functions):
            function()  # 上一个函数把缓存换成了它的数据，先找回来
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[k, turn] = (time.perf_counter() - start) / calls
    return times


def race(engines, x, rounds=30, calls=40) -> dict[str, np.ndarray]:
    """两场比赛：``{"step": …, "sequence": …}``，各是 (引擎, 轮) 的秒数；不会的引擎那一行是 NaN。

    x (T, I)：``sequence`` 算整段；``step`` 只用它的第一帧，带着状态反复走。
    """
    results = {}
    frame = x[0].copy()
    for kind, argument, count in (("step", frame, calls), ("sequence", x, 1)):
        able = [(k, getattr(e, kind)) for k, e in enumerate(engines) if getattr(e, kind)]
        functions = [lambda f=f, a=argument: f(a) for _, f in able]
        times = np.full((len(engines), rounds), np.nan)
        times[[k for k, _ in able]] = alternate(functions, rounds, count)
        results[kind] = times
    return results


def rows(engines, times, unit):
    """每个引擎一行：名字、中位数、四分位范围、相对最快的同类对手（中位数之比，大于 1 是我们慢）。"""
    medians = np.median(times, axis=1)
    table = []
    for k, engine in enumerate(engines):
        if np.isnan(medians[k]):
            continue
        low, high = np.percentile(times[k], [25, 75]) / unit
        table.append(
            [
                engine.name,
                "int8" if engine.quantized else "float32",
                medians[k] / unit,
                f"{low:.3g}–{high:.3g}",
            ]
        )
    return table


def fastest(engines, times, quantized, ours=False) -> int:
    """某一类（float32 或 int8，对手或本书）里中位数最小的引擎的编号。"""
    medians = np.median(times, axis=1)
    able = [
        k
        for k, e in enumerate(engines)
        if e.quantized == quantized and e.ours == ours and not np.isnan(medians[k])
    ]
    return min(able, key=lambda k: medians[k])


def speedup(times, slow, fast) -> tuple[float, float, float]:
    """``fast`` 比 ``slow`` 快几倍：逐轮比值的中位数与四分位数（同一轮里两者的环境相同）。"""
    ratios = times[slow] / times[fast]
    return tuple(float(v) for v in np.percentile(ratios, [50, 25, 75]))
