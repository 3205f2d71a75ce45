"""Budgets of the way on a GPU. They are counted, since nothing here has a GPU to measure them."""

import numpy as np
import pytest

from grigri_fast.pipeline import affine, dali_batches, decode, device_cost

PHOTOGRAPHS = np.array([[3000, 4000]] * 500)  # 12 Mpx


def maps(height: int, width: int, size_px: int = 224, num: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    return affine.random_matrices(rng, np.array([(height, width)] * num), size_px)


@pytest.mark.parametrize("from_cache", [False, True])
def test_where_nothing_shrinks_a_batch_of_32_is_at_most_ten_launches_and_32_mb(from_cache) -> None:
    matrices = maps(256, 341)
    assert affine.taps(matrices).max() == 1
    work = device_cost.work_of(matrices, 224, from_cache)
    assert work.launches <= 10
    assert work.bytes_moved <= 32 * 10**6  # 1 MB per image
    # It cannot be less than writing the images.
    assert work.bytes_moved > 32 * 3 * 224**2


def test_averages_cost_launches_only_where_an_image_shrinks() -> None:
    plain, one = maps(256, 341), maps(256, 341)
    one[5] = affine.whole_image_matrices(np.array([[448, 597]]), 224)[0]
    few, more = (device_cost.work_of(m, 224, True) for m in (plain, one))
    assert few.launches < more.launches <= 2 * 10
    assert more.bytes_moved > few.bytes_moved


def test_the_operators_that_are_counted_are_those_of_the_graph() -> None:
    """One more in the graph would have to be counted, too."""
    setting = {"batch_size": 8, "num_threads": 1, "device_id": 0, "prefetch_queue_depth": 1}
    graph = decode.look_graph(device="gpu", kept_on="gpu", **setting)
    graph._build_graph()
    on_gpu = [
        str(op.spec).splitlines()[0] for op in graph._ops if "    device: gpu" in str(op.spec)
    ]
    assert on_gpu == [
        "OpSpec for ExternalSource:",  # _GATHER
        "OpSpec for WarpAffine:",  # _WARP
        "OpSpec for _conditional__Split:",  # views alone
        "OpSpec for Reshape:",  # a view
        "OpSpec for reductions__Mean:",  # _AVERAGE, with the next
        "OpSpec for Cast:",
    ]


def test_memory_for_photographs_is_bounded_whatever_their_number_and_size() -> None:
    def taken(sizes_HW: np.ndarray, **changes) -> int:
        setting = {"size_px": 224, "batch_size": 32, "threads": 4, "keeps": True} | changes
        return device_cost.device_bytes(sizes_HW, **setting)

    usual = taken(PHOTOGRAPHS)
    assert 3 * dali_batches.GROUP_PIXELS < usual < 2**30
    assert taken(PHOTOGRAPHS[:100]) == usual
    assert taken(np.array([[128, 128]] * 500)) < usual / 3
    assert taken(PHOTOGRAPHS, threads=1) < usual == taken(PHOTOGRAPHS, threads=64)
    assert taken(PHOTOGRAPHS, keeps=False) < usual
    assert taken(PHOTOGRAPHS, size_px=448) > usual
    one_of_100_mpx = np.concatenate([PHOTOGRAPHS, [[10_000, 10_000]]])
    assert taken(one_of_100_mpx) > 3 * 10**8
