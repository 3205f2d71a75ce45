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


def test_replicates_are_halves_and_their_complements() -> None:
    weights_RN = bootstrap.draw_weights(300, num_replicates=201, seed=1)
    assert weights_RN.shape == (201, 300) and weights_RN.dtype == np.uint8
    assert set(np.unique(weights_RN)) == {0, 1}
    assert (weights_RN[0:200:2] + weights_RN[1:200:2] == 1).all()
    assert weights_RN[0::2].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(weights_RN[0], weights_RN[2])[0, 1]) < 0.2
    assert np.array_equal(weights_RN, bootstrap.draw_weights(300, 201, seed=1))
    assert not np.array_equal(weights_RN, bootstrap.draw_weights(300, 201, seed=2))


@pytest.mark.parametrize("seed", range(5))
def test_replicates_equal_scoring_the_images_of_a_half(seed: int) -> None:
    scores_NC, targets_NC = random_case(seed)
    scores_NC, targets_NC = (np.concatenate([x] * 3) for x in (scores_NC, targets_NC))
    predicted_NC = scores_NC >= 0.5
    weights_RN = bootstrap.draw_weights(len(scores_NC), num_replicates=8, seed=seed)
    found: dict[str, list[float]] = {"micro_f1": [], "macro_f1": [], "subset_accuracy": []}
    mean_ap = []
    for weights_N in weights_RN.astype(bool):
        c = metrics.count(predicted_NC[weights_N], targets_NC[weights_N])
        found["micro_f1"].append(float(metrics.micro_f1(c)))
        found["macro_f1"].append(float(metrics.macro_f1(c)))
        right = metrics.subset_accuracy(predicted_NC[weights_N], targets_NC[weights_N])
        found["subset_accuracy"].append(right)
        ap_C = metrics.average_precision(scores_NC[weights_N], targets_NC[weights_N])
        mean_ap.append(metrics.mean_average_precision(ap_C))
    replicated = bootstrap.replicated_map(scores_NC, targets_NC, weights_RN)
    assert replicated.replicates_R == pytest.approx(mean_ap, abs=1e-6, nan_ok=True)
    together = score(scores_NC, targets_NC, weights_RN)
    count = metrics.count(predicted_NC, targets_NC)
    num_labels = (count.tp + count.fp + count.fn).sum()
    for name, number in (("micro_f1", num_labels), ("subset_accuracy", len(targets_NC))):
        of = getattr(together, name)
        expected = bootstrap.score_interval(of.value, np.array(found[name]), int(number))
        assert (of.low, of.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    support_C = targets_NC.sum(0)
    for name, values in (("macro_f1", found["macro_f1"]), ("mAP", mean_ap)):
        of = getattr(together, name)
        expected = bootstrap.mean_interval(of.value, np.array(values), support_C)
        bounds = pytest.approx((expected.low, expected.high), abs=1e-6, nan_ok=True)
        assert (of.low, of.high) == bounds


def test_the_interval_of_a_share_is_wilsons() -> None:
    """Without bias, and with the variance of 8 of 20: (0.2188, 0.6134), as in textbooks."""
    error = (0.4 * 0.6 / 20) ** 0.5
    found = bootstrap.score_interval(0.4, np.array([0.4 - error, 0.4 + error]), 20)
    assert (found.low, found.high) == pytest.approx((0.2188, 0.6134), abs=1e-4)
    certain = bootstrap.score_interval(1.0, np.ones(50), 5)  # all of 5 are right
    assert (certain.low, certain.high) == pytest.approx((0.5655, 1.0), abs=1e-4)


def test_an_interval_holds_its_value_however_biased_the_replicates_are() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        value, replicates = rng.random(), np.clip(rng.random() + 0.05 * rng.normal(size=30), 0, 1)
        for found in (
            bootstrap.score_interval(value, replicates, int(rng.integers(1, 50))),
            bootstrap.interval(value, replicates),
            bootstrap.percentiles(value, replicates),
        ):
            assert found.low <= value <= found.high and found.low < found.high
        of_score = bootstrap.score_interval(value, replicates, 10)
        assert of_score.low >= 0 and of_score.high <= 1


def test_the_interval_leans_away_from_the_bias() -> None:
    """Replicates that are higher say that the score of few images is too high."""
    spread = np.linspace(-0.1, 0.1, 41)
    found, unbiased = (bootstrap.score_interval(0.5, x + spread, 50) for x in (0.55, 0.5))
    assert found.high < unbiased.high and found.low < unbiased.low - 0.04
    found, unbiased = (bootstrap.interval(0.5, x + spread) for x in (0.55, 0.5))
    assert found.high < unbiased.high and found.low < unbiased.low - 0.04


def test_no_replicates_no_interval() -> None:
    nothing = np.full(5, np.nan)
    for found in (
        bootstrap.score_interval(0.5, nothing, 9),
        bootstrap.interval(0.5, nothing),
        bootstrap.percentiles(0.5, nothing),
        bootstrap.score_interval(0.0, np.zeros(5), 0),
    ):
        assert np.isnan([found.low, found.high]).all()


def test_means_over_classes_need_five_positives_each() -> None:
    """A class without positives is no part of the mean, and does not count here either."""
    replicates = np.array([0.3, 0.5])
    for support, has_interval in (
        ([5, 5], True), ([4, 6, 0], True), ([4, 5], False), ([0, 0], False),
    ):  # fmt: skip
        found = bootstrap.mean_interval(0.4, replicates, np.array(support))
        assert found.value == 0.4 and np.isnan(found.low) != has_interval


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
        value, replicates = getattr(found, name).value, getattr(metrics, name)(c_R)
        number = targets_NC.sum() if name == "macro_f1" else (predicted_NC | targets_NC).sum()
        assert getattr(found, name) == bootstrap.score_interval(value, replicates, int(number))


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
    """The spread of fresh samples, without any replicate, is the reference."""
    truth = np.mean([micro_f1_at_half(*believable_case(4000, seed=100 + s)) for s in range(20)])
    hits = 0
    for s in range(60):
        scores_NC, targets_NC = believable_case(300, seed=s)
        weights_RN = bootstrap.draw_weights(300, num_replicates=300, seed=s)
        unused = Interval(0, 0, 0)
        found = bootstrap.scores_with_intervals(scores_NC >= 0.5, targets_NC, unused, weights_RN)
        hits += found.micro_f1.low <= truth <= found.micro_f1.high
    assert hits >= 52  # of 60 at 95 %: 57 are expected, and fewer than 52 in one of 200 tries


def test_the_interval_of_map_covers_the_truth_with_six_positives_per_class() -> None:
    """Percentiles of draws with replacement, which are biased there, held it in 1 of 60."""

    def case(rng: np.random.Generator, num_images: int) -> tuple[np.ndarray, np.ndarray]:
        targets_NC = rng.random((num_images, 10)) < 0.03
        return rng.normal(size=(num_images, 10)) + 0.7 * targets_NC, targets_NC

    rng = np.random.default_rng(0)
    truth = metrics.mean_average_precision(metrics.average_precision(*case(rng, 50_000)))
    hits = 0
    for s in range(60):
        scores_NC, targets_NC = case(rng, 250)
        weights_RN = bootstrap.draw_weights(250, num_replicates=200, seed=s)
        found = bootstrap.map_interval(scores_NC, targets_NC, weights_RN)
        hits += found.low <= truth <= found.high
    assert hits >= 52


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
    replicates = np.array([metrics.mean_average_precision(ap_C) for ap_C in all_RC] * copies)
    expected = bootstrap.mean_interval(many.value, replicates, targets_NC.sum(0))
    assert many.low == pytest.approx(expected.low, nan_ok=True)


def test_map_without_positives_is_unknown_in_value_and_interval() -> None:
    weights_RN = np.array([[1, 1], [0, 1], [1, 0]], dtype=np.float32)
    found = bootstrap.map_interval(np.array([[0.9], [0.1]]), np.zeros((2, 1), bool), weights_RN)
    assert np.isnan([found.value, found.low, found.high]).all()
