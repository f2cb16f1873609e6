"""mix 混出的成对文件，与 evaluate --against 的对照。"""

import filecmp
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_training import tree, write  # noqa: F401

from lstm_lib.cli import main
from lstm_lib.enhance import irm, rnnoise
from lstm_lib.enhance.scores import si_sdr
from lstm_lib.training import evaluation
from lstm_lib.waves import SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("one_thread")


def mix(tree, out, *more):  # noqa: F811
    given = ["--speech", tree / "speech", "--noise", tree / "noise", "--out", out, "--seconds", "1"]
    return main(["mix", *map(str, given), "--count", "6", *more])


def test_pairs_have_the_snr_in_their_name_and_come_out_the_same_again(tree, tmp_path):  # noqa: F811
    assert mix(tree, tmp_path / "a", "--snr", "-5", "0", "12.5") == 0
    names = sorted(p.name for p in (tmp_path / "a" / "clean").iterdir())
    assert names == [f"{n}_{snr}dB.wav" for n, snr in enumerate(["-5", "+0", "+12.5"] * 2, 1)]
    for name in names:
        clean, noisy = (soundfile.read(tmp_path / "a" / side / name)[0] for side in ("clean", "noisy"))
        assert len(clean) == len(noisy) == SAMPLE_RATE
        snr = 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))
        assert snr == pytest.approx(float(name.split("_")[1].removesuffix("dB.wav")), abs=0.01)
        assert np.abs(noisy).max() <= 0.981
    time.sleep(1.1)  # 时刻若写进了文件，就会不同
    assert mix(tree, tmp_path / "b", "--snr", "-5", "0", "12.5") == 0
    for side in ("clean", "noisy"):
        same, _, _ = filecmp.cmpfiles(tmp_path / "a" / side, tmp_path / "b" / side, names, shallow=False)
        assert same == names
    assert mix(tree, tmp_path / "c", "--snr", "-5", "0", "12.5", "--seed", "1") == 0
    assert not filecmp.cmp(
        tmp_path / "a" / "noisy" / names[0], tmp_path / "c" / "noisy" / names[0], shallow=False
    )


def test_loud_mixtures_are_turned_down_together_not_clipped(tree, tmp_path):  # noqa: F811
    assert mix(tree, tmp_path / "out", "--level", "3", "3", "--snr", "0") == 0
    for path in (tmp_path / "out" / "noisy").iterdir():
        noisy, clean = (soundfile.read(tmp_path / "out" / side / path.name)[0] for side in ("noisy", "clean"))
        assert np.abs(noisy).max() == pytest.approx(0.98, abs=1e-4)
        assert si_sdr(clean, noisy) == pytest.approx(0, abs=0.7)


def test_only_the_wanted_files_are_used(tmp_path, capsys):
    for speaker, level in (("a", 0.1), ("b", 0.2)):
        write(tmp_path / "speech" / f"{speaker}.wav", np.full(SAMPLE_RATE, level))
    for name, frequency in (("1-x", 500), ("5-x", 2000)):
        t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
        write(tmp_path / "noise" / f"{name}.wav", 0.1 * np.sin(2 * np.pi * frequency * t))
    out = tmp_path / "out"
    assert mix(tmp_path, out, "--only-noise", "5-*", "--leave-out", "b.*", "--snr", "0") == 0
    for path in (out / "clean").iterdir():
        noise = soundfile.read(out / "noisy" / path.name)[0] - soundfile.read(path)[0]
        assert np.abs(np.fft.rfft(noise)).argmax() == 2000
    assert mix(tmp_path, tmp_path / "none", "--only-noise", "没有*") == 1
    said = capsys.readouterr().err
    assert "噪声" in said and "2 个声音文件" in said and "--only-noise 没有*" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--level", "-10", "-20"], "要先低后高"),
        (["--snr", "900"], "不是合理的分贝数"),
        (["--snr", "nan"], "不是合理的分贝数"),
        (["--seconds", "0.01"], "太短"),
        (["--seconds", "1e9"], "内存"),
        (["--snr", "0", "110"], "较轻的一路只有约 -140 dBFS"),
        (["--level", "60", "60", "--snr", "120"], "较轻的一路只有约 -140 dBFS"),
        (["--level", "-180", "-18"], "较轻的一路只有约 -190 dBFS"),
    ],
)
def test_bad_numbers_are_refused(tree, tmp_path, capsys, more, message):  # noqa: F811
    assert mix(tree, tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_faint_mixtures_still_have_the_snr_in_their_name(tree, tmp_path):  # noqa: F811
    assert mix(tree, tmp_path / "out", "--level", "-60", "-60", "--snr", "-66", "66") == 0
    for path in (tmp_path / "out" / "clean").iterdir():
        clean, noisy = (soundfile.read(tmp_path / "out" / side / path.name)[0] for side in ("clean", "noisy"))
        snr = 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))
        assert snr == pytest.approx(float(path.stem.split("_")[1].removesuffix("dB")), abs=0.1)


