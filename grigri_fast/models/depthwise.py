"""Gradients of depthwise convolutions in bf16 on a CPU, without PyTorch's slow paths.

oneDNN has fast kernels for depthwise convolutions in bf16, but not for two of their gradients:
those of the weights of a 5x5 kernel, and those of the input where the stride is 2. Both take 25 to
100 times as long as the forward pass (torch 2.15, measured in benchmarks/bench_depthwise.py), most
of the time of a training step of an EfficientNet or a MobileNet. Here they are put together from
kernels that are fast.

Shapes: N images, C channels, H x W pixels of the input, h x w of the output, k x k the kernel.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FAST_KERNEL = 3  # the largest that has fast gradients of its weights


class FastGradients(TorchFunctionMode):
    """Context of a forward pass whose depthwise convolutions get the gradients of this module.

    It changes nothing where PyTorch's own are as fast: in other number formats, on other devices,
    in a pass without gradients.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of PyTorch; a depthwise convolution is replaced."""
        if func is torch.conv2d and torch.is_grad_enabled():
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def helps(model: nn.Module, device: torch.device, amp: str) -> bool:
    """Return whether a network trains faster with :class:`FastGradients`, where it is trained."""
    return (device.type, amp) == ("cpu", "bf16") and any(
        isinstance(layer, nn.Conv2d)
        and layer.groups == layer.in_channels == layer.out_channels > 1
        and _is_slow(layer.weight, layer.stride)
        for layer in model.modules()
    )


def _is_slow(weight: torch.Tensor, stride: int | tuple[int, ...]) -> bool:
    return max(weight.shape[2:]) > _FAST_KERNEL or max(_pair(stride)) > 1


def _conv2d(
    images_NCHW: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Return ``torch.conv2d`` of the same arguments."""
    stride_hw, dilation_hw = _pair(stride), _pair(dilation)
    if (
        not (groups > 1 and groups == len(weight) == images_NCHW.shape[1])
        or not _is_slow(weight, stride)
        or isinstance(padding, str)
        or max(dilation_hw) > 1
        or not (images_NCHW.requires_grad or weight.requires_grad)
        or _computed_in(images_NCHW) != torch.bfloat16
    ):
        return torch.conv2d(images_NCHW, weight, bias, stride, padding, dilation, groups)
    if any(_pair(padding)):
        top, left = _pair(padding)
        images_NCHW = F.pad(images_NCHW, (left, left, top, top))
    output: torch.Tensor = _Depthwise.apply(images_NCHW.bfloat16(), weight.bfloat16(), stride_hw)
    return output if bias is None else output + bias.to(output.dtype)[:, None, None]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values[0], values[-1]


def _computed_in(images: torch.Tensor) -> torch.dtype | None:
    """Return the number format of a convolution of these images, None if not on a CPU."""
    if images.device.type != "cpu":
        return None
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bf16 without padding."""

    @staticmethod
    def forward(
        ctx: Any, images_NCHW: torch.Tensor, weight_C1kk: torch.Tensor, stride_hw: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(images_NCHW, weight_C1kk)
        ctx.stride_hw = stride_hw
        return torch.conv2d(images_NCHW, weight_C1kk, stride=stride_hw, groups=len(weight_C1kk))

    @staticmethod
    def backward(
        ctx: Any, gradient_NChw: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        images_NCHW, weight_C1kk = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            # In fp32 the gradient of the input is fast at any stride, in bf16 at stride 1 alone.
            dtype = torch.float32 if max(ctx.stride_hw) > 1 else torch.bfloat16
            of_images = _gradients(
                gradient_NChw.to(dtype),
                images_NCHW.to(dtype),
                weight_C1kk.to(dtype),
                ctx.stride_hw,
                of_images=True,
            ).bfloat16()
        if ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(
                gradient_NChw, images_NCHW, weight_C1kk, ctx.stride_hw
            ).to(weight_C1kk.dtype)
        return of_images, of_weight, None


def _gradient_of_weight(
    gradient_NChw: torch.Tensor,
    images_NCHW: torch.Tensor,
    weight_C1kk: torch.Tensor,
    stride_hw: tuple[int, int],
) -> torch.Tensor:
    """Return the gradient of the weights (C, 1, k, k), put together from windows of 3x3 of them.

    The gradient of a window is that of a 3x3 kernel on the part of the images that the window sees.
    """
    h, w = gradient_NChw.shape[2:]
    gradient = torch.empty_like(weight_C1kk)
    rows, columns = (_windows(k) for k in weight_C1kk.shape[2:])
    for i, height in rows:
        for j, width in columns:
            seen = images_NCHW[
                :,
                :,
                i : i + stride_hw[0] * (h - 1) + height,
                j : j + stride_hw[1] * (w - 1) + width,
            ].contiguous(memory_format=torch.channels_last)
            window = gradient.new_empty(len(gradient), 1, height, width)
            gradient[:, :, i : i + height, j : j + width] = _gradients(
                gradient_NChw, seen, window, stride_hw, of_images=False
            )
    return gradient


def _windows(kernel: int) -> list[tuple[int, int]]:
    """Return start and size of windows, as large as is fast, that cover a side of a kernel."""
    size = min(kernel, _FAST_KERNEL)
    starts = sorted({*range(0, kernel - size + 1, size - 1 or 1), kernel - size})
    return [(start, size) for start in starts]


def _gradients(
    gradient_NChw: torch.Tensor,
    images_NCHW: torch.Tensor,
    weight_C1kk: torch.Tensor,
    stride_hw: tuple[int, int],
    *,
    of_images: bool,
) -> torch.Tensor:
    """Return PyTorch's gradient of the images, or of the weights."""
    gradients = torch.ops.aten.convolution_backward(
        *(gradient_NChw, images_NCHW, weight_C1kk, None, stride_hw, (0, 0), (1, 1), False, (0, 0)),
        *(len(weight_C1kk), [of_images, not of_images, False]),
    )
    gradient: torch.Tensor = gradients[0 if of_images else 1]
    return gradient
