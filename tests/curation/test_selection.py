"""Which photographs are chosen: those in doubt, unlike each other, unlike what is known."""

import numpy as np
import pytest

from grigri_fast.curation.selection import select


def blobs(num_each: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features of four kinds of photographs, and which kind each is."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(4, 12)
    kinds = np.repeat(np.arange(4), num_each)
    return (centres[kinds] + rng.normal(0, 1, (4 * num_each, 12))).astype(np.float32), kinds


def sure(num: int, num_classes: int = 3) -> np.ndarray:
    return np.full((num, num_classes), 0.001)


def test_those_in_doubt_are_chosen() -> None:
    features, kinds = blobs()
    probabilities = sure(len(features))
    probabilities[kinds == 2, 1] = 0.5
    chosen = select(features, probabilities, 30, num_labelled=50)
    assert set(kinds[chosen.rows]) == {2} and len(set(chosen.rows)) == 30
    assert chosen.gains == sorted(chosen.gains, reverse=True)


def test_of_those_in_doubt_the_chosen_ones_are_unlike_each_other() -> None:
    features, kinds = blobs()
    chosen = select(features, np.full((160, 1), 0.5), 16, num_labelled=20)
    counts = np.bincount(kinds[chosen.rows], minlength=4)
    assert counts.min() >= 2
    unit = features - features.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit[chosen.rows] @ unit[chosen.rows].T
    assert cosines.sum() / 16 < 1.2  # of which 1 is that of each with itself


def test_the_gains_are_those_of_the_determinant() -> None:
    """What the chosen ones tell together is the sum of their gains."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 5))
    features = (features - features.mean(0)) / features.std(0)
    p = rng.uniform(0.1, 0.9, (60, 2))
    chosen = select(features, p, 10, num_labelled=30)
    doubt = p * (1 - p)
    told = [30 / 60 * (features.T * doubt[:, c]) @ features for c in (0, 1)]
    ridge = max(np.trace(matrix) / 5 for matrix in told) / 6
    total = 0.0
    for c in (0, 1):
        before = told[c] + ridge * np.eye(5)
        rows = features[chosen.rows]
        after = before + (rows.T * doubt[chosen.rows, c]) @ rows
        total += (np.linalg.slogdet(after)[1] - np.linalg.slogdet(before)[1]) / 2
    assert sum(chosen.gains) == pytest.approx(total, rel=1e-3)


def test_more_labelled_images_leave_less_to_tell() -> None:
    features, _ = blobs()
    p = np.full((160, 2), 0.5)
    few, many = (select(features, p, 5, num_labelled=n).gains for n in (10, 10_000))
    assert few[0] > 20 * many[0] > 0


def test_near_duplicates_of_a_chosen_one_are_left_out() -> None:
    features, _ = blobs()
    features[5] = features[90] = features[17] + 0.001
    probabilities = sure(len(features))
    probabilities[[5, 17, 90]] = 0.5
    chosen = select(features, probabilities, 160, num_labelled=50)
    (first,) = {5, 17, 90} & set(chosen.rows)
    assert chosen.rows[0] == first
    assert {row for row, of in chosen.alike.items() if of == first} >= {5, 17, 90} - {first}
    assert sorted([*chosen.rows, *chosen.alike]) == list(range(160))


def test_one_photograph_and_features_that_do_not_vary() -> None:
    assert select(np.ones((1, 8)), np.array([[0.5, 0.5]]), 10, 100).rows == [0]
    chosen = select(np.zeros((4, 8)), np.full((4, 1), 0.5), 3, 100)
    assert chosen.rows == [0, 1, 2] and chosen.gains == [0, 0, 0]


def test_of_very_many_classes_those_in_doubt_count() -> None:
    features, kinds = blobs()
    probabilities = np.full((160, 200), 0.0001)
    probabilities[kinds == 3, 150] = 0.4
    assert set(kinds[select(features, probabilities, 8, 100).rows]) == {3}
