"""流式增强：块怎么切都一样、与整段一样、延迟数得清、坏输入不毒化状态。"""

import numpy as np
import pytest
import torch

from lstm_lib.engines import mask_step
from lstm_lib.enhance import irm
from lstm_lib.enhance.audio import istft, stft
from lstm_lib.enhance.config import NetworkConfig
from lstm_lib.enhance.streaming import AnyRateEnhancer, StreamingEnhancer

LENGTHS = [0, 1, 255, 256, 257, 511, 512, 513, 4000]
BLOCKS = [1, 160, 255, 256, 257, 512, 5000]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return irm.IRMNetwork().eval()  # 权重随机：对得上与否和训练无关


@pytest.fixture(scope="module")
def step(network):
    return mask_step(network)


def noise(length, seed=0):
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def identity(x, state):
    return np.ones(257, np.float32), state


def running_mean(x, state):
    """有记忆的掩蔽函数：状态错一点，输出就错一片。"""
    state = x if state is None else 0.9 * state + 0.1 * x
    return np.append(np.float32(0.5), state / (1 + state)), state


def in_blocks(step, wave, block, config=irm.REPAIRED):
    enhancer = StreamingEnhancer(step, config)
    pieces = [enhancer.process(wave[i : i + block]) for i in range(0, len(wave), block)]
    return np.concatenate([*pieces, enhancer.flush()])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("size", [(512, 256), (320, 160), (512, 128)])
def test_any_block_size_gives_the_same_bits_and_equals_whole_utterance(length, size):
    wave = noise(length)
    spectrum = stft(wave, *size)
    state, mask = None, []
    for frame in spectrum:
        m, state = running_mean(np.abs(frame[1:]), state)
        mask.append(m)
    expected = istft(spectrum * np.array(mask), length, *size)
    for block in BLOCKS:
        output = in_blocks(running_mean, wave, block, NetworkConfig.for_stft(*size))
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, expected, err_msg=f"块长 {block}")


def test_network_in_blocks_equals_whole_utterance_by_torch(network, step):
    wave = 0.1 * noise(16000)
    expected = irm.enhance(network, wave)
    first = in_blocks(step, wave, 16000)
    assert np.abs(first - expected).max() < 1e-6
    for block in (1, 37, 300):
        np.testing.assert_array_equal(in_blocks(step, wave, block), first)


@pytest.mark.parametrize("config", [
    NetworkConfig.for_stft(320, num_layers=2, hidden_size=128),
    NetworkConfig.for_stft(512, 128, hidden_size=40),
    NetworkConfig.for_stft(320, input_size=161, head=False),
])  # fmt: skip
def test_other_networks_in_blocks_equal_the_whole_utterance(config):
    torch.manual_seed(0)
    network, wave = irm.IRMNetwork(config).eval(), 0.1 * noise(8000)
    step, expected = mask_step(network), irm.enhance(network, wave)
    for block in (8000, 37):
        assert np.abs(in_blocks(step, wave, block, config) - expected).max() < 1e-6


def test_a_mask_of_the_wrong_width_is_explained():
    step = mask_step(irm.IRMNetwork(NetworkConfig.for_stft(512, hidden_size=8)))
    for given in (step, lambda x, state: (np.float32(0.5), state)):
        with pytest.raises(ValueError, match=r"掩蔽函数给出的形状|输入 x"):
            StreamingEnhancer(given, NetworkConfig.for_stft(320))(noise(1000))
    with pytest.raises(ValueError, match=r"形状是 \(257,\).*network.config"):
        StreamingEnhancer(lambda x, state: (np.ones(257), state), NetworkConfig.for_stft(320))(noise(1000))


def test_calling_on_a_whole_wave_and_reuse_after_flush(step):
    enhancer = StreamingEnhancer(step)
    wave = noise(3000)
    first = enhancer(wave)
    np.testing.assert_array_equal(enhancer(wave), first)
    enhancer.process(wave[:1234])
    enhancer.reset()
    assert len(enhancer.flush()) == 0
    np.testing.assert_array_equal(enhancer(wave), first)


def test_two_streams_share_one_step(step):
    a, b = noise(2000, 1), noise(2000, 2)
    left, right = StreamingEnhancer(step), StreamingEnhancer(step)
    outputs = [[], []]
    for i in range(0, 2000, 100):
        outputs[0].append(left.process(a[i : i + 100]))
        outputs[1].append(right.process(b[i : i + 100]))
    np.testing.assert_array_equal(np.concatenate([*outputs[0], left.flush()]), in_blocks(step, a, 2000))
    np.testing.assert_array_equal(np.concatenate([*outputs[1], right.flush()]), in_blocks(step, b, 2000))


@pytest.mark.parametrize("size", [(512, 256), (512, 128), (320, 160)])
def test_latency_is_what_it_says(size):
    n_fft, hop = size
    enhancer = StreamingEnhancer(lambda x, state: (np.ones(len(x) + 1), state), NetworkConfig.for_stft(*size))
    delays, emitted = [], 0
    for received, sample in enumerate(noise(3000), start=1):
        count = len(enhancer.process(np.array([sample])))
        delays += [received - position for position in range(emitted, emitted + count)]
        emitted += count
    assert max(delays) == enhancer.latency == n_fft
    assert min(delays) == n_fft - hop + 1
    assert StreamingEnhancer.latency == 512


