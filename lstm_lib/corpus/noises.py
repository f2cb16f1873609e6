"""噪声合成。六种有名字的噪声进训练，三种只用于验证，三种只用于测试；另有四个“宽家族”，每次随机抽出一种没有名字的噪声。

每个函数的形式都是 ``(rng, n) -> float (n,)``，16 kHz；响度不定，混合时才定。
"""

import numpy as np
from scipy import signal

from lstm_lib.waves import SAMPLE_RATE


def shaped(rng, n: int, gain) -> np.ndarray:
    """频谱形状给定的高斯噪声；``gain(频率 Hz)`` 返回幅度增益。"""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(n, 1 / SAMPLE_RATE)), n)


def wander(rng, n: int, rate: float) -> np.ndarray:
    """缓慢游走的随机曲线，均值约 0、标准差约 1；``rate`` 是每秒的转折数。"""
    knots = rng.standard_normal(max(int(n / SAMPLE_RATE * rate) + 3, 4))
    return np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def uniform_log(rng, low: float, high: float) -> float:
    """对数均匀分布。"""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def harmonics(phase: np.ndarray, amplitudes: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """谐波叠加 Σ a_k·sin(kφ)；频率超过 ``limit`` 给出的谐波次数时静音，避免混叠。"""
    wave = np.zeros_like(phase)
    for k, amplitude in enumerate(amplitudes, start=1):
        wave += amplitude * np.sin(k * phase) * (k < limit)
    return wave


def tone(frequency: np.ndarray, amplitudes: np.ndarray, phase: float = 0.0) -> np.ndarray:
    """瞬时频率为 ``frequency`` (n,) 的谐波音。"""
    return harmonics(phase + 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE, amplitudes, 7600 / frequency)


def strikes(rng, n: int, times: np.ndarray, make) -> np.ndarray:
    """在 ``times``（样点）处各放一个 ``make(rng)`` 做出的短声。"""
    wave = np.zeros(n)
    for start in times:
        piece = make(rng)[: n - start]
        wave[start : start + len(piece)] += piece
    return wave


# ---- 训练里有的六种（人声嘈杂在 build 里由语音叠成） ----


def white(rng, n):
    """白噪声。"""
    return rng.standard_normal(n)


def pink(rng, n):
    """粉红噪声：功率谱 1/f。"""
    return shaped(rng, n, lambda f: 1 / np.sqrt(np.maximum(f, 20)))


def car(rng, n):
    """汽车：很陡的低频噪声、发动机的谐波，响度随路面起伏。"""
    rumble = shaped(rng, n, lambda f: 1 / (1 + (f / rng.uniform(60, 150)) ** 2) + 0.003)
    engine = tone(rng.uniform(25, 60) * (1 + 0.03 * wander(rng, n, 1)), 1 / np.arange(1, 9))
    return (rumble / rumble.std() + rng.uniform(0.1, 0.6) * engine) * (1 + 0.2 * wander(rng, n, 2))


def fan(rng, n):
    """风扇：宽带气流声加叶片转动的谐波。"""
    air = shaped(rng, n, lambda f: 1 / (1 + (f / rng.uniform(400, 1500)) ** 1.5))
    blade = tone(np.full(n, rng.uniform(80, 240)), rng.uniform(0.2, 1, 6) / np.arange(1, 7))
    return air / air.std() + rng.uniform(0.2, 0.8) * blade


def keyboard(rng, n):
    """键盘：不规则的短促敲击，底下有一层很弱的室内噪声。"""

    def click(rng):
        t = np.arange(int(0.03 * SAMPLE_RATE)) / SAMPLE_RATE
        body = rng.standard_normal(len(t)) * np.exp(-t / rng.uniform(0.002, 0.006))
        ring = np.sin(2 * np.pi * rng.uniform(800, 3500) * t) * np.exp(-t / rng.uniform(0.003, 0.01))
        return rng.uniform(0.4, 1) * (body + ring)

    times = np.cumsum(rng.gamma(2.0, 0.055, int(n / SAMPLE_RATE * 14) + 4) * SAMPLE_RATE).astype(int)
    return strikes(rng, n, times[times < n], click) + 0.02 * pink(rng, n) / 0.05


# ---- 只用于测试的三种 ----


def siren(rng, n):
    """警笛：音高上下扫动，或两音交替，谐波丰富。"""
    t = np.arange(n) / SAMPLE_RATE
    low, high, period = rng.uniform(450, 650), rng.uniform(1100, 1600), rng.uniform(0.4, 4)
    cycle = (t / period + rng.uniform()) % 1
    if rng.uniform() < 0.3:
        position = (cycle > 0.5).astype(float)
    else:
        position = 1 - np.abs(2 * cycle - 1)
    return tone(low * (high / low) ** position, 1 / np.arange(1, 7) ** rng.uniform(0.8, 1.6))


def music(rng, n):
    """音乐：大小调的三和弦伴奏加五声音阶旋律，拨弦式衰减。"""
    tempo, tonic = rng.uniform(0.22, 0.4), rng.uniform(100, 200)
    beat = int(tempo * SAMPLE_RATE)

    def pluck(semitone, length, volume):
        t = np.arange(length) / SAMPLE_RATE
        frequency = tonic * 2 ** (semitone / 12)
        return volume * sum(
            np.sin(2 * np.pi * k * frequency * t) * np.exp(-t * (1.5 + k)) / k
            for k in range(1, 9)
            if k * frequency < 7500
        )

    wave = np.zeros(n)
    chords = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16))
    scale = np.array([12, 14, 16, 19, 21, 24])
    for index, start in enumerate(range(0, n, beat)):
        notes = [(scale[rng.integers(len(scale))], 2 * beat, 1.0)] if rng.uniform() < 0.8 else []
        if index % 4 == 0:
            notes += [(note, 4 * beat, 0.7) for note in chords[rng.integers(4)]]
        for semitone, length, volume in notes:
            wave[start : start + length] += pluck(semitone, length, volume)[: n - start]
    return wave


