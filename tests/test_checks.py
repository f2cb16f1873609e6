"""章里的 ``check``：该过的过，该拦的拦，什么也没查的不让过。"""

import numpy as np
import pytest
import torch

from lstm_lib.book.checks import check


@pytest.mark.parametrize(
    "got",
    [0.5, np.float32(-0.5), [0.1, -0.5], np.full((2, 3), -0.5), torch.full((2,), 0.5, requires_grad=True)],
)
def test_within_the_bound_including_its_edge(got):
    check(got, 0.5, "看 1.1 节")


@pytest.mark.parametrize(
    ("got", "words"), [([0.1, -0.6], "最大差 0.6，超过了 0.5。看 1.1 节"), ([0, np.nan], "NaN")]
)
def test_beyond_the_bound_says_how_far_and_where(got, words):
    with pytest.raises(AssertionError, match=words):
        check(got, 0.5, "看 1.1 节")


@pytest.mark.parametrize(
    ("got", "bound"), [([], 1), (np.zeros((0, 3)), 1), (0, -1), (0, np.nan), (0, np.inf)]
)
def test_a_check_that_cannot_fail_is_refused(got, bound):
    with pytest.raises(ValueError):
        check(got, bound, "看 1.1 节")
