import warnings

import numpy as np
import pytest
from simple_scores import simple_average_precision
from sklearn import metrics as sk

from grigri_fast.evaluation import bootstrap, metrics, thresholds
from grigri_fast.evaluation.metrics import Counts


def test_per_class_scores_equal_scikit_learns(case) -> None:
    scores_NC, targets_NC = case
    predicted_NC = scores_NC >= 0.5
    found = metrics.count(predicted_NC, targets_NC)
    for c in range(targets_NC.shape[1]):
        y, p = targets_NC[:, c], predicted_NC[:, c]
        tn, fp, fn, tp = sk.confusion_matrix(y, p, labels=[False, True]).ravel()
        assert (found.tp[c], found.fp[c], found.fn[c]) == (tp, fp, fn)
        assert tn == len(y) - found.tp[c] - found.fp[c] - found.fn[c]
        for ours, theirs in (
            (metrics.precision, sk.precision_score),
            (metrics.recall, sk.recall_score),
            (metrics.f1, sk.f1_score),
        ):
            assert ours(found)[c] == pytest.approx(theirs(y, p, zero_division=0), abs=1e-15)


def test_scores_of_all_classes_equal_scikit_learns(case) -> None:
    scores_NC, targets_NC = case
    predicted_NC = scores_NC >= 0.5
    found = metrics.count(predicted_NC, targets_NC)
    # A single column would be read as a binary problem, whose average means something else. A class
    # without positives, whose F1 scikit-learn sets to 0, is no part of our mean.
    there = np.flatnonzero(targets_NC.any(0))
    reference = [sk.f1_score(targets_NC[:, c], predicted_NC[:, c], zero_division=0) for c in there]
    expected = np.mean(reference) if reference else np.nan
    assert metrics.macro_f1(found) == pytest.approx(expected, abs=1e-15, nan_ok=True)
    pot = sk.f1_score(targets_NC.ravel(), predicted_NC.ravel(), zero_division=0)
    assert metrics.micro_f1(found) == pytest.approx(pot, abs=1e-15)
    if targets_NC.shape[1] > 1:
        subset = sk.accuracy_score(targets_NC, predicted_NC)
        for average, ours in (("micro", metrics.micro_f1), ("macro", metrics.macro_f1)):
            if average == "macro" and not len(there):
                continue
            labels = there if average == "macro" else None
            theirs = sk.f1_score(
                targets_NC, predicted_NC, labels=labels, average=average, zero_division=0
            )
            assert ours(found) == pytest.approx(theirs, abs=1e-15)
    else:
        subset = sk.accuracy_score(targets_NC[:, 0], predicted_NC[:, 0])
    assert metrics.subset_accuracy(predicted_NC, targets_NC) == pytest.approx(subset, abs=1e-15)


def test_average_precision_equals_scikit_learns(case) -> None:
    scores_NC, targets_NC = case
    ap_C = metrics.average_precision(scores_NC, targets_NC)
    there = targets_NC.any(0)
    expected = [
        sk.average_precision_score(targets_NC[:, c], scores_NC[:, c]) for c in np.flatnonzero(there)
    ]
    assert ap_C[there] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(ap_C[~there]).all()
    assert ap_C.dtype == np.float64
    mean = metrics.mean_average_precision(ap_C)
    assert mean == pytest.approx(np.mean(expected), abs=1e-12) if expected else np.isnan(mean)


def test_numbers_are_taken_as_well_as_booleans(case) -> None:
    scores_NC, targets_NC = case
    predicted_NC = scores_NC >= 0.5
    plain = metrics.count(predicted_NC, targets_NC)
    for kind in (np.float32, np.int64, np.uint8):
        other = metrics.count(predicted_NC.astype(kind), targets_NC.astype(kind))
        for a, b in zip(vars(plain).values(), vars(other).values(), strict=True):
            assert np.array_equal(a, b)
        assert np.array_equal(
            metrics.average_precision(scores_NC, targets_NC.astype(kind)),
            metrics.average_precision(scores_NC, targets_NC),
            equal_nan=True,
        )
        right = metrics.subset_accuracy(predicted_NC.astype(kind), targets_NC.astype(kind))
        assert right == metrics.subset_accuracy(predicted_NC, targets_NC)


def test_average_precision_knows_ranks_alone(case) -> None:
    scores_NC, targets_NC = case
    order = np.random.default_rng(0).permutation(len(scores_NC))
    ap_C = metrics.average_precision(scores_NC, targets_NC)
    for other in (
        metrics.average_precision(scores_NC[order], targets_NC[order]),
        metrics.average_precision(scores_NC * 8 - 4, targets_NC),  # exact in floating point
    ):
        assert other == pytest.approx(ap_C, abs=1e-12, nan_ok=True)


def test_average_precision_equals_the_simple_one_to_the_last_bit(large) -> None:
    scores_NC, targets_NC = large
    ones_RN = np.ones((1, len(scores_NC)))
    expected = simple_average_precision(scores_NC, targets_NC, ones_RN)[0]
    found = metrics.average_precision(scores_NC, targets_NC)
    assert np.array_equal(found, expected, equal_nan=True)


def test_no_score_warns(case) -> None:
    scores_NC, targets_NC = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.count(scores_NC >= 0.5, targets_NC)
        for score in (metrics.precision, metrics.recall, metrics.f1, metrics.micro_f1):
            score(found)
        metrics.mean_average_precision(metrics.average_precision(scores_NC, targets_NC))
        thresholds.best_f1_thresholds(scores_NC, targets_NC)