def rain(rng, n):
    """雨声：高频的沙沙声，加上疏密不定的雨点。"""

    def drop(rng):
        t = np.arange(int(0.02 * SAMPLE_RATE)) / SAMPLE_RATE
        envelope = np.exp(-t / rng.uniform(0.001, 0.005))
        return (
            uniform_log(rng, 0.1, 1)
            * envelope
            * np.sin(2 * np.pi * rng.uniform(1500, 6500) * t + rng.uniform(0, 6))
        )

    hiss = shaped(rng, n, lambda f: (f / 2000) / (1 + (f / rng.uniform(2500, 4500)) ** 2))
    times = np.flatnonzero(rng.uniform(size=n) < rng.uniform(60, 250) / SAMPLE_RATE)
    drops = strikes(rng, n, times, drop)
    return hiss / hiss.std() * 0.08 * (1 + 0.3 * wander(rng, n, 1)) + drops


# ---- 只用于验证的三种：训练里没有，测试里也没有，调参时拿它们代表“没听过的噪声” ----


def birds(rng, n):
    """鸟鸣：短促的高音滑音，一串一串。"""

    def chirp(rng):
        length = int(rng.uniform(0.05, 0.2) * SAMPLE_RATE)
        position = np.linspace(0, 1, length)
        frequency = rng.uniform(2000, 5000) * 2 ** (rng.uniform(-0.5, 0.5) * position)
        return tone(frequency, np.array([1, 0.2])) * np.sin(np.pi * position) * rng.uniform(0.4, 1)

    times = np.cumsum(rng.gamma(1.5, 0.12, int(n / SAMPLE_RATE * 10) + 4) * SAMPLE_RATE).astype(int)
    return strikes(rng, n, times[times < n], chirp) + 0.02 * rng.standard_normal(n)


def alarm(rng, n):
    """闹铃：固定音高的“嘀嘀”声，按节拍断续。"""
    t = np.arange(n) / SAMPLE_RATE
    beep = tone(np.full(n, rng.uniform(700, 2500)), 1 / np.arange(1, 6) ** rng.uniform(0.5, 1.5))
    return beep * ((t * rng.uniform(2, 6)) % 1 < 0.5) * ((t * 0.9) % 1 < rng.uniform(0.5, 1))


def applause(rng, n):
    """掌声：许多人各自拍手。"""

    def clap(rng):
        t = np.arange(int(0.03 * SAMPLE_RATE)) / SAMPLE_RATE
        b, a = signal.butter(1, [rng.uniform(500, 1000), rng.uniform(1500, 4000)], "bandpass", fs=SAMPLE_RATE)
        return rng.uniform(0.2, 1) * signal.lfilter(b, a, rng.standard_normal(len(t)) * np.exp(-t / 0.006))

    return strikes(rng, n, np.flatnonzero(rng.uniform(size=n) < rng.uniform(20, 120) / SAMPLE_RATE), clap)


# ---- 宽家族：每次随机抽参数，没有固定的样子 ----


def colored(rng, n):
    """有色噪声：随机的频谱斜率与起伏，或随机的频带；响度平稳或随机起伏。"""
    centers = np.log(np.linspace(30, 8000, 12))
    bumps = rng.normal(0, rng.uniform(0, 10), 12)
    slope = rng.uniform(-9, 4)  # dB 每倍频程
    low, high = (uniform_log(rng, 20, 3000), rng.uniform(1500, 8000)) if rng.uniform() < 0.4 else (0, 8000)

    def gain(f):
        octave = np.log2(np.maximum(f, 30) / 1000)
        level = slope * octave + np.interp(np.log(np.maximum(f, 30)), centers, bumps)
        edge = 1 / (1 + np.exp(-(f - low) / 40)) / (1 + np.exp((f - max(high, low + 300)) / 40))
        return 10 ** (np.clip(level, -60, 40) / 20) * edge

    return modulated(rng, shaped(rng, n, gain))


