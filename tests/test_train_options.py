"""train 的选项：文件夹的权重、留作测试的文件、mp3、数据增强、兼顾可懂度的损失、权重的滑动平均。"""

import warnings

import numpy as np
import pytest
import soundfile
import torch
from test_training import assert_same_run, tiny_settings, tree, voiced, write  # noqa: F401

from lstm_lib import corpus
from lstm_lib.corpus.wide import WIDE
from lstm_lib.enhance.config import REPAIRED
from lstm_lib.enhance.irm import IRMNetwork
from lstm_lib.enhance.loss import CLEAR_WEIGHTS, clear_loss, network_loss, soft_stoi, stft
from lstm_lib.enhance.recipe import Carried
from lstm_lib.enhance.scores import stoi
from lstm_lib.training import augment, checkpoint, loop, sources
from lstm_lib.training.dataset import Segments
from lstm_lib.training.folders import DataError
from lstm_lib.waves import SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("one_thread")


def gathered(tree, **changes):  # noqa: F811
    data = {"speech": [tree / "speech"], "noise": [tree / "noise"], "max_bad": 0.5, **changes}
    return sources.gather(sources.Sources(**data))


def shares(table):
    """各文件被抽到的机会。"""
    return np.diff(table.cumulative, prepend=0) / table.cumulative[-1]


# ---- 文件夹与文件 ----


def test_weights_fix_the_share_of_each_folder_whatever_its_length(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("a", 9), ("b", 3)):
        for k in range(count):
            write(tmp_path / "noise" / name / f"{k}.wav", rng.normal(0, 0.1, 8000 * (1 + k % 2)))
    for k in range(4):
        write(tmp_path / "speech" / f"s{k}" / "0.wav", voiced(100 + 30 * k))
        write(tmp_path / "v" / "clean" / f"{k}.wav", voiced(90 + k))
        write(tmp_path / "v" / "noisy" / f"{k}.wav", voiced(90 + k) + rng.normal(0, 0.1, 12800))
    given = [f"{tmp_path}/noise/a=1", f"{tmp_path}/noise/b=3"]
    valid = (tmp_path / "v" / "clean", tmp_path / "v" / "noisy")
    table = gathered(tmp_path, noise=given, valid=valid).train.noise
    in_b = np.array(["/b/" in table.path(k) for k in range(len(table))])
    assert shares(table)[in_b].sum() == pytest.approx(0.75)
    inside = shares(table)[in_b] / table.frames[in_b]
    assert np.ptp(inside) < 1e-12  # 同一个文件夹里，每一秒的机会相同
    rng = np.random.default_rng(1)
    drawn = [in_b[table.draw(rng)] for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.04)
    assert table.seconds == pytest.approx(table.frames.sum() / SAMPLE_RATE)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["=2", ""], "有的写了权重.*没有；请都写上"),
        (["=two", "=1"], "等号后面的权重要是大于零的数"),
        (["=0", "=1"], "等号后面的权重要是大于零的数"),
        (["=inf", "=1"], "等号后面的权重要是大于零的数"),
    ],
)
def test_bad_weights_are_refused(tree, weights, message):  # noqa: F811
    given = [f"{tree}/speech/spk{k}{weight}" for k, weight in enumerate(weights)]
    with pytest.raises(DataError, match=message):
        gathered(tree, speech=given)


def test_a_folder_whose_name_holds_an_equals_sign_is_just_a_folder(tree, tmp_path):  # noqa: F811
    (tmp_path / "a=3").symlink_to(tree / "speech")
    assert len(gathered(tree, speech=[tmp_path / "a=3"]).train.speech) > 0


def test_left_out_files_are_touched_by_neither_side(tree):  # noqa: F811
    everything = gathered(tree)
    fewer = gathered(tree, leave_out=["0.*"])
    paths = [
        t.path(k) for c in (fewer.train, fewer.valid) for t in (c.speech, c.noise) for k in range(len(t))
    ]
    assert paths
    assert not [p for p in paths if p.rsplit("/", 1)[1].startswith("0.")]
    count = sum(len(t) for c in (everything.train, everything.valid) for t in (c.speech, c.noise))
    assert count == 12
    assert len(paths) == 7


def test_builtin_sound_stands_for_a_folder(tree, monkeypatch, tmp_path):  # noqa: F811
    made = {"speech": tree / "speech", "noise": tree / "noise"}
    monkeypatch.setattr(corpus, "training_folders", lambda: made)
    monkeypatch.chdir(tmp_path)
    plain = gathered(tree)
    built = gathered(tree, speech=["内置"], noise=["内置=2"])
    assert built.train.speech.path(0) == plain.train.speech.path(0)
    assert shares(built.train.noise) == pytest.approx(shares(plain.train.noise))
    (tmp_path / "内置").mkdir()  # 真有这个文件夹，就用它
    with pytest.raises(DataError, match="一个 wav、flac、ogg 或 mp3 文件也没有"):
        gathered(tree, speech=["内置"])


