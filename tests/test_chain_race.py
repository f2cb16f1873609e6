"""整条链的赛跑：谁参加、表里有什么、没有 RNNoise 怎么说、算错的当场发现；不看绝对的快慢。"""

import re
import sys

import numpy as np
import pytest

from lstm_lib import cli, engines, threads
from lstm_lib.engines import chain_race, timing
from lstm_lib.enhance import irm, rnnoise
from lstm_lib.enhance.config import NetworkConfig

FAKE = """
import ctypes

calls, SAMPLE_RATE, FRAME_SIZE = [], 48000, 480


class lib:
    @staticmethod
    def rnnoise_process_frame(state, out, x):
        calls.append(x[0])
        for k in range(FRAME_SIZE):
            out[k] = x[k] / 2

    @staticmethod
    def rnnoise_destroy(state):
        pass


def create():
    return 1
"""


@pytest.fixture(scope="module")
def network():
    import torch

    torch.manual_seed(0)
    return irm.IRMNetwork(NetworkConfig.for_stft(64, 32, hidden_size=9)).eval()


@pytest.fixture
def no_rival(monkeypatch):
    monkeypatch.setattr(rnnoise, "PACKAGE", "没有这个包")


@pytest.fixture
def fake_rival(monkeypatch, tmp_path):
    """假的 pyrnnoise：包的 __init__ 导不进来（缺 FFmpeg 那样），管 C 函数的模块是好的。"""
    folder = tmp_path / "pyrnnoise"
    folder.mkdir()
    (folder / "__init__.py").write_text("import no_such_dependency")
    (folder / "rnnoise.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyrnnoise", raising=False)


def test_table_has_every_engine_and_consistent_numbers(network, no_rival):
    report = chain_race.compare(network, rounds=3, seconds=0.02)
    assert [e.name for e in report.entrants] == [
        "numpy",
        *(n for n in engines.available() if n != "numpy"),
    ]
    assert report.times.shape == (len(report.entrants), 3) and (report.times > 0).all()
    for entrant, times, row in zip(report.entrants, report.times, report.table.rows, strict=True):
        middle = np.median(times)
        assert row[:3] == [entrant.title, entrant.dtype, 2.0]  # 32 个样点，16 kHz
        assert row[3] == pytest.approx(middle * 2e-3 * 1e6) and row[6] == pytest.approx(3600 * middle)
        assert float(row[5]) == pytest.approx(middle, abs=1e-5)
        low, high = map(float, row[4].split("–"))
        assert low <= row[3] * 1.01 and row[3] <= high * 1.01
    assert float(report.table.rows[0][7]) == 1 and len(report.table.header) == 8
    kinds = [e.title for e in report.entrants if e.name in ("c", "c-float16", "c-int8")]
    assert [row[0] for row in report.parts.rows] == kinds
    assert all(isinstance(v, float) and v > 0 for row in report.parts.rows for v in (row[1], row[2], row[4]))


def test_missing_rnnoise_is_one_line(network, no_rival):
    made, notes = chain_race.entrants(network, ["numpy"])
    assert [e.name for e in made] == ["numpy"]
    assert len(notes) == 1 and "\n" not in notes[0]
    assert re.fullmatch(r"跳过 RNNoise：没有安装 \S+；要比就先运行 pip install \S+。", notes[0])


def test_rnnoise_is_compared_per_second_of_sound(network, fake_rival):
    report = chain_race.compare(network, rounds=2, seconds=0.02, names=["numpy"])
    rival = report.entrants[-1]
    assert rival.rate == 48000 and rival.chain.hop == 480 and report.parts is None
    assert report.table.rows[-1][2] == 10.0 and report.table.header[-1] == "比 RNNoise 快几倍"
    ratio = float(np.median(report.times[1] / report.times[0]))
    assert float(report.table.rows[0][-1]) == pytest.approx(ratio, abs=0.006)
    x = np.linspace(-1, 1, 960, dtype=np.float32)
    np.testing.assert_allclose(rival.chain.process(x), x / 2, rtol=1e-6)
    assert not np.may_share_memory(rival.chain.process(x), x)
    with pytest.raises(ValueError, match="480 的整数倍"):
        rival.chain.process(x[:500])


def test_a_broken_rnnoise_says_why(network, monkeypatch, tmp_path):
    folder = tmp_path / "pyrnnoise"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "rnnoise.py").write_text("raise OSError('librnnoise.so: 打不开')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyrnnoise", raising=False)
    [note] = chain_race.entrants(network, [])[1]
    assert note.startswith("跳过 RNNoise") and "librnnoise.so" in note and "重新安装" in note


@pytest.mark.skipif(bool(rnnoise.why_not()), reason="没有安装 pyrnnoise")
def test_the_real_rnnoise_lowers_noise():
    rival = rnnoise.RNNoise()
    noise = (0.05 * np.random.default_rng(0).standard_normal(48000)).astype(np.float32)
    out = rival.process(noise)
    assert np.isfinite(out).all() and 0 < out[24000:].std() < 0.5 * noise.std()


def test_a_chain_that_computes_something_else_is_caught(network, no_rival, monkeypatch):
    made, _ = chain_race.entrants(network, ["c"])
    inner = made[1].chain.process
    monkeypatch.setattr(made[1].chain, "process", lambda samples: inner(samples) + 0.01)
    with pytest.raises(AssertionError, match=made[1].title):
        chain_race.check(made)


def test_hops_of_different_length_cost_by_the_second():
    class Idle:
        def __init__(self, hop):
            self.hop, self.sizes = hop, []

        def process(self, samples):
            self.sizes.append(samples.shape)
            return samples

    chains = Idle(160), Idle(480)
    times = timing.race_chains(chains, (16000, 48000), rounds=2, seconds=0.1)
    assert times.shape == (2, 2)
    for chain in chains:  # 热身一次，每轮一次不计时、一次计时，各 10 个帧移
        assert chain.sizes == [(chain.hop,)] * 50


@pytest.mark.parametrize(("share", "said"), [(0.1, True), (0.95, False), (None, False)])
def test_a_busy_machine_is_mentioned(network, no_rival, monkeypatch, share, said):
    monkeypatch.setattr(threads, "idle_share", lambda: share)
    notes = chain_race.compare(network, rounds=2, seconds=0.01, names=["numpy"]).notes
    assert any("空着" in note for note in notes) == said


def test_command(monkeypatch, capsys, no_rival, network):
    import torch

    from lstm_lib.cli import bench

    monkeypatch.setattr(bench, "load_network", lambda model: network)
    before = torch.get_num_threads()
    assert cli.main(["bench", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert (
        "整条链" in out and "本书 C int8" in out and "是内核的几倍（逐帧）" in out and "跳过 RNNoise" in out
    )
    assert torch.get_num_threads() == before
    for wrong, words in (("0", "要大于零"), ("x", "--rounds")):
        with pytest.raises(SystemExit):
            cli.main(["bench", "--rounds", wrong])
        assert words in capsys.readouterr().err


def test_command_refuses_a_missing_checkpoint(capsys, tmp_path):
    assert cli.main(["bench", "--model", str(tmp_path / "没有.safetensors")]) == 1
    assert "没有.safetensors" in capsys.readouterr().err
