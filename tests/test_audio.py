"""声音的读写、STFT、混合与度量。"""

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import warnings

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


@pytest.mark.parametrize(
    ("name", "wave", "options", "words"),
    [
        ("a.wav", np.zeros((2, 3, 4)), {}, r"实际形状是 \(2, 3, 4\)"),
        ("a.wav", np.zeros((5, 0)), {}, "实际形状"),
        ("a.wav", np.zeros(10, np.int64), {}, "实际类型是 int64"),
        ("a.wav", np.array(["a"]), {}, "实际类型"),
        ("a.wav", np.zeros(10), {"subtype": "VORBIS"}, "不能用 VORBIS 编码.*PCM_24"),
        ("a.wav", np.zeros(10), {"sample_rate": 16000.5}, "要是整数"),
        ("a.raw", np.zeros(10), {}, "不认识扩展名"),
    ],
)
def test_what_cannot_be_written_is_said_in_chinese(tmp_path, name, wave, options, words):
    with pytest.raises(audio.AudioError, match=words):
        audio.write_audio(tmp_path / name, wave, **options)
    assert not list(tmp_path.iterdir())


def test_half_precision_is_written(tmp_path):
    audio.write_audio(tmp_path / "a.wav", np.array([0, 0.5, -0.25], np.float16), sample_rate=16000.0)
    np.testing.assert_array_equal(audio.read_audio(tmp_path / "a.wav"), [0, 0.5, -0.25])


def test_failed_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    audio.write_audio(path, noise(1000))
    before = path.read_bytes()
    with pytest.raises(audio.AudioError, match="NaN"):
        audio.write_audio(path, np.full(10, np.nan))
    with pytest.raises((ValueError, OSError)):
        audio.write_audio(path, np.zeros((10, 2000)))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- 文件头与内容 ----

PCM = (np.arange(1000) % 200 * 100).astype("<i2")
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
BEXT = b"bext" + struct.pack("<I", 602) + b"x" * 602
ID3 = b"id3 " + struct.pack("<I", 11) + b"ID3\4" + b"\0" * 7 + b"\0"
STREAMED = [0x7FFFF000, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0xFFFFFFFE]


def fmt(tag=1, channels=1, rate=16000, bits=16, extra=b""):
    align = channels * bits // 8
    body = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align, bits) + extra
    return b"fmt " + struct.pack("<I", len(body)) + body


RAW = PCM.tobytes()


def riff(data=RAW, says=None, size=None, before=b"", after=b"", header=None, magic=b"RIFF"):
    """手写的 wav；``says`` 是 data 块说的长度，``size`` 是 RIFF 说的长度，不给就是真的。"""
    body = b"WAVE" + (header or fmt()) + before + b"data"
    body += struct.pack("<I", len(data) if says is None else says) + data + after
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def through(path, content):
    """写下、读出：（int16 样点, 说明）。"""
    path.write_bytes(content)
    with audio.open_audio(path) as sound:
        blocks = list(audio.read_blocks(sound, path))
        assert sound.frames == sum(map(len, blocks)) or sound.note
        samples = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
        return np.round(samples[:, 0] * 32768).astype(int), sound.note


@pytest.mark.parametrize("after", [b"", LIST, BEXT, ID3, LIST + BEXT, b"TAG" + b"x" * 125])
@pytest.mark.parametrize("says", [2000, *STREAMED])
def test_streamed_lengths_are_no_truncation_and_trailing_chunks_no_sound(tmp_path, says, after):
    for size in (None, 0, 36, 0x7FFFF024, 0xFFFFFFFF):
        samples, note = through(tmp_path / "a.wav", riff(says=says, size=size, after=after))
        np.testing.assert_array_equal(samples, PCM)
        assert note == ""


@pytest.mark.parametrize("after", [b"", LIST, BEXT + LIST])
@pytest.mark.parametrize(
    ("says", "words"), [(0, "没有写声音的长度"), (500, "0.016 秒（500 字节）"), (1998, "长")]
)
def test_more_sound_than_the_header_says_is_read(tmp_path, says, words, after):
    for size in (0, 36, None):
        samples, note = through(tmp_path / "a.wav", riff(says=says, size=size, after=after))
        np.testing.assert_array_equal(samples, PCM)
        assert words in note and "没有正常结束" in note


def test_truncation_says_how_much_is_missing(tmp_path):
    samples, note = through(tmp_path / "a.wav", riff(says=34000))
    np.testing.assert_array_equal(samples, PCM)
    assert "少了 1.000 秒（32000 字节）" in note and "中断" in note
    with pytest.warns(UserWarning, match=r"a\.wav 比文件头说的短"):
        audio.read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("extra", [0, len(LIST)])