def test_map_leaves_out_classes_without_positives() -> None:
    assert metrics.mean_average_precision(np.array([0.5, np.nan, 1.0])) == 0.75
    assert np.isnan(metrics.mean_average_precision(np.array([np.nan, np.nan])))


def test_counts_may_have_replicates_in_front() -> None:
    c = Counts(np.array([[1, 2], [0, 0]]), np.array([[1, 0], [0, 0]]), np.array([[0, 2], [3, 0]]))
    assert metrics.micro_f1(c) == pytest.approx([6 / 9, 0])
    assert metrics.macro_f1(c) == pytest.approx([(2 / 3 + 4 / 6) / 2, 0])


def test_macro_f1_leaves_out_what_map_leaves_out() -> None:
    """Two classes are all right; the third has no positives, but two false alarms."""
    targets_NC = np.array([[1, 0, 0], [0, 1, 0]], dtype=bool)
    predicted_NC = np.array([[1, 0, 1], [0, 1, 1]], dtype=bool)
    found = metrics.count(predicted_NC, targets_NC)
    assert metrics.macro_f1(found) == 1 and metrics.micro_f1(found) == pytest.approx(2 / 3)
    ap_C = metrics.average_precision(predicted_NC.astype(float), targets_NC)
    assert metrics.mean_average_precision(ap_C) == 1
    none = metrics.count(predicted_NC, np.zeros_like(targets_NC))
    assert np.isnan(metrics.macro_f1(none))


def test_an_unknown_label_counts_nowhere() -> None:
    """With the score -inf the scores are those of the images whose label is known."""
    rng = np.random.default_rng(0)
    targets_NC = rng.random((60, 3)) < 0.4
    scores_NC = np.round(rng.random((60, 3)), 1)
    known_NC = rng.random((60, 3)) < 0.7
    masked_NC, true_NC = np.where(known_NC, scores_NC, -np.inf), targets_NC & known_NC
    found_C = metrics.average_precision(masked_NC, true_NC)
    each_C = thresholds.best_f1_thresholds(masked_NC, true_NC)
    weights_RN = bootstrap.draw_weights(60, 10)
    halves_RC = bootstrap.weighted_average_precision(masked_NC, true_NC, weights_RN)
    counts = metrics.count(masked_NC >= 0.5, true_NC)
    for c in range(3):
        rows = known_NC[:, c]
        alone = scores_NC[rows, c : c + 1], targets_NC[rows, c : c + 1]
        assert found_C[c] == pytest.approx(metrics.average_precision(*alone)[0])
        assert each_C[c] == thresholds.best_f1_threshold(*alone)
        of_known = bootstrap.weighted_average_precision(*alone, weights_RN[:, rows])[:, 0]
        assert halves_RC[:, c] == pytest.approx(of_known, nan_ok=True)
        assert metrics.f1(counts)[c] == metrics.f1(metrics.count(alone[0] >= 0.5, alone[1]))[0]
        for found, expected in zip(
            thresholds.precision_recall_curve(masked_NC[:, c], true_NC[:, c]),
            thresholds.precision_recall_curve(alone[0][:, 0], alone[1][:, 0]),
            strict=True,
        ):
            assert np.array_equal(found, expected)
    pot = scores_NC[known_NC], targets_NC[known_NC]
    assert thresholds.best_f1_threshold(masked_NC, true_NC) == thresholds.best_f1_threshold(*pot)
    found, expected = metrics.reliability(masked_NC, true_NC), metrics.reliability(*pot)
    assert found.error == pytest.approx(expected.error)
    assert np.array_equal(found.counts, expected.counts)
    over, of_pot = (thresholds.over_thresholds(*x) for x in ((masked_NC, true_NC), pot))
    assert np.array_equal(over.f1, of_pot.f1)


def test_a_threshold_below_every_known_score_is_as_without_unknown_ones() -> None:
    scores, targets = np.array([0.4, 0.8, -np.inf]), np.array([True, True, False])
    assert thresholds.best_f1_threshold(scores, targets) == 0.2


def test_reliability_of_numbers_worked_out_by_hand() -> None:
    scores_NC = np.array([[0.05, 0.15], [0.1, 1.0], [0.95, 0.9]])
    targets_NC = np.array([[0, 1], [0, 1], [1, 0]], dtype=bool)
    found = metrics.reliability(scores_NC, targets_NC)
    assert found.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.predicted[[0, 1, 9]] == pytest.approx([0.05, 0.125, 0.95])
    assert found.observed[[0, 1, 9]] == pytest.approx([0, 0.5, 2 / 3])
    assert np.isnan(found.predicted[2]) and np.isnan(found.observed[2])
    expected = (1 * 0.05 + 2 * 0.375 + 3 * (0.95 - 2 / 3)) / 6
    assert found.error == pytest.approx(expected)


def test_a_calibrated_forecast_has_little_calibration_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((20_000, 2))
    assert metrics.reliability(scores, rng.random(scores.shape) < scores).error < 0.01
    assert metrics.reliability(scores**2, rng.random(scores.shape) < scores).error > 0.1


def test_co_occurrence_is_conditional_on_the_row() -> None:
    labels_NC = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=bool)
    shares = metrics.co_occurrence(labels_NC)
    assert np.array_equal(shares[:2], [[1, 0.5, 0], [1, 1, 0]])
    assert np.isnan(shares[2]).all()
