"""Which unlabelled photographs teach a model most: the part without files.

Shapes: N photographs, D numbers per feature, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Measured (benchmarks/README.md): with 128 the choice is worse.
_DIRECTIONS = 256
_MAX_CLASSES = 64  # those that are most in doubt; memory grows with them
# Cosine of two features. Measured on 12,000 photographs of MIRFLICKR: the ten pairs above it are
# copies, or show the same thing in the same way; pairs below are alike in kind, like two skies.
_ALIKE = 0.85


@dataclass(frozen=True)
class Selection:
    """The photographs to label, the one that teaches most first.

    Attributes:
        rows: which.
        gains: how much the label of each would tell, in nats, given those before it.
        alike: by row, for photographs that are left out: the chosen one that shows the same.
    """

    rows: list[int]
    gains: list[float]
    alike: dict[int, int]


def select(
    features_ND: NDArray[np.floating],
    probabilities_NC: NDArray[np.float64],
    number: int,
    num_labelled: int,
) -> Selection:
    """Return the photographs whose labels would tell most about a linear head, one after the other.

    The head's weights of a class have a normal distribution: as wide as that many labelled images
    of the same kind leave it (Laplace's approximation of logistic regression, with a ridge of a
    sixth of what they tell about the class most in doubt). A photograph's label tells ``log(1 + p
    (1 - p) v) / 2`` nats about them, where v is the variance of its logit: much where the
    probability p is in doubt *and* the photograph is unlike those that are known. After each choice
    the distribution shrinks, so that the next one is unlike those chosen before. (Greedy D-optimal
    design; MacKay 1992, doi 10.1162/neco.1992.4.4.590.) Near-duplicates of a chosen one are left
    out.

    Args:
        features_ND: what the head takes in.
        probabilities_NC: what the model predicts.
        number: how many to choose at most.
        num_labelled: how many images the model was trained on.
    """
    standard_ND = _standardized(features_ND)
    directions_ND, unit_ND = _main_directions(standard_ND), _unit(standard_ND)
    doubt_NC = (probabilities_NC * (1 - probabilities_NC)).astype(np.float32)
    doubt_NC = doubt_NC[:, np.argsort(-doubt_NC.sum(0), kind="stable")[:_MAX_CLASSES]]
    covariance_CDD = _covariance(directions_ND, doubt_NC, num_labelled)
    variance_NC = np.stack(
        [((directions_ND @ of_class) * directions_ND).sum(1) for of_class in covariance_CDD], 1
    )
    is_left = np.ones(len(features_ND), dtype=bool)
    chosen = Selection([], [], {})
    while len(chosen.rows) < number and is_left.any():
        gain_N = np.log1p(doubt_NC * variance_NC).sum(1) / 2
        row = int(np.where(is_left, gain_N, -np.inf).argmax())
        chosen.rows.append(row)
        chosen.gains.append(float(gain_N[row]))
        is_left[row] = False
        for other in np.flatnonzero(is_left & (unit_ND @ unit_ND[row] > _ALIKE)).tolist():
            chosen.alike[other] = row
            is_left[other] = False
        # The distributions with one image more (Sherman and Morrison).
        step_CD = covariance_CDD @ directions_ND[row]
        scale_C = doubt_NC[row] / (1 + doubt_NC[row] * variance_NC[row])
        along_NC = directions_ND @ step_CD.T
        variance_NC = np.maximum(variance_NC - scale_C * along_NC**2, 0)
        outer_CDD = step_CD[:, :, None] * step_CD[:, None, :]
        covariance_CDD -= scale_C[:, None, None] * outer_CDD
    return chosen


def _standardized(features_ND: NDArray[np.floating]) -> Array:
    """Return features with mean 0 and standard deviation 1 each."""
    features_ND = features_ND.astype(np.float32)
    spread_D = features_ND.std(0)
    spread_D[spread_D == 0] = 1
    return (features_ND - features_ND.mean(0)) / spread_D


def _main_directions(standard_ND: Array) -> Array:
    """Return features in the directions in which they vary most."""
    _, vectors_DD = np.linalg.eigh(standard_ND.T @ standard_ND / len(standard_ND))
    return standard_ND @ vectors_DD[:, -_DIRECTIONS:]


def _unit(standard_ND: Array) -> Array:
    """Return features of length 1, whose products are the cosines of the angles between them."""
    length_N = np.linalg.norm(standard_ND, axis=1)
    length_N[length_N == 0] = 1
    return standard_ND / length_N[:, None]


def _covariance(directions_ND: Array, doubt_NC: Array, num_labelled: int) -> Array:
    """Return the covariance of each class's weights (C, D, D) after ``num_labelled`` images."""
    share = max(1, num_labelled) / len(directions_ND)
    told_CDD = np.stack(
        [share * (directions_ND.T * doubt_N) @ directions_ND for doubt_N in doubt_NC.T]
    )
    num_directions = directions_ND.shape[1]
    ridge = told_CDD.trace(axis1=1, axis2=2).max() / (6 * num_directions)
    return np.linalg.inv(told_CDD + max(ridge, 1e-6) * np.eye(num_directions, dtype=np.float32))
