import tracemalloc
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sk

from grigri_fast.evaluation import metrics
from grigri_fast.evaluation.metrics import Counts, Interval

SEEDS = range(20)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets (N, C) with ties, rare classes and classes without positives."""
    rng = np.random.default_rng(seed)
    n, num_classes = rng.integers(1, 60), rng.integers(1, 6)
    scores_NC = rng.random((n, num_classes))
    if seed % 2:
        scores_NC = scores_NC.round(1)  # many ties
    return scores_NC, rng.random((n, num_classes)) < rng.choice([0.05, 0.3, 0.9], num_classes)


def column(values: list[float]) -> np.ndarray:
    return np.array(values)[:, None]


CASES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "no positives": (column([0.1, 0.9, 0.6]), column([0, 0, 0]) > 0),
    "all positives": (column([0.1, 0.9, 0.6]), column([1, 1, 1]) > 0),
    "nothing predicted": (column([0.1, 0.2, 0.3]), column([1, 0, 1]) > 0),
    "all predicted": (column([0.7, 0.8, 0.9]), column([1, 0, 1]) > 0),
    "one image": (np.array([[0.7, 0.2]]), np.array([[True, False]])),
    "one image without label": (np.array([[0.7, 0.2]]), np.array([[False, False]])),
    "constant scores": (np.full((6, 2), 0.5), np.arange(12).reshape(6, 2) % 3 == 0),
    "ties across the labels": (column([0.9, 0.5, 0.5, 0.5, 0.1]), column([0, 1, 0, 1, 1]) > 0),
    "perfect": (np.eye(4) * 0.8, np.eye(4) > 0),
    "all wrong": (1 - np.eye(4), np.eye(4) > 0),
} | {f"random {seed}": random_case(seed) for seed in SEEDS}


@pytest.fixture(params=CASES)
def case(request) -> tuple[np.ndarray, np.ndarray]:
    return CASES[request.param]


# ----------------------------------------------------------------------- simple references


def simple_best_f1_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return what the search finds, with all scores sorted beside their targets, in float64."""
    scores, targets = np.ravel(scores).astype(np.float64), np.ravel(targets).astype(bool)
    if not targets.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(targets[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last of equal scores
    best = ends[np.argmax(2 * hits[ends] / (ends + 1 + targets.sum()))]
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    middle = (scores[best] + below) / 2
    return float(middle if below < middle <= scores[best] else scores[best])


def simple_average_precision(
    scores_NC: np.ndarray, targets_NC: np.ndarray, weights_RN: np.ndarray
) -> np.ndarray:
    """Return AP (R, C) from the weights in the order of each class's scores."""
    ap_RC = np.full((len(weights_RN), scores_NC.shape[1]), np.nan)
    for c in np.flatnonzero(targets_NC.any(0)):
        order = np.argsort(-scores_NC[:, c], kind="stable")
        weights_RK = weights_RN[:, order].astype(np.float64)
        ends = np.append(np.flatnonzero(np.diff(scores_NC[order, c])), len(scores_NC) - 1)
        tp_RK = np.cumsum(weights_RK * targets_NC[order, c], axis=1)[:, ends]
        shown_RK = np.cumsum(weights_RK, axis=1)[:, ends]
        steps_RK = np.diff(tp_RK, axis=1, prepend=0)
        precision_RK = np.divide(tp_RK, shown_RK, out=np.zeros(tp_RK.shape), where=shown_RK > 0)
        there = tp_RK[:, -1] > 0
        ap_RC[there, c] = (steps_RK * precision_RK).sum(1)[there] / tp_RK[there, -1]
    return ap_RC


def large_case(
    dtype: type, frequency: float, ties: bool, num_images: int = 400, num_classes: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores that tell something, of more classes than are worked on at a time."""
    rng = np.random.default_rng(0)
    targets_NC = rng.random((num_images, num_classes)) < frequency
    logits_NC = rng.normal(size=targets_NC.shape) + 2 * targets_NC - 1
    scores_NC = 1 / (1 + np.exp(-logits_NC))
    return (scores_NC.round(2) if ties else scores_NC).astype(dtype), targets_NC


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request) -> type:
    return request.param


@pytest.fixture(params=[0.004, 0.3, 0.95], ids=["sparse", "dense", "nearly all"])
def frequency(request) -> float:
    return request.param


@pytest.fixture(params=[False, True], ids=["distinct", "ties"])
def large(request, dtype, frequency) -> tuple[np.ndarray, np.ndarray]:
    return large_case(dtype, frequency, request.param)


# ---------------------------------------------------------------------- against scikit-learn


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
    # A single column would be read as a binary problem, whose average means something else.
    reference = [
        sk.f1_score(targets_NC[:, c], predicted_NC[:, c], zero_division=0)
        for c in range(targets_NC.shape[1])
    ]
    assert metrics.macro_f1(found) == pytest.approx(np.mean(reference), abs=1e-15)
    pot = sk.f1_score(targets_NC.ravel(), predicted_NC.ravel(), zero_division=0)
    assert metrics.micro_f1(found) == pytest.approx(pot, abs=1e-15)
    if targets_NC.shape[1] > 1:
        subset = sk.accuracy_score(targets_NC, predicted_NC)
        for average, ours in (("micro", metrics.micro_f1), ("macro", metrics.macro_f1)):
            theirs = sk.f1_score(targets_NC, predicted_NC, average=average, zero_division=0)
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
        metrics.best_f1_thresholds(scores_NC, targets_NC)


def test_map_leaves_out_classes_without_positives() -> None:
    assert metrics.mean_average_precision(np.array([0.5, np.nan, 1.0])) == 0.75
    assert np.isnan(metrics.mean_average_precision(np.array([np.nan, np.nan])))


def test_counts_may_have_replicates_in_front() -> None:
    c = Counts(np.array([[1, 2], [0, 0]]), np.array([[1, 0], [0, 0]]), np.array([[0, 2], [3, 0]]))
    assert metrics.micro_f1(c) == pytest.approx([6 / 9, 0])
    assert metrics.macro_f1(c) == pytest.approx([(2 / 3 + 4 / 6) / 2, 0])


# -------------------------------------------------------------------------------- thresholds


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
    threshold = metrics.best_f1_threshold(scores, targets)
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
    found = metrics.best_f1_threshold(scores, targets)
    assert found == simple_best_f1_threshold(scores, targets)


def test_the_best_threshold_of_many_scores_is_the_simple_one(large) -> None:
    scores_NC, targets_NC = large
    before = scores_NC.copy(), targets_NC.copy()
    expected = simple_best_f1_threshold(scores_NC, targets_NC)
    assert metrics.best_f1_threshold(scores_NC, targets_NC) == expected
    assert metrics.best_f1_threshold(scores_NC.T, targets_NC.T) == expected  # not contiguous
    expected_C = [
        simple_best_f1_threshold(s, t) if t.any() else expected
        for s, t in zip(scores_NC.T, targets_NC.T, strict=True)
    ]
    for kind in (bool, np.uint8, np.float32):
        found_C = metrics.best_f1_thresholds(scores_NC, targets_NC.astype(kind))
        assert found_C.dtype == np.float64 and found_C.tolist() == expected_C
    assert np.array_equal(scores_NC, before[0]) and np.array_equal(targets_NC, before[1])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float16])
def test_the_best_threshold_of_other_kinds_of_scores(kind: type) -> None:
    scores = np.array([3, 1, 0, 2, 1, 0]).astype(kind)
    targets = np.array([1, 0, 0, 1, 1, 0])
    assert metrics.best_f1_threshold(scores, targets) == simple_best_f1_threshold(scores, targets)


def test_a_score_that_is_no_number_is_below_all_others() -> None:
    scores = np.array([np.nan, 0.9, 0.8, np.nan, 0.4])
    targets = np.array([0, 1, 1, 1, 0])
    assert metrics.best_f1_threshold(scores, targets) == pytest.approx(0.6)
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
    metrics.best_f1_threshold(scores_NC, targets_NC)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24 + 0.2 * scores_NC.nbytes


def test_the_threshold_between_neighbouring_floats_still_cuts() -> None:
    """Midway between two neighbours rounds to one of them; it must not be the lower one."""
    for high in (0.3, 0.7, 1.0, 5e-324):
        low = np.nextafter(high, 0)
        threshold = metrics.best_f1_threshold(np.array([high, low]), np.array([True, False]))
        assert low < threshold <= high


def test_a_threshold_lies_midway() -> None:
    scores, targets = np.array([0.9, 0.8, 0.4, 0.1]), np.array([1, 1, 0, 0])
    assert metrics.best_f1_threshold(scores, targets) == pytest.approx(0.6)
    assert metrics.best_f1_threshold(scores, np.ones(4)) == pytest.approx(0.05)


def test_the_threshold_of_calibrated_scores_is_half_the_best_f1() -> None:
    """Lipton et al. 2014, theorem 1: an independent check of the search."""
    rng = np.random.default_rng(0)
    scores = rng.beta(0.5, 2, 200_000)
    targets = rng.random(200_000) < scores
    threshold = metrics.best_f1_threshold(scores, targets)
    assert threshold == pytest.approx(f1_at(threshold, scores, targets) / 2, abs=0.01)


def test_thresholds_per_class() -> None:
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.random((40, 3)), rng.random((40, 3)) < 0.3
    targets_NC[:, 1] = False
    found = metrics.best_f1_thresholds(scores_NC, targets_NC)
    assert found.shape == (3,)
    assert found[0] == metrics.best_f1_threshold(scores_NC[:, 0], targets_NC[:, 0])
    assert found[1] == metrics.best_f1_threshold(scores_NC, targets_NC)  # nothing to tune on
    assert found[2] == metrics.best_f1_threshold(scores_NC[:, 2], targets_NC[:, 2])


def test_thresholds_per_class_without_any_positive() -> None:
    found = metrics.best_f1_thresholds(np.random.default_rng(0).random((5, 2)), np.zeros((5, 2)))
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

    predicted_NC = metrics.cross_fit(tune, scores_NC, targets_NC)
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
    tuned_NC = scores_NC >= metrics.best_f1_thresholds(scores_NC, targets_NC)
    fitted_NC = metrics.cross_fit(metrics.best_f1_thresholds, scores_NC, targets_NC)
    tuned, fitted = (metrics.macro_f1(metrics.count(p, targets_NC)) for p in (tuned_NC, fitted_NC))
    # A label given to everybody has F1 2 * 0.1 / 1.1 = 0.18; no honest threshold does better.
    assert tuned > 0.25
    assert fitted < 0.2


def test_cross_fitting_is_repeatable_and_depends_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.random((50, 2)), rng.random((50, 2)) < 0.3
    fit = lambda seed: metrics.cross_fit(  # noqa: E731
        metrics.best_f1_threshold, scores_NC, targets_NC, seed=seed
    )
    assert np.array_equal(fit(1), fit(1))
    assert any(not np.array_equal(fit(1), fit(seed)) for seed in range(2, 8))


def test_thresholds_per_class_are_cross_fitted_by_class() -> None:
    scores_NC = np.tile([0.2, 0.6], (10, 1))
    predicted_NC = metrics.cross_fit(lambda s, t: np.array([0.1, 0.9]), scores_NC, scores_NC > 0)
    assert predicted_NC.tolist() == [[True, False]] * 10


def test_a_threshold_is_not_rounded_to_the_dtype_of_the_scores() -> None:
    """Midway between neighbours in float32, 0.5 and the next, lies no float32."""
    high = np.nextafter(np.float32(0.5), np.float32(1))
    scores_NC = np.array([[high], [0.5], [high], [0.5]], dtype=np.float32)
    threshold = (float(high) + 0.5) / 2
    assert np.float32(threshold) == 0.5
    predicted_NC = metrics.cross_fit(lambda s, t: threshold, scores_NC, scores_NC > 0.5)
    assert predicted_NC.ravel().tolist() == [True, False, True, False]


def test_cross_fitted_predictions_are_those_of_the_simple_search(large) -> None:
    scores_NC, targets_NC = large
    found_NC = metrics.cross_fit(metrics.best_f1_threshold, scores_NC, targets_NC)
    expected_NC = metrics.cross_fit(simple_best_f1_threshold, scores_NC, targets_NC)
    assert np.array_equal(found_NC, expected_NC)


def test_one_image_is_predicted_at_one_half() -> None:
    def never(scores: np.ndarray, targets: np.ndarray) -> float:
        raise AssertionError("there is nothing to tune on")

    predicted_NC = metrics.cross_fit(never, np.array([[0.4, 0.5]]), np.array([[1, 0]]))
    assert predicted_NC.tolist() == [[False, True]]


# ----------------------------------------------------------------------------------- intervals


def believable_case(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets like the report's: 14 classes, micro-F1 near 0.77."""
    rng = np.random.default_rng(seed)
    words = "0.005 0.018 0.016 0.055 0.022 0.16 0.038 0.15 0.03 0.32 0.156 0.006 0.009 0.026"
    frequency_C = np.array(words.split(), dtype=float)
    targets_NC = rng.random((num_images, 14)) < frequency_C
    logits_NC = np.log(frequency_C / (1 - frequency_C)) + rng.normal(size=(num_images, 14))
    return 1 / (1 + np.exp(-logits_NC - 2.9 * targets_NC)), targets_NC


def score(scores_NC: np.ndarray, targets_NC: np.ndarray, weights_RN: np.ndarray) -> metrics.Scores:
    mean_ap = metrics.bootstrap_map(scores_NC, targets_NC, weights_RN)
    return metrics.bootstrap_scores(scores_NC >= 0.5, targets_NC, mean_ap, weights_RN)


def test_bootstrap_weights_are_draws_with_replacement() -> None:
    weights_RN = metrics.bootstrap_weights(300, num_replicates=200, seed=1)
    assert weights_RN.shape == (200, 300) and weights_RN.dtype == np.float32
    assert (weights_RN.sum(1) == 300).all()
    assert (weights_RN == weights_RN.round()).all() and weights_RN.min() == 0
    assert (weights_RN == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)  # left out
    assert np.array_equal(weights_RN, metrics.bootstrap_weights(300, 200, seed=1))
    assert not np.array_equal(weights_RN, metrics.bootstrap_weights(300, 200, seed=2))


@pytest.mark.parametrize("seed", range(5))
def test_replicates_equal_scoring_the_resampled_images(seed: int) -> None:
    scores_NC, targets_NC = random_case(seed)
    scores_NC, targets_NC = (np.concatenate([x] * 3) for x in (scores_NC, targets_NC))
    predicted_NC = scores_NC >= 0.5
    weights_RN = metrics.bootstrap_weights(len(scores_NC), num_replicates=7, seed=seed)
    found: dict[str, list[float]] = {"micro_f1": [], "macro_f1": [], "subset_accuracy": []}
    mean_ap = []
    for weights_N in weights_RN:
        rows = np.repeat(np.arange(len(scores_NC)), weights_N.astype(int))
        c = metrics.count(predicted_NC[rows], targets_NC[rows])
        found["micro_f1"].append(float(metrics.micro_f1(c)))
        found["macro_f1"].append(float(metrics.macro_f1(c)))
        found["subset_accuracy"].append(
            metrics.subset_accuracy(predicted_NC[rows], targets_NC[rows])
        )
        ap_C = metrics.average_precision(scores_NC[rows], targets_NC[rows])
        mean_ap.append(metrics.mean_average_precision(ap_C))

        # One replicate alone: its percentiles are itself.
        one = score(scores_NC, targets_NC, weights_N[None])
        for name, values in found.items():
            interval = getattr(one, name)
            assert interval.low == interval.high == pytest.approx(values[-1], abs=1e-6)
        assert one.mAP.low == pytest.approx(mean_ap[-1], abs=1e-6, nan_ok=True)

    together = score(scores_NC, targets_NC, weights_RN)
    for name, values in (found | {"mAP": mean_ap}).items():
        low, high = np.nanpercentile(values, [2.5, 97.5])
        assert getattr(together, name).low == pytest.approx(low, abs=1e-6)
        assert getattr(together, name).high == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_average_precision_equals_repeating_the_images(seed: int) -> None:
    scores_NC, targets_NC = random_case(seed)
    weights_RN = np.random.default_rng(seed).integers(0, 4, (5, len(scores_NC)))
    found_RC = metrics._weighted_average_precision(scores_NC, targets_NC, weights_RN)
    for weights_N, ap_C in zip(weights_RN, found_RC, strict=True):
        rows = np.repeat(np.arange(len(scores_NC)), weights_N)
        if not len(rows):
            assert np.isnan(ap_C).all()
            continue
        expected = metrics.average_precision(scores_NC[rows], targets_NC[rows])
        assert ap_C == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_weighted_average_precision_equals_scikit_learns() -> None:
    scores_NC, targets_NC = believable_case(500)
    weights_RN = np.random.default_rng(0).random((3, 500))
    found_RC = metrics._weighted_average_precision(scores_NC, targets_NC, weights_RN)
    for r, weights_N in enumerate(weights_RN):
        for c in np.flatnonzero(targets_NC.any(0)):
            expected = sk.average_precision_score(
                targets_NC[:, c], scores_NC[:, c], sample_weight=weights_N
            )
            assert found_RC[r, c] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("at_a_time", [1000, 10_000_000])
def test_weighted_average_precision_equals_the_simple_one(
    large, at_a_time: int, monkeypatch
) -> None:
    scores_NC, targets_NC = large[0][:, :18], large[1][:, :18]
    monkeypatch.setattr(metrics, "_WEIGHTS_AT_A_TIME", at_a_time)
    weights_RN = metrics.bootstrap_weights(len(scores_NC), 20, seed=0)
    found_RC = metrics._weighted_average_precision(scores_NC, targets_NC, weights_RN)
    expected_RC = simple_average_precision(scores_NC, targets_NC, weights_RN)
    assert found_RC == pytest.approx(expected_RC, rel=1e-12, nan_ok=True)


def test_intervals_of_many_classes_are_those_of_the_weighted_counts() -> None:
    scores_NC, targets_NC = large_case(np.float32, 0.1, False, num_classes=150)
    weights_RN = metrics.bootstrap_weights(len(scores_NC), 30, seed=0)
    predicted_NC = scores_NC >= 0.5
    c_R = Counts(
        *(
            (weights_RN[:, :, None] * flags_NC).sum(1, dtype=np.float64)
            for flags_NC in (
                predicted_NC & targets_NC,
                predicted_NC & ~targets_NC,
                ~predicted_NC & targets_NC,
            )
        )
    )
    unused = Interval(0, 0, 0)
    found = metrics.bootstrap_scores(predicted_NC, targets_NC, unused, weights_RN)
    for name in ("micro_f1", "macro_f1"):
        low, high = np.percentile(getattr(metrics, name)(c_R), [2.5, 97.5])
        assert (getattr(found, name).low, getattr(found, name).high) == (low, high)


def test_intervals_of_4000_images_are_as_wide_as_is_known() -> None:
    """One standard deviation of micro-F1 on 4,000 such images is about 0.006."""
    scores_NC, targets_NC = believable_case(4000)
    found = score(scores_NC, targets_NC, metrics.bootstrap_weights(4000, num_replicates=400))
    assert found.micro_f1.value == pytest.approx(0.77, abs=0.03)
    for interval in vars(found).values():
        assert interval.low < interval.value < interval.high
    width = found.micro_f1.high - found.micro_f1.low
    assert 2 * 1.96 * 0.0045 < width < 2 * 1.96 * 0.0075


def test_the_interval_covers_the_truth_in_19_of_20_samples() -> None:
    """The spread of fresh samples, without any bootstrap, is the reference."""
    truth = np.mean([f1_at(0.5, *believable_case(4000, seed=100 + s)) for s in range(20)])
    hits = 0
    for s in range(60):
        scores_NC, targets_NC = believable_case(300, seed=s)
        weights_RN = metrics.bootstrap_weights(300, num_replicates=300, seed=s)
        unused = Interval(0, 0, 0)
        found = metrics.bootstrap_scores(scores_NC >= 0.5, targets_NC, unused, weights_RN)
        hits += found.micro_f1.low <= truth <= found.micro_f1.high
    assert hits >= 52  # of 60 at 95 %: 57 are expected, and fewer than 52 in one of 200 tries


def test_intervals_are_repeatable() -> None:
    scores_NC, targets_NC = believable_case(200)
    first, second = (
        score(scores_NC, targets_NC, metrics.bootstrap_weights(200, 100)) for _ in range(2)
    )
    assert first == second


def test_chunks_of_replicates_do_not_matter() -> None:
    """More than a million weights are scored in chunks."""
    scores_NC, targets_NC = random_case(3)
    weights_RN = metrics.bootstrap_weights(len(scores_NC), 40, seed=0)
    copies = 1 + 1_000_000 // weights_RN.size
    many = metrics.bootstrap_map(scores_NC, targets_NC, np.tile(weights_RN, (copies, 1)))
    all_RC = metrics._weighted_average_precision(scores_NC, targets_NC, weights_RN)
    replicates = [metrics.mean_average_precision(ap_C) for ap_C in all_RC]
    assert many.low == pytest.approx(np.percentile(np.tile(replicates, copies), 2.5))


@pytest.mark.parametrize(
    ("targets", "value"), [([[0], [0]], np.nan), ([[1], [0]], 1.0)], ids=["never", "sometimes"]
)
def test_the_interval_of_map_without_positives(targets: list, value: float) -> None:
    """Replicates without a positive have no mAP and are left out."""
    scores_NC, targets_NC = np.array([[0.9], [0.1]]), np.array(targets, dtype=bool)
    weights_RN = np.array([[1, 1], [0, 2], [2, 0]], dtype=np.float32)
    found = metrics.bootstrap_map(scores_NC, targets_NC, weights_RN)
    assert np.array_equal([found.value, found.low, found.high], [value] * 3, equal_nan=True)


# ---------------------------------------------------------------------------------- curves


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_goes_through_scikit_learns_points_and_sums_to_ap(seed: int) -> None:
    scores_NC, targets_NC = random_case(seed)
    for scores_N, targets_N in zip(scores_NC.T, targets_NC.T, strict=True):
        recall, precision = metrics.precision_recall_curve(scores_N, targets_N, max_points=10**6)
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
        few, _ = metrics.precision_recall_curve(scores_N, targets_N, max_points=3)
        assert len(few) <= 3 and few[-1] == recall[-1] == 1 and set(few) <= set(recall)


def test_scores_over_thresholds_are_those_of_predictions() -> None:
    rng = np.random.default_rng(0)
    scores_NC, targets_NC = rng.integers(0, 101, (60, 4)) / 100, rng.random((60, 4)) < 0.3
    over = metrics.over_thresholds(scores_NC, targets_NC, num_steps=20)
    for k, threshold in enumerate(over.thresholds):
        c = metrics.count(scores_NC >= threshold, targets_NC)
        assert over.f1[k] == metrics.micro_f1(c)
        assert over.recall[k] == c.tp.sum() / (c.tp + c.fn).sum()
        assert over.precision[k] == c.tp.sum() / (c.tp + c.fp).sum()
    nothing = metrics.over_thresholds(np.zeros((3, 2)), np.zeros((3, 2), bool), num_steps=2)
    assert np.isnan(nothing.precision[1]) and nothing.precision[0] == 0 == nothing.recall[0]


def test_reliability_of_numbers_worked_out_by_hand() -> None:
    scores_NC = np.array([[0.05, 0.15], [0.1, 1.0], [0.95, 0.9]])
    targets_NC = np.array([[0, 1], [0, 1], [1, 0]], dtype=bool)
    found = metrics.reliability(scores_NC, targets_NC)
    assert found.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.said[[0, 1, 9]] == pytest.approx([0.05, 0.125, 0.95])
    assert found.found[[0, 1, 9]] == pytest.approx([0, 0.5, 2 / 3])
    assert np.isnan(found.said[2]) and np.isnan(found.found[2])
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
