"""自己的数据上的训练：片段、检查点、断点续训、分布式、坏数据与满磁盘。"""

import csv
import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

from lstm_lib.enhance.audio import AudioError, read_audio
from lstm_lib.enhance.config import DOCUMENT, NetworkConfig
from lstm_lib.enhance.loss import si_sdr_loss
from lstm_lib.enhance.scores import si_sdr
from lstm_lib.training import checkpoint, devices, loop, sources
from lstm_lib.training.dataset import Segments, ShardedBatches, collate, read_segment
from lstm_lib.training.folders import DataError
from lstm_lib.waves import SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = ["--epochs", "3", "--steps", "3", "--batch", "4", "--seconds", "0.3", "--valid-segments", "6"]
FAST = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def voiced(pitch, seconds=0.8, rate=SAMPLE_RATE, phase=0.0):
    """有起伏的谐波串，充当语音。"""
    t = np.arange(int(seconds * rate)) / rate
    harmonics = [k for k in range(1, 15) if k * pitch < rate / 2]
    wave = sum(np.sin(2 * np.pi * k * pitch * t + k) / k for k in harmonics)
    return 0.1 * wave * (1 + np.sin(2 * np.pi * 3 * t + phase))


def write(path, wave, rate=SAMPLE_RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """小树：4 个说话人（采样率、声道数、格式各不相同），4 个噪声。"""
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    kinds = [("wav", 16000, 1), ("flac", 44100, 2), ("ogg", 48000, 1), ("wav", 8000, 1)]
    for speaker, (suffix, rate, channels) in enumerate(kinds):
        for take in range(2):
            wave = voiced(110 + 37 * speaker, rate=rate, phase=take)
            wave = np.repeat(wave[:, None], channels, axis=1).squeeze()
            write(root / "speech" / f"spk{speaker}" / f"{take}.{suffix}", wave, rate)
    for number in range(4):
        write(root / "noise" / f"{number}.wav", rng.normal(0, 0.1, SAMPLE_RATE // 2))
    return root


def command(tree, out, *more):
    base = [sys.executable, "-m", "lstm_lib", "train", "--speech", tree / "speech", "--noise", tree / "noise"]
    return [
        *map(str, base),
        "--out",
        str(out),
        "--workers",
        "0",
        "--tensorboard",
        "off",
        *TINY,
        *map(str, more),
    ]


def run(arguments, **options):
    return subprocess.run(
        arguments, capture_output=True, text=True, env=FAST, timeout=240, check=False, **options
    )


def tiny_settings(**changes):
    return loop.Settings(**{
        "epochs": 3, "steps": 3, "batch": 4, "seconds": 0.3, "valid_segments": 6, **changes
    })  # fmt: skip


def train(tree, out, say=lambda *_: None, max_bad=0.05, restart=False, **changes):
    data = sources.Sources(speech=[tree / "speech"], noise=[tree / "noise"], max_bad=max_bad)
    return loop.train(
        data, tiny_settings(**changes), out, device="cpu", tensorboard="off", restart=restart, say=say
    )


@pytest.fixture(scope="module")
def unbroken(tree, tmp_path_factory):
    """一气呵成的训练，别的训练都与它比。"""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    result = run(command(tree, out))
    assert result.returncode == 0, result.stderr
    return out


def rows(out):
    with open(out / "log.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def assert_same_run(first, second):
    """权重、优化器状态逐位相同，每轮的损失与得分也相同。"""
    one, two = checkpoint.load(first / "last.pt"), checkpoint.load(second / "last.pt")
    for part in ("network", "optimizer", "scaler", "settings", "epoch", "best", "noisy"):
        assert checkpoint.digest(one[part]) == checkpoint.digest(two[part]), f"{part} 不同"
    keep = ("epoch", "step", "train_loss", "valid_si_sdr", "learning_rate")
    assert [[r[k] for k in keep] for r in rows(first)] == [[r[k] for k in keep] for r in rows(second)]
    assert (first / "best.safetensors").read_bytes() != b""
    best = [checkpoint.load_network(p / "best.safetensors").state_dict() for p in (first, second)]
    assert checkpoint.digest(best[0]) == checkpoint.digest(best[1]), "最好的网络不同"


# ---- 片段 ----


@pytest.mark.parametrize(("suffix", "rate"), [("wav", 16000), ("flac", 44100), ("wav", 8000), ("wav", 22050)])
def test_segment_equals_a_slice_of_the_whole_file(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    write(path, voiced(150, 1.0, rate), rate)
    whole, frames = read_audio(path), soundfile.info(path).frames
    for start, length in ((0, 1600), (5003, 3200), (12800, 3200)):
        segment = read_segment(path, frames, rate, start, length)
        assert segment.dtype == np.float32 and segment.shape == (length,)
        difference = np.abs(segment - whole[start : start + length]).max()
        assert difference < 2e-4, f"{rate} Hz 从 {start} 起的片段与整读的差 {difference}"


@pytest.mark.parametrize(("subtype", "rate"), [("GSM610", 8000), ("G721_32", 8000), ("NMS_ADPCM_16", 16000)])
def test_segments_of_files_that_cannot_seek(tmp_path, subtype, rate):
    """电话录音机常用的编码：库跳不到半中间，就从头解过去。"""
    path = tmp_path / "a.wav"
    soundfile.write(path, voiced(150, 4.0, rate), rate, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        assert not file.seekable()
        frames = file.frames
    whole = read_audio(path)
    for start, length in ((0, 1600), (5003, 3200), (40000, 3200)):  # 最后一处略过不止一块
        segment = read_segment(path, frames, rate, start, length)
        assert np.abs(segment - whole[start : start + length]).max() < 2e-4
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(AudioError, match="短了") as caught:
        read_segment(path, frames, rate, 60000, 3200)
    assert f"只有 {soundfile.info(path).frames} 个" in str(caught.value)


def test_segment_past_the_end_is_padded_with_zeros(tmp_path):
    write(tmp_path / "a.wav", np.full(1000, 0.5))
    segment = read_segment(tmp_path / "a.wav", 1000, 16000, 0, 1500)
    assert np.all(segment[1000:] == 0) and np.all(segment[:1000] > 0.4)


def test_channels_are_averaged(tmp_path):
    write(tmp_path / "a.wav", np.stack([np.full(800, 0.5), np.full(800, -0.1)], 1))
    assert np.allclose(read_segment(tmp_path / "a.wav", 800, 16000, 100, 200), 0.2, atol=1e-4)


def test_truncated_and_nan_files_are_errors(tmp_path):
    write(tmp_path / "a.wav", np.zeros(800))
    with pytest.raises(ValueError, match="比开始训练时短了"):
        read_segment(tmp_path / "a.wav", 1600, 16000, 700, 300)
    soundfile.write(tmp_path / "n.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN"):
        read_segment(tmp_path / "n.wav", 800, 16000, 0, 300)


def corpora(tree):
    gathered = sources.gather(sources.Sources(speech=[tree / "speech"], noise=[tree / "noise"]))
    return gathered.train, gathered.valid


def test_segments_depend_on_their_number_alone(tree):
    corpus, _ = corpora(tree)
    first, second = Segments(corpus, 4096, seed=3), Segments(corpus, 4096, seed=3)
    for n in (7, 0, 7):
        for one, two in zip(first[n][:2], second[n][:2], strict=True):
            assert np.array_equal(one, two)
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[0][0], Segments(corpus, 4096, seed=4)[0][0])


def test_segments_keep_the_snr_and_level(tree):
    corpus, _ = corpora(tree)
    segments = Segments(corpus, 4096, snr_db=(5.0, 5.0), level_db=(-30.0, -30.0))
    for n in range(8):
        noisy, clean, failed, problem = segments[n]
        assert not failed and problem is None
        measured = 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))
        assert abs(measured - 5) < 0.01
        assert abs(10 * np.log10(np.mean(noisy**2)) + 30) < 0.01


def test_paired_segments_stay_aligned(tmp_path):
    rng = np.random.default_rng(0)
    for speaker in range(3):
        # 纯净 16 kHz、带噪 48 kHz：采样率不同也要对得齐
        wave = voiced(100 + 30 * speaker, 1.0, 48000)
        write(tmp_path / "c" / f"s{speaker}" / "a.wav", wave[::3])
        write(tmp_path / "n" / f"s{speaker}" / "a.wav", wave + rng.normal(0, 1e-3, len(wave)), 48000)
    gathered = sources.gather(sources.Sources(paired=[(tmp_path / "c", tmp_path / "n")]))
    segments = Segments(gathered.train, 4096)
    scores = [si_sdr(segments[n][1], segments[n][0]) for n in range(10)]
    assert min(scores) > 20, f"纯净与带噪没有对齐：{scores}"


def test_shards_make_up_the_global_batch():
    whole = list(ShardedBatches(3, 8))
    parts = [list(ShardedBatches(3, 8, rank, 4)) for rank in range(4)]
    assert [[n for p in parts for n in p[s]] for s in range(3)] == whole
    second = ShardedBatches(3, 8)
    second.epoch = 1
    assert not {n for b in whole for n in b} & {n for b in second for n in b}


def test_silence_is_reported_not_looped_forever(tmp_path):
    for name in ("s/a/1.wav", "s/b/1.wav", "n/1.wav", "n/2.wav"):
        write(tmp_path / name, np.zeros(8000))
    gathered = sources.gather(sources.Sources(speech=[tmp_path / "s"], noise=[tmp_path / "n"]))
    problem = collate([Segments(gathered.train, 4096)[0]])[3]
    assert "静音" in problem


def test_loss_is_the_books_si_sdr():
    rng = np.random.default_rng(0)
    clean, noisy = rng.normal(size=(2, 4096)).astype(np.float32)
    loss = si_sdr_loss(torch.from_numpy(clean)[None], torch.from_numpy(noisy)[None])
    assert abs(-loss.item() - si_sdr(clean, noisy)) < 1e-3


# ---- 训练 ----


def test_training_lowers_the_loss(tree, tmp_path):
    lines = []
    state = train(tree, tmp_path / "run", lines.append, epochs=4, steps=12, batch=8, learning_rate=5e-3)
    losses = [row["train_loss"] for row in state["history"]]
    assert losses[-1] < losses[0] - 2, f"损失没有降下来：{losses}"
    text = "\n".join(map(str, lines))
    assert "设备：CPU" in text and "验证 SI-SDR" in text and "4 个说话人" in text


def test_outputs_of_a_run(unbroken):
    names = {p.name for p in unbroken.iterdir()}
    assert {"best.safetensors", "last.pt", "previous.pt", "log.csv"} <= names
    assert [r["epoch"] for r in rows(unbroken)] == ["1", "2", "3"]
    best = max(float(r["valid_si_sdr"]) for r in rows(unbroken))
    assert checkpoint.load(unbroken / "last.pt")["best"] == pytest.approx(best)
    network = checkpoint.load_network(unbroken)
    assert torch.isfinite(network(torch.rand(1, 3, 256))).all()


def test_workers_do_not_change_the_result(tree, unbroken, tmp_path):
    result = run(command(tree, tmp_path / "run", "--workers", "2"))
    assert result.returncode == 0, result.stderr
    assert_same_run(unbroken, tmp_path / "run")


def test_killed_run_goes_on_to_the_same_result(tree, unbroken, tmp_path):
    """kill -9；再在写不下检查点的限制下跑（如同满磁盘）；最后正常跑完：与一气呵成的逐位相同。"""
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(tree, out), env=FAST, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "没赶上：训练已经结束了"
    done = checkpoint.load(out / "last.pt")["epoch"]
    assert done in (1, 2)

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    full = run(command(tree, out), preexec_fn=no_room)
    assert full.returncode == 1
    assert full.stderr.startswith("错误：") and "检查点写不进" in full.stderr and "完好" in full.stderr
    assert "Traceback" not in full.stderr
    assert checkpoint.load(out / "last.pt")["epoch"] == done, "写不下去时把好的检查点弄坏了"
    assert not list(out.glob(".last-*")), "写了一半的临时文件没有清掉"

    resumed = run(command(tree, out))
    assert resumed.returncode == 0, resumed.stderr
    assert f"第 {done} 轮已完成，从第 {done + 1} 轮继续" in resumed.stdout
    assert_same_run(unbroken, out)

    again = run(command(tree, out))
    assert again.returncode == 0 and "早已训练完" in again.stdout


def test_full_disk_for_real(tree, unbroken, tmp_path):
    """真的写满一个小文件系统（需要挂载权限）。"""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=11m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("没有权限挂载 tmpfs")
    try:
        # best 2.4 MB 加 last 7.2 MB 放得下；第二轮要同时留着 last 与新的，放不下
        with pytest.raises(loop.TrainingError, match="磁盘满了"):
            train(tree, disk / "run")
        state = checkpoint.load(disk / "run" / "last.pt")
        assert state["epoch"] == 1
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True, capture_output=True)
        train(tree, disk / "run")
        one, two = (checkpoint.load(p / "last.pt")["network"] for p in (unbroken, disk / "run"))
        assert checkpoint.digest(one) == checkpoint.digest(two)
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- 分布式 ----


def test_two_processes_see_the_loss_of_one(tree, unbroken, tmp_path):
    """全局批次相同，2 个 gloo 进程与 1 个进程的损失、得分相同（只差求和次序的舍入）。"""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    out = tmp_path / "run"
    result = run([*launcher, *command(tree, out)[1:]])
    assert result.returncode == 0, result.stderr
    assert "2 个进程" in result.stdout
    assert result.stdout.count("第 1/3 轮") == 1, "不止一个进程在打印"
    for alone, together in zip(rows(unbroken), rows(out), strict=True):
        for name in ("train_loss", "valid_si_sdr", "noisy_si_sdr"):
            difference = abs(float(alone[name]) - float(together[name]))
            assert difference < 2e-3, f"第 {alone['epoch']} 轮的 {name} 差 {difference}"
    one, two = (checkpoint.load(p / "last.pt")["network"] for p in (unbroken, out))
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-3


def test_output_that_is_not_shared_stops_every_process(tree, tmp_path):
    """两台机器各有各的文件夹（以两个当前目录充当）：都以一句话停下。"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        processes.append(subprocess.Popen(
            command(tree, "run"), cwd=tmp_path / str(rank), stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
            env={**FAST, "PYTHONPATH": str(ROOT), **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        ))  # fmt: skip
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 1, error
        assert "看不到 0 号进程写的 run/index.npz" in error and "Traceback" not in error
    assert "错误：这台机器上看不到" in errors[1]


def test_batch_must_divide_among_processes(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(loop.TrainingError, match="不能平分给 2 个进程"):
        train(tree, tmp_path / "run", batch=5)


# ---- 检查点 ----


def test_corrupt_last_checkpoint_ends_in_the_same_result(tree, unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "last.pt").write_bytes((out / "last.pt").read_bytes()[:1000])
    lines = []
    train(tree, out, lines.append)
    assert any("改用上一个检查点" in str(line) for line in lines)
    assert_same_run(unbroken, out)


def test_changed_settings_are_refused_and_restart_works(tree, unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    with pytest.raises(loop.TrainingError, match=r"--lr 原来是 0.004，现在是 0.001.*--restart"):
        train(tree, out, learning_rate=1e-3)
    train(tree, out, restart=True, epochs=1)
    assert [r["epoch"] for r in rows(out)] == ["1"]


def test_a_checkpoint_of_before_the_config_goes_on(tree, unbroken, tmp_path):
    """从前的检查点没有配置，参数里只有 repaired。"""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "last.pt").unlink()
    state = checkpoint.load(out / "previous.pt")
    del state["config"]
    state["settings"]["repaired"] = True
    checkpoint.save(out, state)
    lines = []
    train(tree, out, lines.append)
    assert any("旧版" in line for line in map(str, lines))
    assert_same_run(unbroken, out)
    state["settings"]["repaired"] = False
    checkpoint.save(out, state)
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt 里的权重与它的配置.*对不上"):
        train(tree, out)


def test_another_network_in_the_same_folder_is_refused(tree, unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    with pytest.raises(
        loop.TrainingError, match=r"--hidden 原来是 257，现在是 128；--layers 原来是 1，现在是 2"
    ):
        train(tree, out, network=NetworkConfig(hidden_size=128, num_layers=2))


def kept(out):
    names = ("last.pt", "previous.pt", "best.safetensors", "held.json", "log.csv")
    return {name: (out / name).read_bytes() for name in names}


def test_restart_touches_nothing_until_its_first_checkpoint(tree, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    with pytest.raises(DataError, match="找不到文件夹"):
        train(tmp_path / "没有", out, restart=True)
    with pytest.raises(checkpoint.CheckpointError):
        train(tree, out, restart=True, init=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_synced", full_disk)
        with pytest.raises(loop.TrainingError, match=r"上一次训练的检查点没有动.*从头训练"):
            train(tree, out, restart=True)
    assert kept(out) == kept(unbroken)
    # 从同一个文件夹里旧的最好的起步；旧的检查点不给新的训练当退路
    start = checkpoint.load_network(unbroken).state_dict()
    state = train(tree, out, restart=True, epochs=1, steps=1, learning_rate=1e-12, init=str(out))
    assert max((state["network"][k] - start[k]).abs().max().item() for k in start) < 1e-9
    assert checkpoint.load(out / "last.pt")["epoch"] == 1
    assert not (out / "previous.pt").exists()


def full_disk(path, *_):
    raise OSError(errno.ENOSPC, "No space left", str(path))


def test_full_disk_in_the_first_epoch_and_in_the_log(tree, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_synced", full_disk)
        with pytest.raises(loop.TrainingError, match="磁盘满了。还没有检查点，腾出空间后要从头训练"):
            train(tree, out)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_csv", full_disk)
        with pytest.raises(loop.TrainingError, match=r"第 1 轮的检查点已存好，只有 log\.csv 没写成"):
            train(tree, out)
        assert checkpoint.load(out / "last.pt")["epoch"] == 1
        with pytest.raises(loop.TrainingError, match="用同样的命令补上"):
            train(tree, out)
    train(tree, out)
    assert_same_run(unbroken, out)


def test_missing_rows_of_the_log_are_restored(tree, unbroken, tmp_path):
    """断在 last.pt 与 log.csv 之间：再来一次就补上，哪怕早已训练完。"""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    lines = (out / "log.csv").read_bytes().splitlines(keepends=True)
    (out / "log.csv").write_bytes(b"".join(lines[:-1]))
    train(tree, out)
    assert (out / "log.csv").read_bytes() == b"".join(lines)


def test_refused_run_leaves_the_record_of_groups(tree, unbroken, tmp_path):
    root, out = tmp_path / "tree", tmp_path / "run"
    shutil.copytree(tree, root)
    shutil.copytree(unbroken, out)
    (root / "speech" / "spk0").rename(root / "speech" / "spk9")
    with pytest.raises(loop.TrainingError, match="--lr"):
        train(root, out, learning_rate=1e-3)
    assert kept(out) == kept(unbroken)


def test_two_runs_cannot_share_a_folder(tree, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(loop, "LOCK_SECONDS", 0.1)
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(loop.TrainingError, match="另一个训练正在用"):
        train(tree, tmp_path / "run")


# ---- 坏数据 ----


def test_vanished_files_are_replaced_up_to_the_limit(tree, tmp_path):
    lines, removed = [], []

    def say_and_remove(root, out):
        def say(line):
            lines.append(str(line))
            if str(line).startswith("设备"):  # 扫描之后、开始训练之前，一个噪声文件没了
                removed.append(last_noise(out))
                os.unlink(removed[-1])

        shutil.copytree(tree, root)
        return say

    root, out = tmp_path / "tree", tmp_path / "run"
    state = train(root, out, say_and_remove(root, out), max_bad=0.2, steps=8)
    assert state["epoch"] == 3
    assert any("又有 1 个文件读不了" in line for line in lines)
    assert removed[0] in (out / "unreadable.txt").read_text(encoding="utf-8")

    root, out = tmp_path / "tree2", tmp_path / "strict"
    say = say_and_remove(root, out)
    with pytest.raises(DataError, match=r"读不了.*超过 --max-bad"):
        train(root, out, say, max_bad=0.01, steps=8)


def last_noise(out):
    table = sources.load_index(out / "index.npz")[0].noise
    return table.path(len(table) - 1)


def test_too_many_bad_files_stop_the_command(tree, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    (root / "speech" / "spk0" / "bad.wav").write_bytes(b"not audio")
    result = run(command(root, tmp_path / "run"))
    assert result.returncode == 1
    assert result.stderr.startswith("错误：") and "bad.wav" in result.stderr and "--max-bad" in result.stderr
    assert "Traceback" not in result.stderr
    lines = []
    train(root, tmp_path / "run", lines.append, max_bad=0.2, epochs=1)
    assert any("跳过 1 个" in str(line) for line in lines)


def test_vanished_in_a_worker_is_one_line(tree, tmp_path, capfd):
    """工作进程里出的事，主进程也只说一句话。"""
    from lstm_lib.cli import main

    root = tmp_path / "tree"
    for name in ("s/a/1.wav", "s/b/1.wav", "n/1.wav", "n/2.wav"):
        write(root / name, np.zeros(8000))
    arguments = ["train", "--speech", root / "s", "--noise", root / "n", "--out", tmp_path / "run"]
    code = main([*map(str, arguments), "--workers", "1", "--tensorboard", "off", *TINY])
    stderr = capfd.readouterr().err
    assert code == 1
    assert stderr.count("\n") == 1 and "静音" in stderr


# ---- 命令行、设备、记录 ----


def test_devices_are_named_or_refused():
    assert "CPU" in devices.device_name(devices.choose_device("cpu"))
    with pytest.raises(devices.DeviceError, match="不认识"):
        devices.choose_device("gpu!")
    if not torch.cuda.is_available():
        with pytest.raises(devices.DeviceError, match="只看得到 cpu"):
            devices.choose_device("cuda")
    assert str(devices.Precision("auto", torch.device("cpu"))) == "float32"
    with pytest.raises(devices.DeviceError, match="fp16"):
        devices.Precision("fp16", torch.device("cpu"))


def test_bf16_on_cpu_trains(tree, tmp_path):
    data = sources.Sources(speech=[tree / "speech"], noise=[tree / "noise"])
    lines = []
    state = loop.train(
        data, tiny_settings(epochs=1), tmp_path, device="cpu", amp="bf16", tensorboard="off", say=lines.append
    )
    assert np.isfinite(state["history"][0]["train_loss"])
    assert any("bf16" in str(line) for line in lines)


def test_fine_tuning_starts_from_given_weights(tree, unbroken, tmp_path):
    state = train(tree, tmp_path / "run", epochs=1, steps=1, learning_rate=1e-12, init=str(unbroken))
    start = checkpoint.load_network(unbroken).state_dict()
    assert max((state["network"][k] - start[k]).abs().max().item() for k in start) < 1e-9


def test_init_of_the_other_network_is_refused(tree, unbroken, tmp_path):
    with pytest.raises(loop.TrainingError, match="不是同一种网络"):
        train(tree, tmp_path / "run", network=DOCUMENT, init=str(unbroken))


def test_failing_before_the_first_checkpoint_leaves_nothing(tree, unbroken, tmp_path):
    """第一轮还没开始就停下：自己建的文件夹、锁、清单都不留；原来就有的文件夹还在，里面没有多东西。"""
    (tmp_path / "old").mkdir()
    for out in (tmp_path / "deep" / "er", tmp_path / "old"):
        with pytest.raises(loop.TrainingError, match="不是同一种网络"):
            train(tree, out, network=DOCUMENT, init=str(unbroken))
        with pytest.raises(DataError):
            train(tmp_path / "没有", out)
    assert not (tmp_path / "deep").exists()
    assert {path.name for path in (tmp_path / "old").iterdir()} <= {".lock"}


def test_killed_worker_is_explained(tree, tmp_path):
    """读数据的子进程被系统杀掉：一句话，而不是回溯。"""

    class Killer(Segments):
        def __getitem__(self, n):
            os.kill(os.getpid(), signal.SIGKILL)

    loader = torch.utils.data.DataLoader(Killer(None, 1), batch_sampler=ShardedBatches(1, 1), num_workers=1)
    with pytest.raises(loop.TrainingError, match="--workers"), loop._explained():
        next(iter(loader))


def test_unwritable_output_is_explained(tree, tmp_path, capsys):
    from lstm_lib.cli import main

    (tmp_path / "file").write_text("")
    arguments = ["train", "--speech", tree / "speech", "--noise", tree / "noise", "--out"]
    assert main([*map(str, arguments), str(tmp_path / "file" / "run")]) == 1
    assert "不是文件夹" in capsys.readouterr().err
    assert main([*map(str, arguments), str(tmp_path / "file")]) == 1
    assert "应是一个文件夹" in capsys.readouterr().err


def test_tensorboard_cannot_write_names_that_are_not_utf8(tmp_path):
    from lstm_lib.training import records

    out, lines = tmp_path / os.fsdecode(b"\xd6\xd0"), []
    assert records.Records(out, [], "auto", lines.append).board is None
    assert "不是 UTF-8" in lines[0] and "log.csv" in lines[0]
    with pytest.raises(records.RecordError, match="--out 换一个名字"):
        records.Records(out, [], "on")


def test_tensorboard_written_or_clearly_missing(tree, tmp_path, monkeypatch):
    from lstm_lib.training import records

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    lines = []
    records.Records(tmp_path, [], "auto", lines.append)
    assert "pip install tensorboard" in lines[0]
    with pytest.raises(records.RecordError, match="pip install tensorboard"):
        records.Records(tmp_path, [], "on")
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    row = {
        "epoch": 1,
        "train_loss": 1.0,
        "valid_si_sdr": 2.0,
        "valid_stoi": 0.8,
        "noisy_si_sdr": 1.0,
        "learning_rate": 0.1,
        "seconds": 1,
    }
    with records.Records(tmp_path, [], "on", lines.append) as written:
        written.add(row, 1, True)
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--speech", "/没有这里", "--noise", "/没有这里"], 1, "找不到文件夹 /没有这里"),
        (["--speech", "."], 1, "还缺 --noise"),
        (["--valid", "a", "b"], 1, "没有给训练数据"),
        (["--data", "."], 1, "不是认得的数据集"),
        (["--snr", "5", "-5", "--data", "."], 1, "先低后高"),
        (["--epochs", "0"], 2, "要大于零"),
        (["--n-fft", "321", "--out", "a.safetensors"], 1, "n_fft 应是正偶数，得到 321"),
        (["--hop", "200", "--data", "."], 1, "整除窗长 512"),
        (["--document", "--hidden", "128", "--out", "a.safetensors"], 1, "应等于频点数 257，得到 128"),
        (["--epochs", "3", "--seconds", "1"], 1, "--epochs、--seconds 只用于自己的数据"),
        (["--steps", "2"], 1, "请用 .safetensors 作扩展名"),
        (["--lr", "快"], 2, "不是数"),
        (["--workers", "100000"], 2, "100000 个太多"),
        (["--speech", ".", "--noise", ".", "--batch", "100000000"], 1, "GB 内存"),
        (["--out", "a.safetensors", "--batch", "100000000"], 1, "GB 内存"),
        (["--speech", ".", "--noise", ".", "--layers", "100000000"], 1, "--layers 100000000"),
        (["--out", "a.safetensors", "--hidden", "100000000"], 1, "--hidden 100000000"),
        (["--speech", ".", "--noise", ".", "--seed", str(1 << 64)], 2, "--seed"),
        (["--speech", ".", "--noise", ".", "--steps", "1" + 20 * "0"], 2, "2 的 63 次方"),
        (["--speech", ".", "--noise", ".", "--lr", "1e39"], 2, "常用的是"),
        (["--out", "/proc/a.safetensors"], 1, "--out /proc/a.safetensors：没有权限在 /proc 里写文件"),
        (["--speech", ".", "--noise", ".", "--out", "/proc/a"], 1, "--out /proc/a：没有权限"),
    ],
)
def test_wrong_arguments_are_explained(tmp_path, monkeypatch, capsys, arguments, code, words):
    from lstm_lib.cli import main

    monkeypatch.chdir(tmp_path)
    try:
        returned = main(["train", "--out", str(tmp_path / "run"), *arguments])
    except SystemExit as leaving:
        returned = leaving.code
    assert returned == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("steps", [3, 20])
def test_builtin_corpus_gives_a_network_for_enhance(tmp_path, capsys, steps):
    """不给数据：在内置语料上训练几步，写出的文件能拿去增强，也能拿去微调。"""
    from lstm_lib.cli import main

    model = tmp_path / "小.safetensors"
    size = ["--layers", "2", "--hidden", "16", "--n-fft", "320", "--hop", "80"] if steps == 3 else []
    assert main(["train", "--steps", str(steps), "--batch", "2", *size, "--out", str(model)]) == 0
    assert str(model) in capsys.readouterr().out
    write(tmp_path / "带噪.wav", voiced(120))
    arguments = ["enhance", tmp_path / "带噪.wav", tmp_path / "增强.wav", "--model", model]
    assert main([*map(str, arguments)]) == 0
    assert len(read_audio(tmp_path / "增强.wav")) == len(read_audio(tmp_path / "带噪.wav"))


def test_command_chooses_how_to_wait_before_torch_is_loaded(monkeypatch, tmp_path):
    from lstm_lib.cli import main
    from lstm_lib.cli import train as command

    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(command, "waiting", lambda: {"OMP_WAIT_POLICY": "PASSIVE"})
    assert main(["train", "--out", str(tmp_path / "扩展名不对.wav")]) == 1
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
