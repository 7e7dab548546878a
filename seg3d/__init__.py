"""Train, apply and audit medical image segmentation models, bit for bit reproducibly."""

__version__ = "0.1.0"