def test_mp3_is_read_and_a_damaged_one_is_skipped_with_a_note(tree, tmp_path):  # noqa: F811
    for k in range(6):
        soundfile.write(tmp_path / f"w{k}.mp3", voiced(100 + 20 * k, rate=22050), 22050, format="MP3")
    (tmp_path / "empty.mp3").write_bytes(b"")
    (tmp_path / "text.mp3").write_bytes(b"<html>404</html>" * 50)
    found = gathered(tree, speech=[tmp_path])
    assert {b.path.rsplit("/", 1)[1] for b in found.bad} == {"empty.mp3", "text.mp3"}
    table = found.train.speech
    whole = table.read(0, 0, table.length(0))
    part = table.read(0, 3000, 2000)
    assert np.array_equal(part, whole[3000:5000])
    wanted = voiced(int(100 + 20 * int(table.path(0)[-5])))
    near = np.correlate(whole[:12000], wanted[:12000])[0]
    assert near > 0.9 * np.linalg.norm(whole[:12000]) * np.linalg.norm(wanted[:12000])


# ---- 增强 ----


def test_augmented_segments_depend_on_their_number_alone(tree):  # noqa: F811
    corpus_ = gathered(tree).train
    make = lambda: Segments(corpus_, 8192, seed=3, augment=True)  # noqa: E731
    first, second = make(), make()
    forward = [first[n] for n in range(5)]
    backward = [second[n] for n in reversed(range(5))][::-1]
    for one, two in zip(forward, backward, strict=True):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
        assert one[0].dtype == np.float32
        assert one[0].shape == one[1].shape == (8192,)
    plain = Segments(corpus_, 8192, seed=3)
    assert not np.array_equal(plain[0][1], forward[0][1])


def test_stretching_moves_the_pitch_and_changes_nothing_else():
    change = augment.Change(eq_db=0.0, stretch=0.2, room=0.0, reverberation=(0.1, 0.2))
    pitches = []
    for seed in range(12):
        # 任多长都是 1 kHz 的正弦：每一份里恰好整数个周期，循环没有接缝
        wave = augment.changed(
            lambda m: np.sin(2 * np.pi * round(m / 16) / m * np.arange(m)), 16000, change,
            np.random.default_rng(seed),
        )  # fmt: skip
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(16000)))
        pitches.append(int(spectrum.argmax()))
        assert np.sqrt(np.mean(wave**2)) == pytest.approx(np.sqrt(0.5), rel=0.01)
    assert 1000 / 1.21 < min(pitches) < 950
    assert 1050 < max(pitches) < 1000 * 1.21


def test_equalizer_and_room_are_what_they_say():
    rng = np.random.default_rng(0)
    curves = np.array([20 * np.log10(augment.equalizer(rng, 3.0, 257)) for _ in range(300)])
    assert curves.std() == pytest.approx(3.0, abs=0.6)
    assert np.all(augment.equalizer(rng, 0.0, 257) == 1)
    response = augment.room(rng, 0.4)
    assert response[0] == 1
    energy = np.cumsum(response[:0:-1].astype(float) ** 2)[::-1]
    decay = 10 * np.log10(energy / energy[0])
    first, last = (int(t * SAMPLE_RATE) for t in (0.1, 0.3))
    assert decay[first] - decay[last] == pytest.approx(60 * 0.2 / 0.4, abs=3)


def test_short_words_of_one_speaker_are_joined_with_gaps(tmp_path):
    for speaker, level in (("a", 0.1), ("b", 0.2)):
        for k in range(5):
            word = np.pad(np.full(2400, level), 4000)  # 0.15 秒，首尾各四分之一秒静音
            write(tmp_path / "speech" / speaker / f"{k}.wav", word)
    for k in range(2):
        write(tmp_path / "noise" / f"{k}.wav", np.random.default_rng(k).normal(0, 0.1, 8000))
    table = gathered(tmp_path, valid_share=0.4).train.speech
    from lstm_lib.training.dataset import _joined

    for seed in range(6):
        wave = _joined(table, 32000, np.random.default_rng(seed))
        loud = np.abs(wave) > 0.05
        assert wave.shape == (32000,)
        assert loud.mean() > 0.3  # 不接的话至多 0.075
        assert np.ptp(wave[loud]) < 1e-3  # 同一个人
        assert 0.01 < 1 - loud.mean() < 0.7


