"""更像生活的噪声：只供训练，让网络见过的“样子”尽量宽；测试用的几种（警笛、音乐、雨声）不在其中。

与 :mod:`lstm_lib.corpus.noises` 一样，每个函数都是 ``(rng, n) -> float (n,)``，16 kHz，响度不定，每次抽新的参数。
"""

import numpy as np
from scipy import signal

from lstm_lib.corpus.noises import modulated, shaped, strikes, tone, uniform_log, wander
from lstm_lib.waves import SAMPLE_RATE


def poisson(rng, n: int, rate: float) -> np.ndarray:
    """随机到来的时刻（样点）；平均每秒 ``rate`` 个，至少一个。"""
    times = np.flatnonzero(rng.uniform(size=n) < rate / SAMPLE_RATE)
    return times if len(times) else np.array([int(rng.integers(n))])


def bursts(rng, n: int) -> np.ndarray:
    """一阵一阵的时刻：阵与阵之间疏，阵内密而不匀。"""
    inside, rate = uniform_log(rng, 0.02, 0.25), uniform_log(rng, 0.4, 4)
    times = [
        start + int(SAMPLE_RATE * t)
        for start in poisson(rng, n, rate)
        for t in np.cumsum(rng.exponential(inside, rng.integers(1, 9)))
    ]
    times = np.array([t for t in times if t < n], dtype=int)
    return times if len(times) else np.array([n // 2])


def resonances(rng, count: int, low: float, high: float) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def band(rng, wave, low, high):
    b, a = signal.butter(2, [max(low, 30), min(high, 7800)], "bandpass", fs=SAMPLE_RATE)
    return signal.lfilter(b, a, wave)


def room_floor(rng, n):
    """室内的底噪，相对于均方根为一的主角；多数时候很弱。"""
    slope = rng.uniform(0.3, 1.2)
    floor = shaped(rng, n, lambda f: 1 / np.maximum(f, 60) ** slope)
    return uniform_log(rng, 0.003, 0.15) * floor / floor.std()


def unit(wave):
    return wave / (wave.std() + 1e-9)


def clatter(rng, n):
    """碗碟、刀叉、金属件：几样东西各有一组共振，磕碰一阵一阵，时而刮擦。"""
    wave = np.zeros(n)
    for _ in range(rng.integers(1, 5)):
        count = rng.integers(3, 13)
        modes, gains = resonances(rng, count, 250, 7500), rng.exponential(1, count)
        decay = uniform_log(rng, 0.005, 0.5) * (1000 / modes) ** rng.uniform(0, 0.8)
        t = np.arange(int(min(5 * decay.max(), 1.2) * SAMPLE_RATE) + 16) / SAMPLE_RATE

        def hit(rng, modes=modes, gains=gains, decay=decay, t=t):
            blow = gains * rng.uniform(0.2, 1, len(gains))
            ring = (
                blow[:, None]
                * np.exp(-t / decay[:, None])
                * np.sin(2 * np.pi * modes[:, None] * t + rng.uniform(0, 6, (len(modes), 1)))
            ).sum(0)
            click = rng.standard_normal(len(t)) * np.exp(-t / uniform_log(rng, 0.0005, 0.006))
            return uniform_log(rng, 0.05, 1) * (ring + rng.uniform(0, 2) * click)

        wave += strikes(rng, n, bursts(rng, n), hit)
    if rng.uniform() < 0.3:
        center = uniform_log(rng, 800, 5000)
        scrape = band(rng, rng.standard_normal(n), center / 1.5, center * 1.5)
        wave += wave.std() * unit(scrape) * np.maximum(wander(rng, n, rng.uniform(2, 9)) - 0.8, 0)
    return unit(wave) + room_floor(rng, n)


def string(rng, frequency, length, bright, loss, position):
    """拨一根弦（Karplus 与 Strong，1983）：一段噪声在延迟线里兜圈，每圈低通、衰减一点。"""
    period = max(int(SAMPLE_RATE / frequency), 2)
    burst = np.zeros(length)
    burst[:period] = signal.lfilter([1 - bright], [1, -bright], rng.uniform(-1, 1, period))[:length]
    comb = np.zeros(length)
    shift = max(int(position * period), 1)
    comb[shift:] = burst[: length - shift]
    loop = np.zeros(period + 2)
    loop[0], loop[period], loop[period + 1] = 1, -loss * 0.5, -loss * 0.5
    return signal.lfilter([1], loop, burst - comb)


def plucked(rng, n):
    """拨弦：各种弦乐器的扫弦、分解和弦与单音，节奏与音高随机，琴身有共振。"""
    wave = np.zeros(n)
    bright, position = rng.uniform(0, 0.9), rng.uniform(0.08, 0.4)
    loss, root = 1 - uniform_log(rng, 0.001, 0.02), uniform_log(rng, 65, 500)
    beat, style = uniform_log(rng, 0.11, 0.8), rng.integers(3)
    start = 0
    while start < n:
        chord = np.sort(rng.choice(np.arange(0, 30), rng.integers(3, 7), replace=False))
        root_now = min(max(root * 2 ** (rng.integers(-5, 6) / 12), 60), 900)
        notes = chord if style == 0 else rng.choice(chord, 1)
        for index, note in enumerate(notes if rng.uniform() < 0.5 else notes[::-1]):
            at = start + int(index * rng.uniform(0.004, 0.03) * SAMPLE_RATE)
            length = min(int(rng.uniform(0.3, 2.0) * SAMPLE_RATE), n - at)
            if length > 800:
                wave[at : at + length] += rng.uniform(0.3, 1) * string(
                    rng, min(root_now * 2 ** (note / 12), 1800), length, bright, loss, position
                )
        pause = beat * (rng.choice([0.5, 1, 1, 2]) if style else rng.choice([0.5, 1]))
        start += int(SAMPLE_RATE * pause * rng.uniform(0.9, 1.1))
    for center in resonances(rng, 3, 90, 1500):
        b, a = signal.iirpeak(center, rng.uniform(1, 6), fs=SAMPLE_RATE)
        wave = wave + rng.uniform(0, 1.5) * signal.lfilter(b, a, wave)
    return unit(wave) + room_floor(rng, n)


def bowed(rng, n):
    """拉弦与吹管：持续的谐波音，颤音、渐强渐弱、换音，上面盖几个共振峰。"""
    wave, t = np.zeros(n), np.arange(n) / SAMPLE_RATE
    for _ in range(rng.integers(1, 4)):
        rate, base = uniform_log(rng, 0.5, 5), uniform_log(rng, 70, 900)
        steps = np.cumsum(rng.integers(-4, 5, int(n / SAMPLE_RATE * rate) + 2)).clip(-12, 12)
        position = t * rate
        note = steps[position.astype(int)]
        vibrato = rng.uniform(0, 0.012) * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
        frequency = base * 2 ** (note / 12) * (1 + vibrato)
        partials = rng.integers(4, 25)
        voice = tone(
            frequency, rng.uniform(0.3, 1, partials) / np.arange(1, partials + 1) ** rng.uniform(0.5, 1.5)
        )
        swell = np.sin(np.pi * (position % 1)) ** rng.uniform(0.1, 1)
        wave += rng.uniform(0.3, 1) * voice * swell
    for center in resonances(rng, 3, 200, 4000):
        b, a = signal.iirpeak(center, rng.uniform(1, 5), fs=SAMPLE_RATE)
        wave = wave + rng.uniform(0, 2) * signal.lfilter(b, a, wave)
    breath = band(rng, rng.standard_normal(n), 500, 6000)
    return unit(wave) + uniform_log(rng, 0.005, 0.15) * unit(breath)


def crowd(rng, n):
    """远处的人群：许多“嗓子”，各是脉冲串过三个游走的共振峰，时断时续；听不出词。"""
    wave = np.zeros(n)
    for _ in range(rng.integers(3, 9)):
        pitch = uniform_log(rng, 90, 280) * 2 ** (0.25 * wander(rng, n, 3))
        phase = np.cumsum(pitch) / SAMPLE_RATE
        source = np.diff(np.floor(phase), prepend=0) + 0.05 * rng.standard_normal(n)
        block, voice = SAMPLE_RATE // 12, np.zeros(n)
        states = [np.zeros(2)] * 3
        for start in range(0, n, block):
            piece = source[start : start + block]
            for k, (low, high) in enumerate(((250, 900), (800, 2300), (2000, 3500))):
                center = rng.uniform(low, high)
                b, a = signal.iirpeak(center, center / 110, fs=SAMPLE_RATE)
                out, states[k] = signal.lfilter(b, a, piece, zi=states[k])
                voice[start : start + block] += out * (1.0, 0.6, 0.3)[k]
        syllables = np.maximum(wander(rng, n, rng.uniform(5, 10)), 0) * (wander(rng, n, 0.7) > -0.3)
        wave += rng.uniform(0.2, 1) * unit(voice) * syllables
    return unit(wave) + uniform_log(rng, 0.02, 0.4) * unit(
        shaped(rng, n, lambda f: 1 / (1 + (f / 600) ** 1.5))
    )


def traffic(rng, n):
    """马路：车一辆辆开过，低频的底子，轮胎的沙声，偶尔一声喇叭。"""
    t = np.arange(n) / SAMPLE_RATE
    wave = 0.3 * unit(shaped(rng, n, lambda f: 1 / (1 + (f / 120) ** 2)))
    for _ in range(rng.integers(1, 5)):
        peak, width = rng.uniform(0, n / SAMPLE_RATE), rng.uniform(0.4, 3)
        pass_by = 1 / (1 + ((t - peak) / width) ** 2)
        tyre = unit(
            band(rng, rng.standard_normal(n), uniform_log(rng, 150, 700), uniform_log(rng, 900, 4000))
        )
        speed = uniform_log(rng, 30, 120) * (1 - 0.06 * np.tanh((t - peak) / width))
        engine = unit(tone(speed, rng.uniform(0.2, 1, 12) / np.arange(1, 13) ** 0.7))
        wave += pass_by * (rng.uniform(0.2, 1) * tyre + rng.uniform(0, 0.8) * engine)
    if rng.uniform() < 0.25:
        begin, length = rng.uniform(0, n / SAMPLE_RATE), rng.uniform(0.15, 0.9)
        horn = tone(np.full(n, rng.uniform(300, 500)), 1 / np.arange(1, 10) ** 0.6)
        wave += rng.uniform(0.3, 1.5) * unit(horn) * ((t > begin) & (t < begin + length))
    return wave


def rubbing(rng, n):
    """衣服、纸张与手：一下一下的摩擦，频带与快慢各不相同，夹着闷响与细碎的爆裂。"""
    rate, low = uniform_log(rng, 0.6, 9), uniform_log(rng, 60, 2500)
    strokes = np.maximum(wander(rng, n, rate * 2), 0) ** rng.uniform(0.7, 2.5)
    grain = rng.standard_normal(n)
    if rng.uniform() < 0.5:  # 纸与塑料袋：由细碎的爆裂组成
        grain = grain * (rng.uniform(size=n) < uniform_log(rng, 0.005, 0.2))
    wave = unit(band(rng, grain, low, low * uniform_log(rng, 2, 30)) * strokes)
    if rng.uniform() < 0.4:
        thump = shaped(rng, n, lambda f: 1 / (1 + (f / rng.uniform(50, 150)) ** 3))
        wave += rng.uniform(0.2, 1.5) * unit(thump * np.maximum(wander(rng, n, rate) - 0.5, 0))
    return wave + room_floor(rng, n)


def wind(rng, n):
    """风：忽强忽弱的低频轰鸣，缝隙里偶有哨音。"""
    edge = uniform_log(rng, 60, 500)
    gust = 10 ** (wander(rng, n, uniform_log(rng, 0.3, 4)) * rng.uniform(2, 9) / 20)
    wave = unit(shaped(rng, n, lambda f: 1 / (1 + (f / edge) ** rng.uniform(1.5, 3)))) * gust
    if rng.uniform() < 0.4:
        pitch = uniform_log(rng, 300, 1500) * 2 ** (0.3 * wander(rng, n, 0.8))
        whistle = tone(pitch * (1 + 0.01 * rng.standard_normal(n)), np.array([1, 0.2]))
        wave += rng.uniform(0.05, 0.4) * whistle * gust
    return wave


def machine(rng, n):
    """转动的机器：转速缓变，谐波与宽带噪声都随转动起伏，每圈磕一两下，外壳有共振。"""
    turn = uniform_log(rng, 0.7, 110) * (1 + rng.uniform(0, 0.08) * wander(rng, n, rng.uniform(0.3, 2)))
    phase = 2 * np.pi * np.cumsum(np.maximum(turn, 0.3)) / SAMPLE_RATE
    depth, sharp = rng.uniform(0, 1), rng.uniform(0.5, 4)
    beat = 1 - depth + depth * (0.5 + 0.5 * np.sin(phase)) ** sharp
    hiss = unit(shaped(rng, n, lambda f: 1 / (1 + (f / rng.uniform(300, 4000)) ** 1.2))) * beat
    teeth = rng.integers(4, 40)
    whine = unit(
        tone(
            np.clip(turn * teeth, 40, 3000),
            rng.uniform(0.1, 1, 10) / np.arange(1, 11) ** rng.uniform(0.3, 1.5),
        )
    )
    wave = hiss + rng.uniform(0, 1.2) * whine * (1 - rng.uniform(0, 0.8) * (1 - beat))
    clicks = np.flatnonzero(np.diff(np.floor(phase / 2 / np.pi * rng.integers(1, 3)), prepend=0) > 0)
    if len(clicks) and len(clicks) < 60 * n / SAMPLE_RATE:
        center, tail = uniform_log(rng, 200, 5000), uniform_log(rng, 0.003, 0.05)
        t = np.arange(int(5 * tail * SAMPLE_RATE)) / SAMPLE_RATE

        def knock(rng):
            body = np.sin(2 * np.pi * center * t) + rng.standard_normal(len(t))
            return rng.uniform(0.5, 1) * body * np.exp(-t / tail)

        wave += rng.uniform(0, 3) * strikes(rng, n, clicks, knock)
    for center in resonances(rng, 3, 150, 5000):
        b, a = signal.iirpeak(center, rng.uniform(1, 10), fs=SAMPLE_RATE)
        wave = wave + rng.uniform(0, 2) * signal.lfilter(b, a, wave)
    return wave


def water(rng, n):
    """水流、煮沸与煎炸：沙沙的底子上，大大小小的气泡各自“咕”地一声，音高上滑。"""
    low, high = uniform_log(rng, 300, 1500), uniform_log(rng, 1500, 6000)

    def bubble(rng):
        tail = uniform_log(rng, 0.003, 0.03)
        t = np.arange(int(5 * tail * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = uniform_log(rng, low, high) * (1 + rng.uniform(0, 4) * t)
        return uniform_log(rng, 0.05, 1) * np.exp(-t / tail) * np.sin(2 * np.pi * pitch * t)

    bubbles = unit(strikes(rng, n, poisson(rng, n, uniform_log(rng, 8, 400)), bubble))
    edge = uniform_log(rng, 500, 4000)
    hiss = unit(shaped(rng, n, lambda f: (f / edge) / (1 + (f / edge) ** rng.uniform(1.3, 3))))
    return rng.uniform(0, 1.5) * modulated(rng, hiss) + rng.uniform(0.2, 1.5) * bubbles


def knocks(rng, n):
    """脚步、敲门、剁菜、落物：木头与地板的闷响，间隔大致均匀。"""
    count = rng.integers(2, 6)
    modes, tail = resonances(rng, count, 60, 1500), uniform_log(rng, 0.01, 0.12)
    t = np.arange(int(5 * tail * SAMPLE_RATE)) / SAMPLE_RATE

    def knock(rng):
        ring = np.sin(2 * np.pi * modes[:, None] * rng.uniform(0.9, 1.1) * t).sum(0) / count
        click = rng.standard_normal(len(t)) * np.exp(-t / 0.003)
        return uniform_log(rng, 0.2, 1) * np.exp(-t / tail) * (ring + rng.uniform(0.05, 1) * click)

    gap = uniform_log(rng, 0.12, 0.9)
    times = np.cumsum(gap * rng.uniform(0.7, 1.3, int(n / SAMPLE_RATE / gap * 2) + 4) * SAMPLE_RATE).astype(
        int
    )
    return unit(strikes(rng, n, times[times < n], knock)) + room_floor(rng, n)


def hum(rng, n):
    """电器的嗡嗡声：工频的谐波，常伴着风声与断续的电流声。"""
    mains = rng.choice([50, 60]) * rng.choice([1, 2]) * np.ones(n)
    partials = rng.integers(5, 50)
    wave = unit(
        tone(mains, rng.exponential(1, partials) / np.arange(1, partials + 1) ** rng.uniform(0.2, 1.5))
    )
    air = unit(shaped(rng, n, lambda f: 1 / (1 + (f / 800) ** rng.uniform(0.5, 2))))
    return modulated(rng, wave) + uniform_log(rng, 0.05, 2) * air


def squeaks(rng, n):
    """门轴、椅脚、刹车与动物叫：滑动的谐波音，粗糙，一声一声。"""

    def squeak(rng):
        length = int(uniform_log(rng, 0.05, 0.8) * SAMPLE_RATE)
        glide = rng.uniform(-0.6, 0.6) * np.linspace(0, 1, length) + 0.1 * wander(
            rng, length, rng.uniform(5, 30)
        )
        partials = rng.integers(1, 14)
        voice = tone(
            np.clip(uniform_log(rng, 150, 3000) * 2**glide, 60, 6000),
            rng.exponential(1, partials) / np.arange(1, partials + 1) ** rng.uniform(0, 1.2),
        )
        rough = 1 + rng.uniform(0, 0.9) * np.sin(
            2 * np.pi * uniform_log(rng, 15, 150) * np.arange(length) / SAMPLE_RATE
        )
        breath = rng.uniform(0, 0.5) * rng.standard_normal(length) * voice.std()
        return uniform_log(rng, 0.1, 1) * (voice * rough + breath) * np.hanning(length) ** rng.uniform(0.3, 1)

    return unit(strikes(rng, n, poisson(rng, n, uniform_log(rng, 0.5, 5)), squeak)) + room_floor(rng, n)


WIDE = {
    "磕碰": clatter,
    "拨弦": plucked,
    "拉弦": bowed,
    "人群": crowd,
    "马路": traffic,
    "摩擦": rubbing,
    "风": wind,
    "机器": machine,
    "水": water,
    "敲击": knocks,
    "电器": hum,
    "吱呀": squeaks,
}
