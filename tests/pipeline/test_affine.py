import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from grigri_fast.pipeline import affine, batching
from grigri_fast.pipeline.warp import on_host


def smooth_image(height: int, width: int) -> np.ndarray:
    """Return a photograph-like image without detail finer than a few pixels."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + k) + np.cos(y / 7 - 2 * k) + np.sin((x + y) / 13) for k in range(3)]
    return (127.5 + 40 * np.stack(waves, axis=2)).astype(np.uint8)


def noise_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def warp(image: np.ndarray, map_23: np.ndarray, size_px: int) -> np.ndarray:
    out = np.empty((size_px, size_px, 3), dtype=np.uint8)
    on_host([image], map_23[None], out[None])
    return out


def reference_warp(image: np.ndarray, map_23: np.ndarray, size_px: int) -> np.ndarray:
    """Return the bilinear warp in float64 by PyTorch's grid_sample, border pixels repeated."""
    centres = np.mgrid[:size_px, :size_px][::-1].reshape(2, -1) + 0.5
    source = map_23[:, :2].astype(np.float64) @ centres + map_23[:, 2:].astype(np.float64)
    size_xy = np.array([image.shape[1], image.shape[0]])[:, None]
    grid = (2 * source / size_xy - 1).T.reshape(1, size_px, size_px, 2)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None],
        torch.from_numpy(grid),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "size_HW", [(128, 128), (100, 300), (300, 100), (37, 41), (500, 90)], ids=str
)
def test_crop_boxes_are_distributed_as_torchvisions(size_HW: tuple[int, int]) -> None:
    n = 4000
    torch.manual_seed(0)
    blank = torch.empty(3, *size_HW)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    )
    rng = np.random.default_rng(0)
    ours = affine.random_crop_boxes(rng, np.tile(size_HW, (n, 1)))
    assert (ours[:, 2:] > 0).all() and (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size_HW).all()
    for of in (
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 2] / b[:, 3],
    ):
        # Two samples of one distribution fall below 1e-3 once in a thousand times; the seeds are
        # fixed. A wrong aspect range, area range or fallback gives p < 1e-9 at this n.
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-3


def test_the_fallback_box_is_torchvisions_for_extreme_shapes() -> None:
    # 1 x 1000: hardly any try fits, and none of area 8 % at an aspect up to 4/3.
    ours = affine.random_crop_boxes(np.random.default_rng(0), np.array([[1, 1000], [1000, 1]]))
    for box, (h, w) in zip(ours, [(1, 1000), (1000, 1)], strict=True):
        theirs = RandomResizedCrop.get_params(torch.empty(3, h, w), [0.08, 1.0], [3 / 4, 4 / 3])
        assert tuple(box) == tuple(theirs)


def test_flips_and_angles() -> None:
    maps = affine.random_matrices(np.random.default_rng(0), np.full((20_000, 2), 64), 64)
    A = maps[:, :, :2].astype(np.float64)
    flipped = np.linalg.det(A) < 0
    assert abs(flipped.mean() - 0.5) < 0.015
    # The second row is scale_y * (sin, cos) of the angle.
    angle_deg = np.degrees(np.arctan2(A[:, 1, 0], A[:, 1, 1]))
    assert np.abs(angle_deg).max() <= 25.001
    assert ks_2samp(angle_deg, np.linspace(-25, 25, 20_001)).pvalue > 1e-3


def test_whole_image_map_takes_corners_to_corners() -> None:
    (map_23,) = affine.whole_image_matrices(np.array([[60, 90]]), 30)
    corners = np.array([[0, 0, 1], [30, 0, 1], [0, 30, 1], [30, 30, 1]]).T
    expected = [[0, 0], [90, 0], [0, 60], [90, 60]]
    np.testing.assert_allclose((map_23 @ corners).T, expected, atol=1e-4)


