import numpy as np
import pytest

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
