"""评测：成对的文件夹上，带噪、经典方法、网络与理想掩蔽各得几分。"""

import csv
import functools
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lstm_lib.book.tables import Table
from lstm_lib.enhance import audio, classical, irm, rnnoise
from lstm_lib.enhance.scores import pesq, si_sdr, stoi
from lstm_lib.files import SHOW_BYTES, atomic_path
from lstm_lib.training import checkpoint
from lstm_lib.training.folders import AudioFile, Bad, Pair, without_name
from lstm_lib.waves import SAMPLE_RATE

NOISY, NETWORK, IDEAL = "带噪", "网络", "理想掩蔽"
METHODS = (NOISY, *classical.METHODS, NETWORK, IDEAL)
OTHERS = {"rnnoise": ("RNNoise", rnnoise.denoise)}  # 另装的包才有的对照
MEASURES = {"si_sdr": "SI-SDR (dB)", "stoi": "STOI", "pesq": "PESQ"}
# 算不出（NaN）时为什么；SI-SDR 只会是无穷大
UNDEFINED = {
    "stoi": "纯净语音去掉静音后不足约 0.4 秒",
    "pesq": "不足 0.25 秒，或没有检出语音",
}
INFINITE = {-1: "输出全是零或常数，没有声音", 1: "输出与纯净只差倍数，没有误差"}
SHORTER = 0.02  # 读出来的两路至多差这么多秒
BLOCK = 1 << 16


@dataclass
class Scores:
    """``values[方法][度量]`` 是逐文件的得分 (文件数,)，算不出的是 NaN 或无穷大；``names`` 是文件名。

    ``failed`` 是逐文件的 ``{用不了的方法: 原因}``。
    """

    names: list[str]
    values: dict[str, dict[str, np.ndarray]]
    bad: list[Bad]
    failed: list[dict[str, str]]

    def mean(self, method: str, measure: str) -> float:
        """能算出来（有限）的那些文件的平均；一个也没有时是 NaN。"""
        scores = self.values[method][measure]
        finite = scores[np.isfinite(scores)]
        return float(finite.mean()) if len(finite) else float("nan")

    def missing(self, method: str, measure: str) -> list[tuple[str, str]]:
        """不在平均之内的（文件名, 原因）。"""
        reasons = [self.why(method, measure, k) for k in range(len(self.names))]
        return [(name, why) for name, why in zip(self.names, reasons, strict=True) if why]

    def why(self, method: str, measure: str, k: int) -> str:
        """第 ``k`` 个文件的分数为什么算不出；算得出的是空串。"""
        value = self.values[method][measure][k]
        if np.isfinite(value):
            return ""
        undefined = UNDEFINED.get(measure, "没有定义") if np.isnan(value) else INFINITE[int(np.sign(value))]
        return self.failed[k].get(method, undefined)

    @property
    def methods(self) -> list[str]:
        return list(self.values)

    @property
    def measures(self) -> list[str]:
        return list(self.values[NOISY])


def evaluate(
    pairs: list[Pair], model=None, measures=None, workers: int = 1, progress=iter, against=()
) -> Scores:
    """逐对打分。``model`` 是检查点路径，None 是书中的网络；``progress`` 包住迭代器，用来显示进度；
    ``against`` 是 :data:`OTHERS` 里要一同比的。

    ``measures`` 省略时是 SI-SDR 与 STOI，装了 pesq 包再加 PESQ。读不了、没有语音的文件跳过，记在 ``bad`` 里。
    """
    measures = available_measures() if measures is None else list(measures)
    model, against = None if model is None else str(model), tuple(against)
    work = functools.partial(score_pair, model=model, measures=measures, against=against)
    if workers > 1 and len(pairs) > 1:
        context = multiprocessing.get_context("spawn")  # 已经用过 torch 线程的进程不宜 fork
        with ProcessPoolExecutor(min(workers, len(pairs)), context) as pool:
            results = list(progress(pool.map(work, pairs)))
    else:
        results = list(progress(map(work, pairs)))
    good = [(p, r) for p, r in zip(pairs, results, strict=True) if not isinstance(r, Bad)]
    values = {
        method: {m: np.array([r[0][method][m] for _, r in good], dtype=float) for m in measures}
        for method in methods(against)
    }
    names, failed = [p.noisy.path for p, _ in good], [r[1] for _, r in good]
    return Scores(names, values, [r for r in results if isinstance(r, Bad)], failed)


def methods(against=()) -> list[str]:
    """表里各行的名字，依次；理想掩蔽在最后。"""
    return [*METHODS[:-1], *(OTHERS[name][0] for name in against), IDEAL]


def available_measures() -> list[str]:
    """装了哪些度量。"""
    try:
        import pesq  # noqa: F401
    except ImportError:
        return ["si_sdr", "stoi"]
    return ["si_sdr", "stoi", "pesq"]


@functools.lru_cache(maxsize=1)
def _network(model):
    torch.set_num_threads(1)
    return checkpoint.network(model)


