"""从 Keras 的数组读 LSTM：与按 Keras 的公式手写的对照，装了 Keras 时再与它自己对照；不合的拒绝。"""

import importlib.util
import os

import numpy as np
import pytest

from lstm_lib import LSTM

I, H, BATCH, STEPS = 4, 5, 3, 7
rng = np.random.default_rng(14)


def arrays(bias=True, dtype=np.float32):
    made = [rng.normal(0, 0.5, s).astype(dtype) for s in ((I, 4 * H), (H, 4 * H), (4 * H,))]
    return made if bias else made[:2]


def sigma(z):
    return 1 / (1 + np.exp(-z))


def keras_layer(x, kernel, recurrent_kernel, bias=0.0, go_backwards=False):
    """照 keras/src/layers/rnn/lstm.py 的 ``LSTMCell.call`` 写：门 i f c o，批在前；输出按计算的次序排。"""
    h = c = np.zeros((len(x), H))
    y = []
    for t in reversed(range(x.shape[1])) if go_backwards else range(x.shape[1]):
        z = x[:, t] @ kernel + h @ recurrent_kernel + bias
        z0, z1, z2, z3 = np.split(z, 4, axis=1)
        i, f = sigma(z0), sigma(z1)
        c = f * c + i * np.tanh(z2)
        h = sigma(z3) * np.tanh(c)
        y.append(h)
    return np.stack(y, axis=1), h, c


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.fixture
def x():
    return rng.normal(size=(BATCH, STEPS, I)).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False], ids=["有偏置", "没有偏置"])
@pytest.mark.parametrize("back", [False, True], ids=["正向", "倒着"])
def test_one_layer_follows_the_keras_formula(x, bias, back):
    weights = arrays(bias)
    lstm = LSTM.from_keras(*weights, go_backwards=back)
    assert lstm.config.batch_first and lstm.config.bias == bias
    assert lstm.config.direction == ("reverse" if back else "forward")
    y, h, c = keras_layer(x, *weights, go_backwards=back)
    got, (h1, c1) = lstm(x)
    close(got[:, ::-1] if back else got, y)  # Keras 倒着算，就倒着放
    close(h1[0], h)
    close(c1[0], c)


@pytest.mark.parametrize("bias", [True, False], ids=["有偏置", "没有偏置"])
def test_bidirectional_is_aligned_in_time(x, bias):
    forward, backward = arrays(bias), arrays(bias)
    y, (h, _) = LSTM.from_keras(*forward, backward=backward)(x)
    one, other = keras_layer(x, *forward), keras_layer(x, *backward, go_backwards=True)
    close(y, np.concatenate([one[0], other[0][:, ::-1]], axis=-1))
    close(h, np.stack([one[1], other[1]]))


def test_the_whole_list_is_accepted_too(x):
    weights = arrays()
    close(LSTM.from_keras(weights)(x)[0], keras_layer(x, *weights)[0])
    nested = [a.tolist() for a in weights]
    close(LSTM.from_keras(*nested)(x)[0], keras_layer(x, *weights)[0])


def to_cudnn(kernel, recurrent_kernel, bias):
    """tf_keras/saving/legacy/hdf5_format.py 里从 LSTM 到 CuDNNLSTM 的那个方向。"""
    kernel = np.hstack([k.T.reshape(k.shape, order="C") for k in np.hsplit(kernel, 4)])
    recurrent_kernel = np.hstack([k.T for k in np.hsplit(recurrent_kernel, 4)])
    return kernel, recurrent_kernel, np.tile(0.5 * bias, 2)


def test_the_layout_of_cudnn_lstm_is_undone(x):
    weights = arrays()
    lstm = LSTM.from_keras(*to_cudnn(*weights))
    for name, value in LSTM.from_keras(*weights).parameters.items():
        np.testing.assert_array_equal(lstm.parameters[name], value)
    both = LSTM.from_keras(*to_cudnn(*weights), backward=to_cudnn(*weights))
    np.testing.assert_array_equal(both.parameters["weight_hh_l0_reverse"], weights[1].T)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("f2", "float32"), ("f4", "float32"), ("f8", "float64"), (">f4", "float32")]
)
def test_the_number_type(dtype, expected):
    weights = [a.astype(dtype) for a in arrays()]
    lstm = LSTM.from_keras(*weights)
    assert lstm.config.dtype == expected
    np.testing.assert_array_equal(lstm.parameters["bias_l0"], weights[2].astype(expected))