@pytest.mark.parametrize("room", [0, 20_000])  # 文件头都写不下；声音写到一半
def test_full_disk_names_the_users_folder_and_leaves_nothing(tree, tmp_path, capsys, room):  # noqa: F811
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try:
        code = mix(tree, tmp_path / "深" / "一层" / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    said = capsys.readouterr().err
    assert code == 1 and f"{tmp_path / '深' / '一层' / 'out' / 'clean'}" in said and "磁盘满了" in said
    assert ".mix-" not in said and list(tmp_path.iterdir()) == []


def test_what_is_already_there_is_never_overwritten(tree, tmp_path, capsys):  # noqa: F811
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("x")
    assert mix(tree, tmp_path / "out") == 1
    assert "已经有了" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.doc").read_text() == "x"


@pytest.mark.parametrize("kind", ["空的", "链接", "断的链接", "当前目录"])
def test_where_the_pairs_go(tree, tmp_path, kind, monkeypatch):  # noqa: F811
    """链接写到它指向的那一边；已经有的空文件夹留着，只往里放，当前目录也行。"""
    home, out = tmp_path / "home", tmp_path / "out"
    if kind != "断的链接":
        home.mkdir()
        home.chmod(0o750)
    if "链接" in kind:
        out.symlink_to(home)
    elif kind == "当前目录":
        monkeypatch.chdir(home)
        out = Path(".")
    else:
        out = home
    before = home.stat() if home.exists() else None
    assert mix(tree, out) == 0
    assert sorted(path.name for path in home.iterdir()) == ["clean", "noisy"]
    assert before is None or (before.st_ino, before.st_mode) == (home.stat().st_ino, home.stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"home", out.name} - {""}


def test_half_moved_is_taken_back(tree, tmp_path, monkeypatch, capsys):  # noqa: F811
    from lstm_lib.training import mixing

    (tmp_path / "out").mkdir()
    real = os.replace

    def refuse(source, target):
        if Path(target).name == "noisy":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(mixing.os, "replace", refuse)
    assert mix(tree, tmp_path / "out") == 1 and list((tmp_path / "out").iterdir()) == []
    capsys.readouterr()


def test_a_stop_half_way_leaves_nothing_behind(tree, tmp_path, monkeypatch, capsys):  # noqa: F811
    from lstm_lib.training import mixing

    written = []

    def full(path, *_, **__):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mixing, "write_audio", full)
    assert mix(tree, tmp_path / "out") == 1
    assert len(written) == 5
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()


# ---- evaluate --against ----


def test_against_rnnoise_without_the_package_says_what_to_install(tree, tmp_path, capsys, monkeypatch):  # noqa: F811
    assert mix(tree, tmp_path / "m") == 0
    irm.save(irm.IRMNetwork(), tmp_path / "n.safetensors")
    monkeypatch.setattr(rnnoise, "PACKAGE", "没有这个包")
    arguments = ["--paired", tmp_path / "m" / "clean", tmp_path / "m" / "noisy", "--against", "rnnoise"]
    assert main(["evaluate", *map(str, arguments), "--model", str(tmp_path / "n.safetensors")]) == 1
    assert "pip install 没有这个包" in capsys.readouterr().err


def test_another_method_gets_its_row_before_the_ideal_one(tree, tmp_path, capsys, monkeypatch):  # noqa: F811
    assert mix(tree, tmp_path / "m") == 0
    irm.save(irm.IRMNetwork(), tmp_path / "n.safetensors")
    monkeypatch.setitem(evaluation.OTHERS, "rnnoise", ("RNNoise", lambda noisy: noisy + 0.0))
    monkeypatch.setattr(rnnoise, "why_not", lambda: "")
    arguments = ["--paired", tmp_path / "m" / "clean", tmp_path / "m" / "noisy", "--against", "rnnoise"]
    more = ["--model", tmp_path / "n.safetensors", "--csv", tmp_path / "s.csv"]
    assert main(["evaluate", *map(str, [*arguments, *more])]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    noisy, other = (next(x for x in lines if name in x) for name in ("带噪", "RNNoise"))
    assert noisy.split()[-2:] == other.split()[-2:]
    rows = (tmp_path / "s.csv").read_text(encoding="utf-8-sig").splitlines()
    order = [row.split(",")[1] for row in rows[1:] if row.startswith("平均")]
    assert order == evaluation.methods(["rnnoise"])
    assert order[-2:] == ["RNNoise", evaluation.IDEAL]


@pytest.mark.skipif(bool(rnnoise.why_not()), reason="没有安装 pyrnnoise")
def test_rnnoise_output_is_aligned_with_its_input():
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    phase = (
        2 * np.pi * np.cumsum(140 + 50 * np.sin(2 * np.pi * 1.7 * t)) / SAMPLE_RATE
    )  # 音高在走，才认得出早晚
    wave = 0.1 * sum(np.sin(k * phase + k) / k for k in range(1, 15)) * (1 + np.sin(2 * np.pi * 3 * t))
    clean = rnnoise.denoise(wave.astype(np.float32))
    assert clean.shape == wave.shape
    product = np.fft.irfft(np.fft.rfft(clean, 2**17) * np.conj(np.fft.rfft(wave, 2**17)))
    lag = (product.argmax() + 2**16) % 2**17 - 2**16
    assert abs(lag) <= 1
