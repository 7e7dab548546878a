"""What the networks are made of: convolution with normalisation and activation, sizes, initial weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLING: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_DROPOUT: dict[int, type[nn.Dropout2d | nn.Dropout3d]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
_INSTANCE: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_BATCH: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_SLOPE = 0.01  # of leaky ReLU, as in nnU-Net


@dataclass(frozen=True)
class Blocks:
    """How a network's layers are made.

    Attributes:
        dims: 2 or 3.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        activation: ``"relu"`` or ``"leaky_relu"``.
        dropout: Probability that a whole channel is dropped, between normalisation and activation.
        padding: Zeros added on each side before a convolution: 1 keeps the size, 0 takes a voxel off each side.
    """

    dims: int
    norm: str
    activation: str
    dropout: float = 0.0
    padding: int = 1

    def __post_init__(self) -> None:
        if self.dims not in CONVOLUTION:
            raise ValueError(f"dims is 2 or 3, got {self.dims!r}")
        if self.norm not in ("instance", "batch", "none"):
            raise ValueError(f"norm is instance, batch or none, got {self.norm!r}")
        if self.activation not in ("relu", "leaky_relu"):
            raise ValueError(f"activation is relu or leaky_relu, got {self.activation!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and less than 1, got {self.dropout}")

    def layer(self, inputs: int, width: int, stride: int = 1) -> nn.Sequential:
        """A convolution (3 per axis), normalisation, dropout and activation."""
        biased = self.norm == "none"  # normalisation takes a bias away again
        parts: list[nn.Module] = [
            CONVOLUTION[self.dims](inputs, width, kernel_size=3, stride=stride, padding=self.padding, bias=biased)
        ]
        if self.norm == "instance":
            parts.append(_INSTANCE[self.dims](width, affine=True))
        elif self.norm == "batch":
            parts.append(_BATCH[self.dims](width))
        if self.dropout > 0:
            parts.append(_DROPOUT[self.dims](self.dropout))
        leaky = self.activation == "leaky_relu"
        parts.append(nn.LeakyReLU(_SLOPE, inplace=True) if leaky else nn.ReLU(inplace=True))
        return nn.Sequential(*parts)

    def level(self, inputs: int, width: int) -> nn.Sequential:
        """Two layers."""
        return nn.Sequential(self.layer(inputs, width), self.layer(width, width))

    def initialise(self, module: nn.Module) -> None:
        """Draw the weights of a convolution so that the variance of activations stays; biases are zero.

        Source: He et al., Delving deep into rectifiers (ICCV 2015), eq. 10: ``std = sqrt(2 / N)`` for N inputs of a
        unit, as in section 3 of the U-Net paper.
        """
        slope = _SLOPE if self.activation == "leaky_relu" else 0.0
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity="leaky_relu")
        elif isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
            # kernel = stride: a unit sees each channel once; torch would count outputs * kernel instead
            nn.init.normal_(module.weight, std=(2 / ((1 + slope**2) * module.in_channels)) ** 0.5)
        else:
            return
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_features(features: tuple[int, ...]) -> None:
    """Refuse channels of levels that no network can have.

    Raises:
        ValueError: There is no level, or one without channels.
    """
    if not features or any(width < 1 for width in features):
        raise ValueError(f"features are the channels of one level or more, got {features}")


def fitting_size(at_least: int, stride: int, margin: int = 0) -> int:
    """The smallest size of an axis that a network takes and that is not below ``at_least``, in voxels.

    Without a margin that is a multiple of the stride. With valid convolutions (two a level) the size, and with it
    every size on the way down and up, is exact where ``size + 4`` is a multiple of the stride and an output is left.

    Args:
        at_least: Voxels.
        stride: Input voxels per coarsest voxel.
        margin: Voxels that the network loses on each side.
    """
    extra = 4 if margin else 0
    lowest = max(at_least, 2 * margin + 1)
    return -(-(lowest + extra) // stride) * stride - extra


def check_size(image: torch.Tensor, dims: int, stride: int, margin: int = 0) -> None:
    """Refuse an input that a network cannot take.

    Raises:
        ValueError: It is not ``(batch, channel, *size)`` with a size as in :func:`fitting_size`; the message names the
            nearest sizes.
    """
    sizes = tuple(image.shape[2:])
    wrong = [n for n in sizes if n != fitting_size(n, stride, margin)]
    if len(sizes) == dims and not wrong:
        return
    rule = f"divisible by {stride}" if not margin else f"that are above {2 * margin} and, plus 4, divisible by {stride}"
    message = f"the input is (batch, channel, {dims} axes {rule}), got {tuple(image.shape)}"
    raise ValueError("; ".join([message, *(_nearest(n, stride, margin) for n in dict.fromkeys(wrong))]))


def _nearest(size: int, stride: int, margin: int) -> str:
    above = fitting_size(size, stride, margin)
    below = above - stride
    return f"next to {size} is {above}" if below <= 2 * margin else f"next to {size} are {below} and {above}"


def expect_little(network: nn.Module, prior: float) -> None:
    """Set the bias of a network's head so that each output has the probability ``prior`` before anything is learnt.

    With the usual 0.5 the many voxels of the background outweigh a small object for the first hundreds of steps, and
    the focal loss, which all but ignores what is right already, leaves them at 0.1 to 0.2 for long.

    Args:
        network: Has a convolution ``head`` with a bias.
        prior: 0 to 1, exclusive.

    Source: Lin et al., Focal loss for dense object detection (ICCV 2017), section 4.1, with a prior of 0.01.
    """
    if not 0 < prior < 1:
        raise ValueError(f"a prior is between 0 and 1, got {prior}")
    head = network.head
    assert isinstance(head, (nn.Conv2d, nn.Conv3d))
    assert head.bias is not None
    nn.init.constant_(head.bias, math.log(prior / (1 - prior)))


def take_channels_last(network: nn.Module) -> None:
    """Let a network compute with all channels of a voxel next to each other in memory, however its input lies.

    The layers follow the input. Another kernel may round differently; on a processor without AVX-512 a training step
    with batch norm took three quarters of the time.
    """
    network.register_forward_pre_hook(_channels_last)


def _channels_last(_network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tuple(image.contiguous(memory_format=kinds[image.ndim]) for image in inputs)
