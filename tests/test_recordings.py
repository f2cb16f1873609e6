"""随书的真录音：读得出、够长、混得准，来历都写着。"""

import numpy as np
import pytest

from lstm_lib.corpus import recordings
from lstm_lib.waves import snr


def test_every_recording_is_listed_and_its_origin_is_written_down():
    names = {path.stem for path in recordings.FOLDER.glob("*.flac")}
    assert names == recordings.VOICES.keys() | recordings.NOISES.keys()
    text = (recordings.FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.flac`" in text for name in names)
    assert all(words in text for _, words in recordings.VOICES.values())
    assert sum(path.stat().st_size for path in recordings.FOLDER.iterdir()) < 500e3


@pytest.mark.parametrize("name", [*recordings.VOICES, *recordings.NOISES])
def test_sound(name):
    wave = recordings.wave(name)
    assert wave.ndim == 1 and 4 < len(wave) / 16000 < 6 and wave.dtype == np.float32
    assert 0.02 < np.sqrt(np.mean(wave**2)) and np.abs(wave).max() <= 10 ** (-2.9 / 20)
    assert abs(wave.mean()) < 1e-3


@pytest.mark.parametrize("level", [-5, 0, 7.5])
def test_scenes_are_mixed_at_the_level(level):
    scenes = recordings.real_scenes(level)
    assert len({scene.title for scene in scenes}) == 4
    for scene in scenes:
        assert abs(snr(scene.clean, scene.noise) - level) < 1e-3
        np.testing.assert_array_equal(scene.noisy, scene.clean + scene.noise)


def test_unknown_name():
    with pytest.raises(ValueError, match="没有叫 '咖啡' 的录音；可选：voice_nahan"):
        recordings.wave("咖啡")
