from __future__ import annotations

import numpy as np
import pytest

from autosam_deploy.errors import UsageError
from autosam_deploy.metrics import dice, label_agreement, mean_foreground


def test_dice_by_hand() -> None:
    prediction = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    truth = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
    np.testing.assert_allclose(dice(prediction, truth, num_classes=3), [2 / 3, 2 / 4, 4 / 5])


def test_dice_is_symmetric_and_one_for_equals() -> None:
    first, second = np.random.default_rng(0).integers(0, 4, (2, 5, 6, 7))
    scores = dice(first, second, num_classes=4)
    assert (scores == dice(second, first, num_classes=4)).all()
    assert (scores < 1).all()
    assert (dice(first, first, num_classes=4) == 1).all()


def test_class_in_neither_is_nan_and_in_one_is_zero() -> None:
    prediction, truth = np.array([0, 0, 1]), np.array([0, 0, 2])
    scores = dice(prediction, truth, num_classes=4)
    np.testing.assert_array_equal(scores, [1, 0, 0, np.nan])
    assert mean_foreground(scores) == 0
    assert np.isnan(mean_foreground(np.array([1.0, np.nan])))


@pytest.mark.parametrize("wrong", [3, -1])
def test_values_that_are_no_class(wrong: int) -> None:
    labels = np.array([0, 1, 2])
    with pytest.raises(UsageError, match=rf"got values .*{wrong}.*; expected 0\.\.2"):
        dice(labels, np.array([0, 1, wrong]), num_classes=3)


def test_shapes_that_differ() -> None:
    with pytest.raises(UsageError, match=r"got shapes \(2, 3\) and \(3, 2\)"):
        dice(np.zeros((2, 3)), np.zeros((3, 2)), num_classes=2)


def test_agreement_leaves_near_ties_out() -> None:
    logits = np.zeros((1, 2, 1, 4), np.float32)
    logits[0, 1, 0] = [-1.0, 0.1, -0.1, 2.0]
    labels = np.array([[[0, 0, 1, 0]]], np.uint8)
    found = label_agreement(labels, logits, tie_margin=0.5)
    assert found.ties == pytest.approx(0.5)
    assert found.share == pytest.approx(0.5)  # of the two decided pixels one is wrong
    assert label_agreement(labels, logits, tie_margin=0.0).share == pytest.approx(0.25)
    assert label_agreement(labels, logits, tie_margin=9.0).share == 1.0
