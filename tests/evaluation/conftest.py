import numpy as np
import pytest
from simple_scores import CASES, large_case


@pytest.fixture(params=CASES)
def case(request) -> tuple[np.ndarray, np.ndarray]:
    return CASES[request.param]


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request) -> type:
    return request.param


@pytest.fixture(params=[0.004, 0.3, 0.95], ids=["sparse", "dense", "nearly all"])
def frequency(request) -> float:
    return request.param


@pytest.fixture(params=[False, True], ids=["distinct", "ties"])
def large(request, dtype, frequency) -> tuple[np.ndarray, np.ndarray]:
    return large_case(dtype, frequency, request.param)
