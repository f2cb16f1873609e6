"""OpenVINO，读的是同一张 ONNX 图。单线程、float32。它不在本书的依赖里，装了才有。"""

import threading
from typing import TYPE_CHECKING

import numpy as np
import onnx

from lstm_lib.engines.base import Offer
from lstm_lib.engines.graph import GraphEngine, Signature
from lstm_lib.engines.onnxruntime_engine import onnx_model
from lstm_lib.formats import onnx_graph

if TYPE_CHECKING:
    import onnx


class OpenVINOEngine(GraphEngine):
    """状态是 (h, c)，各 (层数, 1, H)。"""

    def __init__(self, model: "onnx.ModelProto"):
        import openvino

        super().__init__(Signature.read(model))
        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # 缺省会悄悄用 bf16
            "NUM_STREAMS": 1,
        }
        graph = core.read_model(model=model.SerializeToString())
        self._compiled = core.compile_model(graph, "CPU", options)
        self._local = threading.local()  # 一个推理请求同一时刻只能由一个线程用
        self._names, self._count = self.signature.inputs, len(self.signature.outputs)

    def _run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        try:
            request = self._local.request
        except AttributeError:
            request = self._local.request = self._compiled.create_infer_request()
        result = request.infer(dict(zip(self._names, arrays, strict=True)))
        return [np.array(result[k]) for k in range(self._count)]  # 请求会重用输出的内存，复制一份


OFFERS = [
    Offer(
        "openvino", "OpenVINO", lambda network: OpenVINOEngine(onnx_model(network)),
        packages=("onnx", "openvino"),
        load=lambda path: OpenVINOEngine(onnx_graph.load_model(path)), suffixes=(".onnx",),
    )
]  # fmt: skip
