"""The report's conclusions, judged by rows whose predictions are made up."""

import numpy as np
import pytest

from grigri_fast.evaluation import metrics
from grigri_fast.experiments import conclusions, report_2020
from grigri_fast.experiments.conclusions import Conclusion, Results, Verdict
from grigri_fast.experiments.reproduction import RowResult
from grigri_fast.experiments.row_predictions import Predictions, on_the_same

BCE, ADAM, AUGMENTATION, FROZEN, THRESHOLD = range(5)
NUM_IMAGES, NUM_CLASSES = 1200, 14
FREQUENCY_C = np.linspace(0.05, 0.4, NUM_CLASSES)


def predictions(noise: float, seed: int = 0) -> Predictions:
    """Return probabilities that know the labels of the same images, better with less noise."""
    rng = np.random.default_rng(7)
    targets_NC = rng.random((NUM_IMAGES, NUM_CLASSES)) < FREQUENCY_C
    noise_NC = np.random.default_rng([8, seed]).normal(size=targets_NC.shape)
    logits_NC = 4 * targets_NC - 2 + noise * noise_NC
    return Predictions(np.arange(NUM_IMAGES), 1 / (1 + np.exp(-logits_NC)), targets_NC)


def result(name: str, val: float, train: float = 0.0, losses: tuple = (0.3, 0.2)) -> RowResult:
    """Return a finished row whose last model has so much noise on both parts."""
    history = [
        {"epoch": epoch, "train_micro_f1": 0.7, "val_micro_f1": 0.6, "val_loss": loss}
        for epoch, loss in enumerate(losses, start=1)
    ]
    parts = {"val": predictions(val), "train": predictions(train, seed=1)}
    return RowResult(report_2020.row_named(name), "", {"epochs": 2}, history, {}, parts)


def rows(**others: RowResult) -> Results:
    """Return results of all rows the conclusions need, of the same quality, but for some."""
    names = ("bce", "mse", "adam", "onecycle", "augmentation", "resnet34", "frozen")
    return {name: result(name, 2.0, 2.0) for name in names} | others


def judged(which: int, **others: RowResult) -> Conclusion:
    """Return one conclusion of all; the others are not computed."""
    return conclusions._conclusion(conclusions._CLAIMS[which], rows(**others), "imagenet")


def micro_f1(one: Predictions) -> float:
    predicted_NC = one.probabilities_NC >= 0.5
    return float(metrics.micro_f1(metrics.count(predicted_NC, one.targets_NC)))


@pytest.mark.parametrize(
    "noise_mse, verdict",
    [(2.6, Verdict.HOLDS), (2.0, Verdict.OPEN), (1.6, Verdict.FAILS)],
)
def test_bce_against_mse(noise_mse: float, verdict: Verdict) -> None:
    found = judged(BCE, mse=result("mse", noise_mse))
    ours, theirs = micro_f1(predictions(2.0)), micro_f1(predictions(noise_mse))
    assert found.verdict is verdict
    assert found.difference.value == pytest.approx(ours - theirs)
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert f"is {ours:.4f} with BCE and {theirs:.4f} with MSE" in found.sentence
    assert "BCE reached MSE's last score in epoch 1" in found.sentence


def test_a_paired_difference_is_narrower_than_one_of_two_drawings() -> None:
    found = judged(FROZEN, frozen=result("frozen", 2.2)).difference
    # The same noise, a little more of it: what is hard for one is hard for the other.
    assert found.low > 0 and found.high - found.low < 0.015
    other = result("frozen", 2.2)
    other.predictions["val"] = predictions(2.2, seed=3)
    unlike = judged(FROZEN, frozen=other).difference
    assert unlike.high - unlike.low > 1.5 * (found.high - found.low)


