"""Power laws through scores: exact where scores follow one, honest where they are noise."""

import numpy as np
import pytest

from grigri_fast.evaluation.extrapolation import extrapolate, fit_power_law

SIZES = np.array([480, 960, 1920, 3840, 6720, 9600])


def law(sizes, ceiling: float, factor: float, exponent: float) -> np.ndarray:
    return ceiling - factor * (np.asarray(sizes) / 9600) ** -exponent


@pytest.mark.parametrize("exponent", [0.05, 0.3, 0.6, 1.5])
def test_a_power_law_is_found_again(exponent: float) -> None:
    found = fit_power_law(SIZES, law(SIZES, 0.8, 0.05, exponent)[None])
    assert found.exponent_R[0] == pytest.approx(exponent)
    assert found.ceiling_R[0] == pytest.approx(0.8)
    assert found.factor_R[0] == pytest.approx(0.05)
    assert found.at(19200)[0] == pytest.approx(law(19200, 0.8, 0.05, exponent))


def test_each_replicate_has_a_law_of_its_own() -> None:
    scores = np.stack([law(SIZES, 0.8, 0.05, 0.3), law(SIZES, 0.9, 0.2, 0.1)])
    found = fit_power_law(SIZES, scores)
    assert found.at(np.array([480, 19200])) == pytest.approx(
        np.stack([law([480, 19200], 0.8, 0.05, 0.3), law([480, 19200], 0.9, 0.2, 0.1)]), abs=1e-3
    )


def test_no_score_is_above_one_and_more_images_do_no_harm() -> None:
    rising = fit_power_law(SIZES, np.linspace(0.2, 0.99, 6)[None])
    assert rising.at(1e9)[0] <= 1 and rising.at(19200)[0] > 0.85
    falling = fit_power_law(SIZES, np.linspace(0.9, 0.5, 6)[None])
    assert falling.at(19200)[0] == pytest.approx(0.7)
    assert falling.factor_R[0] == 0


def test_the_interval_holds_the_truth_and_is_as_wide_as_the_noise() -> None:
    rng = np.random.default_rng(0)
    truth = law(SIZES, 0.8, 0.05, 0.3)
    gain = law(19200, 0.8, 0.05, 0.3) - truth[-1]
    widths = []
    for noise in (0.001, 0.01):
        hits = 0
        for _ in range(50):
            scores = truth + rng.normal(0, noise, 6)
            found = extrapolate(SIZES, scores, scores + rng.normal(0, noise, (200, 6)))
            hits += found.gain.low <= gain <= found.gain.high
            assert found.gain.low <= found.gain.value <= found.gain.high
        widths.append(found.gain.high - found.gain.low)
        assert hits >= 45
    assert widths[0] < widths[1] / 3


def test_a_replicate_without_positives_is_left_out() -> None:
    scores = law(SIZES, 0.8, 0.05, 0.3)
    replicates = np.stack([scores, np.full(6, np.nan), scores])
    found = extrapolate(SIZES, scores, replicates)
    assert found.num_images == 19200 and found.line_images[0] == 480
    assert found.line_images[-1] == 19200 and found.line[-1] == found.score
    expected = pytest.approx(law(19200, 0.8, 0.05, 0.3))
    assert found.score.low == expected and found.score.high == expected