def test_a_wav_that_wrapped_at_4_gb(tmp_path, extra):
    length = (1 << 32) + 2000
    path = tmp_path / "a.wav"
    with path.open("wb") as stream:  # 稀疏文件，不真占 4 GB
        stream.write(riff(says=length & 0xFFFFFFFF, size=(length + 36) & 0xFFFFFFFF))
        stream.truncate(44 + length)
        if extra:
            stream.seek(44 + length)
            stream.write(LIST)
    with audio.open_audio(path) as sound:
        assert sound.frames == length // 2 and "超过 4 GB" in sound.note
        np.testing.assert_array_equal(sound.read(1000, dtype="int16"), PCM)
        sound.seek(sound.frames - 5)
        assert len(sound.read(10)) == 5


@pytest.mark.parametrize("pad", [b"", b"\0"])
def test_odd_data_with_and_without_padding(tmp_path, pad):
    data = bytes(range(100, 200)) * 9 + b"\x64"
    path = tmp_path / "a.wav"
    samples, note = through(path, riff(data, header=fmt(bits=8), after=pad + LIST, before=LIST))
    np.testing.assert_array_equal(samples // 256 + 128, list(data))
    assert note == ""
    assert len(through(path, riff(data, says=0xFFFFFFFF, header=fmt(bits=8)))[0]) == len(data)


def test_wav_encodings_keep_their_values_behind_a_mended_header(tmp_path):
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    floats = (PCM / 32768).astype("<f4").tobytes()
    wide = b"".join(b"\0" + x.tobytes() for x in PCM)
    plain = riff(PCM.astype(">i2").tobytes())
    big = b"RIFX" + struct.pack(">I", len(plain) - 8) + b"WAVEfmt " + struct.pack(">I", 16)
    big += struct.pack(">HHIIHH", 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack(">I", 10) + plain[44:]
    for content in (
        riff(floats, says=8, header=fmt(3, bits=32)),
        riff(wide, says=9, header=fmt(bits=24)),
        riff(says=10, header=fmt(0xFFFE, extra=struct.pack("<HHI", 22, 16, 4) + guid)),
        big,
    ):
        samples, note = through(tmp_path / "a.wav", content)
        np.testing.assert_array_equal(samples, PCM)
        assert "比文件头说的长" in note
    content = io.BytesIO()
    soundfile.write(content, PCM / 32768, 16000, format="WAV", subtype="ALAW")
    whole = content.getvalue()
    where = whole.index(b"data") + 4
    cut = whole[:where] + struct.pack("<I", 10) + whole[where + 4 :]
    np.testing.assert_array_equal(through(tmp_path / "a.wav", cut)[0], through(tmp_path / "b.wav", whole)[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (riff(after=b"data" + struct.pack("<I", 2000) + PCM.tobytes()), "几个 data 块"),
        (riff() + riff(), "不止一个声音文件"),
        (riff(header=fmt(rate=0)), "采样率写的是 0 Hz"),
        (riff(header=fmt(rate=0x80000000)), "采样率写的是 2147483648 Hz"),
        *((riff(header=fmt(rate=rate)), f"采样率是 {rate} Hz") for rate in (1, 2, 999, 2_000_000_000)),
    ],
)
def test_wavs_that_are_refused_with_the_true_reason(tmp_path, content, words):
    with pytest.raises(audio.AudioError, match=words) as caught:
        through(tmp_path / "a.wav", content)
    assert "a.wav" in str(caught.value) and "请" in str(caught.value)


def test_empty_first_data_chunk_and_zero_padding(tmp_path):
    double = riff(b"", after=b"data" + struct.pack("<I", 2000) + PCM.tobytes())
    np.testing.assert_array_equal(through(tmp_path / "a.wav", double)[0], PCM)
    samples, note = through(tmp_path / "a.wav", riff(after=b"\0" * 300))
    np.testing.assert_array_equal(samples, PCM)
    assert "300 个全是零的字节" in note
    assert len(through(tmp_path / "a.wav", riff(b"", after=LIST))[0]) == 0


def encoded(container, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, PCM / 32768, 16000, format=container, **options)
    return buffer.getvalue()


def patched(container, mark, offset, code, value):
    """改掉 ``mark`` 之后 ``offset`` 处的一个数。"""
    content = bytearray(encoded(container))
    struct.pack_into(code, content, content.index(mark) + offset, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("where", "unknown"),
    [
        (("AIFF", b"SSND", 4, ">I"), (0x7F000000, 0xFFFFFFFF)),
        (("AU", b".snd", 8, ">I"), (0xFFFFFFFF, 0x7FFFFFFF)),
        (("W64", b"data", 16, "<Q"), (1 << 63, (1 << 64) - 1)),
        (("RF64", b"ds64", 16, "<Q"), ((1 << 63) - 1, (1 << 64) - 1)),
        (("CAF", b"data", 4, ">Q"), ((1 << 64) - 1,)),
    ],
)
def test_other_containers_with_untrue_lengths(tmp_path, where, unknown):
    path = tmp_path / "a"
    samples, note = through(path, encoded(where[0]))
    np.testing.assert_array_equal(samples, PCM)
    assert note == ""
    for value in unknown:
        samples, note = through(path, patched(*where, value))
        np.testing.assert_array_equal(samples, PCM, err_msg=hex(value))
        assert note == ""
    for value, words in ((0, "没有写声音的长度"), (500, "比文件头说的长"), (1 << 24, "少了")):
        samples, note = through(path, patched(*where, value))
        np.testing.assert_array_equal(samples, PCM, err_msg=hex(value))
        assert words in note
    with pytest.raises(audio.AudioError, match="不止一个声音文件"):
        through(path, encoded(where[0]) * 2)


def test_w64_chunks_behind_the_sound_are_no_sound(tmp_path):
    tail = b"list" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + struct.pack("<Q", 424) + b"ab" * 200
    samples, note = through(tmp_path / "a.w64", encoded("W64") + tail)
    np.testing.assert_array_equal(samples, PCM)
    assert note == ""


def test_bw64_is_read(tmp_path):
    sizes = struct.pack("<IQQQI", 28, 2072, 2000, 1000, 0)
    content = b"BW64\xff\xff\xff\xffWAVEds64" + sizes + fmt() + b"data\xff\xff\xff\xff" + PCM.tobytes()
    np.testing.assert_array_equal(through(tmp_path / "a.wav", content)[0], PCM)


def test_flac_without_and_with_a_wrong_count(tmp_path):
    content = encoded("FLAC")

    def counted(count):
        return content[:22] + struct.pack(">I", count) + content[26:]

    samples, note = through(tmp_path / "a.flac", counted(0))  # 写进管道的，或没有正常结束的
    np.testing.assert_array_equal(samples, PCM)
    assert note == ""
    samples, note = through(tmp_path / "a.flac", counted(17000))
    np.testing.assert_array_equal(samples, PCM)
    assert "少了 1.00 秒" in note
    with pytest.raises(audio.AudioError, match="不止一个声音文件"):
        through(tmp_path / "a.flac", content * 2)
    np.testing.assert_array_equal(through(tmp_path / "a.flac", content + b"TAG" + b"x" * 125)[0], PCM)


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(16000, 1, "PCM_16"), (8000, 1, "PCM_S8"), (44100, 2, "PCM_24"), (192000, 3, "PCM_16")],
)
def test_flac_that_holds_more_than_it_says_is_never_cut(tmp_path, rate, channels, subtype):
    """短的也认得出：帧自己记着位置。说得对的，后面跟着什么都不报。"""
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * noise(30011 * channels).reshape(-1, channels), rate, subtype, format="FLAC")
    content = buffer.getvalue()
    for after in (b"", b"TAG" + b"x" * 125, b"APETAGEX" + b"x" * 300, bytes(50)):
        assert through(tmp_path / "a.flac", content + after)[1] == ""
        for count in (1, 4096, 30010):
            with pytest.raises(audio.AudioError, match=f"文件头说有 {count} 个样点，里面真有的到第 30011 个"):
                through(tmp_path / "a.flac", content[:22] + struct.pack(">I", count) + content[26:] + after)


