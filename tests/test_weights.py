"""随书的权重：哈希对得上，说明写全，量化几乎不丢，命令行缺省用它；坏了就说，不悄悄换别的。"""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT

from lstm_lib import StreamingEnhancer, engines
from lstm_lib.cli import main
from lstm_lib.corpus.recordings import real_scenes
from lstm_lib.enhance import audio, irm, trained
from lstm_lib.enhance.config import REPAIRED
from lstm_lib.enhance.scores import si_sdr, stoi
from lstm_lib.training import checkpoint

CARD = trained.SHIPPED.with_name("README.md")


def test_the_file_is_the_published_one():
    network = trained.load_shipped()
    assert network.config == REPAIRED and not network.training
    assert trained.SHIPPED.stat().st_size <= 2.5e6


@pytest.fixture
def copy(tmp_path, monkeypatch):
    for name in ("real.safetensors", "scores.json"):
        shutil.copy(trained.SHIPPED.with_name(name), tmp_path)
    monkeypatch.setattr(trained, "SHIPPED", tmp_path / "real.safetensors")
    return tmp_path / "real.safetensors"


def test_a_changed_file_is_refused(copy, capsys):
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    with pytest.raises(ValueError, match=r"不是随书发的那一份.*重新安装"):
        trained.load_shipped()
    audio.write_audio(copy.with_name("in.wav"), np.zeros(1600, np.float32))
    assert main(["enhance", str(copy.with_name("in.wav")), str(copy.with_name("out.wav"))]) == 1
    assert "不是随书发的那一份" in capsys.readouterr().err and not copy.with_name("out.wav").exists()


def test_a_missing_file_is_named(copy):
    copy.unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"real\.safetensors"):
        checkpoint.network()


def test_scores_of_other_weights_are_refused(copy, monkeypatch):
    monkeypatch.setattr(trained, "SHIPPED_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"scores\.json 是别的权重的得分"):
        trained.shipped_scores()


def test_the_scores_and_the_card():
    """得分属于这份权重；说明里的每个数都在得分里，数据、许可、命令、种子都写着。"""
    groups, text = trained.shipped_scores(), CARD.read_text(encoding="utf-8")
    for group, methods in groups.items():
        noisy, ours, small = (methods[name] for name in ("带噪", "随书的网络", "随书的网络，int8"))
        assert ours["si_sdr"] > noisy["si_sdr"] + 3 and ours["stoi"] > noisy["stoi"], group
        assert abs(ours["si_sdr"] - small["si_sdr"]) <= 0.1, group
        assert abs(ours["stoi"] - small["stoi"]) <= 0.003, group
        for name, row in methods.items():
            line = f"| {group} | {name} | {row['si_sdr']:.2f} | {row['stoi']:.3f} |"
            assert line in text, f"说明里缺这一行：{line}"
    words = (
        "Yue Tan",
        "Chen Wang",
        "Hugo Lopez",
        "ESC-10",
        "Piczak",
        "CC BY-SA 4.0",
        "--seed 0",
        "LibriSpeech",
        "python -m lstm_lib train",
    )
    assert not [word for word in words if word not in text]
    assert trained.SHIPPED_SHA256 in text
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "lstm_lib/weights/" in licence and "CC BY-SA 4.0" in licence


def test_int8_loses_next_to_nothing():
    network = trained.load_shipped()
    enhancers = [StreamingEnhancer(engines.chain(network, name)) for name in ("c", "c-int8")]
    gaps = []
    for scene in (scene for level in (-5, 0, 5) for scene in real_scenes(level)):
        outputs = [enhancer(scene.noisy) for enhancer in enhancers]
        row = [(si_sdr(scene.clean, out), stoi(scene.clean, out)) for out in outputs]
        gaps.append(np.subtract(*row))
    level, clear = np.abs(np.mean(gaps, axis=0))
    assert level <= 0.1 and clear <= 0.003, gaps


def test_commands_use_it_unless_told_otherwise(tmp_path, monkeypatch):
    scene = real_scenes(0)[0]
    audio.write_audio(tmp_path / "in.wav", scene.noisy)
    assert main(["enhance", str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "-q"]) == 0
    want = irm.enhance(trained.load_shipped(), audio.read_audio(tmp_path / "in.wav"))
    np.testing.assert_allclose(audio.read_audio(tmp_path / "out.wav"), want, atol=1e-4)
    lab = irm.IRMNetwork(REPAIRED).eval()
    monkeypatch.setattr(trained, "load_trained", lambda *_, **__: lab)
    command = ["enhance", str(tmp_path / "in.wav"), str(tmp_path / "lab.wav"), "-q", "--model", "内置"]
    assert main(command) == 0
    want = irm.enhance(lab, audio.read_audio(tmp_path / "in.wav"))
    np.testing.assert_allclose(audio.read_audio(tmp_path / "lab.wav"), want, atol=1e-4)


def test_the_command_of_the_card_runs(tmp_path):
    """说明里的命令，在几个小文件上走几步：造验证集、训练、中断之后接着。"""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("speech/cmn_tan/a1.mp3", "speech/cmn_tan/b2.mp3", "speech/cmn_tan/c0.mp3")):
        tone = 0.2 * np.sin(2 * np.pi * (200 + 70 * k) * np.arange(24000) / 16000)
        _mp3(tmp_path / name, tone)
    for name in ("speech/cmn_wang/d1.mp3", "speech/cmn_wang/e2.mp3"):
        _mp3(tmp_path / name, 0.2 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000))
    for name in ("speech/librispeech/s.ogg", "noise/rain/1-1.ogg", "noise/rain/2-1.ogg", "noise/dog/5-1.ogg"):
        audio.write_audio(tmp_path / name, (0.1 * rng.standard_normal(32000)).astype(np.float32))
    script = re.search(r"tools/train_real\.sh", CARD.read_text(encoding="utf-8"))
    assert script, "说明里没有写命令"
    few = ["--epochs", "2", "--steps", "2", "--batch", "2", "--seconds", "1", "--valid-segments", "4"]
    few += ["--workers", "0", "--tensorboard", "off", "--device", "cpu"]
    command = ["sh", str(ROOT / "tools" / "train_real.sh"), str(tmp_path), str(tmp_path / "out"), *few]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "out" / "best.safetensors").exists()
    held = json.loads((tmp_path / "out" / "held.json").read_text(encoding="utf-8"))
    assert held is not None


def _mp3(path, wave):
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave.astype(np.float32), 16000, format="MP3")
