import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from grigri_fast.training.losses import (
    LOSSES,
    asl,
    bce,
    focal,
    labels_of,
    mse,
    parted,
    smoothed,
    weights_of,
)


def random_case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_NC = 4 * torch.randn(7, 5, generator=generator, dtype=dtype)
    targets_NC = (torch.rand(7, 5, generator=generator) < 0.3).to(dtype)
    return logits_NC, targets_NC


def test_the_losses_have_their_names() -> None:
    assert {"bce": bce, "mse": mse, "focal": focal, "asl": asl} == LOSSES


def test_bce_equals_its_definition_and_torchs() -> None:
    logits_NC, targets_NC = random_case()
    p = torch.sigmoid(logits_NC)
    expected = -(targets_NC * p.log() + (1 - targets_NC) * (1 - p).log()).mean()
    torch.testing.assert_close(bce(logits_NC, targets_NC), expected)
    torch.testing.assert_close(bce(logits_NC, targets_NC), torch.nn.BCELoss()(p, targets_NC))


def test_mse_equals_its_definition_and_torchs() -> None:
    logits_NC, targets_NC = random_case()
    p = torch.sigmoid(logits_NC)
    torch.testing.assert_close(mse(logits_NC, targets_NC), ((p - targets_NC) ** 2).mean())
    torch.testing.assert_close(mse(logits_NC, targets_NC), torch.nn.MSELoss()(p, targets_NC))


def test_focal_equals_its_definition_and_torchvisions() -> None:
    logits_NC, targets_NC = random_case()
    theirs = sigmoid_focal_loss(logits_NC, targets_NC, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(focal(logits_NC, targets_NC), theirs)


def test_asl_equals_its_definition() -> None:
    """By hand from the paper: (1 - p) log p, and p_m^4 log(1 - p_m) with p_m = max(p - 0.05, 0)."""
    logits_NC, targets_NC = random_case()
    p = torch.sigmoid(logits_NC)
    lowered = torch.relu(p - 0.05)
    expected = torch.where(
        targets_NC == 1, -(1 - p) * p.log(), -(lowered**4) * (1 - lowered).log()
    ).mean()
    torch.testing.assert_close(asl(logits_NC, targets_NC), expected)
    easy = torch.tensor([[-4.0]], requires_grad=True)  # p = 0.018: no pull at all
    asl(easy, torch.zeros(1, 1)).backward()
    assert easy.grad.item() == 0.0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_every_loss_and_its_gradient_stay_finite(name: str, logit: float, target: float) -> None:
    logits_NC = torch.full((2, 3), logit, requires_grad=True)
    loss = LOSSES[name](logits_NC, torch.full((2, 3), target))
    loss.backward()
    assert loss.isfinite() and logits_NC.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_mean_over_images_and_classes(name: str) -> None:
    logits_NC, targets_NC = random_case()
    whole = LOSSES[name](logits_NC, targets_NC)
    assert whole.shape == ()
    parts = [LOSSES[name](logits_NC[n, c], targets_NC[n, c]) for n in range(7) for c in range(5)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("logit", [1e4, -1e4, 100.0, -100.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_bce_and_its_gradient_stay_finite(dtype: torch.dtype, logit: float, target: float) -> None:
    logits_NC = torch.full((2, 3), logit, dtype=dtype, requires_grad=True)
    targets_NC = torch.full((2, 3), target, dtype=dtype)
    loss = bce(logits_NC, targets_NC)
    loss.backward()
    wrong = (logit > 0) != (target > 0)
    expected = abs(logit) if wrong else 0.0
    assert loss.item() == pytest.approx(expected, rel=0.01, abs=1e-4)
    # A sure mistake pulls with the full weight of its share of the mean, whatever the logit.
    pull = (1 if logit > 0 else -1) / 6 if wrong else 0.0
    assert logits_NC.grad.float().flatten().tolist() == pytest.approx(
        [pull] * 6, rel=0.01, abs=1e-4
    )


def test_the_gradient_of_bce_is_probability_minus_target() -> None:
    logits_NC, targets_NC = random_case()
    logits_NC.requires_grad_()
    bce(logits_NC, targets_NC).backward()
    torch.testing.assert_close(
        logits_NC.grad, (torch.sigmoid(logits_NC) - targets_NC).detach() / 35
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_weighted_labels_is_a_mean_over_the_known_ones(name: str) -> None:
    logits_NC, targets_NC = random_case()
    unknown_NC = np.random.default_rng(0).random((7, 5)) < 0.4
    targets_NC = targets_NC * torch.from_numpy(~unknown_NC)
    labels = labels_of(targets_NC.numpy(), unknown_NC, np.arange(7))
    logits_NC.requires_grad_()
    loss = LOSSES[name](logits_NC, *parted(labels))
    known = torch.from_numpy(~unknown_NC)
    expected = torch.stack(
        [LOSSES[name](a, b) for a, b in zip(logits_NC[known], targets_NC[known], strict=True)]
    ).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert (logits_NC.grad[~known] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_without_unknown_labels_a_loss_is_the_plain_one_to_the_last_bit(name: str) -> None:
    logits_NC, targets_NC = random_case(torch.float32)
    labels = labels_of(targets_NC.numpy(), None, np.arange(7))
    assert labels.shape == (7, 5)
    assert torch.equal(
        LOSSES[name](logits_NC, *parted(labels)), LOSSES[name](logits_NC, targets_NC)
    )


def test_weights_are_one_on_average() -> None:
    unknown_NC = np.array([[True, False], [False, False]])
    assert weights_of(unknown_NC) == pytest.approx(np.array([[0, 4], [4, 4]]) / 3)
    assert not weights_of(np.ones((2, 2), dtype=bool)).any()


def test_the_images_to_train_on_have_weights_of_one_on_average() -> None:
    """The other image, of which everything is known, is only validated on."""
    unknown_NC = np.array([[True, False], [False, False]])
    labels = labels_of(np.zeros((2, 2), dtype=np.float32), unknown_NC, np.array([0]))
    assert labels[..., 1].tolist() == [[0, 2], [2, 2]]


def test_smoothing_moves_known_targets_alone() -> None:
    unknown_NC = np.array([[True, False, False]])
    labels = labels_of(np.array([[0, 0, 1]], dtype=np.float32), unknown_NC, np.arange(1))
    targets_NC, weights_NC = parted(smoothed(labels, 0.2))
    assert targets_NC[0].tolist() == pytest.approx([0, 0.1, 0.9])
    assert torch.equal(weights_NC, labels[..., 1])
