"""内置语料：可重现、划分不重叠、缓存不留半成品。"""

import subprocess
import sys

import numpy as np
import pytest

from lstm_lib import corpus
from lstm_lib.book import progress
from lstm_lib.corpus import build, noises
from lstm_lib.waves import snr

MAKERS = {**noises.HEARD, **noises.UNHEARD, **noises.VALIDATION, **noises.FAMILIES}


@pytest.mark.parametrize("kind", MAKERS)
def test_noises_are_finite_deterministic_and_varied(kind):
    waves = [MAKERS[kind](np.random.default_rng([1, index]), 24000) for index in range(5)]
    for wave in waves:
        assert wave.shape == (24000,) and np.isfinite(wave).all() and wave.std() > 0
    np.testing.assert_array_equal(MAKERS[kind](np.random.default_rng([1, 0]), 24000), waves[0])
    assert not np.array_equal(waves[0], waves[1])


def test_pink_noise_falls_three_decibels_an_octave():
    wave = noises.pink(np.random.default_rng(0), 1 << 18)
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(1 << 18, 1 / 16000)
    bands = [power[(frequency > f) & (frequency < 2 * f)].mean() for f in (250, 500, 1000, 2000)]
    np.testing.assert_allclose(10 * np.log10(bands[1:]) - 10 * np.log10(bands[:-1]), -3.01, atol=0.4)


def test_splits_do_not_overlap():
    babble = {voice for voices in build.BABBLE_VOICES.values() for voice in voices}
    groups = [set(build.TRAIN_VOICES), set(build.TEST_VOICES), set(build.VALIDATION_VOICES), babble]
    assert sum(map(len, groups)) == len(set.union(*groups)), "有嗓音出现在两处"
    for texts in build.sentences().values():
        assert len(texts) == len(set(texts)) == 60
        parts = [texts[part] for part in build.SPLIT.values()]
        assert sum(map(len, parts)) == 60 and len(set().union(*parts)) == 60
    trained = set(build.KINDS)
    assert trained > {*noises.NAMED, *noises.FAMILIES} and "水" not in trained, "水声太像测试用的雨声"
    assert (
        not trained & {*noises.UNHEARD, *noises.VALIDATION}
        and not noises.UNHEARD.keys() & noises.VALIDATION.keys()
    )


def test_scenes():
    demos, tests = corpus.demo_scenes(), corpus.test_scenes()
    assert len(demos) >= 3 and {scene.heard for scene in demos} == {True, False}
    for scene in demos + tests[::9]:
        assert scene.noisy.dtype == np.float32 and scene.noisy.shape == scene.clean.shape == scene.noise.shape
        np.testing.assert_array_equal(scene.noisy, scene.clean + scene.noise)
        assert abs(snr(scene.clean, scene.noise) - scene.snr_db) < 1e-3
        assert scene.voice.split("+")[1] in build.TEST_VOICES
        with pytest.raises(ValueError, match="read-only"):
            scene.noisy[0] = 1
    grid = {(scene.noise_kind, scene.snr_db) for scene in tests}
    assert len(grid) == 9 * 4
    assert {scene.noise_kind for scene in tests if not scene.heard} == set(noises.UNHEARD)


def test_training_data():
    data = corpus.training_data()
    assert data.speech.dtype == data.noise.dtype == np.int16
    assert len(data.speech) > 20 * 60 * 16000 and len(data.kinds) == len(data.noise)
    assert list(dict.fromkeys(data.kinds)) == list(build.KINDS)
    assert (data.noise.astype(float).std(axis=1) > 10).all()


def test_interrupted_build_leaves_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_LIB_CACHE", str(tmp_path))

    def half(folder, progress):
        (folder / "speech.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus, "make", half)
    with pytest.raises(KeyboardInterrupt):
        corpus.ensure(progress=False)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_unfinished_folder_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_LIB_CACHE", str(tmp_path))
    folder = tmp_path / f"corpus-{corpus.corpus_key()}"
    folder.mkdir()
    (folder / "facts.json").write_text("半个", encoding="utf-8")
    monkeypatch.setattr(corpus, "make", lambda folder, progress: (folder / "facts.json").write_text("{}"))
    assert corpus.ensure(progress=False) == folder
    assert (folder / "facts.json").read_text() == "{}" and (folder / "fingerprint.txt").exists()


def test_failure_of_the_builder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(progress.sys, "executable", "/bin/false" if subprocess.os.name != "nt" else "where")
    with pytest.raises(OSError, match="“合成语料”的进程失败"):
        corpus.make(tmp_path, progress=False)


def test_key_ignores_comments_but_not_code(tmp_path, monkeypatch):
    package = tmp_path / "sample_recipe"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = []
    for text in ('"""甲"""\nx = 1\n', '"""乙"""\n# 注释\nx  =  1\n', "x = 2\n"):
        (package / "part.py").write_text(text, encoding="utf-8")
        keys.append(corpus.recipe_key("sample_recipe.part"))
    assert keys[0] == keys[1] != keys[2]


def test_speech_is_reproducible_in_a_fresh_process():
    """同样的话在两个新进程里说，字节相同；这是整套语料可重现的根据。"""
    program = (
        "import hashlib\nfrom lstm_lib.corpus.speech import Synthesizer\ns = Synthesizer()\n"
        "d = hashlib.sha256()\n"
        "for v in ('cmn+f2', 'en-us+m3', 'cmn+f2'):\n    d.update(s.say('你好 hello', v).tobytes())\n"
        "print(d.hexdigest())"
    )
    prints = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(prints) == 1
