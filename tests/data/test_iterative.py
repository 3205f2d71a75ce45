import numpy as np
import pytest
from label_matrices import matrix
from skmultilearn.model_selection.iterative_stratification import IterativeStratification

from grigri_fast.data import iterative


def by_scikit_multilearn(targets_NC: np.ndarray, share: float, seed: int) -> np.ndarray:
    stratifier = IterativeStratification(
        n_splits=2, order=2, sample_distribution_per_fold=[share, 1 - share]
    )
    np.random.seed(seed)
    _, inside = next(stratifier.split(np.zeros((len(targets_NC), 1)), targets_NC.astype(np.int64)))
    return np.isin(np.arange(len(targets_NC)), inside)


def labels_of(targets_NC: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in targets_NC]


@pytest.mark.parametrize("seed", range(20))
def test_the_images_are_those_of_scikit_multilearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_images, num_classes = (int(rng.integers(low, high)) for low, high in ((5, 250), (2, 50)))
    targets_NC = matrix(num_images, num_classes, int(rng.integers(1, 8)), seed % 2, seed, least=0)
    share = float(rng.choice([0.1, 0.2, 0.25, 1 / 3, 0.5]))
    found = iterative.stratify(labels_of(targets_NC), share, seed)
    assert found is not None
    assert np.array_equal(found, by_scikit_multilearn(targets_NC, share, seed))


def test_the_number_of_pairs_has_a_limit(monkeypatch) -> None:
    labels = labels_of(matrix(100, 30, 5, 0, 0))
    assert iterative.stratify(labels, 0.2, 0) is not None
    monkeypatch.setattr(iterative, "_MAX_PAIRS", 50)
    assert iterative.stratify(labels, 0.2, 0) is None
    monkeypatch.undo()
    monkeypatch.setattr(iterative, "_MAX_PAIRS_OF_IMAGES", 500)
    assert iterative.stratify(labels, 0.2, 0) is None
