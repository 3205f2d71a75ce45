"""Logistic regression of several labels with an L2 penalty, solved to convergence.

The objective is convex and falls apart into one per label. In the basis of the features' principal
components its curvature is nearly diagonal, so L-BFGS, scaled by that diagonal, needs about twenty
evaluations instead of hundreds. Several training sets (folds) of the same samples are solved at
once: an evaluation is bound by reading the samples, whatever the number of columns.

Shapes: S samples, D features or components, K training sets, C classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

_CHUNK = 8192  # samples that are standardised at a time
_LEAST_STD = 1e-6  # of a feature that says something, in its own unit
# A pull of the bias towards the log-odds of the class, without which it would have no end where a
# class has no positives (assumed: a hundredth of the curvature of a class with 1 %).
_BIAS_DECAY = 1e-4


@dataclass(frozen=True)
class Components:
    """Samples in the basis of their principal components, the first with the largest variance.

    Attributes:
        scores_SD: float32, of the standardised samples.
        variance_D: of each component.
        basis_ED: component by standardised feature (E features).
        mean_E, std_E: of the features.
    """

    scores_SD: torch.Tensor
    variance_D: torch.Tensor
    basis_ED: torch.Tensor
    mean_E: torch.Tensor
    std_E: torch.Tensor

    def first(self, number: int) -> "Components":
        """Return the first components alone."""
        return Components(
            self.scores_SD[:, :number].contiguous(),
            self.variance_D[:number],
            self.basis_ED[:, :number],
            self.mean_E,
            self.std_E,
        )


@dataclass(frozen=True)
class Solution:
    """Weights and biases of K training sets: ``logits_SC = scores_SD @ weight_DKC[:, k] + bias``.

    Attributes:
        weight_DKC, bias_KC: float32.
    """

    weight_DKC: torch.Tensor
    bias_KC: torch.Tensor

    def logits(self, scores_SD: torch.Tensor, k: int) -> torch.Tensor:
        """Return the logits (S, C) of samples by the solution of training set ``k``."""
        return scores_SD @ self.weight_DKC[:, k] + self.bias_KC[k]


def components_of(features_SE: torch.Tensor) -> Components:
    """Return samples, standardised feature by feature, in the basis of their principal components.

    Without those whose variance is nothing but rounding: there are at most as many as samples.
    """
    chunks = list(features_SE.split(_CHUNK))
    num = len(features_SE)
    mean_E = sum(chunk.double().sum(0) for chunk in chunks).float() / num
    square_E = sum((chunk.float() - mean_E).square().double().sum(0) for chunk in chunks)
    std_E = (square_E / num).sqrt().float()
    std_E[std_E < _LEAST_STD] = 1.0

    def standard(some: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
        return ((chunk.float() - mean_E) / std_E for chunk in some)

    gram_EE = torch.zeros(len(mean_E), len(mean_E))
    for chunk in standard(chunks):
        gram_EE.addmm_(chunk.T, chunk, alpha=1 / num)
    # In float64: with fewer samples than features most variances are 0, and float32 may fail.
    variance_D, basis_ED = (x.float() for x in torch.linalg.eigh(gram_EE.double()))
    variance_D, basis_ED = variance_D.flip(0), basis_ED.flip(1)
    num_kept = min(num, int((variance_D > 1e-6 * variance_D[0]).sum()))
    variance_D, basis_ED = variance_D[:num_kept], basis_ED[:, :num_kept].contiguous()
    scores_SD = torch.empty(num, num_kept)
    for place, chunk in zip(scores_SD.split(_CHUNK), standard(chunks), strict=True):
        torch.mm(chunk, basis_ED, out=place)
    return Components(scores_SD, variance_D, basis_ED, mean_E, std_E)


def solve(
    components: Components,
    targets_SC: torch.Tensor,
    used_SK: torch.Tensor,
    decay_C: torch.Tensor,
    *,
    known_SC: torch.Tensor | None = None,
    start: Solution | None = None,
    tolerance: float = 1e-5,
    most_iterations: int = 200,
) -> Solution:
    """Minimise the mean binary cross-entropy plus ``decay / 2`` times the squared weights.

    By L-BFGS (Liu and Nocedal 1989) in float32, the weights scaled by the square root of the
    curvature where it starts: variance x p (1 - p) + decay.

    Args:
        components: the samples.
        targets_SC: float32 from 0 to 1.
        used_SK: float32, 1 for a sample of training set k, else 0.
        decay_C: weight of the penalty, per class.
        known_SC: float32, 0 for a target that is not known and counts nowhere, else 1; None: all
            are known.
        start: where to start, by default at the class frequencies.
        tolerance: it ends when the objective, summed over training sets and classes, changes less.
        most_iterations: it ends after so many.
    """
    scores_SD, (num_sets, num_classes) = components.scores_SD, (used_SK.shape[1], len(decay_C))
    if known_SC is None:
        p_C = targets_SC.mean(0)
        share = (used_SK / used_SK.sum(0).clamp(min=1))[:, :, None]
    else:
        p_C = targets_SC.sum(0) / known_SC.sum(0).clamp(min=1)
        used_SKC = used_SK[:, :, None] * known_SC[:, None]
        share = used_SKC / used_SKC.sum(0).clamp(min=1)
    p_C = p_C.clamp(1e-3, 1 - 1e-3)
    curvature_C, log_odds_C = p_C * (1 - p_C), torch.log(p_C / (1 - p_C))
    scale_D1C = (components.variance_D[:, None] * curvature_C + decay_C).rsqrt()[:, None]
    scale_C = curvature_C.rsqrt()
    if start is None:
        shape = (scores_SD.shape[1], num_sets, num_classes)
        start = Solution(torch.zeros(shape), log_odds_C.expand(num_sets, -1))
    u_DKC = (start.weight_DKC / scale_D1C).requires_grad_()
    v_KC = (start.bias_KC / scale_C).requires_grad_()
    targets_S1C = targets_SC[:, None]

    @torch.no_grad()
    def objective() -> torch.Tensor:
        weight_DKC, bias_KC = u_DKC * scale_D1C, v_KC * scale_C
        logits_SKC = (scores_SD @ weight_DKC.flatten(1)).view(-1, num_sets, num_classes)
        logits_SKC += bias_KC
        loss = ((F.softplus(logits_SKC) - targets_S1C * logits_SKC) * share).sum()
        loss += (decay_C * weight_DKC.square()).sum() / 2
        loss += _BIAS_DECAY * (bias_KC - log_odds_C).square().sum() / 2
        residual_SKC = logits_SKC.sigmoid_().sub_(targets_S1C).mul_(share)
        gradient_DKC = (scores_SD.T @ residual_SKC.flatten(1)).view_as(weight_DKC)
        u_DKC.grad = (gradient_DKC + decay_C * weight_DKC) * scale_D1C
        v_KC.grad = (residual_SKC.sum(0) + _BIAS_DECAY * (bias_KC - log_odds_C)) * scale_C
        return loss

    optimizer = torch.optim.LBFGS(
        [u_DKC, v_KC],
        max_iter=most_iterations,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-7,
        tolerance_change=tolerance,
    )
    optimizer.step(objective)
    return Solution((u_DKC * scale_D1C).detach(), (v_KC * scale_C).detach())
