import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from grigri_fast.models import factory, fold


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    ("arch", "left"), [("resnet18", 0), ("timm/efficientnet_lite0", 0), ("densenet121", 62)]
)
def test_the_copy_computes_the_same_without_norms(arch: str, left: int) -> None:
    torch.manual_seed(0)
    model = factory.build(arch, 3, 64).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    before = num_norms(model)
    copy = fold.folded(model, 64)
    assert (num_norms(model), num_norms(copy)) == (before, left)
    images_NCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(copy(images_NCHW), model(images_NCHW), rtol=1e-3, atol=1e-4)


class UsedTwice(nn.Module):
    """A convolution whose output goes past the norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (x + 2 * self.norm(x)).mean((2, 3))


def test_what_would_compute_something_else_stays_as_it_is() -> None:
    model = UsedTwice()
    model.norm.running_mean.fill_(1.0)
    copy = fold.folded(model, 16)
    assert num_norms(copy) == 1 and not copy.training and model.training
    images_NCHW = torch.randn(2, 3, 16, 16)
    assert torch.equal(copy(images_NCHW), model.eval()(images_NCHW))
