"""RNNoise（Valin，2018）作对照：装了 PyPI 上的 ``pyrnnoise`` 才有；没有装，说一句怎么装，别的照做。

它在 48 kHz 上工作，一次 480 个样点（10 毫秒），网络、特征都与本书的不同。
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from lstm_lib.enhance.audio import resample
from lstm_lib.waves import SAMPLE_RATE, as_wave

PACKAGE = "pyrnnoise"
FULL_SCALE = 32768  # 它的浮点样点以 16 位整数的满幅计
DELAY = 2  # 输出晚几帧：重叠一帧，前瞻一帧


class RNNoise:
    """一路 48 kHz 单声道：``out = noise.process(samples)``，样点数是 ``hop`` 的整数倍。

    直接调用包里的 C 函数，不经过它的 Python 一层（那里每帧来回转换样点类型），量到的就是 RNNoise 自己。
    """

    version = ""

    def __init__(self) -> None:
        rnnoise = _binding()
        self._library, self._state = rnnoise.lib, rnnoise.create()
        self.rate, self.hop = int(rnnoise.SAMPLE_RATE), int(rnnoise.FRAME_SIZE)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            self.version = importlib.metadata.version(PACKAGE)

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._library.rnnoise_destroy(ctypes.c_void_p(self._state))

    def process(self, samples: np.ndarray) -> np.ndarray:
        """(N,) float32、满幅 ±1 → 同样长的一段；N 不是 ``hop`` 的整数倍抛 ``ValueError``。"""
        if samples.ndim != 1 or len(samples) % self.hop:
            raise ValueError(f"samples 应是一维、长度为 {self.hop} 的整数倍，得到形状 {samples.shape}")
        out = np.multiply(samples, FULL_SCALE, dtype=np.float32)
        start, step = out.ctypes.data, out.itemsize * self.hop
        pointer = ctypes.POINTER(ctypes.c_float)
        for address in range(start, start + out.nbytes, step):
            frame = ctypes.cast(address, pointer)
            self._library.rnnoise_process_frame(self._state, frame, frame)
        out /= FULL_SCALE
        return out


def denoise(noisy: np.ndarray) -> np.ndarray:
    """带噪波形 (N,)，16 kHz → 增强后的波形 (N,)，float32，与输入对齐；没有装 ``pyrnnoise`` 抛 ``ImportError``。"""
    noisy, rival = as_wave(noisy, "noisy"), RNNoise()
    wave, late = resample(noisy.astype(np.float32), SAMPLE_RATE, rival.rate), DELAY * rival.hop
    out = rival.process(np.pad(wave, (0, late + -(len(wave) + late) % rival.hop)))
    clean = resample(out[late : late + len(wave)], rival.rate, SAMPLE_RATE)
    return np.pad(clean, (0, max(0, len(noisy) - len(clean))))[: len(noisy)].astype(np.float32)


def _binding() -> Any:
    """包里只管 C 函数的那个模块，单独装载：包的 ``__init__`` 还要 FFmpeg、matplotlib，这里用不着。"""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"没有安装 {PACKAGE}")
    path = Path(found.submodule_search_locations[0]) / "rnnoise.py"
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}_binding", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def why_not() -> str:
    """RNNoise 用不起来的原因与办法，一句话；用得起来是空串。"""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"没有安装 {PACKAGE}；要比就先运行 pip install {PACKAGE}"
    try:
        RNNoise()
    except Exception as error:  # 包里自带的库、它依赖的包，各有各的错法
        return f"装着的 {PACKAGE} 用不起来（{type(error).__name__}：{error}）；请重新安装它"
    return ""
