"""Scans and pictures in and out, on their own grids; a broken file is a clear error before anything is allocated."""

from seg3d.io.files import (
    SUFFIXES,
    answer_name,
    image_stem,
    images_in,
    is_picture,
    read_header,
    read_image,
    read_label_map,
    read_volume,
    write_like,
)
from seg3d.io.header import ImageHeader, PictureFacts, Placement
from seg3d.io.labels import count_labels, describe_undeclared
from seg3d.io.picture import fit_channels

__all__ = [
    "SUFFIXES",
    "ImageHeader",
    "PictureFacts",
    "Placement",
    "answer_name",
    "count_labels",
    "describe_undeclared",
    "fit_channels",
    "image_stem",
    "images_in",
    "is_picture",
    "read_header",
    "read_image",
    "read_label_map",
    "read_volume",
    "write_like",
]
