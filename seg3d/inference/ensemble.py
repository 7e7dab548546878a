"""Several answers to one scan: their mean, and how far they agree.

The answers come from networks trained with other seeds or other data (deep ensembles, Lakshminarayanan et al., NeurIPS
2017) or from one network whose dropout stays active (Monte-Carlo dropout, Gal and Ghahramani, ICML 2016). They are
taken in one after the other, slab by slab, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from seg3d.inference.exact import Slabs
from seg3d.inference.held import HeldMaps
from seg3d.inference.sliding import Mode, SlidingWindow, evaluating, slab_axis
from seg3d.keyed import derived_seed

# entropy ``(x, y, z)`` of probabilities ``(output, x, y, z)``
Uncertainty = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class McDropout:
    """How dropout is sampled.

    Attributes:
        passes: Predictions of each network, at least 2.
        seed: Seed of the masks; they are keyed by scan and pass, so that they depend on no other scan. They do depend
            on how the scan is tiled, on the batch of tiles and on the kind of device.

    Source: Gal and Ghahramani, Dropout as a Bayesian approximation (ICML 2016).
    """

    passes: int
    seed: int

    def __post_init__(self) -> None:
        if self.passes < 2:
            raise ValueError(f"Monte-Carlo dropout has at least 2 passes, got {self.passes}")


class Spread:
    """Running mean and spread of the outputs' probabilities over members.

    Held are mean and sum of squared deviations of each output and the mean of the members' entropies:
    ``2 output + 1`` maps, however many members there are. One must have been added before anything is asked for.

    Args:
        maps: ``(2 output + 1, x, y, z)`` of the members so far, 0 without any; they are changed in place.
        uncertainty: Entropy of probabilities: :func:`entropy` of classes, :func:`binary_entropy` of regions.
        members: How many there are so far.

    Source: Welford, Note on a method for calculating corrected sums of squares and products (Technometrics 1962).
    """

    def __init__(self, maps: torch.Tensor, uncertainty: Uncertainty, members: int = 0) -> None:
        self._maps = maps
        self._uncertainty = uncertainty
        self.members = members

    @property
    def mean(self) -> torch.Tensor:
        """Mean probabilities ``(output, x, y, z)``."""
        return self._maps[: len(self._maps) // 2]

    @property
    def _squares(self) -> torch.Tensor:
        return self._maps[len(self._maps) // 2 : -1]

    @torch.inference_mode()
    def add(self, probabilities: torch.Tensor) -> None:
        """Take in a member's probabilities ``(output, x, y, z)``; they are neither kept nor changed."""
        self.members += 1
        for mean, squares, found in zip(self.mean, self._squares, probabilities, strict=True):
            step = found - mean
            mean.add_(step / self.members)
            squares.add_(step * (found - mean))
        self._maps[-1] += (self._uncertainty(probabilities) - self._maps[-1]) / self.members

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy ``(x, y, z)`` of the mean, in nats: all that is uncertain.

        0 to the log of the number of classes; of regions 0 to their number times the log of 2.
        """
        return self._uncertainty(self.mean)

    @property
    @torch.inference_mode()
    def mutual_information(self) -> torch.Tensor:
        """Entropy of the mean less the mean of the members' entropies, ``(x, y, z)`` in nats: what members dispute.

        0 where all members give the same probabilities, however unsure these are. Rounding may bring it below 0, which
        the concavity of entropy excludes, so it is clamped.

        Source: Houlsby et al., Bayesian active learning for classification (2011), eq. 2; Depeweg et al.,
        Decomposition of uncertainty in Bayesian deep learning (ICML 2018).
        """
        return (self.entropy - self._maps[-1]).clamp_(min=0.0)

    @property
    @torch.inference_mode()
    def sd(self) -> torch.Tensor:
        """Population SD ``(output, x, y, z)`` over members of the probability of each output; 0 to 0.5.

        The squares are divided by the number of members, not by one less: these members are the whole ensemble, and
        entropies are their plain means too.
        """
        return (self._squares / self.members).sqrt_()


@torch.inference_mode()
def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy ``(x, y, z)`` of probabilities ``(class, x, y, z)``, in nats; a class of probability 0 adds nothing.

    Source: Shannon, A mathematical theory of communication (1948): minus the sum over classes of p ln p.
    """
    total = torch.zeros_like(probabilities[0])
    for share in probabilities:  # one map at a time
        total += torch.special.entr(share)
    return total.clamp_(min=0.0)  # a mean of float32 weights may end a rounding above 1


