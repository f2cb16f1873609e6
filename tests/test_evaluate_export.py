"""evaluate 与 export 两个命令：在随机权重的网络与很小的文件夹上。"""

import csv
import errno
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest
import soundfile
import torch
from conftest import ROOT
from threadpoolctl import threadpool_limits

from lstm_lib import engines
from lstm_lib.cli import main
from lstm_lib.enhance import irm, trained
from lstm_lib.enhance.scores import si_sdr
from lstm_lib.formats import network_file, onnx_graph
from lstm_lib.formats.ncnn_run import NcnnRunner
from lstm_lib.training import checkpoint, evaluation, export, sources
from lstm_lib.training.dataset import Corpus, FileTable
from lstm_lib.waves import SAMPLE_RATE


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return irm.IRMNetwork().eval()


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    irm.save(network, path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """三对：不同采样率，一对立体声。"""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for number, (rate, channels) in enumerate([(16000, 1), (48000, 1), (16000, 2)]):
        t = np.arange(int(1.5 * rate)) / rate
        clean = 0.1 * np.sin(2 * np.pi * 200 * t) * (1 + np.sin(2 * np.pi * 3 * t))
        noisy = clean + rng.normal(0, 0.03, len(clean))
        for name, wave in (("clean", clean), ("noisy", noisy)):
            (root / name).mkdir(exist_ok=True)
            wave = np.repeat(wave[:, None], channels, 1).squeeze()
            soundfile.write(root / name / f"{number}.wav", wave, rate, subtype="FLOAT")
    return root


def run(*arguments):
    return main([str(a) for a in arguments])


# ---- evaluate ----


def test_table_and_csv(folders, model, tmp_path, capsys):
    code = run(
        "evaluate", "--paired", folders / "clean", folders / "noisy", "--model", model, "--no-pesq",
        "--csv", tmp_path / "s.csv",
    )  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    for method in evaluation.METHODS:
        assert method in out
    with open(tmp_path / "s.csv", newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(evaluation.METHODS) * (1 + 3)
    first = next(r for r in rows if r["file"].endswith("0.wav") and r["method"] == "带噪")
    clean, noisy = (soundfile.read(folders / k / "0.wav", dtype="float32")[0] for k in ("clean", "noisy"))
    assert float(first["si_sdr"]) == pytest.approx(si_sdr(clean, noisy), abs=1e-4)
    means = {r["method"]: float(r["si_sdr"]) for r in rows if r["file"] == "平均"}
    each = [float(r["si_sdr"]) for r in rows if r["file"] != "平均" and r["method"] == "理想掩蔽"]
    assert means["理想掩蔽"] == pytest.approx(np.mean(each))
    assert means["理想掩蔽"] > means["带噪"] + 5, "理想掩蔽应远好于不处理"


def test_processes_do_not_change_the_scores(folders, model):
    """主进程里别人改过线程数，也不影响得分。"""
    pairs = sources.scan_pairs(folders / "clean", folders / "noisy", sources.Sources(), [])
    evaluation.evaluate(pairs, model, ["si_sdr"])  # 网络从此在缓存里
    with threadpool_limits(1):
        one = evaluation.evaluate(pairs, model, ["si_sdr"])
    two = evaluation.evaluate(pairs, model, ["si_sdr"], workers=2)
    assert one.names == two.names
    for method in evaluation.METHODS:
        assert np.array_equal(one.values[method]["si_sdr"], two.values[method]["si_sdr"])


def test_silent_pair_is_skipped_and_named(folders, model, tmp_path, capsys):
    for name in ("clean", "noisy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.wav").symlink_to(folders / name / "0.wav")
        soundfile.write(tmp_path / name / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    arguments = [
        "evaluate",
        "--paired",
        tmp_path / "clean",
        tmp_path / "noisy",
        "--model",
        model,
        "--no-pesq",
    ]
    assert run(*arguments) == 1
    assert "silent.wav" in capsys.readouterr().err
    assert run(*arguments, "--max-bad", "0.6") == 0
    streams = capsys.readouterr()
    assert "silent.wav" in streams.err and "1 对文件的平均" in streams.out


def make_pair(root, name, clean, noisy, rate=SAMPLE_RATE):
    for kind, wave in (("clean", clean), ("noisy", noisy)):
        (root / kind).mkdir(exist_ok=True)
        soundfile.write(os.fsencode(root / kind / f"{name}.wav"), wave, rate, subtype="FLOAT")


def evaluate_in(root, model, *more):
    pair = ["--paired", root / "clean", root / "noisy", "--model", model]
    return run("evaluate", *pair, "--csv", root / "s.csv", *more)


def rows_of(root):
    with open(root / "s.csv", newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def speech():
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    return 0.1 * np.sin(2 * np.pi * 200 * t) * (1 + np.sin(2 * np.pi * 3 * t))


def test_too_short_leaves_a_blank_and_a_reason(model, tmp_path, capsys, speech):
    """40 毫秒：STOI 与谱门算不出，别的照算；平均只算其余的，而且说出来。"""
    rng = np.random.default_rng(0)
    for name, length in (("long", len(speech)), ("short", 640)):
        make_pair(tmp_path, name, speech[:length], speech[:length] + rng.normal(0, 0.03, length))
    assert evaluate_in(tmp_path, model, "--no-pesq") == 0
    rows = {(os.path.basename(r["file"]), r["method"]): r for r in rows_of(tmp_path)}
    short, long = rows["short.wav", "带噪"], rows["long.wav", "带噪"]
    assert short["stoi"] == "" and "不足约 0.4 秒" in short["note"] and float(short["si_sdr"]) > 0
    assert float(rows["平均", "带噪"]["stoi"]) == float(long["stoi"]) and long["note"] == ""
    assert "STOI 有 1 对算不出" in rows["平均", "带噪"]["note"]
    gate = rows["short.wav", "平稳谱门"]
    assert gate["si_sdr"] == gate["stoi"] == "" and "1024 个样点" in gate["note"]
    mean = (float(short["si_sdr"]) + float(long["si_sdr"])) / 2
    assert float(rows["平均", "带噪"]["si_sdr"]) == pytest.approx(mean)
    out = capsys.readouterr().out
    assert "STOI：有 1 对算不出，纯净语音去掉静音后不足约 0.4 秒" in out and "平均只算其余 1 对" in out
    assert "short.wav" in out and "nan" not in out.lower()


def test_nothing_long_enough_says_there_is_no_mean(model, tmp_path, capsys, speech):
    make_pair(tmp_path, "short", speech[:3000], speech[:3000] + speech[3000:6000])
    assert evaluate_in(tmp_path, model, "--no-pesq") == 0
    out = capsys.readouterr().out
    assert "算不出" in out and "没有平均" in out
    assert {r["stoi"] for r in rows_of(tmp_path)} == {""}


def test_pesq_that_cannot_be_computed_is_blank(model, tmp_path, monkeypatch, capsys, speech):
    class PesqError(RuntimeError):
        pass

    def refuse(*_):
        raise PesqError("Buffer needs to be at least 1/4 of a second")

    monkeypatch.setitem(sys.modules, "pesq", types.SimpleNamespace(pesq=refuse, PesqError=PesqError))
    make_pair(tmp_path, "a", speech, speech + np.random.default_rng(0).normal(0, 0.03, len(speech)))
    assert evaluate_in(tmp_path, model) == 0
    assert {r["pesq"] for r in rows_of(tmp_path)} == {""}
    assert "PESQ：有 1 对算不出，不足 0.25 秒，或没有检出语音" in capsys.readouterr().out


WAVES = {
    "silent": lambda w: 0 * w,
    "constant": lambda w: 0 * w + 0.1,
    "one": lambda w: w[5:6],
    "nan": lambda w: np.where(np.arange(len(w)) == 77, np.nan, w),
    "cancelling": lambda w: np.stack([w, -w], 1),
}


@pytest.mark.parametrize("kind", WAVES)
@pytest.mark.parametrize("side", ["clean", "noisy"])
def test_the_file_at_fault_is_named_not_its_twin(model, tmp_path, capsys, speech, kind, side):
    noise = np.random.default_rng(0).normal(0, 0.03, len(speech))
    make_pair(tmp_path, "good", speech, speech + noise)
    waves = {"clean": speech, "noisy": speech + noise}
    if kind == "one":  # 长短要相同
        waves = {name: wave[:100] for name, wave in waves.items()}
    waves[side] = WAVES[kind](waves[side])
    make_pair(tmp_path, "odd", waves["clean"], waves["noisy"])
    assert evaluate_in(tmp_path, model, "--no-pesq", "--max-bad", "0.6") == 0
    streams = capsys.readouterr()
    line = next(line for line in streams.err.splitlines() if "跳过" in line)
    assert line.startswith(f"跳过 {tmp_path / side / 'odd.wav'}：")
    words = {"nan": "第 77 个样点（从 0 数起）是 NaN", "one": "只有一个样点"}.get(kind, "没有声音")
    assert words in line and "1 对文件的平均" in streams.out


def test_constant_at_another_rate_is_still_constant(model, tmp_path, capsys, speech):
    make_pair(tmp_path, "good", speech, speech + np.random.default_rng(0).normal(0, 0.03, len(speech)))
    make_pair(tmp_path, "flat", np.full(48000, 0.1), np.random.default_rng(1).normal(0, 0.1, 48000), 48000)
    assert evaluate_in(tmp_path, model, "--no-pesq", "--max-bad", "0.6") == 0
    assert f"跳过 {tmp_path / 'clean' / 'flat.wav'}：没有声音" in capsys.readouterr().err


def test_si_sdr_of_a_constant_is_no_rounding_error():
    wave = np.full(640, 0.1, np.float32)
    with pytest.raises(ValueError, match="常数"):
        si_sdr(wave, np.arange(640.0))
    assert si_sdr(np.arange(640.0), wave) == -np.inf


def test_silent_output_is_left_out_of_the_mean_and_told(tmp_path, capsys, speech):
    """网络的输出全是零：SI-SDR 是负无穷，不能把平均也拖成负无穷。"""
    network = irm.IRMNetwork().eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(-1e4)
    irm.save(network, tmp_path / "zero.safetensors")
    make_pair(tmp_path, "a", speech, speech + np.random.default_rng(0).normal(0, 0.03, len(speech)))
    assert evaluate_in(tmp_path, tmp_path / "zero.safetensors", "--no-pesq") == 0
    out = capsys.readouterr().out
    assert "网络的SI-SDR (dB)：有 1 对算不出，输出全是零或常数" in out and "inf" not in out


def test_evaluating_on_the_training_files_is_told(model, folders, tmp_path, capsys):
    pairs = sources.scan_pairs(folders / "clean", folders / "noisy", sources.Sources(), [])
    tables = [FileTable.of([p.clean for p in pairs]), FileTable.of([p.noisy for p in pairs])]
    empty = FileTable([], [], [])
    corpus = Corpus(empty, empty, *tables)
    shutil.copy(model, tmp_path / "best.safetensors")
    gathered = sources.Gathered(corpus, Corpus(empty, empty, empty, empty), [], [], {})
    sources.save_index(tmp_path / "index.npz", gathered)
    shutil.copytree(folders, tmp_path / "copy")
    for root, name in ((folders, tmp_path), (tmp_path / "copy", tmp_path / "best.safetensors")):
        code = run("evaluate", "--paired", root / "clean", root / "noisy", "--model", name, "--no-pesq")
        assert code == 0
        err = capsys.readouterr().err
        assert "注意：6 个文件" in err and "训练时用过" in err
    assert (
        run("evaluate", "--paired", folders / "clean", folders / "noisy", "--model", model, "--no-pesq") == 0
    )
    assert "训练时用过" not in capsys.readouterr().err


def test_csv_over_a_sound_or_the_model_is_refused(folders, model, tmp_path, capsys):
    shutil.copytree(folders, tmp_path / "p")
    (tmp_path / "link.csv").symlink_to(model)
    before = model.read_bytes()
    pair = ["--paired", tmp_path / "p" / "clean", tmp_path / "p" / "noisy", "--model", model, "--no-pesq"]
    for target, words in (
        (tmp_path / "p" / "noisy" / "0.wav", "评测的声音"),
        (tmp_path / "link.csv", "检查点"),
    ):
        assert run("evaluate", *pair, "--csv", target) == 1
        assert words in capsys.readouterr().err
    assert model.read_bytes() == before
    run_folder = tmp_path / "训练结果"  # 给的是文件夹：里面凡是训练写的，都不能盖掉
    run_folder.mkdir()
    shutil.copy(model, run_folder / "best.safetensors")
    for name in ("best.safetensors", "last.pt", "log.csv", "held.json", "index.npz"):
        if name != "best.safetensors":
            (run_folder / name).write_bytes(b"old")
        kept = (run_folder / name).read_bytes()
        assert run("evaluate", *pair[:4], run_folder, "--csv", run_folder / name) == 1
        assert "检查点" in capsys.readouterr().err and (run_folder / name).read_bytes() == kept


def test_a_pair_given_twice_counts_once(folders, model, capsys):
    pair = ["--paired", folders / "clean", folders / "noisy"]
    assert run("evaluate", *pair, *pair, "--model", model, "--no-pesq") == 0
    streams = capsys.readouterr()
    assert "3 对文件的平均" in streams.out and "3 对给了不止一次" in streams.err


def test_names_that_are_not_utf8_anywhere(model, tmp_path, speech):
    """GBK 的名字：文件夹、检查点、CSV、导出；什么编码的终端都不崩溃。"""
    gbk = os.fsdecode("中文".encode("gbk"))
    try:
        (tmp_path / gbk).mkdir()
    except OSError:
        pytest.skip("这个文件系统只收 UTF-8 的名字")
    shutil.copy(model, tmp_path / gbk / "best.safetensors")
    make_pair(tmp_path / gbk, "a", speech, speech + np.random.default_rng(0).normal(0, 0.03, len(speech)))
    for kind in ("clean", "noisy"):
        (tmp_path / gbk / kind / "a.wav").rename(tmp_path / gbk / kind / f"{gbk}.wav")
    commands = [
        [
            "evaluate",
            "--paired",
            f"{gbk}/clean",
            f"{gbk}/noisy",
            "--model",
            gbk,
            "--no-pesq",
            "--csv",
            f"{gbk}.csv",
        ],
        ["export", f"{gbk}/best.safetensors", "--to", "bin", "--out", f"{gbk}.lstm"],
        ["evaluate", "--paired", gbk, f"{gbk}/没有"],
    ]
    ascii_only, c_locale = (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    for command, extra, code in zip(commands, (ascii_only, c_locale, c_locale), (0, 0, 1), strict=True):
        done = subprocess.run(
            [sys.executable, "-m", "lstm_lib", *map(os.fsencode, command)],
            cwd=tmp_path, env={**os.environ, **extra, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code and b"Traceback" not in done.stderr, done.stderr.decode(
            "utf-8", "replace"
        )
        assert b"\\xd6\\xd0\\xce\\xc4" in done.stdout + done.stderr
    assert r"\xd6\xd0\xce\xc4.wav" in (tmp_path / f"{gbk}.csv").read_text(encoding="utf-8-sig")
    assert network_file.load(tmp_path / f"{gbk}.lstm")


def test_pesq_column_only_when_installed(folders, model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pesq", None)
    assert run("evaluate", "--paired", folders / "clean", folders / "noisy", "--model", model) == 0
    out = capsys.readouterr().out
    assert "pip install pesq" in out and "PESQ" not in out.splitlines()[1]


def test_refusing_pesq_says_nothing_about_installing_it(folders, model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pesq", None)
    pair = ["--paired", folders / "clean", folders / "noisy", "--model", model]
    assert run("evaluate", *pair, "--no-pesq") == 0
    assert "pesq" not in capsys.readouterr().out.lower()


def test_voicebank_test_set_is_found(folders, model, tmp_path, capsys):
    for part in ("trainset_28spk_wav", "testset_wav"):
        for kind in ("clean", "noisy"):
            (tmp_path / f"{kind}_{part}").mkdir()
            (tmp_path / f"{kind}_{part}" / "p232_001.wav").symlink_to(folders / kind / "0.wav")
    assert run("evaluate", "--data", tmp_path, "--model", model, "--no-pesq") == 0
    assert "1 对文件的平均" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "没有给数据"),
        (["--data", "."], "没有找到认得的测试集"),
        (["--paired", "无", "有"], "找不到文件夹"),
        (["--paired", "CLEAN", "NOISY", "--model", "没有.pt"], "找不到"),
    ],
)
def test_evaluate_errors(folders, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    names = {"CLEAN": folders / "clean", "NOISY": folders / "noisy"}
    assert run("evaluate", *(names.get(a, a) for a in arguments)) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "words"),
    [(".", "已有的文件夹"), ("a.txt/b.csv", "不是文件夹"), ("长" * 100 + ".csv", "名字太长")],
)
def test_csv_that_cannot_be_written_is_refused_before_any_work(
    folders, tmp_path, monkeypatch, capsys, target, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("没有先查文件名就开始打分了"))
    assert run("evaluate", "--paired", folders / "clean", folders / "noisy", "--csv", target) == 1
    err = capsys.readouterr().err
    assert f"--csv {target}" in err and words in err


def test_csv_that_fails_late_is_named_as_given(folders, model, tmp_path, monkeypatch, capsys):
    """打完分才写不了（如磁盘满）：说使用者给的名字，不说临时文件。"""
    monkeypatch.chdir(tmp_path)

    def full(path, scores):
        raise OSError(errno.ENOSPC, "No space left", ".得分-x1y2z3.csv")

    monkeypatch.setattr(evaluation, "write_csv", full)
    pair = ["--paired", folders / "clean", folders / "noisy", "--model", model, "--no-pesq"]
    assert run("evaluate", *pair, "--csv", "得分.csv") == 1
    streams = capsys.readouterr()
    assert "--csv 得分.csv 写不了：磁盘满了" in streams.err and "x1y2z3" not in streams.err
    assert "理想掩蔽" in streams.out, "分已经打好，表应当照样给出"


def test_evaluate_refuses_a_thousand_processes_and_claims_no_upper_bound(capsys):
    for arguments, code, words in (["--workers", "100000"], 2, "太多"), (["--help"], 0, "作参照"):
        with pytest.raises(SystemExit) as leaving:
            run("evaluate", *arguments)
        streams = capsys.readouterr()
        assert leaving.value.code == code and words in streams.out + streams.err
        assert "上限" not in streams.out


# ---- export ----


def reference(network, frames):
    x = np.abs(np.random.default_rng(5).normal(size=(frames, 256))).astype(np.float32)
    with torch.inference_mode():
        return x, network(torch.from_numpy(x)[None])[0].numpy()


@pytest.mark.parametrize("config", [irm.REPAIRED, irm.DOCUMENT])
def test_exports_agree_with_torch(tmp_path, config, capsys):
    torch.manual_seed(1)
    network = irm.IRMNetwork(config).eval()
    irm.save(network, tmp_path / "best.safetensors")
    x, mask = reference(network, 23)
    for to, name in (("onnx", "m.onnx"), ("ncnn", "m.ncnn"), ("bin", "m.lstm")):
        assert run("export", tmp_path, "--to", to, "--out", tmp_path / "out" / name) == 0
    assert "最大差" in capsys.readouterr().out
    onnx_mask = onnx_graph.run(tmp_path / "out" / "m.onnx", x[None])[0][0]
    assert np.abs(onnx_mask - mask).max() < 1e-5
    assert set(onnx_graph.operator_counts(tmp_path / "out" / "m.onnx")) >= {"LSTM", "Sigmoid"}
    runner = NcnnRunner(tmp_path / "out" / "m.ncnn.param", tmp_path / "out" / "m.ncnn.bin")
    assert np.abs(runner(x) - mask).max() < 1e-5
    found = network_file.load(tmp_path / "out" / "m.lstm")
    assert (found.weight is not None) == config.head and found.stft == (512, 256, 16000, 1)
    for name in ("numpy", "c"):
        engine = engines.load(name, tmp_path / "out" / "m.lstm")
        assert np.abs(engine.sequence(x) - mask).max() < 1e-5
    assert run("export", tmp_path, "--to", "bin", "--int8", "--out", tmp_path / "small.lstm") == 0
    assert (tmp_path / "small.lstm").stat().st_size < 0.65e6
    for name in ("c", "c-int8"):  # 文件里是 int8 的，怎么打开都按 int8 算
        assert np.abs(engines.load(name, tmp_path / "small.lstm").sequence(x) - mask).max() < 0.05
    assert run("export", tmp_path, "--to", "bin", "--fp16", "--out", tmp_path / "half.lstm") == 0
    sizes = [(tmp_path / name).stat().st_size for name in ("half.lstm", "out/m.lstm")]
    assert sizes[0] < 0.51 * sizes[1]
    for name in ("c", "c-float16", "numpy"):
        assert np.abs(engines.load(name, tmp_path / "half.lstm").sequence(x) - mask).max() < 2e-3


def test_streaming_export_carries_the_state(network, model, tmp_path):
    x, mask = reference(network, 9)
    for to in ("onnx", "ncnn"):
        assert run("export", model, "--to", to, "--out", tmp_path / "s", "--streaming") == 0
    session = onnx.load(tmp_path / "s.onnx")
    assert [i.name for i in session.graph.input] == ["x", "h", "c"]
    runner = NcnnRunner(tmp_path / "s.param", tmp_path / "s.bin")
    state = [np.zeros((1, 257), np.float32)] * 2
    by_onnx = [s[None] for s in state]
    for t, frame in enumerate(x):
        got, *by_onnx = onnx_graph.run(session, frame[None, None], *by_onnx)
        assert np.abs(got.reshape(-1) - mask[t]).max() < 1e-5
        got, *state = runner(frame[None], *(s.reshape(1, -1) for s in state))
        assert np.abs(got.reshape(-1) - mask[t]).max() < 1e-5


def test_fp16_halves_the_file(model, tmp_path):
    assert run("export", model, "--to", "ncnn", "--out", tmp_path / "a") == 0
    assert run("export", model, "--to", "ncnn", "--out", tmp_path / "b", "--fp16") == 0
    assert (tmp_path / "b.bin").stat().st_size < 0.6 * (tmp_path / "a.bin").stat().st_size


def test_nothing_is_written_when_the_check_fails(network, tmp_path, monkeypatch):
    """故意把导出的权重弄坏：核对要发现，旧文件要原样。"""
    target = tmp_path / "m.bin"
    target.write_bytes(b"old")
    honest = export.WRITERS["bin"]

    def dishonest(net, *rest):
        broken = irm.IRMNetwork()
        broken.load_state_dict(net.state_dict())
        with torch.no_grad():
            broken.mask.weight_ih_l0[:257], broken.mask.weight_ih_l0[257:514] = (
                net.mask.weight_ih_l0[257:514], net.mask.weight_ih_l0[:257],
            )  # fmt: skip
        return honest(broken, *rest)

    monkeypatch.setitem(export.WRITERS, "bin", dishonest)
    with pytest.raises(export.ExportError, match="没有写文件"):
        export.export(network, "bin", target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.parametrize("old", [True, False])
def test_export_reads_training_checkpoints(network, tmp_path, old):
    state = {"epoch": 1, "settings": {}, "network": network.state_dict()}
    state |= {"settings": {"repaired": True}} if old else {"config": network.config.to_json()}
    checkpoint.save(tmp_path, state)
    assert run("export", tmp_path / "last.pt", "--to", "bin", "--out", tmp_path / "m") == 0
    assert (tmp_path / "m.lstm").exists()


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_bin_and_ncnn_share_a_folder(network, model, tmp_path, monkeypatch, capsys):
    """默认名字不相撞；指明 .bin 会盖掉 ncnn 的权重时拒绝，什么也不动。"""
    monkeypatch.chdir(tmp_path)
    x, mask = reference(network, 5)
    assert run("export", model, "--to", "ncnn") == 0
    assert run("export", model, "--to", "bin") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"irm.param", "irm.bin", "irm.lstm"}
    assert np.abs(NcnnRunner("irm.param", "irm.bin")(x) - mask).max() < 1e-5
    network_file.load("irm.lstm")
    before = contents(tmp_path)
    capsys.readouterr()
    assert run("export", model, "--to", "bin", "--out", "irm.bin") == 1
    err = capsys.readouterr().err
    assert "irm.param 的权重" in err and ".lstm" in err
    assert contents(tmp_path) == before, "拒绝时不该动任何文件"
    assert run("export", model, "--to", "ncnn") == 0, "ncnn 盖掉自己的旧模型是应当的"


def test_explicit_bin_name_is_kept(model, tmp_path):
    assert run("export", model, "--to", "bin", "--out", tmp_path / "m.bin") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"m.bin"}
    network_file.load(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "command", [["export", "--to", "bin", "--out"], ["evaluate", "--paired", "a", "b", "--csv"]]
)
def test_device_is_refused_before_any_work(capsys, command):
    assert run(*command, os.devnull) == 1
    assert f"{os.devnull} 不是普通的文件" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "words"),
    [("/proc/m", "没有权限在 /proc 里写文件"), ("a.txt/m", "路径中间有一段不是文件夹")],
)
@pytest.mark.parametrize("command", [["export", "--to", "bin"], ["train"]])
def test_unwritable_target_is_refused_before_any_work(tmp_path, monkeypatch, capsys, command, target, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(trained, "load_trained", lambda *_: pytest.fail("没有先查写不写得了就开始训练了"))
    target += ".safetensors" if command == ["train"] else ""
    assert run(*command, "--out", target) == 1
    err = capsys.readouterr().err
    assert f"--out {target}：" in err and words in err and "请换一个路径" in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_target_that_fails_late_is_named_as_given(model, network, tmp_path, monkeypatch, capsys):
    """做完才写不了：说使用者给的名字，不说临时文件。"""

    def full(source, target, *_):
        raise OSError(errno.ENOSPC, "No space left", str(tmp_path / ".m-x1y2z3"))

    monkeypatch.setattr(export.shutil, "copyfile", full)
    assert run("export", model, "--to", "bin", "--out", tmp_path / "m") == 1
    err = capsys.readouterr().err
    assert f"{tmp_path / 'm.lstm'} 写不了：磁盘满了" in err and "x1y2z3" not in err
    monkeypatch.setattr(trained, "load_trained", lambda name: network)
    monkeypatch.setattr(trained, "training_history", lambda name: {})
    monkeypatch.setattr(irm, "save", full)
    assert run("train", "--out", tmp_path / "m.safetensors") == 1
    err = capsys.readouterr().err
    assert f"--out {tmp_path / 'm.safetensors'} 写不了：磁盘满了" in err and "x1y2z3" not in err


def test_export_over_a_folder_names_it(model, tmp_path, capsys):
    (tmp_path / "m.lstm").mkdir()
    assert run("export", model, "--to", "bin", "--out", tmp_path / "m") == 1
    assert "m.lstm 是一个已有的文件夹" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "onnx", "--fp16"], "只用于 --to ncnn 与 --to bin"),
        (["--to", "bin", "--fp16", "--int8"], "只能选一个"),
        (["--to", "onnx", "--int8"], "只用于 --to bin"),
        (["--to", "bin", "--streaming"], "只用于 onnx 与 ncnn"),
        (["--to", "onnx", "--out", "."], "已有的文件夹"),
    ],
)
def test_export_errors(model, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run("export", model, *arguments) == 1
    assert words in capsys.readouterr().err


def test_export_never_overwrites_the_checkpoint(network, tmp_path, capsys):
    for name, out in (("m.bin", "m.bin"), ("m.onnx", "m"), ("m.lstm", "link.lstm")):
        source = tmp_path / name
        irm.save(network, source)
        (tmp_path / "link.lstm").unlink(missing_ok=True)
        (tmp_path / "link.lstm").symlink_to(source)
        before = source.read_bytes()
        to = "onnx" if name.endswith("onnx") else "bin"
        assert run("export", source, "--to", to, "--out", tmp_path / out) == 1
        assert "就是要导出的检查点" in capsys.readouterr().err and source.read_bytes() == before
        source.unlink()


def test_damaged_weights_are_refused(model, tmp_path, capsys):
    (tmp_path / "best.safetensors").write_bytes(model.read_bytes()[:1000])
    assert run("export", tmp_path, "--to", "bin", "--out", tmp_path / "m") == 1
    assert "best.safetensors" in capsys.readouterr().err
    assert run("export", tmp_path / "nothing", "--to", "bin", "--out", tmp_path / "m") == 1


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 字节"), (214, "214 字节"), (1000, "1.0 KB"), (3210, "3.2 KB"), (999_949, "999.9 KB"),
     (999_950, "1.00 MB"), (2_117_680, "2.12 MB")],
)  # fmt: skip
def test_sizes_are_never_rounded_to_nothing(count, text):
    from lstm_lib.cli import size_text

    assert size_text(count) == text