@pytest.mark.parametrize("make", [smooth_image, noise_image])
@pytest.mark.parametrize("seed", range(5))
def test_the_warp_equals_a_reference_warp(make, seed: int) -> None:
    image = make(128, 96)
    (map_23,) = affine.random_matrices(np.random.default_rng(seed), np.array([[128, 96]]), 112)
    ours = warp(image, map_23, 112).astype(np.float64)
    assert np.abs(ours - reference_warp(image, map_23, 112)).max() <= 1


@pytest.mark.parametrize("flip", [False, True])
def test_crop_flip_and_resize_equal_torchvisions_pixel_by_pixel(flip: bool) -> None:
    image, (top, left, height, width), size = noise_image(120, 150), (20, 31, 80, 64), 96
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    theirs = TF.resized_crop(tensor, top, left, height, width, [size, size], antialias=False)
    theirs = (TF.hflip(theirs) if flip else theirs).permute(1, 2, 0).numpy()
    box = np.array([[top, left, height, width]])
    (map_23,) = affine._compose(box, np.array([flip]), np.zeros(1), size)
    ours = warp(image, map_23, size)
    # torchvision repeats the crop's own edge; ours sees the pixel beside it: one pixel of margin.
    inside = np.s_[2:-2, 2:-2]
    assert np.abs(ours[inside].astype(int) - theirs[inside].astype(int)).max() <= 1


@pytest.mark.parametrize("angle_deg", [-25.0, 10.0, 25.0])
def test_rotation_turns_the_way_torchvision_does(angle_deg: float) -> None:
    image, size = smooth_image(96, 96), 96
    turned = TF.rotate(Image.fromarray(image), angle_deg, InterpolationMode.BILINEAR)
    box = np.array([[0, 0, 96, 96]])
    (map_23,) = affine._compose(box, np.zeros(1, bool), np.radians([angle_deg]), size)
    ours = warp(image, map_23, size)
    inside = np.s_[24:-24, 24:-24]  # what is in the picture at every angle
    difference = np.abs(ours[inside].astype(int) - np.asarray(turned)[inside].astype(int))
    assert difference.max() <= 2  # Pillow rounds its coordinates
    wrong_way = TF.rotate(Image.fromarray(image), -angle_deg, InterpolationMode.BILINEAR)
    assert np.abs(ours[inside].astype(int) - np.asarray(wrong_way)[inside].astype(int)).max() > 20


def test_working_sizes_have_a_short_side_of_at_most_twice_the_output() -> None:
    sizes_HW = np.array([[128, 128], [3000, 4000], [4000, 3000], [90, 9000], [449, 448], [1, 1]])
    expected = [[128, 128], [448, 597], [597, 448], [90, 9000], [449, 448], [1, 1]]
    assert affine.working_sizes(sizes_HW, 224).tolist() == expected


def test_taps_leave_no_way_of_more_than_one_and_a_half_source_pixels() -> None:
    sizes_HW = np.array([[128, 128], [192, 192], [193, 192], [448, 800], [100, 100_000]])
    maps = affine.whole_image_matrices(sizes_HW, 128)
    assert affine.taps(maps).tolist() == [[1, 1], [1, 1], [1, 2], [5, 3], [16, 1]]
    random = affine.random_matrices(np.random.default_rng(0), np.full((500, 2), 448), 128)
    steps = np.linalg.norm(random[:, :, :2], axis=1)  # along the output's x and y
    assert (steps / affine.taps(random) <= 1.5 + 1e-5).all()
    assert (affine.taps(random)[steps < 1.5] == 1).all()


def test_generators_of_epochs_and_purposes_differ_and_repeat() -> None:
    draw = lambda *a: batching.epoch_rng(*a).random()  # noqa: E731
    assert draw(0, 1, "crops") == draw(0, 1, "crops")
    values = {draw(s, e, p) for s in (0, 1) for e in (1, 2) for p in ("order", "crops")}
    assert len(values) == 8
