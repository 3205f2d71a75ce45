import json

import numpy as np
import pytest

from grigri_fast.errors import GrigriError
from grigri_fast.evaluation import evaluator, metrics, thresholds
from grigri_fast.evaluation.evaluator import AT_HALF, CROSS_FITTED, TUNED
from grigri_fast.runtime import files

NAMES = ["cat", "dog", "sky"]


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that know something, and 0/1 targets."""
    rng = np.random.default_rng(0)
    targets_NC = (rng.random((80, 3)) < 0.3).astype(np.float32)
    return np.clip(0.3 * targets_NC + 0.6 * rng.random((80, 3)), 0, 1), targets_NC


def micro_f1(predicted_NC: np.ndarray, targets_NC: np.ndarray) -> float:
    return float(metrics.micro_f1(metrics.count(predicted_NC, targets_NC)))


@pytest.mark.parametrize("threshold", ["auto", "per-class"])
def test_tuned_thresholds_are_scored_in_three_ways(case, threshold: str) -> None:
    probabilities_NC, targets_NC = case
    found = evaluator.score(probabilities_NC, targets_NC, NAMES, threshold)
    each = threshold == "per-class"
    tune = thresholds.best_f1_thresholds if each else thresholds.best_f1_threshold
    chosen = tune(probabilities_NC, targets_NC)
    fitted_NC = thresholds.cross_fit(tune, probabilities_NC, targets_NC.astype(bool))
    assert found.at_half.micro_f1.value == micro_f1(probabilities_NC >= 0.5, targets_NC)
    assert found.tuned.micro_f1.value == micro_f1(probabilities_NC >= chosen, targets_NC)
    assert found.cross_fitted.micro_f1.value == micro_f1(fitted_NC, targets_NC)
    assert found.at_threshold is None and found.honest is found.cross_fitted
    assert list(found.by_name()) == [AT_HALF, TUNED, CROSS_FITTED]
    assert np.array_equal(found.thresholds, chosen)
    f1_C = metrics.f1(metrics.count(fitted_NC, targets_NC))
    assert [of_class.f1 for of_class in found.per_class] == f1_C.tolist()


@pytest.mark.parametrize("threshold, names", [(0.5, [AT_HALF]), (0.25, [AT_HALF, "at 0.25"])])
def test_a_threshold_that_is_given_is_scored_alone(case, threshold: float, names: list) -> None:
    probabilities_NC, targets_NC = case
    found = evaluator.score(probabilities_NC, targets_NC, NAMES, threshold)
    assert list(found.by_name()) == names and found.honest is found.by_name()[names[-1]]
    assert found.honest.micro_f1.value == micro_f1(probabilities_NC >= threshold, targets_NC)
    assert (found.thresholds, found.threshold_source) == (threshold, "given")


def test_the_summary_is_a_part_of_what_eval_prints(case) -> None:
    found = evaluator.score(*case, NAMES, "auto")
    printed = json.loads(files.to_json(found.to_json()))
    assert printed["per_class"][0]["name"] == "cat"
    summary = json.loads(files.to_json(found.summary()))
    assert summary["scores"] == printed["scores"]
    assert summary["threshold"] == printed["thresholds"] and summary["num_images"] == 80


def test_unknown_labels_count_nowhere(case) -> None:
    """Whatever the model says of them, the scores are the same; and they are those of the rest."""
    probabilities_NC, targets_NC = case
    unknown_NC = np.random.default_rng(1).random((80, 3)) < 0.3
    targets_NC = targets_NC * ~unknown_NC
    found, other = (
        evaluator.score(p, targets_NC, NAMES, "per-class", unknown_NC=unknown_NC)
        for p in (probabilities_NC, np.where(unknown_NC, 1 - probabilities_NC, probabilities_NC))
    )
    assert found == other and found.num_unknown == unknown_NC.sum()
    known = ~unknown_NC[:, 0]
    alone = probabilities_NC[known, :1], targets_NC[known, :1]
    ap = metrics.average_precision(*alone)[0]
    assert found.per_class[0].average_precision == pytest.approx(ap)
    assert found.per_class[0].threshold == thresholds.best_f1_threshold(*alone)
    nothing = evaluator.score(*case, NAMES, "auto", unknown_NC=np.zeros((80, 3), dtype=bool))
    assert nothing == evaluator.score(*case, NAMES, "auto")


def test_a_class_without_positives_is_named_and_left_out(case) -> None:
    probabilities_NC, targets_NC = case
    targets_NC[:, 1] = 0
    found = evaluator.score(probabilities_NC, targets_NC, NAMES, 0.5)
    assert found.absent == ["dog"] and np.isnan(found.per_class[1].f1)
    f1_C = metrics.f1(metrics.count(probabilities_NC >= 0.5, targets_NC))
    assert found.at_half.macro_f1.value == pytest.approx(f1_C[[0, 2]].mean())
    assert found.remarks == ["macro-F1 and mAP are of 2 classes; no image here has dog"]
    assert found.to_json()["absent"] == ["dog"] == found.summary()["absent"]


def test_what_has_no_interval_says_why(case) -> None:
    probabilities_NC, targets_NC = case
    targets_NC[5:] = 0
    targets_NC[0] = 1
    found = evaluator.score(probabilities_NC, targets_NC, NAMES, 0.5)
    assert np.isnan([found.at_half.mAP.low, found.at_half.macro_f1.high]).all()
    assert found.at_half.micro_f1.low <= found.at_half.micro_f1.value
    mean = targets_NC.sum() / 3
    assert found.remarks == [
        f"macro-F1 and mAP have no interval: a class has {mean:.1f} images on average, and it"
        f" takes 5"
    ]


@pytest.mark.parametrize("exposure", ["seen", "chosen", "unknown"])
def test_scores_of_what_may_have_been_seen_are_not_honest(case, exposure: str) -> None:
    found = evaluator.score(*case, NAMES, "auto", exposure=exposure)
    assert found.shown is found.cross_fitted and found.to_json()["exposure"] == exposure
    with pytest.raises(GrigriError, match="these scores are not honest"):
        _ = found.honest
