import torch
from torchvision.transforms import functional as transforms

from grigri_fast.models import normalize


def test_normalise_equals_torchvisions_and_is_channels_last() -> None:
    images_NHWC = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8)
    ours = normalize.normalize(images_NHWC)
    nchw = images_NHWC.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(
        ours, transforms.normalize(nchw, normalize.IMAGENET_MEAN, normalize.IMAGENET_STD)
    )
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