def test_does_not_keep_or_change_the_callers_block(step):
    enhancer = StreamingEnhancer(step)
    block = noise(300)
    before = block.copy()
    first = enhancer.process(block)
    np.testing.assert_array_equal(block, before)
    block[:] = 7  # 调用者常常重用同一块缓冲区
    kept = first.copy()
    rest = [enhancer.process(noise(700, 3)), enhancer.flush()]
    whole = np.concatenate([before, noise(700, 3)])
    np.testing.assert_array_equal(np.concatenate([first, *rest]), in_blocks(step, whole, 1000))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "bad", [np.array([0.0, np.nan]), np.array([np.inf]), np.zeros((4, 2)), np.zeros(4, int)]
)
def test_a_refused_block_leaves_the_state_alone(step, bad):
    wave = noise(2000)
    enhancer = StreamingEnhancer(step)
    first = enhancer.process(wave[:1000])
    with pytest.raises(ValueError, match="block"):
        enhancer.process(bad)
    output = np.concatenate([first, enhancer.process(wave[1000:]), enhancer.flush()])
    np.testing.assert_array_equal(output, in_blocks(step, wave, 2000))


def test_silence_in_silence_out(step):
    assert not StreamingEnhancer(step)(np.zeros(5000, np.float32)).any()


@pytest.mark.parametrize("level", [1e-30, 1e-6, 1e4])
def test_extreme_levels_stay_finite(step, level):
    output = StreamingEnhancer(step)(noise(5000) * np.float32(level))
    assert np.isfinite(output).all()
    assert np.abs(output).max() <= 10 * level


@pytest.mark.parametrize("rate", [7999, 8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_keeps_length_time_and_channels(rate, channels):
    length = 2 * rate + 13
    n = np.arange(length)[:, None]
    wave = (0.5 * np.sin(2 * np.pi * (200 + 50 * np.arange(channels)) * n / rate)).astype(np.float32)
    enhancer = AnyRateEnhancer(identity, rate, channels)
    pieces = [enhancer.process(wave[i : i + 1000]) for i in range(0, length, 1000)]
    output = np.concatenate([*pieces, enhancer.flush()])
    assert output.shape == wave.shape
    middle = slice(rate // 10, -rate // 10)  # 两头有重采样滤波器的过渡
    assert np.abs(output[middle] - wave[middle]).max() < 1e-4


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_any_rate_with_a_handful_of_samples(length):
    enhancer = AnyRateEnhancer(identity, 48000, 2)
    output = np.concatenate([enhancer.process(np.ones((length, 2))), enhancer.flush()])
    assert output.shape == (length, 2)
    assert np.isfinite(output).all()


def test_any_rate_refuses_a_wrong_channel_count():
    with pytest.raises(ValueError, match="形状"):
        AnyRateEnhancer(identity, 48000, 2).process(np.zeros((10, 3)))


def test_latency_is_the_longest_wait_not_the_first():
    """1000 Hz 时两个重采样器的节拍要过十几秒才最不凑巧：真的一个个样点地送，等得最久的就是 latency。"""
    enhancer = AnyRateEnhancer(identity, 1000, 1)
    received = emitted = worst = 0
    for _ in range(17000):
        received, before = received + 1, emitted
        emitted += len(enhancer.process(np.zeros((1, 1), np.float32)))
        if emitted > before:
            worst = max(worst, received - before)
    assert worst == enhancer.latency > 1000


def test_any_rate_takes_what_it_lets_in():
    """门口放进来的，重采样之后略大一点也要走得下去。"""
    enhancer = AnyRateEnhancer(identity, 44100, 1)
    loud = np.where(np.arange(44100) // 50 % 2, 0.999e12, -0.999e12).astype(np.float32)[:, None]
    assert np.isfinite(enhancer.process(loud)).all() and np.isfinite(enhancer.flush()).all()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_any_rate_refuses_a_nan_and_goes_on_as_if_it_had_not_come(rate):
    """坏的一块当场说，指的是送进来的样点；各声道、重采样的滤波器都没有往前走。"""
    rng, enhancers = np.random.default_rng(0), [AnyRateEnhancer(identity, rate, 2) for _ in range(2)]
    for number in range(30):
        block = rng.uniform(-0.5, 0.5, (rate // 100, 2)).astype(np.float32)
        if number % 10 == 3:
            bad = block.copy()
            bad[7, 1] = (np.nan, np.inf, -1e16)[number // 10]
            with pytest.raises(ValueError, match="第 7 个样点"):
                enhancers[0].process(bad)
        outputs = [enhancer.process(block) for enhancer in enhancers]
        np.testing.assert_array_equal(*outputs)
    np.testing.assert_array_equal(*(enhancer.flush() for enhancer in enhancers))