def test_tags_in_front_are_no_sound(tmp_path):
    """ID3v2 写在 wav、flac 前面：长度照样核对，也不当作拼起来的两个文件。"""
    tag = b"ID3\x03\0\0\0\0\0\x14" + bytes(20)
    for content, words in ((encoded("FLAC"), ""), (riff(), ""), (riff(says=500), "比文件头说的长")):
        samples, note = through(tmp_path / "a", tag + content)
        np.testing.assert_array_equal(samples, PCM)
        assert words in note and bool(words) == bool(note)
    with pytest.raises(audio.AudioError, match="不止一个声音文件"):
        through(tmp_path / "a", tag + encoded("FLAC") * 2)


def test_chunks_that_libsndfile_stumbles_over(tmp_path):
    """奇数长度的块没有补齐、fmt 的长度是奇数、后面又一个空的 data：照样读，不说文件坏了。"""
    unpadded = b"LIST" + struct.pack("<I", 9) + b"INFOabcde"
    odd = b"fmt " + struct.pack("<I", 17) + fmt()[8:] + b"\0\0"
    for content in (riff(before=unpadded), riff(header=odd), riff(after=b"data\0\0\0\0")):
        samples, note = through(tmp_path / "a.wav", content)
        np.testing.assert_array_equal(samples, PCM)
        assert note == ""
    samples, note = through(tmp_path / "a.wav", riff(before=unpadded, says=500))
    np.testing.assert_array_equal(samples, PCM)
    assert "比文件头说的长" in note