@pytest.mark.parametrize("kind", WIDE)
def test_every_wide_family_is_sound_that_differs_from_draw_to_draw(kind):
    n = 2 * SAMPLE_RATE
    waves = [WIDE[kind](np.random.default_rng([1, k]), n) for k in (0, 1, 0)]
    for wave in waves:
        assert wave.shape == (n,)
        assert np.isfinite(wave).all()
        assert wave.std() > 1e-6
    assert np.array_equal(waves[0], waves[2])
    likeness = abs(np.corrcoef(waves[0], waves[1])[0, 1])
    assert likeness < 0.5


# ---- 损失 ----


def scenes(seconds=2.0):
    """几段带噪的“语音”与纯净的，(B, N)。"""
    rng = np.random.default_rng(0)
    length = int(seconds * SAMPLE_RATE) // 256 * 256
    t = np.arange(length) / SAMPLE_RATE
    clean = np.stack([
        sum(np.sin(2 * np.pi * f * t + k) for k, f in enumerate(np.arange(1, 25) * pitch))
        * np.abs(np.sin(2 * np.pi * (3 + b) * t)) * (np.sin(2 * np.pi * 0.8 * t) > -0.6)
        for b, pitch in enumerate((110, 150, 190))
    ])  # fmt: skip
    noise = rng.standard_normal(clean.shape)
    return clean, noise * clean.std(-1, keepdims=True)


def test_soft_stoi_follows_the_reference_implementation():
    clean, noise = scenes(3.0)
    mine, theirs = [], []
    for snr_db in (-10, -5, 0, 5, 10, 20):
        noisy = clean + noise * 10 ** (-snr_db / 20)
        spectra = (stft(torch.from_numpy(w.astype(np.float32))) for w in (clean, noisy))
        mine += soft_stoi(*spectra, 256).tolist()
        theirs += [stoi(c, y) for c, y in zip(clean, noisy, strict=True)]
    assert np.corrcoef(mine, theirs)[0, 1] > 0.97
    assert np.abs(np.subtract(mine, theirs)).max() < 0.12


def test_soft_stoi_does_not_care_about_loudness_or_added_silence():
    clean, noise = (torch.from_numpy(w.astype(np.float32)) for w in scenes())
    noisy = clean + 0.5 * noise
    plain = soft_stoi(stft(clean), stft(noisy), 256)
    quieter = soft_stoi(stft(clean), stft(0.01 * noisy), 256)
    assert torch.allclose(plain, quieter, atol=2e-3)
    assert torch.allclose(soft_stoi(stft(clean), stft(clean), 256), torch.ones(3), atol=1e-4)
    still = torch.nn.functional.pad(clean, (0, 16384)), torch.nn.functional.pad(noisy, (0, 16384))
    assert torch.allclose(plain, soft_stoi(*map(stft, still), 256), atol=0.02)


def test_clear_loss_punishes_lost_high_frequencies_that_si_sdr_hardly_sees():
    clean, _ = (torch.from_numpy(w.astype(np.float32)) for w in scenes())
    weights = torch.ones(257)
    weights[16:] = 0.1  # 500 Hz 以上弱 20 dB：像语音的谱
    from lstm_lib.enhance.loss import istft, si_sdr_loss

    speech = istft(stft(clean) * weights)
    dull = istft(stft(speech) * (torch.arange(257) < 16))
    a, b = (clear_loss(speech, w, REPAIRED) for w in (0.999 * speech, dull))
    seen = -10 * np.log10(1 / (1e-3 + 10 ** (si_sdr_loss(speech, dull).item() / 10)))
    assert b - a > 5  # 几乎全由可懂度与压缩谱而来
    assert seen < -10