@torch.inference_mode()
def binary_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Sum over regions of the entropy of being in it or not, ``(x, y, z)`` in nats, from ``(region, x, y, z)``.

    It is the entropy of all regions together if they are independent, and at least that if they are not.
    """
    total = torch.zeros_like(probabilities[0])
    for share in probabilities:
        total += torch.special.entr(share) + torch.special.entr((1 - share).clamp_(min=0.0))
    return total.clamp_(min=0.0)


class SpreadOfScan:
    """:class:`Spread` of a whole scan, of which a slab at a time is worked on.

    Args:
        maps: ``2 output + 1`` maps, the slab axis first, where they are held.
        planes: Planes of the scan.
        uncertainty: As for :class:`Spread`.
    """

    def __init__(self, maps: HeldMaps, planes: int, uncertainty: Uncertainty) -> None:
        self._maps = maps
        self._planes = planes
        self._uncertainty = uncertainty
        self.members = 0

    def add(self, slabs: Slabs) -> None:
        """Take in a member's probabilities: the first plane of each slab and ``(output, planes, y, z)``."""
        for start, found in slabs:
            with self._maps.changing(start, start + found.shape[1]) as maps:
                Spread(maps, self._uncertainty, self.members).add(found)
        self.members += 1

    def slabs(self, planes: int) -> Iterator[Spread]:
        """The spread of all members, ``planes`` planes at a time."""
        for start in range(0, self._planes, planes):
            maps = self._maps.read(start, min(start + planes, self._planes))
            yield Spread(maps, self._uncertainty, self.members)


def add_members(
    spread: SpreadOfScan,
    members: Sequence[tuple[nn.Module, SlidingWindow]],
    image: torch.Tensor,
    outside: Sequence[float],
    device: torch.device,
    dropout: McDropout | None,
    scan: str,
    memory: int,
) -> None:
    """Add each member's probabilities, one member after the other.

    Args:
        spread: What they are added to, with the slab axis of the first network.
        members: Networks, each with how it tiles the image; each gives one answer, or as many as there are passes of
            dropout.
        image: ``(channel, x, y, z)``.
        outside: Value of each channel beyond the volume.
        device: Where the networks are.
        dropout: Sample dropout; the number of the pass runs on from network to network.
        scan: Name of the scan in the keys of the masks.
        memory: Bytes for the tiles of each in its turn: what one has freed, the next one takes.
    """
    axis = slab_axis(members[0][0])
    for number, (network, window) in enumerate(members):
        if dropout is None:
            spread.add(_along(axis, network, window, image, outside, device, evaluating, memory))
            continue
        for turn in range(number * dropout.passes, (number + 1) * dropout.passes):
            with seeded(derived_seed(dropout.seed, "mc-dropout", scan, turn), device):
                spread.add(_along(axis, network, window, image, outside, device, sampling_dropout, memory))


def _along(
    axis: int,
    network: nn.Module,
    window: SlidingWindow,
    image: torch.Tensor,
    outside: Sequence[float],
    device: torch.device,
    mode: Mode,
    memory: int,
) -> Slabs:
    """A network's slabs along an axis; one of other slices is asked for the whole scan, as one slab."""
    if slab_axis(network) == axis:
        yield from window.slabs(network, image, outside, mode=mode, device=device, memory=memory)
    else:
        whole = window.probabilities(network, image.to(device), outside, mode=mode, memory=memory)
        yield 0, whole.movedim(axis + 1, 1)


@contextmanager
def sampling_dropout(network: nn.Module) -> Iterator[None]:
    """Inside the block dropout is active and all else, batch norm above all, in evaluation mode.

    After it every module is in its own mode again. Dropout that is no module (a function called in ``forward``) is not
    reached.
    """
    with evaluating(network):
        for module in network.modules():
            if isinstance(module, _DropoutNd):
                module.train()
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators of the CPU and of ``device`` are seeded inside the block and as they were after it."""
    cuda = device.type == "cuda"
    before, before_cuda = torch.get_rng_state(), torch.cuda.get_rng_state(device) if cuda else None
    try:
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):  # torch.manual_seed would seed every GPU
                torch.cuda.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(before)
        if before_cuda is not None:
            torch.cuda.set_rng_state(before_cuda, device)