def test_24_bits_in_4_bytes_are_not_read_as_noise(tmp_path):
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, 16000, 128000, 8, 24)
    with pytest.raises(audio.AudioError, match="占 4 字节，文件头却说是 24 位"):
        through(tmp_path / "a.wav", riff(data=bytes(8000), header=header))


def test_the_last_sample_cut_in_half_is_said(tmp_path):
    samples, note = through(tmp_path / "a.wav", riff()[:-1])
    np.testing.assert_array_equal(samples, PCM[:-1])
    assert "比文件头说的短" in note


def test_sphere_files_are_checked_too(tmp_path):
    content = encoded("NIST")
    for data, count, words in (
        (content, len(PCM), ""),
        (content[:-500], len(PCM) - 250, "比文件头说的短"),
        (content + PCM[:100].tobytes(), len(PCM) + 100, "比文件头说的长"),
    ):
        samples, note = through(tmp_path / "a.sph", data)
        assert len(samples) == count and words in note and bool(words) == bool(note)


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_compressed_streams_cut_short_or_joined(tmp_path, container, subtype):
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(160000), 16000, format=container, subtype=subtype)
    content = buffer.getvalue()
    path = tmp_path / "a"
    samples, note = through(path, content)
    assert len(samples) == 160000 and note == ""
    samples, note = through(path, content[: len(content) // 2])
    assert 30000 < len(samples) < 130000 and "中断" in note
    if container == "OGG":  # 恰好断在两页之间
        samples, note = through(path, content[: content.rfind(b"OggS")])
        assert 100000 < len(samples) < 160000 and "没有结束标志" in note
    with pytest.raises(audio.AudioError, match="不止一个声音文件"):
        through(path, content * 2)


def test_mp3_whose_length_is_only_guessed_is_never_cut(tmp_path):
    buffer = io.BytesIO()
    loud = noise(480000) * np.repeat([0.001, 1] * 15, 16000)
    soundfile.write(buffer, loud, 16000, format="MP3", bitrate_mode="VARIABLE")
    content = buffer.getvalue()
    with pytest.raises(audio.AudioError, match="后面至少还有"):
        through(tmp_path / "a.mp3", content[content.find(content[:2], content.find(b"Xing")) :])


# ---- 采样率 ----


@pytest.mark.parametrize("rate", [0, 1, -16000, 2e9, float("nan")])
def test_absurd_rates_are_refused_at_once(tmp_path, rate):
    with pytest.raises(audio.AudioError, match="采样率"):
        audio.resample(noise(1000), rate)
    with pytest.raises(audio.AudioError, match="采样率"):
        audio.write_audio(tmp_path / "a.wav", noise(1000), rate)
    assert not list(tmp_path.iterdir())


# ---- 不是普通文件 ----


def test_pipe_is_read_through(tmp_path):
    path = tmp_path / "管道"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(riff(says=0xFFFFFFFF)))
    writer.start()
    read = audio.read_audio(path)
    writer.join()
    np.testing.assert_array_equal(np.round(read * 32768), PCM)


def test_pipe_nobody_writes_to_and_pipe_of_something_else(tmp_path, monkeypatch):
    path = tmp_path / "管道"
    os.mkfifo(path)
    monkeypatch.setattr(audio, "WAITING", 0.1)
    with pytest.raises(audio.AudioError, match="没有程序往里写"):
        audio.read_audio(path)

    def zeros():
        try:
            with path.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(65536))
        except BrokenPipeError:
            pass

    monkeypatch.setattr(audio, "WAITING", 10)
    writer = threading.Thread(target=zeros, daemon=True)
    writer.start()
    with pytest.raises(audio.AudioError, match="来的不是 wav"):
        audio.read_audio(path)
    writer.join(10)
    assert not writer.is_alive()