def test_clear_loss_and_its_gradient_stay_finite_where_there_is_nothing_to_hear():
    clean, noise = (torch.from_numpy(w.astype(np.float32)) for w in scenes())
    clean[0, 4000:] = 0  # 大半是静音
    clean[1] *= 1e-4
    mask = torch.full((3, clean.shape[1] // 256 + 1, 257), 0.5, requires_grad=True)
    for noisy in (clean + noise, clean + 0 * noise):
        loss = network_loss(lambda _: mask, clean, noisy, REPAIRED, loss="clear")
        (gradient,) = torch.autograd.grad(loss, mask)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


# ---- 滑动平均与续训 ----


def run_training(tree, out, **changes):  # noqa: F811
    data = sources.Sources(speech=[tree / "speech"], noise=[tree / "noise"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loop.train(
            data, tiny_settings(**changes), out, device="cpu", tensorboard="off", say=lambda *_: None
        )


NEW = {"loss": "clear", "augment": True, "average": 0.9, "carry": 0.5}


def test_a_run_with_all_the_new_options_resumes_bit_for_bit(tree, tmp_path, monkeypatch):  # noqa: F811
    run_training(tree, tmp_path / "whole", **NEW)
    original = loop._Run.train_epoch

    def interrupted(self, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(loop._Run, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_training(tree, tmp_path / "parts", **NEW)
    monkeypatch.undo()
    run_training(tree, tmp_path / "parts", **NEW)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    one, two = (checkpoint.load(tmp_path / p / "last.pt") for p in ("whole", "parts"))
    assert checkpoint.digest(one["moving"]) == checkpoint.digest(two["moving"])


def test_what_is_saved_and_judged_is_the_average_of_the_steps(tree, tmp_path, monkeypatch):  # noqa: F811
    seen = []
    original = loop._Run._follow

    def follow(self, step):
        original(self, step)
        seen.append([p.detach().clone() for p in self.network.parameters()])

    monkeypatch.setattr(loop._Run, "_follow", follow)
    state = run_training(tree, tmp_path / "run", epochs=2, average=0.5)
    torch.manual_seed(0)
    average = [p.detach().clone() for p in IRMNetwork().parameters()]
    for step, parameters in enumerate(seen):
        keep = min(0.5, (1 + step) / (10 + step))
        average = [keep * a + (1 - keep) * p for a, p in zip(average, parameters, strict=True)]
    for wanted, saved, moving in zip(
        average, state["network"].values(), state["moving"].values(), strict=True
    ):
        assert torch.allclose(wanted, saved, atol=1e-6)
        assert not torch.equal(saved, moving)


def test_resuming_with_another_loss_is_refused_by_its_option(tree, tmp_path):  # noqa: F811
    run_training(tree, tmp_path / "run", epochs=1)
    with pytest.raises(loop.TrainingError, match="--loss 原来是 si-sdr，现在是 clear"):
        run_training(tree, tmp_path / "run", epochs=1, loss="clear")
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    for name in ("loss", "augment", "average", "carry"):  # 从前的检查点没有这几项，照样接得上
        del state["settings"][name]
    checkpoint.save(tmp_path / "run", state)
    run_training(tree, tmp_path / "run", epochs=1)


def test_segments_go_on_from_the_last_batch(tree, tmp_path, monkeypatch):  # noqa: F811
    """--carry：每轮第一批从零状态出发，往后每批约有这么多段接着走；不给就段段从零。"""
    begun = []
    original = IRMNetwork.forward_with_state

    def watch(self, mag, state=None):
        if self.training:
            begun.append(None if state is None else state[0].abs().amax((0, 2)) > 0)
        return original(self, mag, state)

    monkeypatch.setattr(IRMNetwork, "forward_with_state", watch)
    state = run_training(tree, tmp_path / "run", epochs=2, steps=4, carry=1.0)
    assert [b is None for b in begun] == [True, False, False, False] * 2
    assert all(b.all() for b in begun if b is not None)
    begun.clear()
    fresh = run_training(tree, tmp_path / "fresh", epochs=2, steps=4)
    assert begun == [None] * 8
    assert state["history"][-1]["train_loss"] != fresh["history"][-1]["train_loss"]


def test_two_processes_carry_the_same_segments():
    """一批分给两个进程，接着走的还是那几段；种子定了，抽到的就定了。"""
    torch.manual_seed(0)
    network, batches = IRMNetwork(), torch.rand(5, 8, 3, 256)
    whole = Carried(network, 0.5)
    parts = [Carried(network, 0.5, (rank, 2)) for rank in range(2)]
    for model in (whole, *parts):
        model.reset(7)
    for batch in batches:
        together = torch.cat([model(half) for model, half in zip(parts, batch.chunk(2), strict=True)])
        torch.testing.assert_close(whole(batch), together)
    whole.reset(7)
    again = [whole(batch) for batch in batches]
    whole.reset(8)
    assert not all(torch.equal(one, whole(batch)) for one, batch in zip(again, batches, strict=True))


def test_the_best_epoch_of_a_clear_run_counts_intelligibility():
    dull, bright = {"valid_si_sdr": 5.0, "valid_stoi": 0.80}, {"valid_si_sdr": 4.5, "valid_stoi": 0.82}
    assert loop.merit(dull, "si-sdr") > loop.merit(bright, "si-sdr")
    assert loop.merit(dull, "clear") < loop.merit(bright, "clear")
    assert loop.merit(bright, "clear") - 4.5 == pytest.approx(0.82 * CLEAR_WEIGHTS[0])
