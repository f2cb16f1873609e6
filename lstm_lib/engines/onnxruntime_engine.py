"""onnxruntime：float32，或 ``quantize_dynamic`` 量化的 int8。单线程。"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_lib.engines.base import Network, Offer
from lstm_lib.engines.graph import GraphEngine, Signature, free_batch
from lstm_lib.formats import onnx_graph, writers

if TYPE_CHECKING:
    import onnx


class OnnxruntimeEngine(GraphEngine):
    """状态是 (h, c)，各 (层数, 1, H)。"""

    def __init__(self, model: "onnx.ModelProto"):
        import onnxruntime

        super().__init__(Signature.read(model))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        options.log_severity_level = 3
        self._open = lambda data: onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        self._session = self._open(model.SerializeToString())
        self._several: Any = None
        self._model = model
        self._names, self._outputs = self.signature.inputs, list(self.signature.outputs)

    def _run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return self._session.run(self._outputs, dict(zip(self._names, arrays, strict=True)))

    def batch(self, x: np.ndarray) -> np.ndarray:
        if self.signature.dimensions != 3 or self.signature.time_axis or len(self._names) != 3:
            return super().batch(x)
        x = self.batches(x)
        if self._several is None:  # 图里的批写死是 1：另开一份，那一轴不写死
            self._several = self._open(free_batch(self._model).SerializeToString())
        zeros = np.zeros((self.state_shape[0], x.shape[1], self.state_shape[2]), np.float32)
        fed = dict(zip(self._names, (x, zeros, zeros), strict=True))
        return self._several.run(self._outputs[:1], fed)[0].reshape(*x.shape[:2], -1)


def onnx_model(network: Network) -> "onnx.ModelProto":
    """网络 → ONNX 图，见 ``formats.writers.onnx_model``。"""
    return writers.onnx_model(network.lstm, network.weight, network.bias, network.sigmoid)


def _load(path: str | Path) -> OnnxruntimeEngine:
    return OnnxruntimeEngine(onnx_graph.load_model(path))


_needs = ("onnx", "onnxruntime")
OFFERS = [
    Offer(
        "onnxruntime", "onnxruntime", lambda network: OnnxruntimeEngine(onnx_model(network)),
        packages=_needs, load=_load, suffixes=(".onnx",),
    ),
    Offer(
        "onnxruntime-int8", "onnxruntime int8",
        lambda network: OnnxruntimeEngine(writers.quantize_onnx(onnx_model(network))),
        "int8", _needs,
    ),
]  # fmt: skip
