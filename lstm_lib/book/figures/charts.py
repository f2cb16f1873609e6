"""常用的图表：语谱图、波形、热图。"""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lstm_lib.book.figures import palette
from lstm_lib.waves import SAMPLE_RATE

N_FFT, HOP_LENGTH = 512, 256  # 语谱图的帧长与帧移，样点
LEVELS = 64  # 色阶数：人眼分不出更多，图片却能小一半


def colormap(name: str = "magma", levels: int = LEVELS) -> ListedColormap:
    """分成 ``levels`` 级的色图；级数少，嵌进网页的图片就小。"""
    return ListedColormap(mpl.colormaps[name](np.linspace(0, 1, levels)))


def magnitude(wave) -> np.ndarray:
    """波形 (N,) → 画语谱图用的幅度谱 (T, 257)；分帧与加窗同 ``enhance.audio.stft``。"""
    from scipy.signal import ShortTimeFFT  # 载入要近一秒，多数章不画语谱图

    window = np.sin(np.pi * np.arange(N_FFT) / N_FFT)
    transform = ShortTimeFFT(window, HOP_LENGTH, SAMPLE_RATE)
    return np.abs(transform.stft(wave, p0=0, p1=-(-len(wave) // HOP_LENGTH) + 1)).T


def spectrogram(
    ax: Axes,
    wave_or_spec,
    *,
    range_db: float = 70.0,
    top_db: float | None = None,
    title: str | None = None,
    xlabel: str | None = "时间（秒）",
    ylabel: str | None = "频率（kHz）",
):
    """在 ``ax`` 上画语谱图（分贝），返回图像对象，可交给 ``fig.colorbar``。

    ``wave_or_spec``：波形 (N,)，或复数谱、幅度谱 (T, 257)，16 kHz、帧移 256。
    ``top_db``：最亮处的分贝值，缺省取这段声音的最大值；几张图要互相比较时给同一个值。
    ``range_db``：从最亮到最暗的分贝数。
    """
    data, bins = np.asarray(wave_or_spec), N_FFT // 2 + 1
    if data.ndim == 1:
        data = magnitude(data)
    if data.ndim != 2 or data.shape[1] != bins:
        raise ValueError(f"语谱图要波形 (N,) 或谱 (T, {bins})，得到的形状是 {data.shape}。")
    level = 20 * np.log10(np.maximum(np.abs(data), 1e-8))
    top = float(level.max()) if top_db is None else top_db
    step = HOP_LENGTH / SAMPLE_RATE
    extent = (-step / 2, (len(data) - 0.5) * step, 0, SAMPLE_RATE / 2000)
    image = ax.imshow(
        level.T, origin="lower", aspect="auto", cmap=colormap(), vmin=top - range_db, vmax=top, extent=extent
    )
    ax.set(xlabel=xlabel or "", ylabel=ylabel or "", title=title or "", xlim=(0, extent[1]), ylim=(0, 8))
    ax.set_yticks([0, 2, 4, 6, 8])
    ax.grid(False)
    return image


def heatmap(
    ax: Axes, values, *, extent=None, vmin=None, vmax=None, cmap="magma", title=None, xlabel="", ylabel=""
):
    """把矩阵 (行, 列) 画成热图，第 0 行在下；返回图像对象。"""
    image = ax.imshow(
        np.asarray(values),
        origin="lower",
        aspect="auto",
        cmap=colormap(cmap, LEVELS // 2),
        vmin=vmin,
        vmax=vmax,
        extent=extent,
    )
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    ax.grid(False)
    return image


def waveform(ax: Axes, wave, *, color=palette.INK, sample_rate: int = 16000, columns: int = 700, title=None):
    """画波形的包络：每一列取最大与最小值，几万个样点只留几百个顶点。"""
    wave = np.asarray(wave)
    if wave.ndim != 1 or not len(wave):
        raise ValueError(f"波形应是非空的一维数组，得到的形状是 {wave.shape}。")
    starts = np.unique(np.linspace(0, len(wave) - 1, min(columns, len(wave))).astype(int))
    high, low = np.maximum.reduceat(wave, starts), np.minimum.reduceat(wave, starts)
    ax.fill_between(starts / sample_rate, low, high, color=color, linewidth=0.4)
    ax.set(xlim=(0, len(wave) / sample_rate), xlabel="时间（秒）", title=title or "")


def label_lines(ax: Axes, *, x: float | None = None, pad: float = 4.0) -> None:
    """把图例写在每条线的末端，颜色与线相同：不必来回对照图例。"""
    for line in ax.get_lines():
        name = line.get_label()
        if name.startswith("_"):
            continue
        xs, ys = line.get_data()
        at = -1 if x is None else int(np.argmin(np.abs(np.asarray(xs) - x)))
        ax.annotate(
            name,
            (xs[at], ys[at]),
            xytext=(pad, 0),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
        )
