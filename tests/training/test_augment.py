import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.training import augment, losses
from grigri_fast.training.augment import Augmentation, Blend

CPU = torch.device("cpu")
NAMES = ("color", "erasing", "mixup", "cutmix", "label_smoothing")


def batch(num: int = 6, side: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noise, targets and the rows 10, 11, ..."""
    rng = torch.Generator().manual_seed(0)
    images_NHWC = torch.randint(0, 256, (num, side, side, 3), dtype=torch.uint8, generator=rng)
    return images_NHWC, (torch.rand(num, 4, generator=rng) < 0.5).float(), torch.arange(num) + 10


def augmentation(epoch: int = 1, **options: object) -> Augmentation:
    config = resolve(TrainConfig(recipe="report", **options))
    made = Augmentation(config, 20, CPU, (0.5, 0.4, 0.3))
    made.start_epoch(epoch)
    return made


def test_nothing_is_done_unless_it_is_asked_for() -> None:
    images_NHWC, targets_NC, rows_N = batch()
    images, targets = augmentation()(images_NHWC, targets_NC, rows_N, 1)
    assert images is images_NHWC and targets is targets_NC


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_depends_on_seed_epoch_and_batch_alone(name: str) -> None:
    images_NHWC, targets_NC, rows_N = batch()
    before = images_NHWC.clone(), targets_NC.clone()

    def seen(position: int = 3, epoch: int = 2, seed: int = 0) -> tuple:
        made = augmentation(epoch, seed=seed, **{name: 0.5})
        return made(images_NHWC, targets_NC, rows_N, position)

    images, targets = seen()
    assert images.dtype == torch.uint8 and targets.dtype == torch.float32
    assert not (torch.equal(images, images_NHWC) and torch.equal(targets, targets_NC))
    assert torch.equal(seen()[0], images) and torch.equal(seen()[1], targets)
    assert torch.equal(images_NHWC, before[0]) and torch.equal(targets_NC, before[1])
    others = [seen(epoch=3), seen(seed=1)]
    if name == "label_smoothing":  # nothing is drawn
        assert all(torch.equal(other[1], targets) for other in others)
        return
    assert not all(torch.equal(other[0], images) for other in others)
    of_rows = torch.equal(seen(position=4)[0], images)
    assert of_rows == (name in ("color", "erasing"))


@pytest.mark.parametrize("name", ["color", "erasing"])
def test_what_belongs_to_an_image_does_not_depend_on_its_batch(name: str) -> None:
    images_NHWC, targets_NC, rows_N = batch()
    made = augmentation(**{name: 0.5})
    whole, _ = made(images_NHWC, targets_NC, rows_N, 1)
    half, _ = made(images_NHWC[3:], targets_NC[3:], rows_N[3:], 2)
    assert torch.equal(whole[3:], half)


def test_colours_are_those_of_torchvision() -> None:
    images_NHWC, _, _ = batch(3)
    for factors in ([0.6, 1.0, 1.0], [1.0, 0.4, 1.0], [1.0, 1.0, 0.2], [0.9, 0.7, 0.5]):
        ours = augment.recolored(
            images_NHWC.float(), torch.tensor([factors] * 3), torch.tensor(augment._LUMA)
        )
        theirs = images_NHWC.permute(0, 3, 1, 2) / 255
        theirs = tv.adjust_brightness(theirs, factors[0])
        theirs = torch.stack([tv.adjust_contrast(image, factors[1]) for image in theirs])
        theirs = tv.adjust_saturation(theirs, factors[2]).permute(0, 2, 3, 1)
        # Their weights of gray have four digits (0.2989, 0.587, 0.114).
        torch.testing.assert_close(ours / 255, theirs, rtol=0, atol=1e-3)


def test_rectangles_are_as_large_as_in_the_paper_and_as_many_as_asked_for() -> None:
    boxes_N4 = augment.erased_boxes(np.random.default_rng(0), 4000, 0.25)
    assert boxes_N4.min() >= 0 and boxes_N4.max() <= 1
    height, width = boxes_N4[:, 2] - boxes_N4[:, 0], boxes_N4[:, 3] - boxes_N4[:, 1]
    some = height > 0
    assert some.mean() == pytest.approx(0.25, abs=0.03)
    area = (height * width)[some]
    assert area.min() >= 0.0199 and area.max() < 0.331 and np.median(area) > 0.15


def test_a_rectangle_is_painted_over() -> None:
    images_NHWC = torch.zeros(2, 8, 8, 3)
    boxes_N4 = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0]])
    images = augment.erased(images_NHWC, boxes_N4, 255 * torch.tensor([0.5, 0.4, 0.3]))
    painted_NHW = (images > 0).all(3)
    assert images[0, 3, 5].tolist() == pytest.approx([127.5, 102.0, 76.5])
    assert painted_NHW[0, 2:6, 4:].all() and painted_NHW.sum() == 16


def test_mixup_blends_images_and_labels_with_the_same_share() -> None:
    images_NHWC, targets_NC, _ = batch()
    images = images_NHWC.float()
    mixed, targets = augment.blended(images, targets_NC, Blend(share=0.75))
    torch.testing.assert_close(mixed[1], 0.75 * images[1] + 0.25 * images[0])
    torch.testing.assert_close(mixed[0], 0.75 * images[0] + 0.25 * images[-1])
    torch.testing.assert_close(targets[1], 0.75 * targets_NC[1] + 0.25 * targets_NC[0])


def test_cutmix_gives_labels_in_proportion_to_what_is_seen() -> None:
    images_NHWC, targets_NC, _ = batch()
    images = images_NHWC.float()
    mixed, targets = augment.blended(images, targets_NC, Blend(box=(0.0, 0.0, 0.5, 0.25)))
    assert torch.equal(mixed[1, :8, :4], images[0, :8, :4])
    assert torch.equal(mixed[1, 8:], images[1, 8:]) and torch.equal(
        mixed[1, :, 4:], images[1, :, 4:]
    )
    torch.testing.assert_close(targets[1], 0.875 * targets_NC[1] + 0.125 * targets_NC[0])


def test_blends_are_drawn_as_asked_for() -> None:
    rng = np.random.default_rng(0)
    many = [augment.drawn_blend(rng, 0.4, 0.5) for _ in range(2000)]
    boxes = [b.box for b in many if b.box]
    assert len(boxes) / 2000 == pytest.approx(0.5, abs=0.04)
    shares = np.array([b.share for b in many if b.box is None])
    assert shares.mean() == pytest.approx(0.5, abs=0.05) and np.ptp(shares) <= 1
    for top, left, bottom, right in boxes:
        assert 0 <= top <= bottom <= 1 and 0 <= left <= right <= 1
    assert all(augment.drawn_blend(rng, 0.0, 0.3).share in (None, 1.0) for _ in range(50))


def test_label_smoothing_moves_targets_towards_a_half() -> None:
    _, targets_NC, rows_N = batch()
    _, targets = augmentation(label_smoothing=0.1)(batch()[0], targets_NC, rows_N, 1)
    assert sorted(set(targets.flatten().tolist())) == pytest.approx([0.05, 0.95])


def test_a_blend_of_unknown_labels_is_the_sum_of_the_losses() -> None:
    """Cross-entropy is linear in the target: each image's own loss counts by its share."""
    images_NHWC, targets_NC, _ = batch()
    unknown_NC = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    targets_NC = targets_NC * ~unknown_NC
    labels = losses.labels_of(targets_NC.numpy(), unknown_NC.numpy(), np.arange(6))
    _, blended = augment.blended(images_NHWC.float(), labels, Blend(share=0.7))
    logits_NC = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    found = losses.bce(logits_NC, *losses.parted(blended))
    own, other = (losses.bce(logits_NC, *losses.parted(one)) for one in (labels, labels.roll(1, 0)))
    torch.testing.assert_close(found, 0.7 * own + 0.3 * other)
