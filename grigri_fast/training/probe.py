"""A linear probe: the head of a network, fitted to features that were computed once.

Training that begins there (LP-FT, Kumar et al. 2022, arXiv 2202.10054) does not bend the features
for the sake of a head that knows nothing yet; and the probe alone is a model after minutes.

Shapes: V views of an image, N images, D features, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..models import heads
from . import logistic
from .logistic import Components, Solution

_NUM_FOLDS = 3
# Cross-validation looks at the first principal components alone: it chooses the same weight decay
# in a third of the time (measured: 512 of 1,280 hold 83 % of the variance).
_NUM_COMPONENTS = 512
# The best weight decay for N images is near 0.05 (9,600 / N)^0.6: measured by cross-validation on
# 240 to 9,600 photographs, features of EfficientNet-Lite2. Tried are multiples of that.
_BEST_DECAY, _BEST_DECAY_IMAGES, _DECAY_POWER = 0.05, 9600, 0.6
_TRIED = (4.0, 2.0, 1.0, 0.5, 0.25)


@dataclass(frozen=True)
class LinearHead:
    """A linear map from features to logits.

    Attributes:
        weight_CD, bias_C: float32.
        weight_decay_C: the penalty on standardised features that was chosen for each class.
        cross_validated_loss: binary cross-entropy per image, summed over the classes, on images
            that were left out (at the best decay for all classes).
    """

    weight_CD: NDArray[np.float32]
    bias_C: NDArray[np.float32]
    weight_decay_C: NDArray[np.float32]
    cross_validated_loss: float

    def logits(self, features_VND: NDArray) -> NDArray[np.float32]:
        """Return the logits (N, C) of images: the mean over their views."""
        mean_ND = features_VND.astype(np.float32).mean(0)
        return mean_ND @ self.weight_CD.T + self.bias_C


def fit_head(
    features_VND: NDArray,
    targets_NC: NDArray,
    unknown_NC: NDArray[np.bool_] | None = None,
    *,
    seed: int,
) -> LinearHead:
    """Fit a head to features: logistic regression with a penalty that cross-validation chooses.

    Every view of an image is a sample; in cross-validation the views of an image stay together.
    Features are standardised, and the head takes them as they are: mean and scale are folded in.
    The decay is the best for all classes together; a class for which half or twice of it is better
    has that.

    Args:
        features_VND: of the training images alone.
        targets_NC: 0/1 labels.
        unknown_NC: labels that are not known, which count nowhere; None: all are known.
        seed: of the folds.
    """
    num_views, num_images, _ = features_VND.shape
    features_SE = torch.from_numpy(features_VND).flatten(0, 1)
    targets_SC = torch.from_numpy(targets_NC.astype(np.float32)).repeat(num_views, 1)
    known_SC = None
    if unknown_NC is not None:
        known_SC = torch.from_numpy((~unknown_NC).astype(np.float32)).repeat(num_views, 1)
    components = logistic.components_of(features_SE)
    fold_N = np.random.default_rng(seed).permutation(num_images) % _NUM_FOLDS
    fold_S = torch.from_numpy(np.tile(fold_N, num_views))
    first = components.first(_NUM_COMPONENTS)
    decay_C, loss = _choose_decay(first, targets_SC, known_SC, fold_S, num_images)
    everything_S1 = torch.ones(len(targets_SC), 1)
    solution = logistic.solve(components, targets_SC, everything_S1, decay_C, known_SC=known_SC)
    weight_EC = components.basis_ED @ solution.weight_DKC[:, 0] / components.std_E[:, None]
    bias_C = solution.bias_KC[0] - components.mean_E @ weight_EC
    return LinearHead(weight_EC.T.contiguous().numpy(), bias_C.numpy(), decay_C.numpy(), loss)


def _choose_decay(
    components: Components,
    targets_SC: torch.Tensor,
    known_SC: torch.Tensor | None,
    fold_S: torch.Tensor,
    num_images: int,
) -> tuple[torch.Tensor, float]:
    """Return the weight decay of each class, and the cross-validated loss of the common best."""
    middle = _BEST_DECAY * (_BEST_DECAY_IMAGES / num_images) ** _DECAY_POWER
    decays_L = middle * torch.tensor(_TRIED)
    used_SK = torch.stack([(fold_S != k).float() for k in range(_NUM_FOLDS)], 1)
    losses: list[torch.Tensor] = []
    solution: Solution | None = None
    for decay in decays_L:  # from the largest: the solution of one is where the next one starts
        decay_C = decay.expand(targets_SC.shape[1])
        solution = logistic.solve(
            components,
            targets_SC,
            used_SK,
            decay_C,
            known_SC=known_SC,
            start=solution,
            tolerance=1e-4,
        )
        losses.append(_held_out_loss(solution, components, targets_SC, known_SC, fold_S))
    loss_LC = torch.stack(losses)
    best = int(loss_LC.sum(1).argmin())
    first, end = max(0, best - 1), min(len(_TRIED), best + 2)
    decay_C = decays_L[first + loss_LC[first:end].argmin(0)]
    return decay_C, float(loss_LC[best].sum())


def _held_out_loss(
    solution: Solution,
    components: Components,
    targets_SC: torch.Tensor,
    known_SC: torch.Tensor | None,
    fold_S: torch.Tensor,
) -> torch.Tensor:
    """Return each class's mean loss (C) on the samples that a training set leaves out."""
    loss_C = torch.zeros(targets_SC.shape[1])
    for k in range(_NUM_FOLDS):
        is_out_S = fold_S == k
        logits_SC = solution.logits(components.scores_SD[is_out_S], k)
        loss_SC = F.binary_cross_entropy_with_logits(
            logits_SC, targets_SC[is_out_S], reduction="none"
        )
        loss_C += (loss_SC if known_SC is None else loss_SC * known_SC[is_out_S]).sum(0)
    return loss_C / (len(fold_S) if known_SC is None else known_SC.sum(0).clamp(min=1))


def put_head(network: nn.Module, head: LinearHead) -> None:
    """Put a fitted head into a network, in place.

    Of several heads, whose logits' mean is the network's, each gets the part for its own features.
    """
    layers = [layer for _, layer in heads.heads(network)]
    weight_CD = torch.from_numpy(head.weight_CD) * len(layers)
    parts = weight_CD.split([layer.weight[0].numel() for layer in layers], dim=1)
    with torch.no_grad():
        for layer, part in zip(layers, parts, strict=True):
            layer.weight.copy_(part.view_as(layer.weight))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(head.bias_C))
