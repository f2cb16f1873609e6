"""板子上的小程序 board.c：几层的网络与 torch 相同，收不了的拒绝时说得清楚。"""

import subprocess

import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.formats import network_file
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.native import build, program

FLAGS = ["-std=gnu11", "-O1", "-ffp-contract=off", "-DLEVEL=portable", "-DHAVE_PORTABLE", "-Wno-psabi"]
RANDOM = np.random.default_rng(3)


def compiled(out, *defines):
    sources = [str(build.HERE / name) for name in ("board.c", "kernel.c", "dispatch.c", "model.c")]
    command = [*program.commands("native")[0], *FLAGS, *defines, "-Wall", "-Wextra", "-Werror", *sources]
    build.run([*command, "-o", str(out), *program.libraries("native")])
    return out


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("板子") / "board.exe")


def run(board, path, x):
    return subprocess.run([board, *path], input=x.tobytes(), capture_output=True, check=False)


def save(path, net, outputs, **options):
    lstm = LSTM.from_torch(net)
    width = lstm.config.num_directions * lstm.config.output_size
    weight, bias = RANDOM.normal(size=(outputs, width)), RANDOM.normal(size=outputs)
    network_file.save(path, lstm, weight.astype("f4"), bias.astype("f4"), **options)
    return network_file.load(path)


@pytest.mark.parametrize("inputs, hidden, layers, outputs", [(6, 32, 1, 3), (1, 1, 1, 1), (5, 7, 3, 2)])
def test_the_board_equals_torch(board, tmp_path, inputs, hidden, layers, outputs):
    net = torch.nn.LSTM(inputs, hidden, layers)
    x = RANDOM.normal(size=(50, inputs)).astype("f4")
    for dtype, bound in (("float32", 1e-5), ("int8", 0.2)):
        file = save(tmp_path / f"{dtype}.lstm", net, outputs, dtype=dtype)
        done = run(board, [tmp_path / f"{dtype}.lstm"], x)
        assert done.returncode == 0, done.stderr.decode()
        want = net(torch.from_numpy(x))[0].detach().numpy() @ file.weight.T + file.bias
        got = np.frombuffer(done.stdout, "f4").reshape(50, outputs)
        np.testing.assert_allclose(got, want, atol=bound)


def test_the_sigmoid_is_applied(board, tmp_path):
    net, x = torch.nn.LSTM(2, 4), RANDOM.normal(size=(9, 2)).astype("f4")
    file = save(tmp_path / "a.lstm", net, 3, sigmoid=True)
    want = 1 / (1 + np.exp(-(net(torch.from_numpy(x))[0].detach().numpy() @ file.weight.T + file.bias)))
    got = np.frombuffer(run(board, [tmp_path / "a.lstm"], x).stdout, "f4").reshape(9, 3)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_it_says_how_much_memory_is_used(board, tmp_path):
    save(tmp_path / "a.lstm", torch.nn.LSTM(2, 4, 3), 3)
    said = run(board, [tmp_path / "a.lstm"], np.zeros(2, "f4")).stderr.decode()
    assert f"模型 {(tmp_path / 'a.lstm').stat().st_size}、" in said and "状态 24 个数" in said, said


