"""Networks of our own: the report's from scratch, and one that learns fast from scratch.

Shapes: N images, C channels, H x W pixels.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fusion


class SimpleConvNet(nn.Sequential):
    """The report's network from scratch: thirteen 3x3 convolutions, four poolings, three linears.

    At 128 px and 14 classes it has 11,098,110 parameters. The report does not give its dropout
    rate; 0.5 is assumed.

    Args:
        num_classes: size of the output.
        size_px: side of the input, at least 16; it decides the first linear layer's width.
    """

    def __init__(self, num_classes: int, size_px: int) -> None:
        layers: list[nn.Module] = []
        channels = 3
        blocks = ((32, 2), (64, 2), (128, 3), (256, 3), (512, 3))
        for i, (width, depth) in enumerate(blocks):
            if i:
                layers.append(nn.MaxPool2d(2, stride=2))
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        side = size_px // 16
        layers += [
            nn.AdaptiveAvgPool2d(side),  # for images of another size; at this one it does nothing
            nn.Flatten(),
            nn.Linear(channels * side * side, 100),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(100, 100),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(100, num_classes),
        ]
        super().__init__(*layers)


class GrigriNet(nn.Module):
    """A compact residual network for small images and few of them: 4.9 million parameters.

    A 3x3 stem with stride 2 instead of ResNet's 7x7 and pooling, which leave little of a small
    image; one basic block per stage (He et al. 2016, arXiv 1512.03385), with average pooling in the
    shortcuts (ResNet-D, arXiv 1812.01187) and the last BatchNorm of each block starting at zero
    (arXiv 1706.02677). To the logits of the image's mean features its head adds a share of
    each class's highest logit at any place. It takes images of any size from 32 px on.

    Args:
        num_classes: size of the output.
        widths: channels of the stages; the first has the stem's resolution, each of the others half
            of that before.
    """

    def __init__(
        self, num_classes: int, widths: tuple[int, ...] = (64, 128, 256, 512), stem: int = 32
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        stages = []
        for i, width in enumerate(widths):
            stages.append(_Block(widths[i - 1] if i else stem, width, stride=2 if i else 1))
        self.stages = nn.Sequential(*stages)
        self.head = _MeanAndPeak(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits of normalised images."""
        return self.head(self.stages(self.stem(images_NCHW)))


class _MeanAndPeak(nn.Module):
    """The logits of an image's mean features, and a share of each class's highest over all places.

    What is small in a photograph, a bird, hardly moves a mean. (Class-specific residual attention,
    Zhu and Wu 2021, arXiv 2108.02456, with one head and the limit of its attention, the maximum.)
    """

    _SHARE = 0.3

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        mean_NK = self.linear(features_NCHW.mean((2, 3)))
        places_NKHW = F.conv2d(features_NCHW, self.linear.weight[:, :, None, None])
        return mean_NK + self._SHARE * places_NKHW.amax((2, 3))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity(),
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def draw_by_he(model: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers by He et al. (2015), biases zero.

    (arXiv 1502.01852: normal, variance 2 / inputs, so that a ReLU network passes signals on at
    their scale.) PyTorch's own draws have a sixth of that variance: after the thirteen
    convolutions of a plain network nothing of the image is left. The last layer, whose outputs are
    logits, stays as it is.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class _Normed(nn.Module):
    """A layer and the BatchNorm of its outputs, which :func:`folded` makes one layer again."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Conv2d):
            self.norm: nn.BatchNorm1d | nn.BatchNorm2d = nn.BatchNorm2d(layer.out_channels)
        else:
            self.norm = nn.BatchNorm1d(layer.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x))

    def folded(self) -> nn.Conv2d | nn.Linear:
        """Return one layer that does in evaluation what the two do."""
        if isinstance(self.layer, nn.Conv2d):
            return fusion.fuse_conv_bn_eval(self.layer.eval(), self.norm.eval())
        return fusion.fuse_linear_bn_eval(self.layer.eval(), self.norm.eval())


def add_norms(model: nn.Module) -> None:
    """Give every convolution and linear layer but the last a BatchNorm, for training.

    In evaluation a BatchNorm multiplies and adds constants per channel, which the layer before can
    do itself: :func:`folded` is the network as it was, with other weights. (As in RepVGG, arXiv
    2101.03697, where more than norms are folded.)
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name, layer in layers[:-1]:
        model.set_submodule(name, _Normed(layer))


def folded(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode without the norms that :func:`add_norms` added, doing the same."""
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, _Normed):
            model.set_submodule(name, module.folded())
    return model
