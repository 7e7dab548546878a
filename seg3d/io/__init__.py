"""NIfTI and NRRD in and out, on their own grids; a broken file is a clear error before anything is allocated."""

from seg3d.io.files import SUFFIXES, image_stem, read_header, read_label_map, read_volume, write_like
from seg3d.io.header import ImageHeader

__all__ = ["SUFFIXES", "ImageHeader", "image_stem", "read_header", "read_label_map", "read_volume", "write_like"]
