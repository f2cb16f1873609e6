"""声音的读写、STFT、混合与度量。"""

import os

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_lib.enhance import audio
from lstm_lib.enhance.scores import si_sdr, stoi
from lstm_lib.waves import mix, scale_noise, snr


def noise(length, seed=0, dtype=np.float32):
    return (0.1 * np.random.default_rng(seed).standard_normal(length)).astype(dtype)


def write(path, samples, rate=16000, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@given(st.integers(0, 3000), st.sampled_from([(512, 256), (320, 160), (512, 128), (6, 1), (2, 1), (96, 32)]))
@settings(max_examples=100, deadline=None)
def test_stft_reconstructs_any_length(length, size):
    wave, (n_fft, hop) = noise(length), size
    spectrum = audio.stft(wave, *size)
    frames = -(-length // hop) + n_fft // hop - 1
    assert spectrum.shape == (frames, n_fft // 2 + 1) and spectrum.dtype == np.complex64
    restored = audio.istft(spectrum, length, *size)
    assert restored.shape == (length,)
    assert np.abs(restored - wave).max(initial=0) < 1e-6


def test_stft_in_double_precision_and_against_torch():
    wave = noise(4000, dtype=np.float64)
    assert np.abs(audio.istft(audio.stft(wave), 4000) - wave).max() < 1e-14
    window = torch.hann_window(512, dtype=torch.float64).sqrt()
    theirs = torch.stft(
        torch.from_numpy(wave), 512, 256, window=window, center=True, pad_mode="constant", return_complex=True
    ).T.numpy()
    ours = audio.stft(wave)
    assert np.abs(ours[: len(theirs)] - theirs).max() < 1e-12


def test_frame_covers_the_documented_samples():
    wave = np.zeros(2000, np.float32)
    wave[1000] = 1
    loud = np.flatnonzero(np.abs(audio.stft(wave)).sum(axis=1) > 1e-6)
    assert list(loud) == [t for t in range(9) if 256 * (t - 1) <= 1000 < 256 * (t + 1)]


@pytest.mark.parametrize("size", [(511, 100), (0, 1), (512, 0), (512, 200), (512, 512), (512, -256)])
def test_stft_sizes_that_cannot_reconstruct_are_refused(size):
    for work in (lambda: audio.stft(noise(100), *size), lambda: audio.istft(np.zeros((4, 257)), 10, *size)):
        with pytest.raises(ValueError, match=r"窗长|帧移"):
            work()


def test_istft_refuses_wrong_shapes():
    with pytest.raises(ValueError, match="257"):
        audio.istft(np.zeros((4, 256), complex), 10)
    with pytest.raises(ValueError, match="最多还原 768"):
        audio.istft(np.zeros((4, 257), complex), 769)


@pytest.mark.parametrize("wave", [np.zeros((2, 10)), np.float32(3)])
def test_waves_must_be_mono(wave):
    with pytest.raises(ValueError, match="单声道"):
        audio.stft(wave)


def test_integer_and_nan_waves_are_refused():
    with pytest.raises(ValueError, match="int16"):
        audio.stft(np.zeros(100, np.int16))
    bad = noise(100)
    bad[7] = np.nan
    with pytest.raises(ValueError, match="第 7 个"):
        si_sdr(bad, bad)


@pytest.mark.parametrize("snr_db", [-20, -5, 0, 7.3, 40])
def test_mixing_is_exact(snr_db):
    speech, other = noise(16000, 1), 30 * noise(16000, 2)
    scaled = scale_noise(speech, other, snr_db)
    assert scaled.dtype == np.float32
    assert abs(snr(speech, scaled) - snr_db) < 1e-4
    np.testing.assert_array_equal(mix(speech, other, snr_db), speech + scaled)


def test_mixing_refuses_silence_and_unequal_lengths():
    with pytest.raises(ValueError, match="噪声全是零"):
        mix(noise(10), np.zeros(10), 0)
    with pytest.raises(ValueError, match="语音全是零"):
        mix(np.zeros(10), noise(10), 0)
    with pytest.raises(ValueError, match="一样长"):
        mix(noise(10), noise(11), 0)


@pytest.mark.parametrize("offset", [0, 0.3])
def test_si_sdr_against_torchmetrics(offset):
    reference, estimate = noise(8000, 1, np.float64), noise(8000, 2, np.float64)
    estimate = reference + 0.5 * estimate + offset
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as theirs

    expected = theirs(torch.from_numpy(estimate), torch.from_numpy(reference), zero_mean=True).item()
    assert abs(si_sdr(reference, estimate) - expected) < 1e-6
    assert abs(si_sdr(reference, -7 * estimate) - expected) < 1e-6


def test_si_sdr_limits():
    reference = noise(1000)
    assert si_sdr(reference, 2 * reference) > 100
    for constant in (0, 0.5):
        assert si_sdr(reference, np.full(1000, constant, np.float32)) == -np.inf
    for silent in (np.zeros(1000), np.full(1000, 0.5), np.zeros(0)):
        with pytest.raises(ValueError, match="没有定义"):
            si_sdr(silent, silent)


def test_stoi_limits():
    wave = noise(32000) * np.repeat(np.random.default_rng(3).uniform(0.1, 1, 100), 320).astype(np.float32)
    assert stoi(wave, wave) > 0.999
    assert stoi(wave, wave + 3 * noise(32000, 9)) < 0.8
    assert np.isnan(stoi(np.zeros(32000), wave))
    assert np.isnan(stoi(wave[:2000], wave[:2000]))


def test_reads_common_formats(tmp_path):
    wave = noise(16000)
    for name, options, tolerance in (
        ("a.wav", {"subtype": "PCM_16"}, 1 / 32768),
        ("b.wav", {"subtype": "PCM_24"}, 1e-6),
        ("c.wav", {"subtype": "FLOAT"}, 0),
        ("d.flac", {"subtype": "PCM_24"}, 1e-6),
    ):
        read = audio.read_audio(write(tmp_path / name, wave, **options))
        assert read.dtype == np.float32 and np.abs(read - wave).max() <= tolerance, name


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_sampling_rates_are_converted(tmp_path, rate):
    t = np.arange(rate) / rate
    path = write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate, subtype="FLOAT")
    read = audio.read_audio(path)
    assert abs(len(read) - 16000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(read)) / 16000)
    assert np.abs(read - expected)[1000:-1000].max() < 1e-3


def test_channels_are_averaged(tmp_path):
    eight = np.stack([noise(1000, seed) for seed in range(8)], axis=1)
    path = write(tmp_path / "八声道.wav", eight, subtype="FLOAT")
    np.testing.assert_allclose(audio.read_audio(path), eight.mean(axis=1), atol=1e-7)


def test_digital_silence_is_fine(tmp_path):
    assert not audio.read_audio(write(tmp_path / "静音.wav", np.zeros(500))).any()


def test_bad_files_are_named(tmp_path):
    empty = tmp_path / "空.wav"
    empty.touch()
    text = tmp_path / "文字.wav"
    text.write_text("这不是声音\n" * 50, encoding="utf-8")
    nothing = write(tmp_path / "零.wav", np.zeros(0))
    broken = noise(100)
    broken[42] = np.inf
    infinite = write(tmp_path / "坏.wav", broken, subtype="FLOAT")
    for path, words in (
        (empty, "空文件"),
        (text, "不是能识别的声音文件"),
        (nothing, "一个样点也没有"),
        (infinite, "第 42 个样点"),
        (tmp_path, "文件夹"),
    ):
        with pytest.raises(audio.AudioError, match=words) as caught:
            audio.read_audio(path)
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="没有这个"):
        audio.read_audio(tmp_path / "没有这个.wav")


def test_truncated_wav_is_read_or_refused(tmp_path):
    path = write(tmp_path / "a.wav", noise(16000))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(audio.AudioError, match=r"a\.wav"):
        audio.read_audio(path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root 什么都读得到")
def test_unreadable_file(tmp_path):
    path = write(tmp_path / "a.wav", noise(100))
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"a\.wav"):
        audio.read_audio(path)


def test_writing(tmp_path):
    wave = noise(1000)
    for name in ("a.wav", "b.flac", "c.WAV", "d.ogg"):
        audio.write_audio(tmp_path / name, wave)
        assert soundfile.info(tmp_path / name).samplerate == 16000
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert np.abs(audio.read_audio(tmp_path / "b.flac") - wave).max() < 2e-5
    with pytest.raises(audio.AudioError, match=r"\.txt"):
        audio.write_audio(tmp_path / "e.txt", wave)


def test_failed_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    audio.write_audio(path, noise(1000))
    before = path.read_bytes()
    with pytest.raises(audio.AudioError, match="NaN"):
        audio.write_audio(path, np.full(10, np.nan))
    with pytest.raises((ValueError, OSError)):
        audio.write_audio(path, np.zeros((10, 2000)))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
