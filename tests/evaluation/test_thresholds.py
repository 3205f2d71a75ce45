import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from simple_scores import (
    column,
    random_case,
    simple_best_f1_threshold,
)
from sklearn import metrics as sk

from grigri_fast.evaluation import metrics, thresholds


def f1_at(threshold: float, scores: np.ndarray, targets: np.ndarray) -> float:
    return float(metrics.micro_f1(metrics.count(scores >= threshold, targets)))


def best_by_brute_force(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the best F1 of all cuts, each tried by itself."""
    return max(f1_at(cut, scores, targets) for cut in np.unique(scores))


@pytest.mark.parametrize("seed", range(300))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 13)
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: rng.random(n),
        lambda: rng.integers(0, 4, n) / 4,  # ties
        lambda: rng.normal(size=n),  # logits
        lambda: np.full(n, 0.3),
    ]
    scores = column(kinds[seed % 4]())
    targets = rng.random((n, 1)) < rng.choice([0.2, 0.5, 1])
    threshold = thresholds.best_f1_threshold(scores, targets)
    if not targets.any():
        assert threshold == 0.5
        return
    assert f1_at(threshold, scores, targets) == best_by_brute_force(scores, targets)

    # Of equally good cuts the highest, midway to the next score (to 0 where there is none).
    best = [
        s
        for s in np.unique(scores)
        if f1_at(s, scores, targets) == f1_at(threshold, scores, targets)
    ]
    lowest_positive = max(best)
    below = scores[scores < lowest_positive]
    next_lower = below.max() if len(below) else 0.0
    if next_lower < lowest_positive:
        assert threshold == pytest.approx((lowest_positive + next_lower) / 2, rel=1e-15)
    else:
        assert threshold == lowest_positive


@pytest.mark.parametrize("seed", range(60))
def test_the_best_threshold_is_the_simple_one(seed: int, dtype) -> None:
    """Exactly the same number; from a few scores to many groups of positives."""
    rng = np.random.default_rng(seed)
    n = rng.choice([3, 30, 300, 3000])
    targets = rng.random(n) < rng.choice([0.01, 0.3, 0.7, 1])
    scores = (rng.normal(size=n) + targets * rng.choice([-1, 0, 0.5, 3])).astype(dtype)
    if seed % 2:
        scores = scores.round(seed % 3)  # some ties, or little else
    found = thresholds.best_f1_threshold(scores, targets)
    assert found == simple_best_f1_threshold(scores, targets)


def test_the_best_threshold_of_many_scores_is_the_simple_one(large) -> None:
    scores_NC, targets_NC = large
    before = scores_NC.copy(), targets_NC.copy()
    expected = simple_best_f1_threshold(scores_NC, targets_NC)
    assert thresholds.best_f1_threshold(scores_NC, targets_NC) == expected
    assert thresholds.best_f1_threshold(scores_NC.T, targets_NC.T) == expected  # not contiguous
    expected_C = [
        simple_best_f1_threshold(s, t) if t.any() else expected
        for s, t in zip(scores_NC.T, targets_NC.T, strict=True)
    ]
    for kind in (bool, np.uint8, np.float32):
        found_C = thresholds.best_f1_thresholds(scores_NC, targets_NC.astype(kind))
        assert found_C.dtype == np.float64 and found_C.tolist() == expected_C
    assert np.array_equal(scores_NC, before[0]) and np.array_equal(targets_NC, before[1])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float16])
def test_the_best_threshold_of_other_kinds_of_scores(kind: type) -> None:
    scores = np.array([3, 1, 0, 2, 1, 0]).astype(kind)
    targets = np.array([1, 0, 0, 1, 1, 0])
    assert thresholds.best_f1_threshold(scores, targets) == simple_best_f1_threshold(
        scores, targets
    )


def test_a_score_that_is_no_number_is_below_all_others() -> None:
    scores = np.array([np.nan, 0.9, 0.8, np.nan, 0.4])
    targets = np.array([0, 1, 1, 1, 0])
    assert thresholds.best_f1_threshold(scores, targets) == pytest.approx(0.6)
    ap = metrics.average_precision(scores[:, None], targets[:, None])
    assert ap == pytest.approx((1 + 1 + 3 / 5) / 3)  # the two without a number are one step


@pytest.mark.parametrize("share", [0.003, 0.3])
def test_the_search_takes_no_copy_of_the_scores(share: float) -> None:
    """100,000 x 1,000 of them fit in 2 GB only so. What is taken does not grow with their number,
    but for the scores near the best cut."""
    rng = np.random.default_rng(0)
    targets_NC = rng.random((10_000, 500)) < share
    scores_NC = (rng.normal(size=targets_NC.shape) + 2 * targets_NC).astype(np.float32)
    tracemalloc.start()
    thresholds.best_f1_threshold(scores_NC, targets_NC)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24 + 0.2 * scores_NC.nbytes


def test_the_threshold_between_neighbouring_floats_still_cuts() -> None:
    """Midway between two neighbours rounds to one of them; it must not be the lower one."""
    for high in (0.3, 0.7, 1.0, 5e-324):
        low = np.nextafter(high, 0)
        threshold = thresholds.best_f1_threshold(np.array([high, low]), np.array([True, False]))
        assert low < threshold <= high


def test_a_threshold_lies_midway() -> None:
    scores, targets = np.array([0.9, 0.8, 0.4, 0.1]), np.array([1, 1, 0, 0])
    assert thresholds.best_f1_threshold(scores, targets) == pytest.approx(0.6)
    assert thresholds.best_f1_threshold(scores, np.ones(4)) == pytest.approx(0.05)


def test_the_threshold_of_calibrated_scores_is_half_the_best_f1() -> None:
    """Lipton et al. 2014, theorem 1: an independent check of the search."""
    rng = np.random.default_rng(0)
    scores = rng.beta(0.5, 2, 200_000)
    targets = rng.random(200_000) < scores
    threshold = thresholds.best_f1_threshold(scores, targets)
    assert threshold == pytest.approx(f1_at(threshold, scores, targets) / 2, abs=0.01)


def test_thresholds_per_class() -> None:
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.random((40, 3)), rng.random((40, 3)) < 0.3
    targets_NC[:, 1] = False
    found = thresholds.best_f1_thresholds(scores_NC, targets_NC)
    assert found.shape == (3,)
    assert found[0] == thresholds.best_f1_threshold(scores_NC[:, 0], targets_NC[:, 0])
    assert found[1] == thresholds.best_f1_threshold(scores_NC, targets_NC)  # nothing to tune on
    assert found[2] == thresholds.best_f1_threshold(scores_NC[:, 2], targets_NC[:, 2])


def test_thresholds_per_class_without_any_positive() -> None:
    found = thresholds.best_f1_thresholds(np.random.default_rng(0).random((5, 2)), np.zeros((5, 2)))
    assert found.tolist() == [0.5, 0.5]


# ---------------------------------------------------------------------------------- cross_fit


@pytest.mark.parametrize("num_images", [2, 3, 5, 6, 23])
def test_no_image_has_a_say_in_its_own_threshold(num_images: int) -> None:
    """The score of an image is its number, so that ``tune`` can note which images it saw."""
    scores_NC = np.arange(num_images, dtype=float)[:, None]
    targets_NC = scores_NC % 2 == 0
    seen: list[set[int]] = []

    def tune(scores: np.ndarray, targets: np.ndarray) -> float:
        assert np.array_equal(targets, scores % 2 == 0)
        seen.append({int(s) for s in scores[:, 0]})
        return len(seen)  # the threshold tells the fold

    predicted_NC = thresholds.cross_fit(tune, scores_NC, targets_NC)
    assert len(seen) == min(5, num_images)
    everything = set(range(num_images))
    held_out = [everything - images for images in seen]
    assert sorted(i for fold in held_out for i in fold) == sorted(everything)  # each once
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1
    for fold, images in enumerate(held_out, start=1):
        for i in images:
            assert predicted_NC[i, 0] == (i >= fold)


def test_cross_fitting_tells_what_tuning_on_the_same_images_hides() -> None:
    """Noise for scores: the best threshold of a class without signal is all luck."""
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.random((60, 30)), rng.random((60, 30)) < 0.1
    tuned_NC = scores_NC >= thresholds.best_f1_thresholds(scores_NC, targets_NC)
    fitted_NC = thresholds.cross_fit(thresholds.best_f1_thresholds, scores_NC, targets_NC)
    tuned, fitted = (metrics.macro_f1(metrics.count(p, targets_NC)) for p in (tuned_NC, fitted_NC))
    # A label given to everybody has F1 2 * 0.1 / 1.1 = 0.18; no honest threshold does better.
    assert tuned > 0.25
    assert fitted < 0.2


def test_cross_fitting_is_repeatable_and_depends_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.random((50, 2)), rng.random((50, 2)) < 0.3
    fit = lambda seed: thresholds.cross_fit(  # noqa: E731
        thresholds.best_f1_threshold, scores_NC, targets_NC, seed=seed
    )
    assert np.array_equal(fit(1), fit(1))
    assert any(not np.array_equal(fit(1), fit(seed)) for seed in range(2, 8))


def test_thresholds_per_class_are_cross_fitted_by_class() -> None:
    scores_NC = np.tile([0.2, 0.6], (10, 1))
    predicted_NC = thresholds.cross_fit(lambda s, t: np.array([0.1, 0.9]), scores_NC, scores_NC > 0)
    assert predicted_NC.tolist() == [[True, False]] * 10


def test_a_threshold_is_not_rounded_to_the_dtype_of_the_scores() -> None:
    """Midway between neighbours in float32, 0.5 and the next, lies no float32."""
    high = np.nextafter(np.float32(0.5), np.float32(1))
    scores_NC = np.array([[high], [0.5], [high], [0.5]], dtype=np.float32)
    threshold = (float(high) + 0.5) / 2
    assert np.float32(threshold) == 0.5
    predicted_NC = thresholds.cross_fit(lambda s, t: threshold, scores_NC, scores_NC > 0.5)
    assert predicted_NC.ravel().tolist() == [True, False, True, False]


def test_cross_fitted_predictions_are_those_of_the_simple_search(large) -> None:
    scores_NC, targets_NC = large
    found_NC = thresholds.cross_fit(thresholds.best_f1_threshold, scores_NC, targets_NC)
    expected_NC = thresholds.cross_fit(simple_best_f1_threshold, scores_NC, targets_NC)
    assert np.array_equal(found_NC, expected_NC)


def test_one_image_is_predicted_at_one_half() -> None:
    def never(scores: np.ndarray, targets: np.ndarray) -> float:
        raise AssertionError("there is nothing to tune on")

    predicted_NC = thresholds.cross_fit(never, np.array([[0.4, 0.5]]), np.array([[1, 0]]))
    assert predicted_NC.tolist() == [[False, True]]


# ------------------------------------------------------------------ scores at all thresholds


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_goes_through_scikit_learns_points_and_sums_to_ap(seed: int) -> None:
    scores_NC, targets_NC = random_case(seed)
    for scores_N, targets_N in zip(scores_NC.T, targets_NC.T, strict=True):
        recall, precision = thresholds.precision_recall_curve(scores_N, targets_N, max_points=10**6)
        if not targets_N.any():
            assert len(recall) == len(precision) == 0
            continue
        p, r, _ = sk.precision_recall_curve(targets_N, scores_N)
        points = set(zip(r.round(9), p.round(9), strict=True))
        assert set(zip(recall.round(9), precision.round(9), strict=True)) <= points
        steps = np.diff(recall, prepend=0)
        assert (steps * precision).sum() == pytest.approx(
            sk.average_precision_score(targets_N, scores_N)
        )
        few, _ = thresholds.precision_recall_curve(scores_N, targets_N, max_points=3)
        assert len(few) <= 3 and few[-1] == recall[-1] == 1 and set(few) <= set(recall)


def test_scores_over_thresholds_are_those_of_predictions() -> None:
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.integers(0, 101, (60, 4)) / 100, rng.random((60, 4)) < 0.3
    over = thresholds.over_thresholds(scores_NC, targets_NC, num_steps=20)
    for k, threshold in enumerate(over.thresholds):
        c = metrics.count(scores_NC >= threshold, targets_NC)
        assert over.f1[k] == metrics.micro_f1(c)
        assert over.recall[k] == c.tp.sum() / (c.tp + c.fn).sum()
        assert over.precision[k] == c.tp.sum() / (c.tp + c.fp).sum()
    nothing = thresholds.over_thresholds(np.zeros((3, 2)), np.zeros((3, 2), bool), num_steps=2)
    assert np.isnan(nothing.precision[1]) and nothing.precision[0] == 0 == nothing.recall[0]
