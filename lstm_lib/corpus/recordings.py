"""随书的几段真录音：两句普通话、两种生活里的噪声；来历与许可见 ``recordings/README.md``。

书里的网络都没有用它们训练过，拿来看出了实验室会怎样。
"""

from functools import cache
from pathlib import Path

import numpy as np

from lstm_lib.corpus import Scene
from lstm_lib.waves import scale_noise

FOLDER = Path(__file__).parent / "recordings"
VOICES = {  # 文件 → 嗓音，念的话
    "voice_nahan": ("女声朗读", "我在这一个讲堂中，便须常常随喜我那同学们的拍手和喝采。"),
    "voice_game": ("男声", "玩家还需以此打开关底的大门继续旅途。"),
}
NOISES = {"noise_cafe": "餐馆", "noise_washing_machine": "洗衣机"}


@cache
def wave(name: str) -> np.ndarray:
    """一段录音：16 kHz、float32 的 (N,)，只读；没有这个名字报 ``ValueError``。"""
    import soundfile

    if name not in VOICES | NOISES:
        raise ValueError(f"没有叫 {name!r} 的录音；可选：{'、'.join(VOICES | NOISES)}。")
    samples, _ = soundfile.read(FOLDER / f"{name}.flac", dtype="float32")
    samples.flags.writeable = False
    return samples


def mixed(
    clean: np.ndarray,
    noise: np.ndarray,
    snr_db: float,
    title: str = "",
    noise_kind: str = "",
    text: str = "",
    voice: str = "",
) -> Scene:
    """一句语音与一段噪声按信噪比（dB）混成场景；噪声取开头的一段，不够长就接着从头放。

    其余的是 :class:`~lstm_lib.corpus.Scene` 的说明，用不着的空着。
    """
    noise = scale_noise(clean, np.resize(noise, len(clean)), snr_db)
    return Scene(title, clean, noise, clean + noise, snr_db, noise_kind, False, text, voice)


def real_scenes(snr_db: float = 0.0) -> list[Scene]:
    """两句真的语音，各配两种真的噪声，共四个场景，都按 ``snr_db``（dB）混合。"""
    return [
        mixed(
            wave(voice),
            wave(noise),
            snr_db,
            title=f"{kind}，{snr_db:g} dB，{speaker}",
            noise_kind=kind,
            text=text,
            voice=speaker,
        )
        for voice, (speaker, text) in VOICES.items()
        for noise, kind in NOISES.items()
    ]
