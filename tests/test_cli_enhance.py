"""命令行增强：各种好坏输入、长度与格式、整个出现或不出现、内存与文件长短无关。"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from lstm_lib.cli import main
from lstm_lib.engines import available, offers
from lstm_lib.enhance import irm
from lstm_lib.training import checkpoint
from lstm_lib.waves import SAMPLE_RATE

COMMAND = [sys.executable, "-m", "lstm_lib", "enhance"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("网络") / "随机.safetensors"
    irm.save(irm.IRMNetwork().eval(), path)
    return str(path)


@pytest.fixture
def run(model, tmp_path, capsys, monkeypatch):
    """在临时文件夹里跑一次命令，返回 (退出码, 标准输出, 标准错误)。"""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["enhance", *map(str, arguments), "--model", model])
        return code, *capsys.readouterr()

    return call


def noise(length, channels=1, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal((length, channels))).astype(np.float32)


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16000, 1, "PCM_16"),
        ("a.wav", 48000, 2, "PCM_24"),
        ("a.wav", 44100, 8, "FLOAT"),
        ("a.wav", 8000, 1, "ULAW"),
        ("a.wav", 11025, 1, "PCM_U8"),
        ("a.wav", 96000, 2, "DOUBLE"),
        ("a.flac", 44100, 2, "PCM_24"),
        ("a.flac", 22050, 8, "PCM_16"),
        ("a.ogg", 44100, 2, "VORBIS"),
        ("a.aiff", 32000, 1, "PCM_16"),
        ("a.W64", 16000, 1, "PCM_32"),
    ],
)
def test_rate_channels_length_and_subtype_are_kept(run, name, rate, channels, subtype):
    length = rate // 2 + 7
    soundfile.write(name, noise(length, channels), rate, subtype=subtype)
    target = "增强." + name.split(".")[1].lower()
    code, out, _ = run(name, target)
    info = soundfile.info(target)
    assert (code, info.samplerate, info.channels, info.frames) == (0, rate, channels, length)
    assert info.subtype == subtype
    assert target in out and "实时率" in out


@pytest.mark.parametrize(
    ("source_subtype", "target", "expected"),
    [("FLOAT", "b.flac", "PCM_24"), ("PCM_U8", "b.flac", "PCM_S8"), ("PCM_24", "b.ogg", "VORBIS")],
)
def test_subtype_falls_back_to_the_nearest(run, source_subtype, target, expected):
    soundfile.write("a.wav", noise(4000), 16000, subtype=source_subtype)
    assert run("a.wav", target)[0] == 0
    assert soundfile.info(target).subtype == expected


@pytest.mark.parametrize(
    ("source_subtype", "target", "expected"),
    [
        ("ALAC_16", "b.wav", "PCM_16"),
        ("ALAC_20", "b.wav", "PCM_24"),
        ("ALAC_24", "b.flac", "PCM_24"),
        ("ALAC_32", "b.wav", "PCM_32"),
        ("ALAC_32", "b.flac", "PCM_24"),
    ],
)
def test_lossless_source_keeps_its_depth(run, source_subtype, target, expected):
    soundfile.write("a.caf", noise(4000), 16000, subtype=source_subtype)
    assert run("a.caf", target)[0] == 0
    assert soundfile.info(target).subtype == expected


def test_lossy_source_becomes_plain_16_bit_wav(run):
    soundfile.write("a.mp3", noise(8000), 16000)
    assert run("a.mp3", "b.wav")[0] == 0
    assert soundfile.info("b.wav").subtype == "PCM_16"
    assert soundfile.info("b.wav").frames == soundfile.info("a.mp3").frames


def test_equals_the_library_on_16_khz(run, model):
    wave = noise(20000)
    soundfile.write("a.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    assert run("a.wav", "b.wav")[0] == 0
    expected = irm.enhance(irm.load(model), wave[:, 0])
    assert np.abs(soundfile.read("b.wav", dtype="float32")[0] - expected).max() < 1e-6


def test_channels_are_independent_and_keep_their_places(run):
    wave = noise(48000, 3)
    wave[:, 1] = 0
    soundfile.write("all.wav", wave, 48000, subtype="FLOAT")
    soundfile.write("third.wav", wave[:, 2:], 48000, subtype="FLOAT")
    assert run("all.wav", "all_out.wav")[0] == 0
    assert run("third.wav", "third_out.wav")[0] == 0
    output = soundfile.read("all_out.wav", dtype="float32")[0]
    assert not output[:, 1].any()
    np.testing.assert_array_equal(output[:, 2], soundfile.read("third_out.wav", dtype="float32")[0])
    assert np.abs(output[:, 0] - output[:, 2]).max() > 1e-3


@pytest.mark.parametrize("engine", [e for e in available() if e != "numpy"])
def test_engines_agree(run, engine):
    soundfile.write("a.wav", noise(8000), 16000, subtype="FLOAT")
    assert run("a.wav", "numpy.wav")[0] == 0
    assert run("a.wav", "other.wav", "--engine", engine)[0] == 0
    difference = soundfile.read("numpy.wav")[0] - soundfile.read("other.wav")[0]
    assert np.abs(difference).max() < (1e-2 if engine.endswith("int8") else 1e-5)


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_handful_of_samples(run, length, rate):
    soundfile.write("a.wav", noise(length), rate)
    assert run("a.wav", "b.wav")[0] == 0
    assert soundfile.info("b.wav").frames == length


def test_digital_silence_stays_digital_silence(run):
    soundfile.write("a.wav", np.zeros((44100, 2)), 44100)
    assert run("a.wav", "b.wav")[0] == 0
    assert not soundfile.read("b.wav")[0].any()


def test_very_loud_float_stays_float_and_integer_clipping_is_reported(run):
    soundfile.write("a.wav", noise(16000, level=100), 16000, subtype="FLOAT")
    code, _, err = run("a.wav", "b.wav")
    assert code == 0 and "削平" not in err
    assert np.abs(soundfile.read("b.wav")[0]).max() > 1
    code, _, err = run("a.wav", "b.flac")
    assert code == 0
    assert "b.flac" in err and "削平" in err and "浮点" in err
    output = soundfile.read("b.flac")[0]
    assert 0.99 < np.abs(output).max() <= 1  # 削平，而不是整数回绕
    assert np.corrcoef(output, soundfile.read("b.wav")[0])[0, 1] > 0.7


def test_very_quiet_input_is_not_lost(run):
    soundfile.write("a.wav", noise(16000, level=1e-6), 16000, subtype="FLOAT")
    assert run("a.wav", "b.wav")[0] == 0
    assert 0 < np.abs(soundfile.read("b.wav")[0]).max() < 1e-5


def test_quiet_flag_says_nothing(run):
    soundfile.write("a.wav", noise(4000), 16000)
    assert run("a.wav", "b.wav", "-q") == (0, "", "")


def make_nan(path):
    wave = noise(40000)
    wave[33333] = np.nan
    soundfile.write(path, wave, 16000, subtype="FLOAT")


def make_huge(path):
    wave = noise(40000)
    wave[33333] = -1e16
    soundfile.write(path, wave, 16000, subtype="FLOAT")


def make_broken_flac(path):
    soundfile.write(path, noise(88200), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_INPUTS = {
    "没有.wav": (lambda path: None, "找不到"),
    "文件夹.wav": (lambda path: path.mkdir(), "文件夹"),
    "空.wav": (lambda path: path.touch(), "空文件"),
    "文本.wav": (lambda path: path.write_text("这不是声音"), "不是能识别的声音文件"),
    "零样点.wav": (lambda path: soundfile.write(path, np.zeros(0), 16000), "一个样点也没有"),
    "坏数.wav": (make_nan, "第 33333 个样点（从 0 数起）是 NaN"),
    "大得离谱.wav": (make_huge, "第 33333 个样点（从 0 数起）是 NaN、无穷大，或大得不像声音"),
    "断了.flac": (make_broken_flac, "损坏或被截断"),
    "长" * 100 + ".wav": (lambda path: None, "名字太长"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_clear_line_and_leaves_the_old_output(run, tmp_path, name):
    make, says = BAD_INPUTS[name]
    make(tmp_path / name)
    (tmp_path / "输出.wav").write_bytes(b"old")
    code, out, err = run(name, "输出.wav", "-q")
    assert code == 1
    assert err.startswith("错误：") and err.count("\n") == 1
    assert name in err and says in err
    assert out == ""
    assert (tmp_path / "输出.wav").read_bytes() == b"old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("b.xyz", "扩展名"),
        ("b", "扩展名"),
        ("文件夹.wav", "文件夹.wav/增强.wav"),
        ("x", "已有的文件夹；请给出文件名，例如 x/增强.wav"),
        ("a.wav/b.wav", "不是文件夹"),
        ("a.wav", "同一个文件"),
        ("./x/../a.wav", "同一个文件"),
        ("链接.wav", "同一个文件"),
        ("长" * 100 + ".wav", "名字太长"),
        ("圈.wav", "符号链接绕成了圈"),
        ("网络.wav", "--model 的检查点"),
    ],
)
def test_bad_output_is_refused_before_any_work(run, model, tmp_path, target, says):
    (tmp_path / "x").mkdir()
    (tmp_path / "文件夹.wav").mkdir()
    soundfile.write("a.wav", noise(1000), 16000)
    os.symlink("a.wav", "链接.wav")
    os.symlink("圈.wav", "圈.wav")
    os.link(model, "网络.wav")
    before = (tmp_path / "a.wav").read_bytes()
    code, _, err = run("a.wav", target)
    assert code == 1 and says in err and "请" in err
    assert (tmp_path / "a.wav").read_bytes() == before
    assert not leftovers(tmp_path)


def test_read_only_folder(run, tmp_path):
    soundfile.write("a.wav", noise(1000), 16000)
    code, _, err = run("a.wav", "/proc/b.wav")
    assert code == 1 and "/proc/b.wav" in err and "没有权限在 /proc 里写文件" in err


def test_container_that_cannot_hold_it(run):
    soundfile.write("a.wav", noise(1000, 10), 16000)
    code, _, err = run("a.wav", "b.flac")
    assert code == 1 and "10 声道" in err and ".wav" in err


def test_rate_that_ogg_cannot_hold(model, tmp_path):
    """libsndfile 遇到它整个进程崩溃，所以另起进程。"""
    soundfile.write(tmp_path / "a.wav", noise(1000), 384000)
    command = [*COMMAND, "a.wav", "b.ogg", "--model", model]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "错误：.ogg 存不下 384000 Hz 的声音；请把输出改成 .wav。\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_output_folder_is_made_and_symlink_is_followed(run, tmp_path):
    soundfile.write("a.wav", noise(1000), 16000)
    os.symlink("真的.wav", "链接.wav")
    assert run("a.wav", "链接.wav")[0] == 0
    assert (tmp_path / "链接.wav").is_symlink() and (tmp_path / "真的.wav").stat().st_size > 1000
    assert run("a.wav", "新/文件夹/b.wav")[0] == 0
    assert soundfile.info("新/文件夹/b.wav").frames == 1000


def test_failure_leaves_no_new_folders(run, tmp_path):
    make_nan(tmp_path / "坏数.wav")
    (tmp_path / "旧").mkdir()
    assert run("坏数.wav", "新/更新/b.wav", "-q")[0] == 1
    assert run("坏数.wav", "旧/新/b.wav", "-q")[0] == 1
    soundfile.write("a.wav", noise(1000), 16000)
    assert run("a.wav", f"新/{'长' * 100}/b.wav")[0] == 1  # 第二层建不出来
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["a.wav", "坏数.wav", "旧"]


def test_truncated_wav_is_reported(run, tmp_path):
    soundfile.write("a.wav", noise(48000), 48000)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) // 2])
    code, _, err = run("a.wav", "b.wav")
    assert code == 0 and "a.wav" in err and "中断" in err
    # 管道里来的 wav 长度写成 32 位最大值，不是截断
    endless = data[:4] + b"\xff\xff\xff\xff" + data[8:40] + b"\xff\xff\xff\xff" + data[44:]
    (tmp_path / "a.wav").write_bytes(endless)
    code, _, err = run("a.wav", "b.wav", "-q")
    assert (code, err) == (0, "")
    assert soundfile.info("b.wav").frames == 48000


@pytest.mark.parametrize("bad", ["文本.safetensors", "没有.safetensors"])
def test_bad_model(tmp_path, monkeypatch, capsys, bad):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "文本.safetensors").write_text("不是权重")
    soundfile.write("a.wav", noise(1000), 16000)
    assert main(["enhance", "a.wav", "b.wav", "--model", bad]) == 1
    err = capsys.readouterr().err
    assert err.startswith("错误：") and bad in err
    assert not (tmp_path / "b.wav").exists()


def test_model_from_a_training_folder(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_best("训练结果", irm.load(model), {})
    soundfile.write("a.wav", noise(4000), 16000)
    assert main(["enhance", "a.wav", "one.wav", "--model", "训练结果"]) == 0
    assert main(["enhance", "a.wav", "two.wav", "--model", model]) == 0
    np.testing.assert_array_equal(soundfile.read("one.wav")[0], soundfile.read("two.wav")[0])


def test_names_that_are_not_utf8(tmp_path, capsys, model):
    """GBK 的名字：输入、输出、检查点与要新建的文件夹；消息里写成字节，两个名字分得开。"""
    gbk = tmp_path / os.fsdecode("中".encode("gbk"))
    try:
        gbk.mkdir()
    except OSError:
        pytest.skip("这个文件系统只收 UTF-8 的名字")
    shutil.copy(model, gbk / "best.safetensors")
    soundfile.write(os.fsencode(gbk / "入.wav"), noise(4000), 16000)
    for suffix in (".wav", ".flac"):
        out = gbk / os.fsdecode("文".encode("gbk")) / f"出{suffix}"
        assert main(["enhance", str(gbk / "入.wav"), str(out), "--model", str(gbk)]) == 0
        assert soundfile.info(os.fsencode(out)).frames == 4000
        assert r"\xd6\xd0/\xce\xc4/出" in capsys.readouterr().out
    assert leftovers(out.parent) == []
    assert main(["enhance", str(gbk / "无.wav"), str(out), "--model", str(gbk)]) == 1
    assert r"\xd6\xd0/无.wav" in capsys.readouterr().err


def test_wrong_command_line(capsys):
    for arguments in (["enhance"], ["enhance", "a.wav", "b.wav", "--engine", "没有的"]):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        err = capsys.readouterr().err
        assert "错误：" in err and "required" not in err and "invalid" not in err


def test_unknown_option_shows_the_usage_of_the_subcommand(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["enhance", "a.wav", "b.wav", "--bogus"])
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert "lstm_lib enhance" in err and "不认识的参数：--bogus" in err and "enhance --help" in err


def test_help_is_chinese(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["enhance", "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "退出码" in out and "例子" in out and "usage" not in out and "文件夹会建好" in out
    words = "".join(out.split())
    assert all(engine in words for engine in offers()) and "略有不同" in words and "结果相同" not in words


def long_file(path, seconds, rate=16000):
    """一段一段写，免得测试自己先占内存。"""
    block = noise(rate * 5)
    with soundfile.SoundFile(path, "w", rate, 1, subtype="FLOAT") as file:
        for _ in range(seconds // 5):
            file.write(block)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing_behind(model, tmp_path, sent):
    long_file(tmp_path / "a.wav", 1800)
    (tmp_path / "b.wav").write_bytes(b"old")
    process = subprocess.Popen(
        [*COMMAND, "a.wav", "b.wav", "--model", model],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),  # noqa: PLW1509 后台运行时 SIGINT 会是忽略的
    )
    try:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size > 100_000 for p in tmp_path.glob(".b-*.wav")):
            assert time.monotonic() < deadline and process.poll() is None, "没有等到写了一半的临时文件"
            time.sleep(0.02)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (130 if sent == signal.SIGINT else 143)
    assert b"Traceback" not in err
    assert (tmp_path / "b.wav").read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_full_disk_is_reported_and_cleaned_up(model, tmp_path):
    long_file(tmp_path / "a.wav", 60)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    result = subprocess.run(
        [*COMMAND, "a.wav", "b.wav", "--model", model, "-q"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert result.returncode == 1 and "磁盘满" in result.stderr and "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav"]


def peak_memory(model, folder, seconds):
    """处理一个 ``seconds`` 秒的文件，返回进程的内存峰值（MB）。"""
    long_file(folder / f"{seconds}.wav", seconds)
    code = (
        "import resource, sys; from lstm_lib.cli import main; "
        "assert main(sys.argv[1:]) == 0; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    # 哪个引擎都一样，挑最快的
    arguments = ["enhance", f"{seconds}.wav", "out.wav", "--model", model, "--engine", "c-int8", "-q"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    assert soundfile.info(folder / "out.wav").frames == seconds * 16000
    return int(result.stdout) / 1024


def test_memory_does_not_grow_with_length(model, tmp_path):
    short, long = (peak_memory(model, tmp_path, seconds) for seconds in (10, 600))
    assert long - short < 15, f"10 秒用 {short:.0f} MB，10 分钟（38 MB 的文件）用 {long:.0f} MB"


# ---- 管道与不合的文件头 ----


def test_unfinished_recording_is_enhanced_whole_and_said(run, tmp_path):
    soundfile.write("a.wav", noise(16000), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(data)
    code, _, err = run("a.wav", "b.wav", "-q")
    assert code == 0 and soundfile.info("b.wav").frames == 16000
    assert err.startswith("注意：a.wav 的文件头没有写声音的长度") and err.count("\n") == 1
    (tmp_path / "a.wav").write_bytes(data[:24] + (1).to_bytes(4, "little") + data[28:])
    code, _, err = run("a.wav", "c.wav", "-q")
    assert code == 1 and "采样率是 1 Hz" in err and not (tmp_path / "c.wav").exists()


@pytest.mark.parametrize(
    "command", ["cat a.wav | {} - b.wav", "{} /dev/stdin b.wav < a.wav", "{} <(cat a.wav) b.wav"]
)
def test_inputs_that_cannot_be_rewound(model, tmp_path, command):
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)
    enhance = f"{' '.join(COMMAND)} -q --model '{model}'"
    done = subprocess.run(
        ["bash", "-c", command.format(enhance)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert soundfile.info(tmp_path / "b.wav").frames == 16000


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_stop_the_work(model, tmp_path, closed):
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)
    command = f"{' '.join(COMMAND)} a.wav b.wav --model '{model}' {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert soundfile.info(tmp_path / "b.wav").frames == 16000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="没有 /dev/full")
def test_full_standard_output_is_said_in_chinese(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)
    command = f"{' '.join(COMMAND)} a.wav b.wav --model '{model}' > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "标准输出写不下去：磁盘满了" in done.stderr
    assert "Traceback" not in done.stderr and "Errno" not in done.stderr
    assert soundfile.info(tmp_path / "b.wav").frames == 16000


@pytest.mark.parametrize("given", [["", "b.wav"], ["a.wav", ""], ["a.wav", "b.wav", "--model", ""]])
def test_empty_arguments_are_no_folder(capsys, given):
    """脚本里没有定义的变量：从前当成眼下的文件夹。"""
    with pytest.raises(SystemExit):
        main(["enhance", *given])
    assert "有一个参数是空的" in capsys.readouterr().err


def test_names_that_begin_with_a_dash(run, capsys):
    """说得出怎么写；不是文件名的（-8.5）不提。"""
    soundfile.write("./-a.wav", noise(1000), 16000)
    assert run("./-a.wav", "./-b.wav")[0] == 0 and os.path.exists("-b.wav")
    for given, hint in ((["-a.wav", "b.wav"], "./-a.wav"), (["a.wav", "-c.flac"], "./-c.flac")):
        with pytest.raises(SystemExit):
            main(["enhance", *given])
        assert f"以 - 开头的文件名要写成 {hint}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["enhance", "-8.5"])
    assert "开头的文件名" not in capsys.readouterr().err


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "管道.wav", "/dev/null"])
def test_outputs_that_cannot_be_rewound_are_refused_with_the_true_reason(run, tmp_path, target):
    soundfile.write("a.wav", noise(1000), 16000)
    os.mkfifo("管道.wav")
    code, _, err = run("a.wav", target)
    assert code == 1 and "回头填上" in err and "请给出文件名" in err


def test_what_enhancing_does_not_need_is_not_loaded():
    """一个短文件，时间几乎全花在导入上：做语料才用的 scipy.signal（近一秒）不该跟着进来。"""
    code = "import sys; import lstm_lib.enhance.trained, lstm_lib.cli.enhance; print('scipy.signal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    from lstm_lib import corpus

    assert corpus.noises.FAMILIES  # 要用的时候仍在
    with pytest.raises(AttributeError, match="no attribute 'clouds'"):
        corpus.clouds  # noqa: B018
