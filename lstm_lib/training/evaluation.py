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
from lstm_lib.enhance import audio, classical, irm
from lstm_lib.enhance.scores import pesq, si_sdr, stoi
from lstm_lib.enhance.trained import load_trained
from lstm_lib.files import atomic_path
from lstm_lib.training import checkpoint
from lstm_lib.training.folders import Bad, Pair

NOISY, NETWORK, IDEAL = "带噪", "网络", "理想掩蔽"
METHODS = (NOISY, *classical.METHODS, NETWORK, IDEAL)
MEASURES = {"si_sdr": "SI-SDR (dB)", "stoi": "STOI", "pesq": "PESQ"}


@dataclass
class Scores:
    """``values[方法][度量]`` 是逐文件的得分 (文件数,)，算不出的是 NaN；``names`` 是文件名。"""

    names: list[str]
    values: dict[str, dict[str, np.ndarray]]
    bad: list[Bad]

    def mean(self, method: str, measure: str) -> float:
        """能算出来的那些文件的平均；一个也没有时是 NaN。"""
        scores = self.values[method][measure]
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    @property
    def measures(self) -> list[str]:
        return list(self.values[NOISY])


def evaluate(pairs: list[Pair], model=None, measures=None, workers: int = 1, progress=iter) -> Scores:
    """逐对打分。``model`` 是检查点路径，None 是书中的网络；``progress`` 包住迭代器，用来显示进度。

    ``measures`` 省略时是 SI-SDR 与 STOI，装了 pesq 包再加 PESQ。读不了、没有语音的文件跳过，记在 ``bad`` 里。
    """
    measures = available_measures() if measures is None else list(measures)
    work = functools.partial(score_pair, model=None if model is None else str(model), measures=measures)
    if workers > 1 and len(pairs) > 1:
        context = multiprocessing.get_context("spawn")  # 已经用过 torch 线程的进程不宜 fork
        with ProcessPoolExecutor(min(workers, len(pairs)), context) as pool:
            results = list(progress(pool.map(work, pairs)))
    else:
        results = list(progress(map(work, pairs)))
    good = [(p, r) for p, r in zip(pairs, results, strict=True) if not isinstance(r, Bad)]
    values = {
        method: {m: np.array([r[method][m] for _, r in good], dtype=float) for m in measures}
        for method in METHODS
    }
    return Scores([p.noisy.path for p, _ in good], values, [r for r in results if isinstance(r, Bad)])


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
    return load_trained() if model is None else checkpoint.load_network(model)


def score_pair(pair: Pair, model, measures):
    """一对文件的得分 ``{方法: {度量: 分}}``；不能用时是 :class:`Bad`。"""
    try:
        with warnings.catch_warnings():  # 文件头与内容不合的，配对时说过了
            warnings.simplefilter("ignore")
            clean, noisy = audio.read_audio(pair.clean.path), audio.read_audio(pair.noisy.path)
        length = min(len(clean), len(noisy))
        with threadpool_limits(1):  # 求和的次序随线程数而变，末位就不同
            return score(clean[:length], noisy[:length], _network(model), measures)
    except (OSError, ValueError) as error:
        return Bad(pair.noisy.path, str(error).removeprefix(pair.noisy.path).strip())


def score(clean, noisy, network, measures) -> dict:
    """一对波形的得分；理想掩蔽用网络自己的 STFT，经典方法用书中的。"""
    size = network.config.n_fft, network.config.hop_length
    ideal = irm.ideal_ratio_mask(audio.stft(clean, *size), audio.stft(noisy - clean, *size))
    estimates = {
        NOISY: noisy,
        **{name: method(noisy) for name, method in classical.METHODS.items()},
        NETWORK: irm.enhance(network, noisy),
        IDEAL: irm.apply_mask(ideal, noisy, *size),
    }
    measure = {"si_sdr": si_sdr, "stoi": stoi, "pesq": pesq}
    return {name: {m: measure[m](clean, estimate) for m in measures} for name, estimate in estimates.items()}


def table(scores: Scores) -> Table:
    """各方法的平均分排成的表。"""
    digits = {"si_sdr": 2, "stoi": 3, "pesq": 2}
    rows = [[name, *(_number(scores.mean(name, m), digits[m]) for m in scores.measures)] for name in METHODS]
    return Table(["方法", *(MEASURES[m] for m in scores.measures)], rows)


def _number(value, digits):
    return "算不出" if np.isnan(value) else f"{value:.{digits}f}"


def write_csv(path, scores: Scores) -> None:
    """写 CSV：先是各方法的平均，再是逐文件的得分；带 BOM，用表格软件打开中文不乱码。"""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "method", *scores.measures])
        for name in METHODS:
            writer.writerow(["平均", name, *(scores.mean(name, m) for m in scores.measures)])
        for k, file in enumerate(scores.names):
            file = file.encode("utf-8", "replace").decode("utf-8")
            for name in METHODS:
                writer.writerow([file, name, *(scores.values[name][m][k] for m in scores.measures)])
