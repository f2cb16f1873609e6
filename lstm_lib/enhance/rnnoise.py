"""RNNoise（Valin，2018）作对照：装了 PyPI 上的 pyrnnoise 才有；只借它带的动态库，不要它的别的依赖。"""

import ctypes
import functools
import importlib.util
from pathlib import Path

import numpy as np

from lstm_lib.enhance.audio import resample
from lstm_lib.waves import SAMPLE_RATE, as_wave

RATE, FULL_SCALE, DELAY = 48000, 32768.0, 2  # Hz，满幅，输出晚几帧
LIBRARIES = ("librnnoise.so", "librnnoise.dylib", "rnnoise.dll")
INSTALL = "没有安装 pyrnnoise；要与 RNNoise 比，请 pip install pyrnnoise。"


@functools.cache
def _library():
    found = importlib.util.find_spec("pyrnnoise")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(INSTALL, name="pyrnnoise")
    folder = Path(found.submodule_search_locations[0])
    problem = f"{folder} 里没有 RNNoise 的动态库"
    for path in (folder / name for name in LIBRARIES):
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:  # 别的系统的库
                problem = f"{path} 载入不了：{error}"
                continue
            library.rnnoise_create.argtypes = [ctypes.c_void_p]
            library.rnnoise_create.restype = ctypes.c_void_p
            library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
            floats = np.ctypeslib.ndpointer(np.float32, flags="C")
            library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
            library.rnnoise_process_frame.restype = ctypes.c_float
            return library
    raise ImportError(f"pyrnnoise 在这台机器上不能用：{problem}。")


def check() -> None:
    """能不能用；没有装是 ``ModuleNotFoundError``，装了但用不了是 ``ImportError``，消息说明怎么办。"""
    _library()


def denoise(noisy: np.ndarray) -> np.ndarray:
    """带噪波形 (N,)，16 kHz → 增强后的波形 (N,)，float32，与输入对齐。

    RNNoise 在 48 kHz 上以 10 毫秒为一帧，0.2 版的输出晚两帧（重叠一帧，前瞻一帧）；这里把它移回来。
    """
    noisy, library = as_wave(noisy, "noisy"), _library()
    frame = int(library.rnnoise_get_frame_size())
    wave = resample(noisy.astype(np.float32), SAMPLE_RATE, RATE) * np.float32(FULL_SCALE)
    late = DELAY * frame
    padded = np.zeros(-(-(len(wave) + late) // frame) * frame, np.float32)
    padded[: len(wave)] = wave
    out = np.empty_like(padded)
    state = library.rnnoise_create(None)
    try:
        for start in range(0, len(padded), frame):
            piece = slice(start, start + frame)
            library.rnnoise_process_frame(state, out[piece], padded[piece])
    finally:
        library.rnnoise_destroy(state)
    clean = resample(out[late : late + len(wave)] / np.float32(FULL_SCALE), RATE, SAMPLE_RATE)
    return np.pad(clean, (0, max(0, len(noisy) - len(clean))))[: len(noisy)].astype(np.float32)
