"""Networks: plain modules with plain arguments that give logits."""

from seg3d.models.reduced_unet import ReducedUNet

__all__ = ["ReducedUNet"]
