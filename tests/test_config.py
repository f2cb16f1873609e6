"""网络的配置：取值、JSON、新旧权重文件、与权重矛盾的文件；学习率的走法等于 torch 的 OneCycleLR。"""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lstm_lib.enhance import irm, recipe
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.training import checkpoint

SMALL = NetworkConfig.for_stft(32, 8, hidden_size=5, num_layers=2)


def test_the_books_two_networks():
    assert irm.REPAIRED == NetworkConfig(256, 257, 1, True, 512, 256)
    assert irm.DOCUMENT == replace(irm.REPAIRED, head=False)
    assert NetworkConfig.for_stft() == irm.REPAIRED
    assert NetworkConfig.for_stft(320) == NetworkConfig(160, 161, 1, True, 320, 160)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"n_fft": 511}, "正偶数，得到 511"),
        ({"hop_length": 200}, "整除窗长 512"),
        ({"hop_length": 512}, "不超过它的一半"),
        ({"n_fft": 320, "hop_length": 160}, r"161 个频点，input_size 应是 160.*或 161，得到 256"),
        ({"head": False, "hidden_size": 128}, "应等于频点数 257，得到 128"),
        ({"num_layers": 0}, "num_layers 应大于零"),
        ({"hidden_size": 12.5}, "hidden_size 应是整数"),
        ({"num_layers": True}, "num_layers 应是整数"),
        ({"head": 1}, "head 应是真假"),
    ],
)
def test_wrong_sizes_are_explained(sizes, words):
    with pytest.raises(ValueError, match=words):
        NetworkConfig(**sizes)


def test_json_both_ways_and_broken():
    for config in (irm.REPAIRED, irm.DOCUMENT, SMALL):
        assert NetworkConfig.from_json(config.to_json()) == config
    values = json.loads(SMALL.to_json())
    for text in ("{", "3", "null", json.dumps({**values, "x": 1}), json.dumps({**values, "head": "true"})):
        with pytest.raises(ValueError, match="网络的配置"):
            NetworkConfig.from_json(text)


def test_input_with_and_without_the_first_bin():
    mag = np.arange(2 * 17.0).reshape(2, 17)
    np.testing.assert_array_equal(irm.network_input(mag, SMALL), mag[:, 1:])
    np.testing.assert_array_equal(irm.network_input(mag, replace(SMALL, input_size=17)), mag)
    with pytest.raises(ValueError, match="17 个频点"):
        irm.network_input(mag[:, 1:], SMALL)


def network(config=SMALL):
    torch.manual_seed(0)
    return irm.IRMNetwork(config).eval()


def assert_same(one, two):
    assert one.config == two.config and not two.training
    for name, tensor in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], tensor), name


def test_every_weight_file_carries_the_config(tmp_path):
    saved = network()
    irm.save(saved, tmp_path / "a.safetensors")
    assert_same(saved, irm.load(tmp_path / "a.safetensors"))
    state = {"settings": {}, "config": SMALL.to_json(), "network": saved.state_dict()}
    checkpoint.save(tmp_path, state)
    assert_same(saved, checkpoint.load_network(tmp_path / "last.pt"))


@pytest.mark.parametrize("config", [irm.REPAIRED, irm.DOCUMENT])
def test_files_of_before_the_config_still_load(tmp_path, config):
    old, repaired = network(config), json.dumps(config.head)
    save_file(old.state_dict(), tmp_path / "a.safetensors", {"repaired": repaired, "history": "{}"})
    assert_same(old, irm.load(tmp_path / "a.safetensors"))
    checkpoint.save(tmp_path, {"settings": {"repaired": config.head}, "network": old.state_dict()})
    assert_same(old, checkpoint.load_network(tmp_path / "last.pt"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(SMALL, hidden_size=6), r"mask.weight_ih_l0 应是 \(24, 16\)，文件里是 \(20, 16\)"),
        (replace(SMALL, num_layers=10**9), "权重是 2 层"),
        (replace(SMALL, head=False, hidden_size=17), "对不上"),
        (irm.DOCUMENT, "对不上"),
    ],
)
def test_weights_that_contradict_the_config_are_refused(tmp_path, config, words):
    weights, path = network().state_dict(), tmp_path / "矛盾.safetensors"
    save_file(weights, path, {"config": config.to_json()})
    with pytest.raises(ValueError, match=f"矛盾.safetensors.*{words}"):
        irm.load(path)
    checkpoint.save(tmp_path, {"settings": {}, "config": config.to_json(), "network": weights})
    with pytest.raises(checkpoint.CheckpointError, match=rf"last\.pt.*{words}"):
        checkpoint.load_network(tmp_path / "last.pt")


def test_a_broken_config_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in ({"config": "{"}, {"config": "{}"}, {"repaired": "maybe"}):
        save_file(network().state_dict(), path, metadata)
        with pytest.raises(ValueError, match=r"a\.safetensors 里网络的配置不能用"):
            irm.load(path)
    checkpoint.save(tmp_path, {"settings": {}, "network": network().state_dict()})
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt"):
        checkpoint.load_network(tmp_path / "last.pt")


# ---- 学习率 ----


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 19, 21, 40, 60, 600, 3000])
def test_schedule_equals_one_cycle_bit_for_bit(steps):
    peak = 4e-3
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert recipe.one_cycle(step, steps, peak) == (group["lr"], group["betas"][0]), step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # 没有先走 optimizer.step
            schedule.step()


def test_schedule_of_twenty_steps_is_between_its_neighbours():
    """升温段恰好是一步：torch 除以零，这里接得上。"""
    for step in range(19):
        rates = [recipe.one_cycle(step, steps, 1.0)[0] for steps in (19, 20, 21)]
        assert all(np.isfinite(rates))
        if step:  # 21 步的头一步还在升
            assert rates[0] <= rates[1] <= rates[2]
    assert recipe.one_cycle(0, 20, 1.0) == (1.0, 0.85)


def test_segments_of_the_recipe_are_whole_hops():
    assert recipe.Recipe().length == 62 * 256
    assert recipe.Recipe(network=NetworkConfig.for_stft(320)).length == 99 * 160
    assert recipe.Recipe(network=NetworkConfig.for_stft(2**16)).length == 2**15
