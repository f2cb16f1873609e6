"""``to_ncnn``：写出去再读回来一个比特不差，ncnn 算出来的相同；放不下的拒绝，什么文件也不动。"""

import os
from itertools import product

import numpy as np
import pytest

from lstm_lib import LSTM, files
from lstm_lib.formats import ncnn_bin, ncnn_param, ncnn_run, writers
from lstm_lib.lstm.layouts import LSTMConfig

rng = np.random.default_rng(9)
I, H, STEPS = 4, 5, 7
DIRECTIONS = ("forward", "reverse", "bidirectional")


def normal(*shape):
    return rng.normal(0, 0.5, shape).astype(np.float32)


def make(layers=1, direction="forward", proj_size=0, dtype="float32", options=None, **config):
    config = LSTMConfig(I, H, layers, direction, proj_size=proj_size, dtype=dtype, **config)
    parameters = {k: rng.normal(0, 0.5, s).astype(np.float32) for k, s in config.shapes().items()}
    return LSTM(config, parameters, **(options or {}))


def states(lstm, batch=1):
    config = lstm.config
    rows = config.num_layers * config.num_directions
    return normal(rows, batch, config.output_size), normal(rows, batch, config.hidden_size)


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "我的.param", tmp_path / "我的.bin"


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("proj_size", [0, 2, 9], ids=["没有投影", "投窄", "投宽"])
def test_ncnn_computes_the_same_and_it_reads_back(paths, layers, direction, proj_size):
    for bias, state in product((True, False), ("零", "常量", "输入")):
        lstm = make(layers, direction, proj_size, bias=bias)
        initial = states(lstm)
        if state == "常量":
            lstm = LSTM(lstm.config, lstm.parameters, initial_state=initial)
        assert lstm.to_ncnn(*paths, streaming=state == "输入") == paths
        read = LSTM.from_ncnn(*paths)
        assert (read.config.num_layers, read.config.direction) == (layers, direction)
        for name, value in read.parameters.items():
            assert value.tobytes() == lstm.parameters.get(name, np.zeros_like(value)).tobytes(), name
        runner, x = ncnn_run.NcnnRunner(*paths), normal(STEPS, I)
        for _ in range(2):  # 第二遍：常量的初态没有被 ncnn 改写
            if state == "输入":
                y, last = lstm(x, tuple(a[:, 0] for a in initial))
                got = runner(x, *(a[:, 0] for a in initial))
                wanted = (y, *last)
            else:
                wanted, got = [lstm(x)[0]], [runner(x)]
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_allclose(one.reshape(other.shape), other, rtol=0, atol=1e-5)


def test_the_constant_state_is_in_the_file(paths):
    lstm = make(2, "bidirectional")
    h, c = states(lstm)
    LSTM(lstm.config, lstm.parameters, initial_state=(h, c)).to_ncnn(*paths)
    data = paths[1].read_bytes()
    kept = {b.layer: data[b.offset :][: b.size] for b in ncnn_bin.bin_layout(*paths) if b.label == "data"}
    assert list(kept) == ["initial_h0", "initial_h1", "initial_c0", "initial_c1"]
    assert kept["initial_h1"] == h[2:].tobytes() and kept["initial_c0"] == c[:2].tobytes()


def test_a_zero_state_needs_no_layer(paths):
    lstm = make()
    zeros = tuple(np.zeros_like(a) for a in states(lstm))
    LSTM(lstm.config, lstm.parameters, initial_state=zeros).to_ncnn(*paths)
    assert [layer.type for layer in ncnn_param.read_param(paths[0]).layers] == ["Input", "LSTM"]


def test_a_state_without_a_batch_axis(paths):
    lstm = make()
    h, c = (a[:, 0] for a in states(lstm))
    lstm = LSTM(lstm.config, lstm.parameters, initial_state=(h, c))
    lstm.to_ncnn(*paths)
    x = normal(STEPS, I)
    np.testing.assert_allclose(ncnn_run.NcnnRunner(*paths)(x), lstm(x)[0], rtol=0, atol=1e-5)


def test_a_state_the_caller_must_give_becomes_an_input(paths):
    lstm = make(2)
    lstm.initial_state = "初态由图的输入给出"
    lstm.to_ncnn(*paths)
    assert ncnn_run.NcnnRunner(*paths).inputs == ["in0", "in1", "in2"]


def test_batch_first_stays_behind(paths):
    lstm = make(batch_first=True)
    lstm.to_ncnn(*paths)
    x = normal(1, STEPS, I)
    np.testing.assert_allclose(ncnn_run.NcnnRunner(*paths)(x[0]), lstm(x)[0][0], rtol=0, atol=1e-5)


