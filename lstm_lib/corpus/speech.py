"""语音合成：经 ctypes 调用 espeakng-loader 带来的 espeak-ng。

espeak-ng 是 GPLv3 程序，运行时才装载，本书不附带它的任何部分；它合成出来的声音不受许可限制。

合成器带内部状态：同一进程里同一句话说两遍，样点并不相同；但固定随机种子，在新进程里按同样的顺序说，字节完全一致。
所以整套语料由 :mod:`lstm_lib.corpus.build` 在一个新进程里按固定顺序一次做完。
"""

import ctypes
from pathlib import Path

import numpy as np
import soxr

from lstm_lib.waves import SAMPLE_RATE

AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4  # espeak_SetParameter 的参数编号
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """一个进程里只建一个；``say`` 返回 16 kHz float32 波形，去掉首尾静音，均方根为 0.05（约 -26 dBFS）。"""

    def __init__(self):
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(Path(espeakng_loader.get_data_path())).encode()
        self._rate = self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
        if self._rate <= 0:
            raise OSError("espeak-ng 初始化失败；请重装依赖：pip install --force-reinstall espeakng-loader")
        self._chunks = []
        self._callback = CALLBACK(self._collect)  # 必须留着引用，否则回调函数会被回收
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # 气声用到随机数，缺省以当前时间为种子

    def _collect(self, samples, count, _events):
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(
        self, text: str, voice: str, rate: int = 165, pitch: int = 50, span: int = 50, speed: float = 1.0
    ):
        """用 ``voice``（如 ``cmn+f2``、``en-us+m3``）念一句；rate 是每分钟词数，pitch、span 是 0–100。

        ``speed`` 像快放磁带那样同时改变快慢、音高与共振峰，用来变出更多的“嗓子”。
        """
        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"espeak-ng 没有嗓音 {voice}；请检查 espeakng-loader 的版本。")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, span)):
            library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        raw = text.encode()
        library.espeak_Synth(raw, ctypes.c_size_t(len(raw) + 1), 0, 1, 0, CHARS_UTF8, None, None)
        library.espeak_Synchronize()
        wave = np.concatenate(self._chunks).astype(np.float32) / 32768
        return normalize(trim(soxr.resample(wave, round(self._rate * speed), SAMPLE_RATE)))


def trim(wave: np.ndarray, threshold: float = 1e-3, margin: int = 800) -> np.ndarray:
    """去掉首尾静音，各留 50 ms。"""
    loud = np.flatnonzero(np.abs(wave) > threshold)
    return wave[max(loud[0] - margin, 0) : loud[-1] + margin]


def normalize(wave: np.ndarray, rms: float = 0.05) -> np.ndarray:
    """把均方根调到 ``rms``。"""
    return (wave * (rms / np.sqrt(np.mean(wave.astype(np.float64) ** 2)))).astype(np.float32)