def modulated(rng, wave):
    """随机的响度变化：不变、缓慢起伏、周期起伏、断续，四选一。"""
    n = len(wave)
    wave = wave / (wave.std() + 1e-12)
    choice = rng.integers(4)
    if choice == 1:
        return wave * 10 ** (wander(rng, n, uniform_log(rng, 0.5, 8)) * rng.uniform(2, 8) / 20)
    if choice == 2:
        depth, rate = rng.uniform(0.3, 1), uniform_log(rng, 0.5, 20)
        return wave * (1 + depth * np.sin(2 * np.pi * rate * np.arange(n) / SAMPLE_RATE + rng.uniform(0, 6)))
    if choice == 3:
        gate = (wander(rng, n, uniform_log(rng, 1, 8)) > rng.normal(0, 0.4)).astype(float)
        return wave * (signal.lfilter([0.01], [1, -0.99], gate) + rng.uniform(0, 0.1))
    return wave


def tones(rng, n):
    """谐波音与啁啾：一到四个声部，音高恒定、阶跃、滑动或往复扫动。"""
    wave = np.zeros(n)
    t = np.arange(n) / SAMPLE_RATE
    for _ in range(rng.integers(1, 5)):
        base, spread = uniform_log(rng, 60, 2500), rng.uniform(0, 1.2)
        style = rng.integers(4)
        if style == 0:
            octave = np.zeros(n)
        elif style == 1:
            steps = rng.normal(0, spread, int(n / SAMPLE_RATE * 8) + 2)
            octave = steps[(t * uniform_log(rng, 1, 8)).astype(int)]
        elif style == 2:
            octave = spread * wander(rng, n, uniform_log(rng, 0.3, 5))
        else:
            octave = spread * signal.sawtooth(
                2 * np.pi * uniform_log(rng, 0.2, 6) * t + rng.uniform(0, 6), rng.uniform()
            )
        frequency = np.clip(base * 2**octave, 40, 6000)
        partials = rng.integers(1, 16)
        decay = rng.uniform(0.3, 2)
        amplitudes = rng.uniform(0.3, 1, partials) / np.arange(1, partials + 1) ** decay
        voice = tone(frequency, amplitudes, rng.uniform(0, 6))
        if style == 1 and rng.uniform() < 0.6:  # 每一步重新起音，再衰减
            voice *= np.exp(-((t * 4) % 1) * rng.uniform(0.5, 5))
        wave += rng.uniform(0.2, 1) * modulated(rng, voice)
    return wave + rng.uniform(0, 0.05) * rng.standard_normal(n)


def impacts(rng, n):
    """冲击：疏密随机的短促声响，各带随机的衰减与共振。"""
    bright, length = uniform_log(rng, 200, 6000), uniform_log(rng, 0.002, 0.15)

    def hit(rng):
        t = np.arange(int(min(6 * length, 0.4) * SAMPLE_RATE) + 8) / SAMPLE_RATE
        ring = np.sin(2 * np.pi * min(bright * rng.uniform(0.5, 2), 7500) * t + rng.uniform(0, 6))
        body = rng.standard_normal(len(t))
        blend = rng.uniform()
        return uniform_log(rng, 0.1, 1) * np.exp(-t / length) * (blend * ring + (1 - blend) * body)

    times = np.flatnonzero(
        rng.uniform(size=n) < uniform_log(rng, 1, 60 if length > 0.02 else 300) / SAMPLE_RATE
    )
    times = times if len(times) else np.array([n // 3])
    floor = shaped(rng, n, lambda f: 1 / np.maximum(f, 50) ** rng.uniform(0, 1))
    return strikes(rng, n, times, hit) + uniform_log(rng, 0.003, 0.2) * floor / floor.std()


def mixture(rng, n):
    """两个宽家族的混合，强弱随机。"""
    first, second = rng.choice(3, 2, replace=True)
    family = (colored, tones, impacts)
    a, b = family[first](rng, n), family[second](rng, n)
    return a / (a.std() + 1e-9) + 10 ** (rng.uniform(-12, 0) / 20) * b / (b.std() + 1e-9)


HEARD = {"白噪声": white, "粉红噪声": pink, "汽车": car, "风扇": fan, "键盘": keyboard}
UNHEARD = {"警笛": siren, "音乐": music, "雨声": rain}
VALIDATION = {"鸟鸣": birds, "闹铃": alarm, "掌声": applause}
FAMILIES = {"有色": colored, "谐音": tones, "冲击": impacts, "混合": mixture}
BABBLE = "人声嘈杂"
NAMED = (*HEARD, BABBLE)  # 训练里有名字的六种
