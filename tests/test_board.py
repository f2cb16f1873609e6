"""板子上的小程序 board.c：几层的网络与 torch 相同，收不了的拒绝时说得清楚。"""

import subprocess

import numpy as np
import pytest
import torch

from lstm_lib import LSTM
from lstm_lib.formats import network_file
from lstm_lib.native import build, program

FLAGS = ["-std=gnu11", "-O1", "-ffp-contract=off", "-DLEVEL=portable", "-DHAVE_PORTABLE", "-Wno-psabi"]
RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    out = tmp_path_factory.mktemp("板子") / "board.exe"
    sources = [str(build.HERE / name) for name in ("board.c", "kernel.c", "dispatch.c", "model.c")]
    command = [*program.commands("native")[0], *FLAGS, "-Wall", "-Wextra", "-Werror", *sources]
    build.run([*command, "-o", str(out), *program.libraries("native")])
    return out


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


def test_what_it_cannot_run_is_refused(board, tmp_path):
    LSTM.from_torch(torch.nn.LSTM(2, 3)).save(tmp_path / "没有线性层.lstm")
    save(tmp_path / "双向.lstm", torch.nn.LSTM(2, 3, bidirectional=True), 2)
    save(tmp_path / "太宽.lstm", torch.nn.LSTM(300, 4), 2)
    save(tmp_path / "太大.lstm", torch.nn.LSTM(200, 120), 2)
    (tmp_path / "断了.lstm").write_bytes((tmp_path / "双向.lstm").read_bytes()[:100])
    (tmp_path / "坏了.lstm").write_bytes(bytes(300))
    wrong = {
        "没有线性层": "只收单向", "双向": "只收单向", "太宽": "太宽", "太大": "模型太大", "断了": "断了", "坏了": "不是本书",
        "没有这个文件": "读不到",
    }  # fmt: skip
    for name, said in wrong.items():
        done = run(board, [tmp_path / f"{name}.lstm"], np.zeros(400, "f4"))
        assert done.returncode == 1 and said in done.stderr.decode() and not done.stdout, (name, done)
    assert run(board, [], np.zeros(2, "f4")).returncode == 1
