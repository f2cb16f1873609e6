"""制作语料：``python -m lstm_lib.corpus.build 输出目录``。

由 :func:`lstm_lib.corpus.ensure` 在新进程里调用，顺序固定，因此同一台机器上每次做出的字节都相同。
句子、嗓音、噪声的样本在训练、验证、测试之间互不重叠。
"""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np

from lstm_lib.corpus import noises
from lstm_lib.corpus.speech import Synthesizer, normalize
from lstm_lib.corpus.wide import WIDE
from lstm_lib.waves import SAMPLE_RATE, scale_noise

LANGUAGES = {"cmn": "普通话", "en-us": "英语"}
TEST_VOICES = ("f2", "m3", "Alicia", "Mike")
VALIDATION_VOICES = ("f5", "m7", "victor", "steph")
BABBLE_VOICES = {"train": ("f3", "m2", "paul", "belinda", "antonio"), "held": ("f1", "m5", "pablo", "linda")}
TRAIN_VOICES = tuple(
    "f4 Andrea Annie anika aunty steph2 grandma shelby zac m1 m4 m6 m8 Alex Andy Denis Diogo Gene "
    "Henrique Hugo Jacky Marco Mario Michael Nguyen adam boris david edward ian john kaukovalta klatt "
    "klatt4 marcelo max michel miguel norbert pedro quincy rob robert sandro travis Lee".split()
)
SPLIT = {"train": slice(0, 46), "validation": slice(46, 52), "test": slice(52, 60)}
UTTERANCES_PER_VOICE = 16  # 每种语言各一半
CLIP = 6 * SAMPLE_RATE
LIFELIKE = {kind: make for kind, make in WIDE.items() if kind != "水"}  # 水声太像测试用的雨声
# 训练的噪声与各有几个片段；次序就是编号
KINDS = dict.fromkeys(noises.NAMED, 60) | dict.fromkeys(noises.FAMILIES, 75) | dict.fromkeys(LIFELIKE, 30)
SNRS = (-5, 0, 5, 10)
LEAD, TAIL = int(0.4 * SAMPLE_RATE), int(0.2 * SAMPLE_RATE)

# (噪声, 信噪比, 语言, 嗓音, 测试句的序号)
DEMOS = (
    ("风扇", 0, "cmn", "f2", 1),
    ("键盘", 0, "en-us", "m3", 2),
    ("警笛", 0, "cmn", "Mike", 5),
    ("人声嘈杂", 5, "en-us", "Alicia", 4),
)
VOICE_NAMES = {"f2": "女声", "Alicia": "女声", "m3": "男声", "Mike": "男声"}


def sentences() -> dict[str, list[str]]:
    """六十句普通话、六十句英语。"""
    lines = files("lstm_lib.corpus").joinpath("sentences.txt").read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line]
    return {"cmn": lines[:60], "en-us": lines[60:]}


def say(synthesizer, rng, language, variant, text, widen: bool = False):
    """随机的语速、音高与抑扬念一句；``widen`` 时再随机快放慢放，让训练的嗓子更多样。"""
    rate, pitch, span = int(rng.integers(130, 200)), int(rng.integers(35, 66)), int(rng.integers(30, 71))
    speed = rng.uniform(0.87, 1.15) if widen else 1.0
    return synthesizer.say(text, f"{language}+{variant}", rate, pitch, span, speed)