def test_float64_says_what_the_rounding_costs(paths):
    lstm = make(dtype="float64")
    weight = lstm.parameters["weight_ih_l0"] + 1e-9
    lstm = lstm.with_parameters({"weight_ih_l0": weight})
    with pytest.warns(UserWarning, match=r"float64.*最多差 \d\.\de-0\d") as caught:
        lstm.to_ncnn(*paths)
    assert caught[0].filename == __file__, "警告应指着调用的那一行"
    read = LSTM.from_ncnn(*paths).parameters["weight_ih_l0"]
    assert read.tobytes() == weight.astype(np.float32).tobytes()
    huge = lstm.with_parameters({"bias_l0": np.full(4 * H, 1e300)})
    with pytest.raises(ValueError, match=r"bias_l0.*float32 放不下"):
        huge.to_ncnn(*paths)


REFUSED = [
    ({"options": {"peepholes": normal(1, 3, H)}}, {}, "窥视孔.*peepholes"),
    ({"options": {"clip": 3.0}}, {}, "clip=3.0"),
    ({"options": {"lengths": np.array([3])}}, {}, "lengths"),
    ({"options": {"lengths": "required"}}, {}, "lengths"),
    ({"options": {"initial_state": (normal(1, 2, H), normal(1, 2, H))}}, {}, "2 条一批.*initial_state|initial_state.*2 条"),
    ({"options": {"initial_state": (normal(1, 1, H), normal(1, 1, H))}}, {"streaming": True}, "streaming"),
    ({"options": {"initial_state": (normal(1, 1, H), normal(1, 1, 3))}}, {}, "初态 c"),
    ({"proj_size": H}, {}, "proj_size 与 hidden_size 都是 5"),
]  # fmt: skip


@pytest.mark.parametrize(("built", "given", "words"), REFUSED)
def test_what_ncnn_cannot_hold_is_refused_and_nothing_is_touched(paths, built, given, words):
    for path in paths:
        path.write_text("旧")
    with pytest.raises(ValueError, match=words):
        make(**built).to_ncnn(*paths, **given)
    assert [path.read_text() for path in paths] == ["旧", "旧"]
    assert len(list(paths[0].parent.iterdir())) == 2


def test_the_two_paths_are_checked(paths):
    with pytest.raises(ValueError, match="次序反了"):
        make().to_ncnn(*paths[::-1])
    link = paths[0].with_suffix(".bin")
    link.symlink_to(paths[0])
    with pytest.raises(ValueError, match="两个文件"):
        make().to_ncnn(paths[0], link)
    assert not paths[0].exists()
    with pytest.raises(ValueError, match="得到 str"):
        writers.to_ncnn("不是", *paths)


@pytest.mark.parametrize("old", [True, False], ids=["有旧文件", "没有旧文件"])
def test_a_failure_half_way_leaves_the_old_pair(paths, monkeypatch, old):
    if old:
        make().to_ncnn(*paths)
    before = [path.read_bytes() for path in paths if old]
    replace, done = os.replace, []

    def fail_on_param(source, target):
        if str(target) == str(paths[0]):
            raise OSError("满了")
        done.append(str(target))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail_on_param)
    with pytest.raises(OSError, match="满了"):
        make().to_ncnn(*paths)
    assert done[0] == str(paths[1]), "这一次失败应当发生在 .bin 已经换掉之后"
    assert [path.read_bytes() for path in paths if old] == before
    assert len(list(paths[0].parent.iterdir())) == len(before), "没有留下临时文件"


def test_what_reads_back_wrong_never_appears(paths, monkeypatch):
    """写的程序若有错（这里故意让它把两个门写反），文件不出现。"""
    right = writers._ncnn_layers

    def swapped(lstm):
        for layer in right(lstm):
            yield [np.roll(layer[0], H, axis=1), *layer[1:]]

    monkeypatch.setattr(writers, "_ncnn_layers", swapped)
    with pytest.raises(RuntimeError, match="weight_ih_l0"):
        make().to_ncnn(*paths)
    assert not list(paths[0].parent.iterdir())


def test_a_constant_state_that_reads_back_wrong(paths, monkeypatch):
    lstm = make()
    lstm = LSTM(lstm.config, lstm.parameters, initial_state=states(lstm))
    right = writers._ncnn_model
    monkeypatch.setattr(writers, "_ncnn_model", lambda lstm, io, s: right(lstm, io, (s[0], s[1] + 1)))
    with pytest.raises(RuntimeError, match="初态 c"):
        lstm.to_ncnn(*paths)


def test_atomic_paths_must_differ(tmp_path):
    with pytest.raises(ValueError, match="同一个"), files.atomic_paths(tmp_path / "a", tmp_path / "." / "a"):
        pass