def score_pair(pair: Pair, model, measures, against=()):
    """一对文件的得分，同 :func:`score`；不能用时是 :class:`Bad`，点名出问题的那一个。"""
    waves = []
    for file in (pair.clean, pair.noisy):
        wave = _read(file)
        if isinstance(wave, Bad):
            return wave
        waves.append(wave)
    clean, noisy = waves
    length = min(len(clean), len(noisy))
    if abs(len(clean) - len(noisy)) > SHORTER * SAMPLE_RATE + 1:
        seconds = f"{len(noisy) / SAMPLE_RATE:.3f} 秒与 {len(clean) / SAMPLE_RATE:.3f} 秒"
        return Bad(pair.noisy.path, f"读出来与 {pair.clean.path} 长短不同：{seconds}")
    try:
        with threadpool_limits(1):  # 求和的次序随线程数而变，末位就不同
            return score(clean[:length], noisy[:length], _network(model), measures, against)
    except (OSError, ValueError) as error:
        return Bad(pair.noisy.path, without_name(error, pair.noisy.path))


def _read(file: AudioFile):
    """16 kHz 的波形；读不了、没有声音时是点名这个文件的 :class:`Bad`。"""
    try:
        if _flat(file.path):
            what = "只有一个样点" if file.frames == 1 else "没有声音，全是零或常数（多声道的取平均）"
            return Bad(file.path, f"{what}，打不了分")
        with warnings.catch_warnings():  # 文件头与内容不合的，配对时说过了
            warnings.simplefilter("ignore")
            return audio.read_audio(file.path)
    except (OSError, ValueError) as error:
        return Bad(file.path, without_name(error, file.path))


def _flat(path) -> bool:
    """各声道的平均自始至终是一个常数：重采样之后就看不准了，所以看原来的样点。"""
    low, high = np.inf, -np.inf
    with audio.open_audio(path) as stream:
        while len(block := stream.read(BLOCK, dtype="float32", always_2d=True)):
            wave = block.mean(axis=1)
            low, high = min(low, wave.min()), max(high, wave.max())
            if not low == high:  # 含 NaN 的也到此为止，留给读的时候说
                return False
    return bool(low == high)


def score(clean, noisy, network, measures, against=()) -> tuple[dict, dict]:
    """一对波形的得分 ``{方法: {度量: 分}}``，与用不了的方法 ``{方法: 原因}``（如波形太短）；它们的分是 NaN。

    理想掩蔽用网络自己的 STFT，经典方法用书中的。
    """
    size = network.config.n_fft, network.config.hop_length
    ideal = irm.ideal_ratio_mask(audio.stft(clean, *size), audio.stft(noisy - clean, *size))
    estimates, failed = {NOISY: noisy}, {}
    for name, method in classical.METHODS.items():
        try:
            estimates[name] = method(noisy)
        except ValueError as error:
            failed[name] = str(error)
    estimates[NETWORK] = irm.enhance(network, noisy)
    for label, method in (OTHERS[name] for name in against):
        estimates[label] = method(noisy)
    estimates[IDEAL] = irm.apply_mask(ideal, noisy, *size)
    measure = {"si_sdr": si_sdr, "stoi": stoi, "pesq": pesq}
    scores = {name: {m: measure[m](clean, wave) for m in measures} for name, wave in estimates.items()}
    return scores | {name: dict.fromkeys(measures, np.nan) for name in failed}, failed


def table(scores: Scores) -> Table:
    """各方法的平均分排成的表。"""
    digits = {"si_sdr": 2, "stoi": 3, "pesq": 2}
    rows = [
        [name, *(_number(scores.mean(name, m), digits[m]) for m in scores.measures)]
        for name in scores.methods
    ]
    return Table(["方法", *(MEASURES[m] for m in scores.measures)], rows)


def _number(value, digits):
    return "算不出" if np.isnan(value) else f"{value:.{digits}f}"


def explain(scores: Scores, shown: int = 3) -> list[str]:
    """每种度量有哪些文件不在平均之内、为什么，一句一种；同一个原因的各方法并作一句。"""
    lines = []
    for measure in scores.measures:
        reasons = {}
        for method in scores.methods:
            for name, why in scores.missing(method, measure):
                reasons.setdefault(why, {}).setdefault(name, []).append(method)
        for why, files in reasons.items():
            methods = list(dict.fromkeys(m for found in files.values() for m in found))
            whose = "" if len(methods) == len(scores.methods) else f"{'、'.join(methods)}的"
            names = "、".join([*files][:shown]) + ("……" if len(files) > shown else "")
            rest = len(scores.names) - len(files)
            means = f"平均只算其余 {rest} 对" if rest else "没有平均"
            lines.append(f"{whose}{MEASURES[measure]}：有 {len(files)} 对算不出，{why}（{names}）；{means}")
    return lines


def write_csv(path, scores: Scores) -> None:
    """写 CSV：先是各方法的平均，再是逐文件的得分；带 BOM，用表格软件打开中文不乱码。

    算不出的格子空着，最后一列 note 说明为什么；文件名里不是 UTF-8 的字节写成 \\xd6 这样。
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8-sig", errors=SHOW_BYTES) as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["file", "method", *scores.measures, "note"])
        for name in scores.methods:
            lacking = {m: len(scores.missing(name, m)) for m in scores.measures}
            notes = [f"{MEASURES[m]} 有 {n} 对算不出，不在平均之内" for m, n in lacking.items() if n]
            cells = [_cell(scores.mean(name, m)) for m in scores.measures]
            writer.writerow(["平均", name, *cells, "；".join(notes)])
        for k, file in enumerate(scores.names):
            for name in scores.methods:
                values = {m: scores.values[name][m][k] for m in scores.measures}
                notes = [f"{MEASURES[m]}：{why}" for m in values if (why := scores.why(name, m, k))]
                writer.writerow([file, name, *map(_cell, values.values()), "；".join(notes)])


def _cell(value):
    return value if np.isfinite(value) else ""