@pytest.mark.parametrize(
    "train_adam, verdict",
    [(0.5, Verdict.HOLDS), (2.0, Verdict.OPEN), (3.0, Verdict.FAILS)],
)
def test_adam_overfits_more_than_sgd(train_adam: float, verdict: Verdict) -> None:
    adam = result("adam", 2.0, train_adam, losses=(0.3, 0.2, 0.4))
    found = judged(ADAM, adam=adam)
    gap = micro_f1(predictions(train_adam, seed=1)) - micro_f1(predictions(2.0, seed=1))
    assert found.verdict is verdict and found.difference.value == pytest.approx(gap)
    assert "went up from 0.2000 in epoch 2 to 0.4000 with Adam" in found.sentence
    assert "was lowest at the end (0.2000) with SGD" in found.sentence


@pytest.mark.parametrize(
    "train_augmented, verdict",
    [(2.0, Verdict.HOLDS), (0.7, Verdict.FAILS)],  # all of the gap, and less than half of it
)
def test_augmentation_closes_the_gap(train_augmented: float, verdict: Verdict) -> None:
    plain = result("onecycle", 2.0, 0.5)
    found = judged(
        AUGMENTATION, onecycle=plain, augmentation=result("augmentation", 2.0, train_augmented)
    )
    assert found.verdict is verdict and found.difference.low > 0
    assert "% of the gap is closed" in found.sentence


def test_without_a_gap_none_can_be_closed() -> None:
    found = judged(AUGMENTATION)
    assert found.verdict is Verdict.OPEN and found.sentence.startswith("There is no gap")


@pytest.mark.parametrize("is_calibrated, verdict", [(True, Verdict.HOLDS), (False, Verdict.FAILS)])
def test_one_threshold_or_fourteen(is_calibrated: bool, verdict: Verdict) -> None:
    """Probabilities that leave out how frequent a class is need a threshold for each.

    Of a normal distribution at +-2 with deviation 2, the log-odds are the value itself, and those
    of the frequency on top.
    """
    base = result("resnet34", 2.0)
    val = base.predictions["val"]
    odds_NC = val.probabilities_NC / (1 - val.probabilities_NC)
    if is_calibrated:
        odds_NC = odds_NC * FREQUENCY_C / (1 - FREQUENCY_C)
    base.predictions["val"] = Predictions(val.rows_N, odds_NC / (1 + odds_NC), val.targets_NC)
    found = judged(THRESHOLD, resnet34=base)
    assert found.verdict is verdict
    assert (found.difference.high <= conclusions.MARGIN) == is_calibrated


def test_what_was_not_run_says_so() -> None:
    missing = RowResult(report_2020.row_named("mse"), "no weights", {}, [], {})
    unread = result("adam", 2.0)
    unread.predictions.clear()
    found = conclusions.conclude(rows(mse=missing, adam=unread), "imagenet")
    assert [c.verdict for c in found[:2]] == [Verdict.NOT_RUN] * 2
    assert found[BCE].sentence == "It needs `mse`: no weights." and found[BCE].difference is None
    assert "the same command computes them" in found[ADAM].sentence
    assert all(c.difference is not None for c in found[2:])


def test_of_pretrained_networks_nothing_is_said_without_weights() -> None:
    found = conclusions.conclude(rows(), "none")[FROZEN]
    assert found.verdict is Verdict.OPEN and "--weights none" in found.sentence


def test_the_parts_that_are_scored_are_those_that_are_needed() -> None:
    needed = {name: conclusions.parts_needed(name) for name in report_2020.NAMES}
    assert {name: parts for name, parts in needed.items() if parts} == {
        "bce": ("val", "train"),
        "mse": ("val",),
        "adam": ("val", "train"),
        "onecycle": ("val", "train"),
        "augmentation": ("val", "train"),
        "resnet34": ("val",),
        "frozen": ("val",),
    }


def test_two_models_are_compared_on_the_images_that_both_have() -> None:
    whole = predictions(1.0)
    order = np.random.default_rng(0).permutation(NUM_IMAGES)[5:]
    part = Predictions(order, whole.probabilities_NC[order], whole.targets_NC[order])
    one, other = on_the_same([whole, part])
    assert np.array_equal(one.rows_N, np.sort(order))
    assert np.array_equal(one.rows_N, other.rows_N)
    assert np.array_equal(one.probabilities_NC, other.probabilities_NC)
    assert np.array_equal(one.targets_NC, whole.targets_NC[one.rows_N])
