import numpy as np
import pytest
from simple_scores import SEEDS, large_case, random_case, simple_average_precision
from sklearn import metrics as sk

from grigri_fast.evaluation import bootstrap, metrics
from grigri_fast.evaluation.bootstrap import Interval
from grigri_fast.evaluation.metrics import Counts


def believable_case(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets like the report's: 14 classes, micro-F1 near 0.77."""
    rng = np.random.default_rng(seed)
    words = "0.005 0.018 0.016 0.055 0.022 0.16 0.038 0.15 0.03 0.32 0.156 0.006 0.009 0.026"
    frequency_C = np.array(words.split(), dtype=float)
    targets_NC = rng.random((num_images, 14)) < frequency_C
    logits_NC = np.log(frequency_C / (1 - frequency_C)) + rng.normal(size=(num_images, 14))
    return 1 / (1 + np.exp(-logits_NC - 2.9 * targets_NC)), targets_NC


def score(
    scores_NC: np.ndarray, targets_NC: np.ndarray, weights_RN: np.ndarray
) -> bootstrap.Scores:
    mean_ap = bootstrap.map_interval(scores_NC, targets_NC, weights_RN)
    return bootstrap.scores_with_intervals(scores_NC >= 0.5, targets_NC, mean_ap, weights_RN)


def micro_f1_at_half(scores_NC: np.ndarray, targets_NC: np.ndarray) -> float:
    return float(metrics.micro_f1(metrics.count(scores_NC >= 0.5, targets_NC)))


def test_bootstrap_weights_are_draws_with_replacement() -> None:
    weights_RN = bootstrap.draw_weights(300, num_replicates=200, seed=1)
    assert weights_RN.shape == (200, 300) and weights_RN.dtype == np.float32
    assert (weights_RN.sum(1) == 300).all()
    assert (weights_RN == weights_RN.round()).all() and weights_RN.min() == 0
    assert (weights_RN == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)  # left out
    assert np.array_equal(weights_RN, bootstrap.draw_weights(300, 200, seed=1))
    assert not np.array_equal(weights_RN, bootstrap.draw_weights(300, 200, seed=2))


@pytest.mark.parametrize("seed", range(5))
def test_replicates_equal_scoring_the_resampled_images(seed: int) -> None:
    scores_NC, targets_NC = random_case(seed)
    scores_NC, targets_NC = (np.concatenate([x] * 3) for x in (scores_NC, targets_NC))
    predicted_NC = scores_NC >= 0.5
    weights_RN = bootstrap.draw_weights(len(scores_NC), num_replicates=7, seed=seed)
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
    found_RC = bootstrap.weighted_average_precision(scores_NC, targets_NC, weights_RN)
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
    found_RC = bootstrap.weighted_average_precision(scores_NC, targets_NC, weights_RN)
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
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_A_TIME", at_a_time)
    weights_RN = bootstrap.draw_weights(len(scores_NC), 20, seed=0)
    found_RC = bootstrap.weighted_average_precision(scores_NC, targets_NC, weights_RN)
    expected_RC = simple_average_precision(scores_NC, targets_NC, weights_RN)
    assert found_RC == pytest.approx(expected_RC, rel=1e-12, nan_ok=True)


def test_intervals_of_many_classes_are_those_of_the_weighted_counts() -> None:
    scores_NC, targets_NC = large_case(np.float32, 0.1, False, num_classes=150)
    weights_RN = bootstrap.draw_weights(len(scores_NC), 30, seed=0)
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
    found = bootstrap.scores_with_intervals(predicted_NC, targets_NC, unused, weights_RN)
    for name in ("micro_f1", "macro_f1"):
        low, high = np.percentile(getattr(metrics, name)(c_R), [2.5, 97.5])
        assert (getattr(found, name).low, getattr(found, name).high) == (low, high)


def test_intervals_of_4000_images_are_as_wide_as_is_known() -> None:
    """One standard deviation of micro-F1 on 4,000 such images is about 0.006."""
    scores_NC, targets_NC = believable_case(4000)
    found = score(scores_NC, targets_NC, bootstrap.draw_weights(4000, num_replicates=400))
    assert found.micro_f1.value == pytest.approx(0.77, abs=0.03)
    for interval in vars(found).values():
        assert interval.low < interval.value < interval.high
    width = found.micro_f1.high - found.micro_f1.low
    assert 2 * 1.96 * 0.0045 < width < 2 * 1.96 * 0.0075


def test_the_interval_covers_the_truth_in_19_of_20_samples() -> None:
    """The spread of fresh samples, without any bootstrap, is the reference."""
    truth = np.mean([micro_f1_at_half(*believable_case(4000, seed=100 + s)) for s in range(20)])
    hits = 0
    for s in range(60):
        scores_NC, targets_NC = believable_case(300, seed=s)
        weights_RN = bootstrap.draw_weights(300, num_replicates=300, seed=s)
        unused = Interval(0, 0, 0)
        found = bootstrap.scores_with_intervals(scores_NC >= 0.5, targets_NC, unused, weights_RN)
        hits += found.micro_f1.low <= truth <= found.micro_f1.high
    assert hits >= 52  # of 60 at 95 %: 57 are expected, and fewer than 52 in one of 200 tries


def test_intervals_are_repeatable() -> None:
    scores_NC, targets_NC = believable_case(200)
    first, second = (
        score(scores_NC, targets_NC, bootstrap.draw_weights(200, 100)) for _ in range(2)
    )
    assert first == second


def test_chunks_of_replicates_do_not_matter() -> None:
    """More than a million weights are scored in chunks."""
    scores_NC, targets_NC = random_case(3)
    weights_RN = bootstrap.draw_weights(len(scores_NC), 40, seed=0)
    copies = 1 + 1_000_000 // weights_RN.size
    many = bootstrap.map_interval(scores_NC, targets_NC, np.tile(weights_RN, (copies, 1)))
    all_RC = bootstrap.weighted_average_precision(scores_NC, targets_NC, weights_RN)
    replicates = [metrics.mean_average_precision(ap_C) for ap_C in all_RC]
    assert many.low == pytest.approx(np.percentile(np.tile(replicates, copies), 2.5))


@pytest.mark.parametrize(
    ("targets", "value"), [([[0], [0]], np.nan), ([[1], [0]], 1.0)], ids=["never", "sometimes"]
)
def test_the_interval_of_map_without_positives(targets: list, value: float) -> None:
    """Replicates without a positive have no mAP and are left out."""
    scores_NC, targets_NC = np.array([[0.9], [0.1]]), np.array(targets, dtype=bool)
    weights_RN = np.array([[1, 1], [0, 2], [2, 0]], dtype=np.float32)
    found = bootstrap.map_interval(scores_NC, targets_NC, weights_RN)
    assert np.array_equal([found.value, found.low, found.high], [value] * 3, equal_nan=True)
