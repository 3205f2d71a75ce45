"""The linear probe: what is fitted, and that a network with it computes the same."""

import numpy as np
import torch
from torch import nn

from grigri_fast.training import probe


def features(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (2, N, 6) of two views, and labels (N, 2) that the first three decide."""
    rng = np.random.default_rng(seed)
    image_ND = rng.normal(size=(num, 6))
    views = np.stack([image_ND + 0.1 * rng.normal(size=(num, 6)) for _ in range(2)])
    labels = image_ND[:, :2] + image_ND[:, 1:3] + 0.5 * rng.normal(size=(num, 2)) > 1
    return (3 + 2 * views).astype(np.float16), labels.astype(np.float32)


def test_a_head_finds_what_decides() -> None:
    head = probe.fit_head(*features(400), seed=0)
    features_VND, targets_NC = features(200, seed=1)
    right = (head.logits(features_VND) > 0) == (targets_NC > 0.5)
    assert right.mean(0).min() > 0.85  # the noise leaves no more
    weight = np.abs(head.weight_CD)
    assert weight[:, 3:].max() < 0.3 * min(weight[0, :2].min(), weight[1, 1:3].min())
    loss = np.logaddexp(0, np.where(targets_NC > 0.5, -1, 1) * head.logits(features_VND))
    assert abs(loss.sum(1).mean() - head.cross_validated_loss) < 0.15


def test_few_images_get_a_stronger_penalty_and_noise_the_strongest() -> None:
    few, many = (probe.fit_head(*features(num), seed=0) for num in (40, 4000))
    assert few.weight_decay_C.min() > many.weight_decay_C.max()
    noise = np.random.default_rng(0).normal(size=(1, 200, 30))
    labels = np.random.default_rng(1).integers(0, 2, (200, 1)).astype(np.float32)
    head = probe.fit_head(noise, labels, seed=0)
    middle = 0.05 * (9600 / 200) ** 0.6
    assert np.isclose(head.weight_decay_C[0], 4 * middle)


def test_it_is_the_same_every_time_and_works_with_two_images() -> None:
    a, b = (probe.fit_head(*features(60), seed=3) for _ in range(2))
    assert np.array_equal(a.weight_CD, b.weight_CD) and np.array_equal(a.bias_C, b.bias_C)
    assert np.isfinite(probe.fit_head(*features(2), seed=0).weight_CD).all()


def test_unknown_labels_have_no_say() -> None:
    features_VND, targets_NC = features(300)
    unknown_NC = np.zeros(targets_NC.shape, dtype=bool)
    plain = probe.fit_head(features_VND, targets_NC, seed=0)
    same = probe.fit_head(features_VND, targets_NC, unknown_NC, seed=0)
    assert np.allclose(plain.weight_CD, same.weight_CD, atol=1e-3)
    unknown_NC[:150] = True
    wrong_NC = np.where(unknown_NC, 1 - targets_NC, targets_NC)
    known = np.where(unknown_NC, 0, targets_NC)
    head = probe.fit_head(features_VND, known, unknown_NC, seed=0)
    test_VND, truth_NC = features(400, seed=1)
    right = [
        ((h.logits(test_VND) > 0) == (truth_NC > 0.5)).mean()
        for h in (head, probe.fit_head(features_VND, wrong_NC, seed=0))
    ]
    assert right[0] > 0.85 > right[1]


class TwoHeads(nn.Module):
    """Logits are the mean of those of two heads, as in the distilled networks of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg: dict[str, str] = {}
        self.head, self.head_dist = nn.Linear(4, 2), nn.Linear(2, 2)

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.head, self.head_dist

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        return (self.head(features_ND[:, :4]) + self.head_dist(features_ND[:, 4:])) / 2


def test_a_network_with_the_head_computes_its_logits() -> None:
    features_VND, targets_NC = features(100)
    head = probe.fit_head(features_VND, targets_NC, seed=0)
    inputs = torch.from_numpy(features_VND[0].astype(np.float32))
    for network in (nn.Sequential(nn.Linear(6, 2)), TwoHeads()):
        probe.put_head(network, head)
        logits = network(inputs).detach().numpy()
        assert np.allclose(logits, head.logits(features_VND[:1]), atol=1e-4)
    conv = nn.Sequential(nn.Conv2d(6, 2, 1), nn.Flatten())
    probe.put_head(conv, head)
    assert np.allclose(
        conv(inputs[:, :, None, None]).detach().numpy(), head.logits(features_VND[:1]), atol=1e-4
    )
