import json

import numpy as np
import pytest

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
