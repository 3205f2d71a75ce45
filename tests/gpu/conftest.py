import pytest
import torch


@pytest.fixture(autouse=True)
def cuda() -> torch.device:
    """Return the GPU; skip every test of this folder where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    return torch.device("cuda", 0)