def training_speech(synthesizer, texts, progress):
    """训练语音：全部训练嗓音，每个嗓音念一部分训练句；句间留 0.1 到 0.5 秒的停顿。"""
    rng = np.random.default_rng(1)
    pieces = []
    for index, variant in enumerate(TRAIN_VOICES):
        for language in LANGUAGES:
            chosen = rng.choice(texts[language][SPLIT["train"]], UTTERANCES_PER_VOICE // 2, replace=False)
            for text in chosen:
                pieces += [say(synthesizer, rng, language, variant, str(text), widen=True)]
                pieces += [np.zeros(int(rng.uniform(0.1, 0.5) * SAMPLE_RATE), np.float32)]
        progress(0.05 + 0.4 * index / len(TRAIN_VOICES))
    return np.concatenate(pieces)


def babble_stream(synthesizer, texts, split):
    """叠人声用的语音：专用的嗓音，不与训练、测试的说话人重叠。"""
    rng = np.random.default_rng(2 if split == "train" else 3)
    part = texts["cmn"][SPLIT["train"]] + texts["en-us"][SPLIT["train"]]
    pieces = []
    for variant in BABBLE_VOICES[split]:
        for text in rng.choice(part, 24, replace=False):
            language = "en-us" if str(text).isascii() else "cmn"
            pieces.append(say(synthesizer, rng, language, variant, str(text)))
    return np.concatenate(pieces)


def babble(rng, n, stream):
    """人声嘈杂：六到十个人各说各的。"""
    wave = np.zeros(n)
    for _ in range(rng.integers(6, 11)):
        start = rng.integers(len(stream) - n)
        wave += rng.uniform(0.5, 1) * stream[start : start + n]
    return wave


def to_int16(wave):
    """均方根 0.05；尖峰太高时让峰值不超过 0.95。"""
    wave = normalize(wave)
    return np.round(wave * (32767 * min(1.0, 0.95 / np.abs(wave).max()))).astype(np.int16)


def clips(kind, make):
    """一种噪声的训练片段，int16 (片段, 样点)；每个片段的种子只看第几种、第几个。"""
    seeds = ([4, list(KINDS).index(kind), k] for k in range(KINDS[kind]))
    return np.stack([to_int16(make(np.random.default_rng(seed), CLIP)) for seed in seeds])


def many_clips(makers):
    return {kind: clips(kind, make) for kind, make in makers.items()}


def lifelike_noise():
    """不用语音的一半训练噪声，由另一个进程做。"""
    return many_clips(noises.HEARD | LIFELIKE)


def scene(clean, make, seed, **facts):
    """一个带噪场景：首尾各补一点空白，噪声按信噪比缩放。"""
    clean = np.pad(clean, (LEAD, TAIL))
    noise = make(np.random.default_rng(seed), len(clean)).astype(np.float32)
    return {"clean": clean, "noise": scale_noise(clean, noise, facts["snr_db"]), **facts}


def held_out(synthesizer, texts, stream):
    """验证、测试与示范场景。"""
    rng = np.random.default_rng(5)

    def voices(variants, split):
        utterances = []
        for variant in variants:
            for language in LANGUAGES:
                for text in texts[language][SPLIT[split]]:
                    utterances.append(
                        (say(synthesizer, rng, language, variant, text), language, variant, text)
                    )
        return utterances

    heard = {**noises.HEARD, noises.BABBLE: lambda rng, n: babble(rng, n, stream)}
    scenes = {"validation": [], "test": [], "demo": []}
    plans = (
        ("validation", VALIDATION_VOICES, {**heard, **noises.VALIDATION}, 2, 6),
        ("test", TEST_VOICES, {**heard, **noises.UNHEARD}, 3, 7),
    )
    for split, variants, makers, repeat, seed in plans:
        utterances = voices(variants, split)
        if split == "test":
            spoken = {(*item[1:3], item[3]): item for item in utterances}
        order = rng.permutation(len(utterances))
        count = 0
        for number, (kind, make) in enumerate(makers.items()):
            for snr_db in SNRS:
                for index in range(repeat):
                    clean, language, variant, text = utterances[order[count % len(order)]]
                    count += 1
                    facts = {"kind": kind, "snr_db": snr_db, "heard": kind in heard, "text": text}
                    facts["voice"] = f"{language}+{variant}"
                    scenes[split].append(scene(clean, make, [seed, number, snr_db + 5, index], **facts))
    everything = {**heard, **noises.UNHEARD}
    for index, (kind, snr_db, language, variant, which) in enumerate(DEMOS):
        text = texts[language][SPLIT["test"]][which]
        clean = spoken[language, variant, text][0]
        facts = {
            "kind": kind,
            "snr_db": snr_db,
            "heard": kind in heard,
            "text": text,
            "voice": f"{language}+{variant}",
        }
        facts["title"] = f"{kind}，{snr_db} dB，{LANGUAGES[language]}{VOICE_NAMES[variant]}"
        scenes["demo"].append(scene(clean, everything[kind], [8, index], **facts))
    return scenes


def build(folder: Path, progress=lambda fraction: None) -> None:
    """把整套语料写进 ``folder``（已存在的空目录）。"""
    # 噪声占一半时间，又不用合成器：一部分由另一个进程同时做
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        lifelike = pool.submit(lifelike_noise)
        synthesizer, texts = Synthesizer(), sentences()
        speech = training_speech(synthesizer, texts, progress)
        train_stream = babble_stream(synthesizer, texts, "train")
        held_stream = babble_stream(synthesizer, texts, "held")
        scenes = held_out(synthesizer, texts, held_stream)
        progress(0.6)
        made = many_clips(noises.FAMILIES)
        progress(0.85)
        made[noises.BABBLE] = clips(noises.BABBLE, lambda rng, n: babble(rng, n, train_stream))
        progress(0.9)
        made |= lifelike.result()
    np.save(folder / "speech.npy", np.round(speech * 32767).clip(-32768, 32767).astype(np.int16))
    np.save(folder / "noise.npy", np.concatenate([made[kind] for kind in KINDS]))
    facts = {"kinds": [kind for kind in KINDS for _ in made[kind]]}
    for split, items in scenes.items():
        facts[split] = [{k: v for k, v in item.items() if k not in ("clean", "noise")} for item in items]
        waves = {
            f"{part}{index}": item[part] for index, item in enumerate(items) for part in ("clean", "noise")
        }
        np.savez(folder / f"{split}.npz", **waves)
    (folder / "facts.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
    progress(1.0)


if __name__ == "__main__":
    build(Path(sys.argv[1]), lambda fraction: print(f"{fraction:.3f}", flush=True))
