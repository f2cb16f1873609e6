"""C 程序与两个文件的发行版：与 Python 逐位相同；别的处理器；wav 与裸 PCM；消息；损坏的模型。"""

import contextlib
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from lstm_lib.cli import main
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.formats import network_file
from lstm_lib.lstm import LSTM
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.native import NativeEnhancer, build, levels, program, release

RATE = 16000
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
CONFIGS = {
    "two-layers": NetworkConfig.for_stft(320, 160, num_layers=2, hidden_size=48),
    "odd-sizes": NetworkConfig.for_stft(512, 256, hidden_size=37),
    "tiny": NetworkConfig.for_stft(14, 7, hidden_size=3),
    "no-head": NetworkConfig.for_stft(128, 32, head=False),
}
LONG = "odd-sizes"


def encode(config, dtype="float32", rate=RATE):
    """按 ``config`` 的尺寸造一个网络，编成模型文件的字节。"""
    rng = np.random.default_rng(config.n_fft + config.hidden_size)

    def draw(*shape):
        return rng.uniform(-0.4, 0.4, shape).astype(np.float32)

    sizes = LSTMConfig(config.input_size, config.hidden_size, num_layers=config.num_layers)
    lstm = LSTM(sizes, {name: draw(*shape) for name, shape in sizes.shapes().items()})
    head = (draw(config.bins, config.hidden_size), draw(config.bins)) if config.head else (None, None)
    stft = network_file.STFT(config.n_fft, config.hop_length, rate, config.bins - config.input_size)
    return network_file.encode(lstm, *head, True, stft, dtype)


MODELS = {name: encode(config) for name, config in CONFIGS.items()}


def noise(samples, seed=0, scale=0.1):
    return (np.random.default_rng(seed).standard_normal(samples) * scale).astype(np.float32)


def aligned_result(enhancer, wave):
    """与输入对齐、一样长的输出：补零冲出最后的声音，去掉开头的延迟。"""
    delay = enhancer.latency - enhancer.hop
    padded = np.concatenate([wave, np.zeros(delay + -(len(wave) + delay) % enhancer.hop, np.float32)])
    return enhancer.process(padded)[delay : delay + len(wave)]


def run(command, data=b"", **options):
    command = [str(word) for word in command]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=300, **options)


def said(result):
    return result.stderr.decode()


def raw_float(command, model, wave, *options):
    """32 位浮点的裸 PCM 进出。"""
    result = run([*command, model, "--float", *options], wave.tobytes())
    assert result.returncode == 0, said(result)
    return np.frombuffer(result.stdout, "<f4")


@pytest.fixture(scope="module")
def program_path():
    """这台机器的 ``enhancer``，由系统的编译器（没有就是 ziglang）编译；与“上设备”一章是同一份。"""
    return program.cached_program("native")


@pytest.fixture(scope="module")
def model_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, data in MODELS.items():
        (folder / f"{name}.lstm").write_bytes(data)
    return {name: folder / f"{name}.lstm" for name in MODELS}


@pytest.fixture
def model(model_paths):
    return model_paths[LONG]


# ---- 程序与发行版 ----


def check_bits(command, model_paths, at=None):
    for name, path in model_paths.items():
        wave = noise(23 * CONFIGS[name].hop_length + 5)
        for level in at or levels():
            for dtype in build.KINDS:
                options = [] if dtype == "float32" else [f"--{dtype}"]
                got = raw_float(command, path, wave, "--level", level, *options)
                enhancer = NativeEnhancer(MODELS[name], dtype, level)
                want = aligned_result(enhancer, wave)
                assert np.array_equal(got, want), (name, level, options)


def test_program_gives_the_same_bits_as_python(program_path, model_paths):
    check_bits([program_path], model_paths)