def test_the_head_takes_raw_samples(tmp_path):
    """一帧 3 × 16 个样点进，六个数与 NumPy 的相同；静止的轴（标准差是 0）也不出无穷。"""
    head, plain = compiled(tmp_path / "head.exe", "-DHEAD"), compiled(tmp_path / "plain.exe")
    save(tmp_path / "a.lstm", torch.nn.LSTM(6, 8), 4)
    raw = RANDOM.normal(0.3, 1, size=(40, 3, 16)).astype("f4")
    raw[5, 1], raw[6] = 0.25, 0
    x = np.concatenate([raw.astype("f8").std(2), np.abs(raw).max(2)], axis=1)
    x = np.log(np.maximum(x, 1e-6)).astype("f4")
    got, want = (
        np.frombuffer(run(binary, [tmp_path / "a.lstm"], data).stdout, "f4").reshape(40, 4)
        for binary, data in ((head, raw), (plain, x))
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    raw[7, 2, 3] = np.nan  # 坏样点不能变成好看的数
    out = np.frombuffer(run(head, [tmp_path / "a.lstm"], raw).stdout, "f4").reshape(40, 4)
    assert np.isfinite(out[:7]).all() and np.isnan(out[7:]).all()
    save(tmp_path / "b.lstm", torch.nn.LSTM(5, 8), 4)
    done = run(head, [tmp_path / "b.lstm"], raw)
    assert done.returncode == 1 and "头算出 6 个数" in done.stderr.decode() and not done.stdout


@pytest.mark.parametrize("threshold, hold", [(0.3, 1), (0.35, 3), (0.35, 7)])
def test_the_tail_reports_what_python_reports(board, tmp_path, threshold, hold):
    tail = compiled(tmp_path / "tail.exe", "-DTAIL", f"-DTHRESHOLD={threshold}f", f"-DHOLD={hold}")
    random = np.random.default_rng(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = LSTM.from_torch(torch.nn.LSTM(2, 4))
    head = random.normal(size=(3, 4)).astype("f4") * 20
    network_file.save(tmp_path / "a.lstm", net, head, np.zeros(3, "f4"))
    x = np.repeat(random.normal(size=(60, 2)) * 3, 10, axis=0).astype("f4")
    z = np.frombuffer(run(board, [tmp_path / "a.lstm"], x).stdout, "f4").reshape(600, 3)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    held, want = np.zeros(3, int), []
    for over in p > threshold:
        held = (held + 1) * over
        on = np.flatnonzero(held[1:] >= hold)
        want.append(on[0] + 1 if len(on) else 0)
    got = np.frombuffer(run(tail, [tmp_path / "a.lstm"], x).stdout, "u1")
    assert got.tolist() == want and len(set(want)) == 3, "没有警报、两种警报，三样都要出现过"


def test_what_it_cannot_run_is_refused(board, tmp_path):
    LSTM.from_torch(torch.nn.LSTM(2, 3)).save(tmp_path / "没有线性层.lstm")
    save(tmp_path / "双向.lstm", torch.nn.LSTM(2, 3, bidirectional=True), 2)
    backward = LSTM.from_torch(torch.nn.LSTM(2, 3)).parameters
    backward = LSTM(LSTMConfig(2, 3, direction="reverse"), {f"{k}_reverse": w for k, w in backward.items()})
    network_file.save(tmp_path / "反向.lstm", backward, np.ones((2, 3), "f4"), None)
    save(tmp_path / "太宽.lstm", torch.nn.LSTM(300, 4), 2)
    sizes = LSTMConfig(2, 2, proj_size=400)  # 投影比隐藏单元宽
    wide = LSTM(sizes, {name: np.zeros(shape, "f4") for name, shape in sizes.shapes().items()})
    network_file.save(tmp_path / "投影太宽.lstm", wide, np.ones((2, 400), "f4"), None)
    save(tmp_path / "太大.lstm", torch.nn.LSTM(200, 120), 2)
    (tmp_path / "断了.lstm").write_bytes((tmp_path / "双向.lstm").read_bytes()[:100])
    (tmp_path / "坏了.lstm").write_bytes(bytes(300))
    wrong = {
        "没有线性层": "只收单向", "双向": "只收单向", "反向": "只收单向",
        "太宽": "太宽", "投影太宽": "太宽", "太大": "模型太大", "断了": "断了", "坏了": "不是本书", "没有这个文件": "读不到",
    }  # fmt: skip
    for name, said in wrong.items():
        done = run(board, [tmp_path / f"{name}.lstm"], np.zeros(400, "f4"))
        assert done.returncode == 1 and said in done.stderr.decode() and not done.stdout, (name, done)
    assert run(board, [], np.zeros(2, "f4")).returncode == 1
