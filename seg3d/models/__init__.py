"""Networks: plain modules with plain arguments that give logits."""

from seg3d.models.attention_unet import AttentionUNet
from seg3d.models.blocks import expect_little, fitting_size, take_channels_last
from seg3d.models.reduced_unet import ReducedUNet
from seg3d.models.stages import Stages
from seg3d.models.unet import UNet

__all__ = ["AttentionUNet", "ReducedUNet", "Stages", "UNet", "expect_little", "fitting_size", "take_channels_last"]