W, R, B = arrays()
BACK = arrays()


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ((W, R, B), {"recurrent_activation": "hard_sigmoid"}, "recurrent_activation='hard_sigmoid'.*旧版"),
        ((W, R, B), {"activation": "relu"}, "activation='relu'"),
        ((W, R, B), {"activation": None}, "没有激活函数"),
        ((W, R, B), {"activation": "sigmoid"}, "只支持 'tanh'"),
        ((W, R, B), {"recurrent_activation": np.tanh}, "recurrent_activation='tanh'"),
        ((W, R, B), {"backward": BACK, "merge_mode": "sum"}, "merge_mode='sum'"),
        ((W, R, B), {"backward": BACK, "merge_mode": None}, "merge_mode=None"),
        ((W, R, B), {"backward": BACK, "go_backwards": True}, "go_backwards"),
        ((W, R, B), {"backward": BACK[:2]}, "两个方向的 bias 形状不同"),
        ((W, R, B), {"backward": BACK[0]}, "后一半，得到 ndarray"),
        ((W, R, B), {"backward": BACK[:1]}, "后一半，得到 1 个"),
        ((W, R, B), {"backward": [W.T, R, B]}, "反向层的 kernel .*转置"),
        ((W.T, R.T, B), {}, "recurrent_kernel 像是转置过的"),
        ((W.T, R, B), {}, r"kernel 像是转置过的，应是 \(4, 20\)"),
        ((R, W, B), {}, "放反了"),
        ((W[:, :-4], R, B), {}, "kernel 应有 20 列"),
        ((W[:, :15], R[:, :15], B[:15]), {}, "GRU"),
        ((W[:, :5], R[:, :5], B[:5]), {}, "SimpleRNN"),
        ((W[None], R, B), {}, "kernel 应是"),
        ((W[:0], R, B), {}, "kernel 应是"),
        ((W, R, B[:-1]), {}, r"bias 的形状应为 \(20,\)"),
        ((W, R, np.stack([B, B])), {}, r"得到 \(2, 20\)"),
        ((W,), {}, "缺少 recurrent_kernel"),
        ((W, R, B, *BACK), {}, r"backward=w\[3:\]"),
        (([W, R, *BACK[:2]],), {}, r"backward=w\[2:\]"),
        (([W] * 12,), {}, "Keras 1"),
        (([W],), {}, "给了 1 个"),
        ((W + 1j, R, B), {}, "complex"),
        (([[1.0, 2.0], [3.0]], R, B), {}, "变不成"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given, options, words):
    with pytest.raises(ValueError, match=words):
        LSTM.from_keras(*given, **options)


CONFIG = {  # keras.layers.LSTM(5, name="l").get_config()，Keras 3.15
    "name": "l", "trainable": True, "dtype": {"class_name": "DTypePolicy", "config": {"name": "float32"}},
    "return_sequences": False, "return_state": False, "go_backwards": False, "stateful": False,
    "unroll": False, "zero_output_for_mask": False, "units": H, "activation": "tanh",
    "recurrent_activation": "sigmoid", "use_bias": True, "kernel_initializer": {"class_name": "GlorotUniform"},
    "recurrent_initializer": {"class_name": "Orthogonal"}, "bias_initializer": {"class_name": "Zeros"},
    "unit_forget_bias": True, "kernel_regularizer": None, "recurrent_regularizer": None,
    "bias_regularizer": None, "activity_regularizer": None, "kernel_constraint": None,
    "recurrent_constraint": None, "bias_constraint": None, "dropout": 0.0, "recurrent_dropout": 0.0, "seed": None,
}  # fmt: skip


def test_the_whole_config_may_be_copied(x):
    close(LSTM.from_keras(W, R, B, **CONFIG)(x)[0], keras_layer(x, W, R, B)[0])
    back = LSTM.from_keras(W, R, B, **CONFIG | {"go_backwards": True, "name": "别的", "dropout": 0.5})
    assert back.config.direction == "reverse"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": 6}, "units=6：与给的数组不符，数组说的是 5"),
        ({"use_bias": False}, "use_bias=False：与给的数组不符"),
        ({"time_major": True}, "批在前"),
        ({"recurrent_activation": "hard_sigmoid"}, "hard_sigmoid"),
        ({"inner_activation": "hard_sigmoid"}, "inner_activation='hard_sigmoid' 不认识"),
        ({"layer": {}}, r"forward_layer\.get_config"),
    ],
)
def test_what_the_config_says_is_checked(options, words):
    with pytest.raises(ValueError, match=words):
        LSTM.from_keras(W, R, B, **CONFIG | options)


@pytest.fixture(scope="module")
def keras():
    if importlib.util.find_spec("keras") is None:
        pytest.skip("没有装 Keras：pip install keras 之后才与它自己对照")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    return keras


def filled(layer, x):
    """建好层，填上随机的权重，返回它的输出。"""
    layer(x)
    layer.set_weights([rng.normal(0, 0.5, w.shape).astype(np.float32) for w in layer.get_weights()])
    return [np.array(a.detach().cpu() if hasattr(a, "detach") else a) for a in layer(x)]


@pytest.mark.parametrize("bias", [True, False], ids=["有偏置", "没有偏置"])
@pytest.mark.parametrize("back", [False, True], ids=["正向", "倒着"])
def test_against_keras_itself(keras, x, bias, back):
    layer = keras.layers.LSTM(H, use_bias=bias, go_backwards=back, return_sequences=True, return_state=True)
    y, h, c = filled(layer, x)
    got, (h1, c1) = LSTM.from_keras(*layer.get_weights(), **layer.get_config())(x)
    for one, other in ((got[:, ::-1] if back else got, y), (h1[0], h), (c1[0], c)):
        close(one, other)


def test_against_keras_bidirectional(keras, x):
    layer = keras.layers.Bidirectional(keras.layers.LSTM(H, return_sequences=True, return_state=True))
    y, *states = filled(layer, x)
    weights = layer.get_weights()
    config = layer.forward_layer.get_config()
    got, (h, c) = LSTM.from_keras(*weights[:3], backward=weights[3:], **config)(x)
    for one, other in zip((got, h[0], c[0], h[1], c[1]), (y, *states), strict=True):
        close(one, other)
    with pytest.raises(ValueError, match="get_config"):
        LSTM.from_keras(layer)
