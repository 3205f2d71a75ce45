"""Logistic regression: the optimum is reached, whatever the features' scale."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from grigri_fast.training import logistic


def samples(num: int, num_features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of very different scales, and labels that depend on them."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(num, 3)) @ rng.normal(size=(3, num_features))
    features = hidden + 0.3 * rng.normal(size=(num, num_features))
    labels = features[:, :2] + rng.normal(size=(num, 2)) > 0.5
    scales = 10.0 ** rng.integers(-2, 3, num_features)
    return torch.from_numpy((5 + features) * scales).float(), torch.from_numpy(labels).float()


def test_components_are_the_standardised_samples_in_another_basis() -> None:
    features_SE, _ = samples(300, 8)
    found = logistic.components_of(features_SE)
    standard = (features_SE - features_SE.mean(0)) / features_SE.std(0, correction=0)
    assert torch.allclose(found.scores_SD @ found.basis_ED.T, standard, atol=1e-4)
    assert torch.allclose(found.scores_SD.square().mean(0), found.variance_D, rtol=1e-3)
    assert found.variance_D.diff().max() <= 0 and found.first(3).scores_SD.shape == (300, 3)


def test_no_more_components_than_samples_and_none_of_a_constant() -> None:
    features_SE, _ = samples(6, 8)
    assert logistic.components_of(features_SE).scores_SD.shape[1] <= 6
    constant = torch.cat([samples(300, 4)[0], torch.full((300, 1), 7.0)], 1)
    assert logistic.components_of(constant).scores_SD.shape == (300, 4)


def test_each_training_set_has_the_optimum_that_scikit_learn_finds() -> None:
    features_SE, targets_SC = samples(400, 10)
    components = logistic.components_of(features_SE)
    used_SK = torch.ones(400, 2)
    used_SK[:150, 1] = 0
    solution = logistic.solve(
        components, targets_SC, used_SK, torch.tensor([0.05, 0.01]), tolerance=1e-9
    )
    for k, rows in enumerate((slice(0, 400), slice(150, 400))):
        scores, targets = components.scores_SD[rows].numpy(), targets_SC[rows].numpy()
        for c, decay in enumerate((0.05, 0.01)):
            theirs = LogisticRegression(C=1 / (decay * len(scores)), tol=1e-8, max_iter=1000)
            theirs.fit(scores, targets[:, c])
            ours = solution.weight_DKC[:, k, c].numpy()
            assert np.allclose(ours, theirs.coef_[0], atol=5e-3)
            assert abs(solution.bias_KC[k, c] - theirs.intercept_[0]) < 5e-3


def test_a_class_that_is_nowhere_ends_at_a_finite_bias() -> None:
    features_SE, targets_SC = samples(50, 5)
    targets_SC[:, 1] = 0
    components = logistic.components_of(features_SE)
    solution = logistic.solve(components, targets_SC, torch.ones(50, 1), torch.full((2,), 0.1))
    assert -12 < solution.bias_KC[0, 1] < -6


def test_a_label_that_is_not_known_is_as_if_the_sample_were_not_there() -> None:
    features_SE, targets_SC = samples(400, 10)
    components = logistic.components_of(features_SE)
    known_SC = torch.ones(400, 2)
    known_SC[:150, 1] = 0
    decay_C, everything_S1 = torch.tensor([0.05, 0.05]), torch.ones(400, 1)
    masked = targets_SC * known_SC
    found = logistic.solve(
        components, masked, everything_S1, decay_C, known_SC=known_SC, tolerance=1e-9
    )
    used_SK = torch.ones(400, 2)
    used_SK[:150, 1] = 0
    expected = logistic.solve(components, targets_SC, used_SK, decay_C, tolerance=1e-9)
    for c in range(2):
        torch.testing.assert_close(
            found.weight_DKC[:, 0, c], expected.weight_DKC[:, c, c], atol=5e-3, rtol=0
        )
