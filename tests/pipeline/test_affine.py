import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from grigri_fast.pipeline import affine


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
