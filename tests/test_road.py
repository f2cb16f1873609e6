"""一个两层、128 个单元、320/160 的网络走完全程：训练、续训、打分、导出、增强、量化。"""

import numpy as np
import pytest
import soundfile

from lstm_lib import engines
from lstm_lib.cli import main
from lstm_lib.engines import available, mask_step
from lstm_lib.enhance import irm
from lstm_lib.enhance.audio import stft
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.enhance.streaming import StreamingEnhancer
from lstm_lib.formats import onnx_graph
from lstm_lib.formats.ncnn_run import NcnnRunner, run_streaming
from lstm_lib.training import checkpoint
from lstm_lib.waves import SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = NetworkConfig.for_stft(320, 160, hidden_size=128, num_layers=2)
SIZES = ["--layers", "2", "--hidden", "128", "--n-fft", "320", "--hop", "160"]
COURSE = ["--steps", "3", "--batch", "2", "--seconds", "0.3", "--valid-segments", "2"]
QUANTIZED = [name for name in available() if name.endswith("int8")]


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """两个说话人、两个噪声，与一对打分用的文件。"""
    folder, rng = tmp_path_factory.mktemp("road"), np.random.default_rng(0)
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    voices = [0.1 * np.sin(2 * np.pi * pitch * t) * (1 + np.sin(2 * np.pi * 3 * t)) for pitch in (150, 220)]
    noises = [rng.normal(0, 0.05, SAMPLE_RATE) for _ in range(2)]
    waves = {f"speech/{k}/a.wav": voice for k, voice in enumerate(voices)}
    waves |= {f"noise/{k}.wav": noise for k, noise in enumerate(noises)}
    waves |= {"clean/a.wav": voices[0], "noisy/a.wav": voices[0] + noises[0]}
    for name, wave in waves.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, wave, SAMPLE_RATE, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def model(root):
    """训练一轮；再以两轮重来一遍、断在第一轮之后，接着走完。"""
    data = ["train", "--speech", root / "speech", "--noise", root / "noise", "--device", "cpu"]
    data += [*COURSE, *SIZES, "--workers", "0", "--tensorboard", "off", "--epochs", "2"]
    for out in ("whole", "run"):
        assert run(*data, "--out", root / out) == 0
    (root / "run" / "last.pt").unlink()  # 只剩第一轮的 previous.pt
    assert run(*data, "--out", root / "run") == 0
    whole, resumed = (checkpoint.load(root / out / "last.pt") for out in ("whole", "run"))
    for part in ("network", "optimizer", "config"):
        assert checkpoint.digest(whole[part]) == checkpoint.digest(resumed[part]), part
    return root / "run"


@pytest.fixture(scope="module")
def network(model):
    network = checkpoint.load_network(model)
    assert network.config == CONFIG
    return network


@pytest.fixture(scope="module")
def frames(network, root):
    """一段输入 (T, 160)，与 torch 的掩蔽 (T, 161)。"""
    noisy = soundfile.read(root / "noisy" / "a.wav", dtype="float32")[0]
    x = irm.network_input(np.abs(stft(noisy, 320, 160)), CONFIG)
    return x, irm.predict_mask(network, noisy)


def test_resuming_with_another_network_is_refused(root, model, capsys):
    data = ["train", "--speech", root / "speech", "--noise", root / "noise", "--device", "cpu", *COURSE]
    assert run(*data, "--epochs", "2", "--workers", "0", "--tensorboard", "off", "--out", model) == 1
    error = capsys.readouterr().err
    assert "--n-fft 原来是 320，现在是 512" in error and "--layers 原来是 2，现在是 1" in error


def test_fine_tuning_needs_the_same_network(root, model, capsys):
    data = ["train", "--speech", root / "speech", "--noise", root / "noise", "--device", "cpu", *COURSE]
    data += ["--epochs", "1", "--workers", "0", "--tensorboard", "off", "--init", model]
    assert run(*data, *SIZES, "--out", root / "tuned") == 0
    assert checkpoint.load_network(root / "tuned").config == CONFIG
    assert run(*data, "--out", root / "other") == 1
    assert "不是同一种网络" in capsys.readouterr().err


def test_evaluate(root, model, capsys):
    pair = ["--paired", root / "clean", root / "noisy"]
    assert run("evaluate", *pair, "--model", model, "--no-pesq") == 0
    assert "网络" in capsys.readouterr().out


def test_exports(model, network, frames, tmp_path):
    x, mask = frames
    for to in ("onnx", "ncnn", "bin"):
        assert run("export", model, "--to", to, "--out", tmp_path / "m") == 0
    by_onnx = onnx_graph.run(tmp_path / "m.onnx", x[None])[0][0]
    by_ncnn = NcnnRunner(tmp_path / "m.param", tmp_path / "m.bin")(x)
    by_bin = engines.load("c", tmp_path / "m.lstm").sequence(x)
    for got in (by_onnx, by_ncnn, by_bin):
        assert np.abs(got - mask).max() < 1e-5


def test_streaming_exports(model, frames, tmp_path):
    x, mask = frames
    for to in ("onnx", "ncnn"):
        assert run("export", model, "--to", to, "--out", tmp_path / "s", "--streaming") == 0
    state = [np.zeros((2, 1, 128), np.float32)] * 2
    for frame, row in zip(x, mask, strict=True):
        got, *state = onnx_graph.run(tmp_path / "s.onnx", frame[None, None], *state)
        assert np.abs(got[0, 0] - row).max() < 1e-5
    runner = NcnnRunner(tmp_path / "s.param", tmp_path / "s.bin")
    got, _ = run_streaming(runner, x, [np.zeros((2, 128), np.float32)] * 2)
    assert np.abs(got - mask).max() < 1e-5


@pytest.mark.parametrize("engine", available())
def test_enhance_with_every_engine(root, model, network, engine, tmp_path):
    noisy = soundfile.read(root / "noisy" / "a.wav", dtype="float32")[0]
    files = [root / "noisy" / "a.wav", tmp_path / "out.wav"]
    assert run("enhance", *files, "--model", model, "--engine", engine, "--quiet") == 0
    enhanced = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    # 掩蔽差 d，波形至多差 2d × 幅度（约 0.5）；int8 的掩蔽差见下面
    bound = 5e-3 if engine in QUANTIZED else 1e-5
    assert np.abs(enhanced - irm.enhance(network, noisy)).max() < bound
    step = mask_step(network, engine)
    streamed = StreamingEnhancer(step, CONFIG)(noisy)
    assert np.abs(enhanced - streamed).max() < 1e-6


@pytest.mark.parametrize("engine", QUANTIZED)
def test_int8_mask_is_close(network, frames, engine):
    x, mask = frames
    step, state = mask_step(network, engine), None
    for frame, row in zip(x, mask, strict=True):
        got, state = step(frame, state)
        assert np.abs(got - row).max() < 5e-3