@pytest.mark.parametrize("compiler", ["gcc", "clang", "ziglang"])
def test_two_files_compile_alone_and_give_the_same_bits(compiler, tmp_path, model_paths):
    """只有两个文件、三个选项，开着警告也一声不响；FP 合并、指令集都由源码自己管。"""
    if compiler == "ziglang":
        pytest.importorskip("ziglang")
        base = [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
    elif shutil.which(compiler):
        base = [compiler]
    else:
        pytest.skip(f"没有 {compiler}（apt install {compiler}）")
    assert main(["build", "--source", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["enhancer.c", "enhancer.h", "example.c"]
    base += [*program.FLAGS, *WARNINGS]

    def compiled(*arguments):
        done = run([*base, *arguments], cwd=tmp_path)
        assert done.returncode == 0 and not done.stderr, said(done)

    compiled("-c", "enhancer.c")
    compiled("enhancer.o", "example.c", "-lm", "-o", "example")
    hop = CONFIGS[LONG].hop_length
    pcm = (noise(20 * hop) * 32768).astype("<i2")
    done = run([tmp_path / "example", model_paths[LONG]], pcm.tobytes())
    want = NativeEnhancer(MODELS[LONG]).process(pcm.astype(np.float32) / 32768)
    assert np.array_equal(np.frombuffer(done.stdout, "<i2"), np.rint(want * 32768).astype(int)), said(done)
    # 同样的 enhancer.o，配上 main.c，各级别都比一遍
    shutil.copy(build.HERE / "main.c", tmp_path)
    compiled("enhancer.o", "main.c", "-lm", "-o", "enhancer")
    check_bits([tmp_path / "enhancer"], model_paths)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="没有 gcc（apt install gcc）")
@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only", "-Ofast"])
def test_options_that_drop_the_nan_checks_are_refused(tmp_path, flag):
    """只加其中一项，编译器并不定义 __FAST_MATH__，NaN 的检查却照样删掉。"""
    (tmp_path / "enhancer.c").write_text(release.SETTINGS, encoding="utf-8")
    done = run(["gcc", "-c", flag, "enhancer.c"], cwd=tmp_path)
    assert done.returncode != 0 and "NaN" in said(done)
    assert run(["gcc", "-c", "-O3", "enhancer.c"], cwd=tmp_path).returncode == 0


def test_release_reads_as_one_program():
    files = release.release()
    text = files["enhancer.c"]
    assert text.count("int lstm_model_outline(") == 2 and "// [" not in text, (
        "声明一次，定义一次；没有取片段的标记"
    )
    for name in ("enhancer_open", "enhancer_process", "lstm_level_supported", "LSTM_NOT_MASK"):
        assert name in files["enhancer.h"]
    assert "struct enhancer {" not in files["enhancer.h"], "内部的结构不外露"
    assert len(files["example.c"].splitlines()) < 40


def test_version_is_that_of_the_package():
    import tomllib

    with open(os.path.join(os.path.dirname(__file__), "..", "pyproject.toml"), "rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert f'#define ENHANCER_VERSION "{version}"' in release.read("enhancer.h")


FOREIGN = {  # 目标 → qemu 的命令，各级别，与本机的哪一级比（None：同名的）：有没有融合乘加要相同，才逐位相同
    "x86_64-linux": ([], tuple(levels()), None),
    "aarch64-linux": (["qemu-aarch64", "-cpu", "max"], ("portable", "neon_dot"), "avx2"),
    "armv7-linux": (["qemu-arm", "-cpu", "max"], ("portable",), "avx2"),
    "riscv64-linux": (["qemu-riscv64"], ("portable",), "portable"),
    # -R：不然 qemu 7 偶尔把 mmap 放到地址空间的最底下，zig 的 malloc 接着要更低的，就要不到了
    "loongarch64-linux": (["qemu-loongarch64", "-R", "0x10000000000"], ("portable",), "portable"),
}


@pytest.mark.parametrize("target", FOREIGN)
def test_other_processors_give_the_same_sound(target, model_paths):
    pytest.importorskip("ziglang")
    emulator, at, twin = FOREIGN[target]
    if emulator:
        qemu = shutil.which(f"{emulator[0]}-static") or shutil.which(emulator[0])
        if qemu is None:
            pytest.skip("没有 qemu-user（apt install qemu-user-static）")
        emulator = [qemu, *emulator[1:]]
    elif build.machine_levels() is not build.X86 or sys.platform != "linux":
        pytest.skip("不是 x86-64 的 Linux：静态的程序在这里跑不了")
    command = [*emulator, program.cached_program(target)]
    for name, path in model_paths.items():
        wave = noise(23 * CONFIGS[name].hop_length + 5)
        for level in at:
            for dtype, bound in (("float32", 1e-5), ("float16", 2e-3), ("int8", 0.02)):
                flags = [] if dtype == "float32" else [f"--{dtype}"]
                got = raw_float(command, path, wave, "--level", level, *flags)
                exact = aligned_result(NativeEnhancer(MODELS[name]), wave)
                assert np.abs(got - exact).max() < bound, (name, level)
                if (twin or level) in levels():
                    same = aligned_result(NativeEnhancer(MODELS[name], dtype, twin or level), wave)
                    assert np.array_equal(got, same), (name, level, dtype)


MAGIC = {  # 目标 → 程序的开头：PE，或 Mach-O 与处理器的编号
    "x86_64-windows": b"MZ",
    "aarch64-macos": bytes.fromhex("cffaedfe 0c000001"),
    "x86_64-macos": bytes.fromhex("cffaedfe 07000001"),
}


@pytest.mark.parametrize("target", MAGIC)
def test_programs_for_other_systems_compile(target):
    pytest.importorskip("ziglang")
    data = program.cached_program(target).read_bytes()
    assert data.startswith(MAGIC[target]) and len(data) > 50_000
    assert {*FOREIGN, *MAGIC} == set(program.TARGETS), "每个目标都要编译过"


# ---- wav ----


def chunk(name, body, size=None):
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def fmt(tag, channels, bits, rate=RATE, extensible=False, size=16):
    frame = channels * ((bits + 7) // 8)
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate, rate * frame, frame, bits)
    if extensible:
        guid = bytes.fromhex("000000001000800000aa00389b71")
        head += struct.pack("<HHIH", 22, bits, (1 << channels) - 1, tag) + guid
    return chunk(b"fmt ", head + b"\0" * (size - 16))


def wav(data, form, riff=None, size=None, before=b"", after=b"", mark=b"RIFF"):
    body = b"WAVE" + form + before + chunk(b"data", data, size) + after
    return mark + struct.pack("<I", len(body) if riff is None else riff) + body


def quantize(wave, kind):
    """(N, C) 的 ±1 波形 → 样点的字节，与读回来的浮点。"""
    if kind in ("f4", "f8"):
        data = wave.astype(f"<{kind}")
        return data.tobytes(), data.astype(np.float32)
    bits = {"u1": 8, "i2": 16, "i3": 24, "i4": 32}[kind]
    whole = np.rint(wave.astype(float) * 2 ** (bits - 1)).astype(np.int64)
    read = (whole / 2 ** (bits - 1)).astype(np.float32)
    if kind == "i3":
        return whole.astype("<i4")[..., None].view(np.uint8)[..., :3].tobytes(), read
    return (whole + 128 if kind == "u1" else whole).astype(f"<{kind}").tobytes(), read


def expected(read):
    """各声道分别增强。"""
    enhancer = NativeEnhancer(MODELS[LONG])
    return np.stack([aligned_result(enhancer.fork(), column) for column in read.T], axis=1)


def parse(data):
    """输出的 wav：(fmt 块, 数据)；长度字段要与文件相符。"""
    assert data[:4] == b"RIFF" and data[8:12] == b"WAVE"
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    size = struct.unpack("<I", data[16:20])[0]
    at = 20 + size
    assert data[12:16] == b"fmt " and data[at : at + 4] == b"data"
    length = struct.unpack("<I", data[at + 4 : at + 8])[0]
    assert len(data) == at + 8 + length + length % 2
    return data[12:at], data[at + 8 : at + 8 + length]


TAGS = {"u1": (1, 8), "i2": (1, 16), "i3": (1, 24), "i4": (1, 32), "f4": (3, 32), "f8": (3, 64)}


@pytest.mark.parametrize("kind", TAGS)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_kind_of_samples(program_path, model, tmp_path, kind, channels):
    data, read = quantize(np.clip(noise(3001 * channels).reshape(-1, channels), -0.9, 0.9), kind)
    form = fmt(TAGS[kind][0], channels, TAGS[kind][1], extensible=channels > 1)
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    source.write_bytes(wav(data, form, after=chunk(b"LIST", b"odd")))
    done = run([program_path, model, source, target])
    assert done.returncode == 0 and "注意" not in said(done), said(done)
    out_form, out = parse(target.read_bytes())
    assert out_form == form and len(out) == len(data)
    assert out == quantize(expected(read), kind)[0]
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_python_command_and_program_write_the_same_samples(program_path, tmp_path, capsys):
    """同一个检查点：``python -m lstm_lib enhance`` 与导出之后的程序，写出的样点逐个相同，整数的也是。"""
    import soundfile
    import torch

    from lstm_lib.enhance import irm

    torch.manual_seed(0)
    checkpoint, exported = tmp_path / "网络.safetensors", tmp_path / "网络.lstm"
    irm.save(irm.IRMNetwork(NetworkConfig.for_stft(512, 256, hidden_size=20)).eval(), checkpoint)
    assert main(["export", str(checkpoint), "--to", "bin", "--out", str(exported)]) == 0
    source, ours, theirs = (tmp_path / f"{name}.wav" for name in ("in", "c", "python"))
    for kind, (tag, bits) in TAGS.items():
        data, _ = quantize(np.clip(noise(2 * 9001, scale=0.5).reshape(-1, 2), -1, 0.99), kind)
        source.write_bytes(wav(data, fmt(tag, 2, bits)))
        done = run([program_path, exported, source, ours])
        assert done.returncode == 0, said(done)
        assert main(["enhance", "-q", str(source), str(theirs), "--model", str(checkpoint)]) == 0
        read = "float32" if tag == 3 else "int32"
        np.testing.assert_array_equal(
            soundfile.read(ours, dtype=read)[0], soundfile.read(theirs, dtype=read)[0]
        )


UNKNOWN = [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@pytest.mark.parametrize("size", UNKNOWN)
@pytest.mark.parametrize("piped", [True, False])
def test_streamed_headers_are_read_to_the_end(program_path, model, tmp_path, size, piped):
    data, read = quantize(noise(2000).reshape(-1, 1), "i2")
    riff = 36 if size == 0 else min(size + 36, 0xFFFFFFFF)
    stream = wav(data, fmt(1, 1, 16), riff, size)
    (tmp_path / "in.wav").write_bytes(stream)
    done = run([program_path, model, "-" if piped else tmp_path / "in.wav", tmp_path / "out.wav"], stream)
    assert done.returncode == 0 and "注意" not in said(done), said(done)
    assert parse((tmp_path / "out.wav").read_bytes())[1] == quantize(expected(read), "i2")[0]


@pytest.mark.parametrize("piped", [True, False])
def test_lengths_rounded_to_whole_frames_are_guesses_too(program_path, model, tmp_path, piped):
    """sox 往管道里写时填 0x7ffff000，再取整到每帧字节数的倍数：24 位单声道是 0x7fffefff。"""
    data, read = quantize(noise(3000).reshape(-1, 3), "i3")
    stream = wav(data, fmt(1, 3, 24), 0x7FFFF000 // 9 * 9 + 36, 0x7FFFF000 // 9 * 9)
    (tmp_path / "in.wav").write_bytes(stream)
    done = run([program_path, model, "-" if piped else tmp_path / "in.wav", tmp_path / "out.wav"], stream)
    assert done.returncode == 0 and "注意" not in said(done), said(done)
    assert parse((tmp_path / "out.wav").read_bytes())[1] == quantize(expected(read), "i3")[0]


def test_sound_beyond_the_stated_length_is_not_lost_in_silence(program_path, model, tmp_path):
    """断电之前头里只记了一半：文件读到末尾；管道只能照头里说的，后面还有就要说。"""
    data, read = quantize(noise(2000).reshape(-1, 1), "i2")
    stream, target = wav(data, fmt(1, 1, 16), 2036, 2000), tmp_path / "out.wav"
    (tmp_path / "in.wav").write_bytes(stream)
    done = run([program_path, model, tmp_path / "in.wav", target])
    assert done.returncode == 0 and "比文件头说的长" in said(done)
    assert parse(target.read_bytes())[1] == quantize(expected(read), "i2")[0]
    with (tmp_path / "in.wav").open("rb") as file:  # 标准输入是文件，也读到末尾
        done = subprocess.run(
            [program_path, model, "-", target], stdin=file, capture_output=True, check=False
        )
    assert "比文件头说的长" in said(done) and len(parse(target.read_bytes())[1]) == len(data)
    done = run([program_path, model, "-", target], stream)
    assert done.returncode == 0 and len(parse(target.read_bytes())[1]) == 2000
    assert os.name == "nt" or "后面的没有处理" in said(done)
    harmless = [chunk(b"LIST", b"odd"), b"\0" * 3000, b"TAG" + b"x" * 125, b"1234567", b"LIST\x1c\0\0\0short"]
    harmless += [b"id3\0" + bytes([1] * 50), b"\0\0\0" + chunk(b"LIST", b"even"), chunk(b"abcd", b"x") * 2]
    harmless += [b"\r\n------WebKitFormBoundaryKd93kdls9dkSLdkf--\r\n" * 2]
    for after in harmless:
        whole = wav(data, fmt(1, 1, 16)) + after
        (tmp_path / "in.wav").write_bytes(whole)
        for source in (tmp_path / "in.wav", "-"):
            if source == "-" and not after[:1].isalpha():  # 管道里只看开头是不是块的名字
                continue
            done = run([program_path, model, source, target], whole)
            assert done.returncode == 0 and "注意" not in said(done), (after[:4], said(done))
            assert parse(target.read_bytes())[1] == quantize(expected(read), "i2")[0]
    odd = quantize(noise(1001).reshape(-1, 1), "u1")[0]  # 奇数长，有的程序不补那一字节
    for pad in (b"", b"\0"):
        whole = wav(odd, fmt(1, 1, 8), 1036, 1001).removesuffix(b"\0") + pad + chunk(b"LIST", b"even")
        (tmp_path / "in.wav").write_bytes(whole)
        for source in (tmp_path / "in.wav", "-"):
            done = run([program_path, model, source, target], whole)
            assert "注意" not in said(done) and len(parse(target.read_bytes())[1]) == 1001


@pytest.mark.skipif(os.name == "nt", reason="管道")
def test_a_pipe_kept_open_is_not_waited_for(program_path, model):
    """数据完了就收工：写的那一头不关，也不等；补的那一字节在也一样。"""
    odd = quantize(noise(1001).reshape(-1, 1), "u1")[0]
    with subprocess.Popen(
        [program_path, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdin.write(wav(odd, fmt(1, 1, 8), 1038, 1001))
        process.stdin.flush()
        assert len(process.stdout.read()) > 1001 and process.wait(timeout=60) == 0


@pytest.mark.skipif(os.name == "nt", reason="稀疏文件")
def test_lengths_beyond_four_gigabytes_wrap_around(program_path, model, tmp_path):
    huge = tmp_path / "huge.wav"
    huge.write_bytes(wav(b"", fmt(1, 1, 16), 2036, 2000))
    os.truncate(huge, 44 + (1 << 32) + 2000)
    with subprocess.Popen(
        [program_path, model, huge], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        header = process.stdout.read(44)
        process.kill()
    assert header[40:44] == b"\xff" * 4, "输出的头里还是绕回来的 2000 字节"


def test_headers_met_in_the_wild(program_path, model, tmp_path):
    data, read = quantize(noise(2000).reshape(-1, 1), "i2")
    want = quantize(expected(read), "i2")[0]
    length = struct.pack("<QQQI", 0, len(data), 2000, 0)
    odd_list = chunk(b"LIST", b"x" * 5001)
    forms = {
        "18 字节的 fmt": wav(data, fmt(1, 1, 16, size=18), before=chunk(b"fact", b"\0" * 4)),
        "前面有奇数长的块": wav(data, fmt(1, 1, 16), before=odd_list),
        "RF64": wav(
            data, chunk(b"ds64", length) + fmt(1, 1, 16), 2**32 - 1, 2**32 - 1, b"", odd_list, b"RF64"
        ),
    }
    forms["BW64"] = b"BW64" + forms["RF64"][4:]
    forms["先占位的空 data"] = wav(data, fmt(1, 1, 16), before=chunk(b"data", b""))
    for name, stream in forms.items():
        done = run([program_path, model], stream)  # 标准输入里是 wav，输出也是
        assert done.returncode == 0, (name, said(done))
        assert done.stdout[-len(want) :] == want and done.stdout[:4] == b"RIFF", name
    done = run([program_path, model], wav(data[:-500], fmt(1, 1, 16), size=len(data)))
    assert done.returncode == 0 and "比文件头说的短" in said(done) and "1750 个样点" in said(done)


def test_clipping_is_counted_and_saturates(program_path, tmp_path):
    """掩蔽恒为 3 的网络：输出是输入的三倍。"""
    sizes = LSTMConfig(8, 3)
    silent = LSTM(sizes, {name: np.zeros(shape, np.float32) for name, shape in sizes.shapes().items()})
    head, stft = (np.zeros((9, 3)), np.full(9, 3)), network_file.STFT(16, 8, RATE, 1)
    model = tmp_path / "loud.lstm"
    model.write_bytes(network_file.encode(silent, *head, False, stft))
    data, read = quantize(np.clip(noise(4000, scale=0.2), -1, 0.9), "i2")
    clean = aligned_result(NativeEnhancer(model), read)
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    source.write_bytes(wav(read.astype("<f4").tobytes(), fmt(3, 1, 32)))
    done = run([program_path, model, source, target])
    assert "削平" not in said(done), "浮点不削"
    assert parse(target.read_bytes())[1] == clean.astype("<f4").tobytes() and np.abs(clean).max() > 2
    done = run([program_path, model], data)
    loud = int((np.abs(clean) > 1).sum())
    assert loud > 100 and f"有 {loud} 个样点超过满幅（峰值 {np.abs(clean).max():.2f}）" in said(done)
    want = np.clip(np.rint(clean.astype(float) * 32768), -32768, 32767)
    assert np.array_equal(np.frombuffer(done.stdout, "<i2"), want)


# ---- 消息与退出码 ----

SILENCE = np.zeros(3000, "<i2").tobytes()
REFUSED = {  # 输入文件的字节 → 消息里要有的
    "rate": (wav(SILENCE, fmt(1, 1, 16, 44100)), ["44100 Hz", "只收 16000 Hz", "-ar 16000"]),
    "mulaw": (wav(SILENCE, fmt(7, 1, 8)), ["0x0007", "pcm_s16le"]),
    "flac": (b"fLaC" + bytes(50), ["flac", "只读 wav"]),
    "text": (b"hello, world, this is no sound", ["不是 wav 文件", "--raw"]),
    "big-endian": (wav(SILENCE, fmt(1, 1, 16), mark=b"RIFX"), ["大端"]),
    "cut": (wav(SILENCE, fmt(1, 1, 16))[:30], ["文件头还没完就断了"]),
    "no-data": (wav(SILENCE, fmt(1, 1, 16))[:36], ["没有数据（data）块"]),
    "no-fmt": (wav(SILENCE, b""), ["没有格式（fmt）块"]),
    "contradiction": (wav(SILENCE, fmt(1, 0, 16)), ["自相矛盾"]),
    "half": (wav(SILENCE, fmt(3, 1, 16)), ["16 位浮点"]),
    "empty": (wav(b"", fmt(1, 1, 16), after=chunk(b"LIST", b"abcd")), ["一个样点也没有"]),
    "nan": (
        wav(np.array([0] * 700 + [np.nan], "<f4").tobytes(), fmt(3, 1, 32)),
        ["第 700 个样点", "第 1 声道"],
    ),
    "nothing": (b"", ["是空的"]),
    "mp3": (b"\xff\xf3\x84\xc4" + bytes(50), ["mp3"]),
    "m4a": (b"\0\0\0\x20ftypM4A " + bytes(50), ["m4a"]),
    "avi": (b"RIFF" + bytes(4) + b"AVI " + bytes(50), ["别的 RIFF 文件"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named_and_nothing_is_left(program_path, model, tmp_path, name):
    data, words = REFUSED[name]
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    source.write_bytes(data)
    target.write_bytes(b"old")
    done = run([program_path, model, source, target])
    assert done.returncode == 1 and said(done).startswith("错误："), said(done)
    assert all(word in said(done) for word in [str(source), *words]), said(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.wav"]
    assert target.read_bytes() == b"old"


def test_messages_of_the_program(program_path, model, tmp_path):
    good, v1 = tmp_path / "in.wav", tmp_path / "v1.lstm"
    good.write_bytes(wav(SILENCE, fmt(1, 1, 16)))
    config = LSTMConfig(4, 5)
    v1.write_bytes(LSTM(config, {k: np.ones(s, np.float32) for k, s in config.shapes().items()}).to_bytes())
    plain = tmp_path / "plain.lstm"
    plain.write_bytes(network_file.encode(LSTM.from_bytes(v1.read_bytes())))
    damaged, cut = tmp_path / "damaged.lstm", tmp_path / "cut.lstm"
    broken = bytearray(MODELS[LONG])
    broken[1000] ^= 1
    damaged.write_bytes(broken)
    cut.write_bytes(MODELS[LONG][:5000])
    out = tmp_path / "out.wav"
    cases = [
        ([], 2, ["缺少参数：模型"]),
        ([model, good, out, "多了"], 2, ["不认识的参数：多了"]),
        ([model, "--foo"], 2, ["不认识的选项：--foo"]),
        ([model, "--level"], 2, ["--level 后面要跟一个值"]),
        ([model, "--level", "sse9"], 1, ["sse9", "可用的有：portable"]),
        (["没有.lstm", good, out], 1, ["没有.lstm：不存在"]),
        ([tmp_path, good, out], 1, ["是一个文件夹"]),
        ([good, good, out], 1, ["第 0 字节处，这不是本书的权重文件", "export --to bin"]),
        ([plain, good, out], 1, ["第 56 字节处，这是一个 LSTM 的权重", "export --to bin"]),
        ([v1, good, out], 1, ["第 8 字节处，这是一个 LSTM 的权重"]),
        ([damaged, good, out], 1, ["第 48 字节处，数据区的 CRC-32 不对"]),
        ([cut, good, out], 1, ["第 5000 字节处，文件在这里断了"]),
        ([model, tmp_path / "没有.wav", out], 1, ["没有.wav：不存在"]),
        ([model, tmp_path, out], 1, ["是一个文件夹"]),
        ([model, good, tmp_path], 1, ["是一个已有的文件夹"]),
        ([model, good, good], 1, ["输入与输出是同一个文件"]),
        ([model, good, model], 1, ["模型与输出是同一个文件"]),
        ([model, good, tmp_path / "无" / "x.wav"], 1, ["文件夹不存在"]),
        ([model, good, tmp_path / "x.mp3"], 1, ["扩展名不是 .wav", "--raw"]),
        ([model, good, out, "--float"], 1, ["去掉 --float"]),
        ([model], 1, ["标准输入 里一个样点也没有"]),
    ]
    for arguments, code, words in cases:
        done = run([program_path, *arguments])
        assert done.returncode == code and "错误：" in said(done), (arguments, said(done))
        assert all(word in said(done) for word in words), (arguments, said(done))
        assert not done.stdout
    assert not out.exists() and not [p for p in tmp_path.iterdir() if "tmp" in p.name]
    done = run([program_path, "--help"])
    assert done.returncode == 0 and "arecord" in done.stdout.decode() and "退出码" in done.stdout.decode()
    assert run([program_path, "--version"]).returncode == 0
    done = run([program_path, model], b"fLaC" + bytes(50))  # 管道里的也认得出
    assert done.returncode == 1 and "标准输入 是 flac" in said(done) and "--raw" in said(done)
    assert run([program_path, model, "--raw"], b"fLaC" + bytes(50)).returncode == 0
    done = run([program_path, model, good, tmp_path / "raw.pcm", "--raw"])
    assert done.returncode == 0 and "像是 wav 的文件头" in said(done)
    assert len((tmp_path / "raw.pcm").read_bytes()) == len(good.read_bytes())
    done = run([program_path, model, good, out])
    assert all(word in said(done) for word in ("帧", "中位", "最长", "实时率", "float32", levels()[-1]))
    assert not run([program_path, model, good, out, "-q"]).stderr
    if os.path.exists("/dev/full"):
        done = run([program_path, model, good, "/dev/full", "--raw"])
        assert done.returncode == 1 and "磁盘满了" in said(done)


@pytest.mark.skipif(os.name == "nt", reason="POSIX 的权限、链接与信号")
def test_output_keeps_links_and_permissions(program_path, model, tmp_path):
    good, real, link = (tmp_path / name for name in ("in.wav", "real.wav", "link.wav"))
    good.write_bytes(wav(SILENCE, fmt(1, 1, 16)))
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    assert run([program_path, model, good, link]).returncode == 0
    assert link.is_symlink() and real.read_bytes()[:4] == b"RIFF" and real.stat().st_mode & 0o777 == 0o640


def default_signals():
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def started(command):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # 测试若在后台跑，SIGINT、SIGHUP 是忽略的，子进程会继承（程序尊重 nohup）
    process = subprocess.Popen(
        [str(c) for c in command],
        preexec_fn=default_signals if os.name == "posix" else None,  # noqa: PLW1509
        **pipes,
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):  # 送进去没人读的，丢掉
                pipe.close()


def test_each_hop_comes_out_before_the_next_goes_in(program_path, model):
    config = CONFIGS[LONG]
    hop, ahead = config.hop_length, config.n_fft // config.hop_length - 1
    pcm = (noise(12 * hop) * 32768).astype("<i2")
    got = b""
    with started([program_path, model, "-q"]) as process:
        for k in range(12):
            process.stdin.write(pcm[k * hop : (k + 1) * hop].tobytes())
            process.stdin.flush()
            if k >= ahead:  # 等不到就停在这里，由 started 的闹钟收场
                got += process.stdout.read(2 * hop)
        process.stdin.close()
        got += process.stdout.read()
        assert process.wait() == 0
    want = expected(pcm.astype(np.float32)[:, None] / 32768)[:, 0]
    assert np.array_equal(np.frombuffer(got, "<i2"), np.rint(want.astype(float) * 32768))


def wait_for_file(folder, count=1):
    """等到 ``folder`` 里有 ``count`` 个文件：临时文件出现了，说明正在写。"""
    for _ in range(600):
        if len(list(folder.iterdir())) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("一直没有开始写")


@pytest.mark.skipif(os.name == "nt", reason="POSIX 的权限、链接与信号")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_recording_ends_and_a_conversion_leaves_nothing(program_path, model, tmp_path, number, code):
    """从管道录着，中断就是录完了，已收到的一个不少；处理文件时中断，什么也不留下。"""
    out = tmp_path / "out.wav"
    pcm = (noise(1000) * 32768).astype("<i2")
    with started([program_path, model, "-", out]) as process:
        process.stdin.write(pcm.tobytes() + b"x")  # 最后是半个样点
        process.stdin.flush()
        wait_for_file(tmp_path)
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait() == code and "收到的声音都写完了" in process.stderr.read().decode()
    want = expected(pcm.astype(np.float32)[:, None] / 32768)
    assert parse(out.read_bytes())[1] == quantize(want, "i2")[0]
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
    long = tmp_path / "long.pcm"
    with open(long, "wb") as file:
        file.truncate(4 << 30)  # 稀疏的，不占地方
    with started([program_path, model, long, tmp_path / "out.pcm", "--raw"]) as process:
        wait_for_file(tmp_path, 3)
        process.send_signal(number)
        assert process.wait() == code and process.stderr.read().decode() == "已中断。\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.pcm", "out.wav"]
    with started([program_path, model, "-", tmp_path / "none.wav"]) as process:  # 一个样点也没有收到
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait() == code and process.stderr.read().decode() == "已中断。\n"
    assert not (tmp_path / "none.wav").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX 的权限、链接与信号")
def test_a_reader_that_leaves_stops_the_program_quietly(program_path, model):
    with started([program_path, model]) as process:
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            for _ in range(200):
                process.stdin.write(SILENCE)
            process.stdin.close()
        assert process.wait() == 141
        assert not process.stderr.read(), "下游走了，不必再说什么"


@pytest.mark.skipif(os.name == "nt", reason="POSIX 的权限、链接与信号")
def test_odd_chunks_appending_limits_and_closed_files(program_path, model, tmp_path):
    import resource

    pcm = (noise(1500) * 32768).astype("<i2").tobytes()
    want = run([program_path, model], pcm).stdout
    with started([program_path, model]) as process:  # arecord 一次写多少，与帧移无关
        for start, stop in itertools.pairwise((0, 1, 4, 11, 522, 1035, 1036, 2000, len(pcm))):
            process.stdin.write(pcm[start:stop])
            process.stdin.flush()
            time.sleep(0.01)
        process.stdin.write(b"x")  # 断在一个样点中间
        process.stdin.close()
        assert process.stdout.read() == want and process.wait() == 0
        assert "末尾有 1 字节凑不成一个样点" in process.stderr.read().decode()
    for size in (1, 2, 3, 11, 12, 13, 511, 512, 513):  # 比帧移、比文件头还短的
        done = run([program_path, model], pcm[:size])
        assert len(done.stdout) == size // 2 * 2 and done.returncode == (size < 2), (size, said(done))
    # 以 >> 接在别的后面：文件头不能回头去改
    good, joined = wav(pcm, fmt(1, 1, 16)), tmp_path / "joined"
    joined.write_bytes(b"old")
    for stream in (good, wav(pcm, fmt(1, 1, 16), 0xFFFFFFFF, 0xFFFFFFFF)):
        with open(joined, "ab") as file:
            subprocess.run([program_path, model, "-q"], input=stream, stdout=file, check=True)
    data = joined.read_bytes()
    assert data == b"old" + good[:44] + want + good[:4] + b"\xff" * 4 + good[8:40] + b"\xff" * 4 + want
    # 同样的内容，不是接在后面的，就改
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    source.write_bytes(stream)
    with open(target, "wb") as file:
        subprocess.run([program_path, model, "-q", source], stdout=file, check=True)
    assert target.read_bytes() == good[:44] + want
    target.unlink()
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))}
    done = run([program_path, model, source, target], **limit)
    assert done.returncode == 1 and "超过了文件大小的限制" in said(done)
    assert not target.exists() and len(list(tmp_path.iterdir())) == 2
    for closed, where in (("<&-", "标准输入"), (">&-", "标准输出")):
        done = run(["sh", "-c", f'"$0" "$1" {closed}', program_path, model], pcm)
        assert done.returncode == 1 and f"{where} " in said(done) and "没有打开" in said(done)


# ---- 越界与损坏 ----


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """带着 AddressSanitizer 与 UndefinedBehaviorSanitizer 的程序与 fuzz_model，在一个文件夹里。"""
    import fuzz_model

    folder = tmp_path_factory.mktemp("sanitized")
    try:
        fuzz_model.compile_all(folder)
    except build.NativeBuildError as error:
        pytest.skip(str(error))
    return folder


def test_sanitizers_over_the_whole_chain(sanitized, tmp_path, model_paths):
    command = sanitized / "enhancer"
    check_bits([command], model_paths)
    model = model_paths[LONG]
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    for kind, (tag, bits) in TAGS.items():
        data, _ = quantize(np.clip(noise(2 * 2001).reshape(-1, 2), -0.9, 0.9), kind)
        source.write_bytes(wav(data, fmt(tag, 2, bits)))
        done = run([command, model, source, target])
        assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, said(done)
    for name, (data, _) in REFUSED.items():
        source.write_bytes(data)
        done = run([command, model, source, target])
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, (name, said(done))


def test_damaged_wav_headers_do_no_harm(sanitized, tmp_path, model_paths):
    """文件头里翻几个比特、截断：要么照读，要么一句报错。"""
    rng, heads = np.random.default_rng(0), []
    sound = noise(300).astype("<f4").tobytes()
    heads.append(wav(sound, fmt(3, 1, 32)))
    heads.append(wav(sound, fmt(1, 2, 16, extensible=True), before=chunk(b"LIST", b"odd")))
    heads.append(wav(sound, chunk(b"ds64", bytes(28)) + fmt(1, 1, 24), mark=b"RF64"))
    counts = {0: 0, 1: 0}
    for k in range(150):
        made = bytearray(heads[k % 3])
        for _ in range(rng.integers(1, 4)):
            made[rng.integers(12, 80)] ^= 1 << rng.integers(8)
        if k % 5 == 0:
            del made[rng.integers(len(made)) :]
        done = run([sanitized / "enhancer", model_paths["tiny"]], bytes(made))
        assert done.returncode in counts and "Sanitizer" not in said(done), (bytes(made[:100]), said(done))
        assert "runtime error" not in said(done), (bytes(made[:100]), said(done))
        counts[done.returncode] += 1
    assert min(counts.values()) > 20


def test_damaged_models_are_refused_without_harm(sanitized, tmp_path):
    import fuzz_model

    saved = tmp_path / "fail.lstm"
    done = fuzz_model.fuzz(sanitized, 1, 60000, 600, saved)
    assert done.returncode == 0 and not saved.exists(), done.stderr[-3000:]
    counts = {line.split(None, 1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()[1:]}
    assert len(counts) >= 15 and sum(counts.values()) > 10000, "各种损坏都该碰到过"


# ---- python -m lstm_lib build ----


def test_build_messages(tmp_path, monkeypatch, capsys):
    def says(*arguments, code=1):
        with contextlib.suppress(SystemExit):
            assert main(["build", *map(str, arguments)]) == code
        return capsys.readouterr().err

    for arguments in ((), ("--source", tmp_path, "--target", "native"), ("--source", tmp_path, "--out", "x")):
        with pytest.raises(SystemExit) as stopped:
            main(["build", *map(str, arguments)])
        assert stopped.value.code == 2 and "错误：--" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["build", "--target", "amiga"])
    assert "amiga" in capsys.readouterr().err
    old = tmp_path / "old"
    old.write_bytes(b"old")
    assert "是一个文件" in says("--source", old)
    assert "已有的文件夹" in says("--target", "native", "--out", tmp_path)
    monkeypatch.setattr(program, "compilers", lambda: [])
    assert "pip install ziglang" in says("--target", "native", "--out", old)
    monkeypatch.setattr(program, "compilers", lambda: [["false"]])
    assert "编译 native 的程序失败" in says("--target", "native", "--out", old)
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    text = says("--target", "riscv64-linux", "--out", old)
    assert "riscv64-linux" in text and "pip install ziglang" in text
    assert old.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["old"]


def test_built_program_can_be_run(tmp_path, monkeypatch, capsys):
    """写出来的文件有执行权限，大小说得对；编译器不在这里测。"""
    fake = tmp_path / "cc.py"
    fake.write_text("import sys; open(sys.argv[sys.argv.index('-o') + 1], 'wb').write(b'x' * 2000)")
    monkeypatch.setattr(program, "compilers", lambda: [[sys.executable, str(fake)]])
    out = tmp_path / "深" / "enhancer"
    assert main(["build", "--target", "native", "--out", str(out)]) == 0
    assert "2 KB" in capsys.readouterr().out
    assert os.name == "nt" or out.stat().st_mode & 0o100
