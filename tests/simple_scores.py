"""Cases of scores and targets, and slow references of what :mod:`evaluation` computes."""

import numpy as np

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
