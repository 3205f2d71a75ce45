"""The learning curve of a classifier whose scores are known."""

import numpy as np
import pytest
from scipy.special import expit

from grigri_fast.errors import GrigriError
from grigri_fast.evaluation import bootstrap, curve
from grigri_fast.evaluation.extrapolation import Extrapolation


@pytest.fixture(scope="module")
def targets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    train, val = ((rng.random((n, 3)) < (0.4, 0.1, 0.3)).astype(np.float32) for n in (400, 200))
    val[:, 2] = 0  # a class without validation images
    return train, val


@pytest.fixture(scope="module")
def measured(targets) -> tuple[curve.Curve, list[np.ndarray], list[tuple[int, int]]]:
    """Return the curve of a classifier that sees more clearly the more images it has."""
    train, val = targets
    asked, told = [], []

    def fit_and_predict(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        noise = np.random.default_rng(len(asked)).normal(0, 1, val.shape)
        return expit(4 * (val - 0.5) + noise * (40 / len(rows)) ** 0.5 * 2)

    found = curve.measure(
        fit_and_predict,
        train,
        val,
        ["a", "b", "c"],
        num_subsets=2,
        on_progress=lambda done, total: told.append((done, total)),
    )
    return found, asked, told


def test_subsets_are_nested_and_have_the_frequencies_of_the_whole(measured, targets) -> None:
    _, asked, told = measured
    assert [len(rows) for rows in asked] == [20, 20, 40, 40, 80, 80, 160, 160, 280, 280, 400]
    assert told[0] == (0, 11) and told[-1] == (11, 11)
    for first, second in zip(asked[:-3], asked[2:-1], strict=True):
        assert set(first) < set(second)
    assert set(asked[0]) != set(asked[1])
    train = targets[0]
    for rows in asked:
        assert train[rows, 1].sum() == pytest.approx(train[:, 1].mean() * len(rows), abs=1.01)


def test_scores_rise_and_have_intervals(measured) -> None:
    found = measured[0]
    assert found.num_val == 200
    assert [(p.num_images, p.num_subsets) for p in found.points] == [
        *((n, 2) for n in (20, 40, 80, 160, 280)),
        (400, 1),
    ]
    for score in ("micro_f1", "mAP"):
        values = [getattr(p, score).value for p in found.points]
        assert values == sorted(values) and values[0] < 0.75 < 0.9 < values[-1]
        assert all(getattr(p, score).low < getattr(p, score).high for p in found.points[:4])
        twice = getattr(found, score)
        assert twice.num_images == 800 and values[-1] - 0.05 < twice.score.value <= 1


def test_a_class_lacks_images_where_more_would_help(measured) -> None:
    a, b, c = measured[0].per_class
    assert (a.name, b.num_val, c.num_val) == ("a", 23, 0)
    assert c.twice is None and c.wants_images == "" and np.isnan(c.average_precision[0].value)
    assert b.twice.gain.low <= b.twice.gain.value <= b.twice.gain.high
    assert {a.wants_images, b.wants_images} <= {"yes", "perhaps", "no"}
    assert a.f1 > 0.9


@pytest.mark.parametrize(
    ("gain", "num_val", "expected"),
    [
        ((0.05, 0.01, 0.08), 30, "yes"),
        ((0.05, -0.01, 0.08), 30, "perhaps"),  # it may be chance
        ((0.01, 0.005, 0.03), 30, "perhaps"),  # it may be too little
        ((0.0, 0.0, 0.01), 30, "no"),
        ((0.0, 0.0, 0.0), 1, "perhaps"),  # the one image is found whatever is drawn
    ],
)
def test_whether_more_would_help(gain, num_val: int, expected: str) -> None:
    interval = bootstrap.Interval(*gain)
    assert curve.wants(Extrapolation(800, interval, interval, [], []), num_val) == expected


def test_too_few_images_are_refused() -> None:
    assert curve.sizes_of(38).tolist() == [15, 27, 38]
    with pytest.raises(GrigriError, match="20 training images are too few for a learning curve"):
        curve.sizes_of(20)