def test_devices_sockets_and_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(audio.AudioError, match="是设备"):
            audio.read_audio(device)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.wav")
        with pytest.raises(audio.AudioError, match="套接字"):
            audio.read_audio("s.wav")
    os.symlink("不在.wav", "断.wav")
    os.symlink("圈.wav", "圈.wav")
    with pytest.raises(FileNotFoundError, match=r"断了的符号链接.*不在\.wav"):
        audio.read_audio("断.wav")
    with pytest.raises(OSError, match="绕成了圈"):
        audio.read_audio("圈.wav")


def test_a_file_that_grows_is_read_as_it_was(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(says=0))
    with audio.open_audio(path) as sound:
        with path.open("ab") as stream:
            stream.write(PCM.tobytes())
        assert sum(map(len, audio.read_blocks(sound, path))) == len(PCM)


# ---- 写 ----

LONG = """
import sys, numpy as np
from lstm_lib.enhance import audio
wave = (0.1 * np.random.default_rng(0).standard_normal(200 * 16000)).astype(np.float32)
audio.write_audio(sys.argv[1], wave)
assert abs(len(audio.read_audio(sys.argv[1])) - len(wave)) < 2000
"""


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.mp3", "a.flac"])
def test_long_compressed_files_are_written(tmp_path, name):
    """libsndfile 一次写这么长的 Ogg 整个进程崩溃，所以另起进程。"""
    done = subprocess.run(
        [sys.executable, "-c", LONG, tmp_path / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


LOUD = """
import sys, numpy as np
from lstm_lib.enhance.audio import write_audio
wave = np.sin(2 * np.pi * 200 * np.arange(1600) / 8000)
for number, (ending, subtype) in enumerate(zip(sys.argv[2::2], sys.argv[3::2])):
    for peak in (1.07, 2, 100, 1e9):
        for name, samples in (("loud", peak * wave), ("flat", np.clip(peak * wave, -1, 1))):
            write_audio(f"{sys.argv[1]}/{number}-{peak:g}-{name}.{ending}", samples, 8000, subtype)
"""


def test_too_loud_samples_are_clipped_in_every_encoding(tmp_path):
    """libsndfile 写 μ 律、A 律与 ADPCM 时不削：超过满幅的变成别的数，再大就整个进程崩溃，所以另起进程。"""
    kinds = (
        "wav ULAW wav ALAW aiff ULAW wav IMA_ADPCM wav MS_ADPCM wav PCM_16 caf ALAC_16 flac PCM_24".split()
    )
    done = subprocess.run(
        [sys.executable, "-c", LOUD, tmp_path, *kinds], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pairs = [(path, path.with_name(path.name.replace("loud", "flat"))) for path in tmp_path.glob("*loud*")]
    assert len(pairs) == 32
    for loud, flat in pairs:
        assert loud.read_bytes() == flat.read_bytes(), loud.name


def test_ogg_channels_that_kill_the_library_are_refused(tmp_path):
    """255 个声道写得了，256 个 libsndfile 收尾时整个进程崩溃；命令行也先说，不留下临时文件。"""
    audio.write_audio(tmp_path / "a.ogg", np.zeros((200, 255), np.float32))
    with pytest.raises(audio.AudioError, match="存不下 256 个声道"):
        audio.write_audio(tmp_path / "b.ogg", np.zeros((200, 256), np.float32))
    audio.write_audio(tmp_path / "c.wav", np.zeros((2000, 256), np.float32))
    command = [sys.executable, "-m", "lstm_lib", "enhance", "-q", tmp_path / "c.wav", tmp_path / "d.ogg"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "存不下 256 个声道" in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ogg", "c.wav"]


def test_ogg_rate_that_kills_the_library_is_refused(tmp_path):
    with pytest.raises(audio.AudioError, match="存不下 384000 Hz"):
        audio.write_audio(tmp_path / "a.ogg", noise(1000), 384000)


def test_every_sound_file_the_package_writes_goes_out_in_blocks():
    """``soundfile.write`` 一次写完整段；包里一处也不许用。"""
    root = os.path.dirname(os.path.dirname(audio.__file__))
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".py"):
                with open(os.path.join(folder, name), encoding="utf-8") as stream:
                    assert "soundfile.write(" not in stream.read(), name


def test_ordinary_files_warn_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (
            "a.wav",
            "b.flac",
            "c.ogg",
            "d.mp3",
            "e.aiff",
            "f.au",
            "g.w64",
            "h.caf",
            "i.rf64",
            "j.opus",
        ):
            audio.write_audio(tmp_path / name, noise(20000))
            assert abs(len(audio.read_audio(tmp_path / name)) - 20000) < 2000, name
