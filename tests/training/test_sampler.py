import numpy as np
import pytest

from grigri_fast.training import sampler


def test_factors_are_those_of_the_rarest_label() -> None:
    """Frequencies 0.8, 0.2, 0.05: the median is 0.2, so the rare class asks for sqrt(4) = 2."""
    targets_NC = np.zeros((20, 3))
    targets_NC[:16, 0] = targets_NC[:4, 1] = targets_NC[0, 2] = 1
    frequency_C = targets_NC.mean(0)
    factors_N = sampler.repeat_factors(targets_NC, frequency_C, 4.0)
    assert factors_N.tolist() == pytest.approx([2.0] + [1.0] * 19)
    assert sampler.repeat_factors(targets_NC, frequency_C, 1.5)[0] == 1.5
    none = sampler.repeat_factors(np.zeros((4, 2)), np.zeros(2), 4.0)
    assert none.tolist() == [1.0] * 4


def test_as_many_rows_as_there_are_each_in_proportion() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(100, 200)
    factors = np.ones(100)
    factors[:10] = 3.0
    expected = factors * 100 / factors.sum()
    counts = np.zeros(100)
    for _ in range(300):
        drawn = sampler.drawn(rng, rows, factors)
        assert len(drawn) == 100 and set(drawn) <= set(rows)
        one = np.bincount(drawn - 100, minlength=100)
        assert (np.abs(one - expected) < 1).all()
        counts += one
    assert counts / 300 == pytest.approx(expected, abs=0.12)


def test_equal_factors_give_each_row_once() -> None:
    rows = np.array([5, 3, 9, 7])
    assert sampler.drawn(np.random.default_rng(1), rows, np.full(4, 2.0)).tolist() == [5, 3, 9, 7]
