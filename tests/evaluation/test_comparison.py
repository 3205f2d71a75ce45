import numpy as np
import pytest

from grigri_fast.evaluation import comparison, evaluator


def case(seed: int = 0, num_images: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities of a poor and of a good model, and targets."""
    rng = np.random.default_rng(seed)
    targets_NC = rng.random((num_images, 3)) < (0.1, 0.3, 0.5)
    noise_NC = rng.normal(size=(num_images, 3))
    poor, good = (1 / (1 + np.exp(-noise_NC - far * (targets_NC - 0.5))) for far in (1, 3))
    return poor, good, targets_NC


def test_scores_are_those_of_an_evaluation() -> None:
    poor, good, targets_NC = case()
    for probabilities_NC, found in zip(
        (poor, good), comparison.compare([poor, good], targets_NC), strict=True
    ):
        evaluation = evaluator.score(probabilities_NC, targets_NC, ["a", "b", "c"], "auto")
        assert found.scores == evaluation.cross_fitted
        assert found.f1_C.tolist() == [c.f1 for c in evaluation.per_class]
        assert found.average_precision_C.tolist() == [
            c.average_precision for c in evaluation.per_class
        ]


def test_a_difference_is_paired() -> None:
    """Both models get the same images of a replicate: the difference varies less than a score."""
    poor, good, targets_NC = case()
    first, second = comparison.compare([poor, good], targets_NC)
    for name, difference in second.differences.items():
        of_first, of_second = (getattr(one.scores, name) for one in (first, second))
        assert difference.value == pytest.approx(of_second.value - of_first.value)
        assert 0 < difference.low < difference.value < difference.high
    same = comparison.compare([poor, poor], targets_NC)[1]
    for interval in (*same.differences.values(), *same.f1_differences):
        assert (interval.low, interval.value, interval.high) == (0, 0, 0)
    a_little_better = comparison.compare([poor, poor + 0.05 * (targets_NC - 0.5)], targets_NC)[1]
    score, difference = a_little_better.scores.mAP, a_little_better.differences["mAP"]
    assert difference.high - difference.low < (score.high - score.low) / 3


def test_by_class_a_difference_has_the_sign_and_the_interval_of_that_class() -> None:
    poor, good, targets_NC = case()
    mixed = np.stack([good[:, 0], poor[:, 1], 1 - good[:, 2]], axis=1)
    worse = comparison.compare([poor, mixed], targets_NC)[1]
    up, same, down = worse.average_precision_differences
    assert up.low > 0 and down.high < 0 and (same.low, same.high) == (0, 0)


def test_labels_that_are_not_known_count_nowhere() -> None:
    poor, good, targets_NC = case()
    unknown_NC = np.random.default_rng(1).random(targets_NC.shape) < 0.2
    said = comparison.compare([poor, good], targets_NC & ~unknown_NC, unknown_NC)
    changed = [np.where(unknown_NC, 1 - p, p) for p in (poor, good)]
    again = comparison.compare(changed, targets_NC & ~unknown_NC, unknown_NC)
    assert [one.scores for one in said] == [one.scores for one in again]
    assert said[1].differences == again[1].differences
    won, lost = comparison.changed_sides(poor > 0.5, good > 0.5, targets_NC, unknown_NC)
    assert not ((won | lost) & unknown_NC).any()


def test_a_class_without_positives_has_no_score_and_no_difference() -> None:
    poor, good, targets_NC = case()
    targets_NC[:, 0] = False
    second = comparison.compare([poor, good], targets_NC)[1]
    assert np.isnan(second.f1_C[0]) and np.isnan(second.average_precision_C[0])
    for difference in (second.f1_differences[0], second.average_precision_differences[0]):
        assert np.isnan([difference.value, difference.low, difference.high]).all()
    assert second.differences["micro_f1"].low > 0


def test_sides_are_changed_where_one_is_right_and_the_other_wrong() -> None:
    first = np.array([[1, 1], [0, 1], [0, 0]], dtype=bool)
    other = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    targets = np.array([[0, 1], [1, 1], [0, 0]])
    won, lost = comparison.changed_sides(first, other, targets)
    assert np.argwhere(won).tolist() == [[1, 0]]
    assert np.argwhere(lost).tolist() == [[0, 1], [2, 1]]
