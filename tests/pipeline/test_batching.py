import numpy as np
import pytest
import torch

from grigri_fast.pipeline import batching


@pytest.mark.parametrize(
    "num_rows, batch_size, sizes",
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 8, [3])],
)
def test_no_batch_of_one_is_left_over(num_rows: int, batch_size: int, sizes: list[int]) -> None:
    batches = batching.cut_batches(np.arange(num_rows), batch_size)
    assert [len(b) for b in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(num_rows))


@pytest.mark.parametrize(
    "batches, bad, expected",
    [
        ([[0, 1, 2], [3, 4, 5]], [], [[0, 1, 2], [3, 4, 5]]),
        ([[0, 1, 2], [3, 4, 5]], [1], [[0, 2], [3, 4, 5]]),
        ([[0, 1], [2, 3], [4, 5]], [1], [[], [2, 3, 0], [4, 5]]),
        ([[0, 1], [2, 3], [4, 5]], [5], [[0, 1], [2, 3, 4], []]),
        ([[0, 1], [2, 3], [4, 5]], [2, 3, 4], [[0, 1, 5], [], []]),
        ([[0, 1], [2, 3], [4, 5]], [0, 2, 4], [[], [3, 1, 5], []]),
        ([[0, 1]], [1], [[0]]),
        ([[0, 1]], [0, 1], [[]]),
    ],
)
def test_without(batches: list, bad: list, expected: list) -> None:
    found = batching.drop_rows([np.array(b, dtype=np.intp) for b in batches], bad)
    assert [b.tolist() for b in found] == expected


def test_generators_of_epochs_and_purposes_differ_and_repeat() -> None:
    draw = lambda *a: batching.epoch_rng(*a).random()  # noqa: E731
    assert draw(0, 1, "crops") == draw(0, 1, "crops")
    values = {draw(s, e, p) for s in (0, 1) for e in (1, 2) for p in ("order", "crops")}
    assert len(values) == 8


def batches_of(*sizes: int) -> list[tuple[batching.Batch, bool]]:
    """Return batches of some sizes as the loader yields them, each with a dropped row."""
    made = []
    for i, size in enumerate(sizes, 1):
        images_NHWC = torch.full((size, 2, 2, 3), i, dtype=torch.uint8)
        rows_N = 10 * i + torch.arange(size)
        made.append((batching.Batch(images_NHWC, rows_N, i, {-i: "bad"}), i == len(sizes)))
    return made


@pytest.mark.parametrize(
    "sizes, in_place, rows, dropped, positions",
    [
        ([2, 2], False, [[10, 11], [20, 21]], [[-1], [-2]], [1, 7]),
        ([1, 2], False, [[10, 20, 21]], [[-1, -2]], [7]),
        ([0, 2, 1], False, [[20, 21], [30]], [[-1, -2], [-3]], [2, 7]),
        ([1, 2, 2], True, [[], [10, 20, 21], [30, 31]], [[-1], [-2], [-3]], [1, 2, 7]),
        ([0, 2], True, [[], [20, 21]], [[-1], [-2]], [1, 7]),
        ([2, 1], True, [[10, 11], [20]], [[-1], [-2]], [1, 7]),
    ],
)
def test_small_batches_join_the_next_one(
    sizes: list, in_place: bool, rows: list, dropped: list, positions: list
) -> None:
    joined = list(batching.join_small(batches_of(*sizes), 2, in_place, end=7))
    assert [b.rows_N.tolist() for b in joined] == rows
    assert [(b.images_NHWC[:, 0, 0, 0] == b.rows_N // 10).all().item() for b in joined] == [
        True
    ] * len(rows)
    assert [list(b.dropped) for b in joined] == dropped
    assert [b.position for b in joined] == positions
