"""Scores of cells told apart by membranes: the Rand and information scores of the ISBI 2012 challenge.

Neither asks whether each pixel is right: they ask whether pairs of pixels are in one cell in both. So a gap of a pixel
in a membrane, which joins two cells, costs much, and a membrane that is too thick costs next to nothing.

Source: Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics (Frontiers
in Neuroanatomy 9:142, 2015). With the parts ``p_ij`` of the pixels that are in segment ``i`` of the prediction and in
cell ``j`` of the reference, and their sums ``s_i`` and ``t_j``:
``V_Rand = sum p_ij^2 / (a sum s_i^2 + (1 - a) sum t_j^2)``, ``V_Info = I(S; T) / ((1 - a) H(S) + a H(T))``; ``a`` = 0
gives the split score, 1 the merge score, 1/2 the score itself, which is the harmonic mean of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

THRESHOLDS = tuple(step / 10 for step in range(10))  # as the challenge; nothing exceeds its last one, 1.0
REPORTED = 0.5  # what a label map shows; not chosen by looking at the reference
_NOTHING = 1e-12  # what rounding leaves of an entropy of 0


@dataclass(frozen=True)
class CellScore:
    """Scores of a partition into cells, each 0 to 1, 1 the best; ``nan`` where the reference has no cell.

    Attributes:
        rand: V_Rand.
        rand_split: Of pairs in one cell of the reference, the share that is in one segment: low if cells are split.
        rand_merge: Of pairs in one segment, the share that is in one cell of the reference: low if cells are merged.
        info: V_Info.
        info_split: Mutual information by the segments' entropy; 1 where there is but one segment.
        info_merge: Mutual information by the cells' entropy; 1 where there is but one cell.
    """

    rand: float
    rand_split: float
    rand_merge: float
    info: float
    info_split: float
    info_merge: float

    def named(self) -> dict[str, float]:
        """The scores under the names that the challenge gives them."""
        names = ("V_Rand", "V_Rand_split", "V_Rand_merge", "V_Info", "V_Info_split", "V_Info_merge")
        return dict(zip(names, astuple(self), strict=True))


def cell_scores(
    prediction: NDArray[Any], reference: NDArray[np.bool_], thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, CellScore]:
    """Foreground-restricted scores after thinning, by threshold: the mean over slices, as in the challenge.

    Each slice along ``z`` is scored on its own, since the challenge's cells are those of a slice; slices without a cell
    in the reference are left out. The mean score of several slices is not the harmonic mean of the mean parts.

    Args:
        prediction: Probability ``(x, y, z)`` of being inside a cell, 0 to 1, or a mask of the cells, for which only the
            threshold 0.5 makes sense.
        reference: Mask of the cells, of the same shape. Its cells are the components connected through edges (4
            neighbours); it is not thinned, and what lies outside its cells counts nowhere.
        thresholds: Values above which a pixel is inside a cell.

    Raises:
        ValueError: The shapes differ or are not ``(x, y, z)``.
    """
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(f"both are (x, y, z) of one shape, got {prediction.shape} and {reference.shape}")
    by_threshold: dict[float, list[CellScore]] = {threshold: [] for threshold in thresholds}
    for z in range(reference.shape[2]):
        cells, count = ndimage.label(reference[:, :, z])
        if count:
            for threshold, found in by_threshold.items():
                found.append(partition_score(thin_borders(prediction[:, :, z] > threshold), cells))
    return {threshold: mean_score(found) for threshold, found in by_threshold.items()}


def thin_borders(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Segments from 1 of a slice ``(x, y)``, grown until the borders between them, 0, are lines of one pixel.

    Segments are the components of ``inside``, connected through edges. They grow by a watershed on a flat landscape, so
    that a border runs in the middle of a membrane and one that ends in a cell is gone. Without any ``inside`` there is
    nothing to tell apart: one segment.

    Source: Arganda-Carreras et al. (2015) and the challenge's script, which thins by a watershed as well.
    """
    seeds, count = ndimage.label(inside)
    if count == 0:
        return np.ones(inside.shape, dtype=np.int32)
    flat = np.zeros(inside.shape, dtype=np.uint8)
    segments: NDArray[np.int32] = watershed(flat, seeds, connectivity=1, watershed_line=True).astype(np.int32)
    return segments


def partition_score(segments: NDArray[Any], cells: NDArray[Any]) -> CellScore:
    """Scores of a partition over the pixels that are in a cell of the reference.

    Args:
        segments: The prediction's segments by number from 1; each pixel that is 0, a border, is a segment of its own.
        cells: The reference's cells by number from 1, of the same shape; pixels that are 0 count nowhere.

    Raises:
        ValueError: The shapes differ.

    Source: Arganda-Carreras et al. (2015); borders inside a cell of the reference as in the challenge's script.
    """
    if segments.shape != cells.shape:
        raise ValueError(f"segments and cells have one shape, got {segments.shape} and {cells.shape}")
    counted = cells > 0
    s, t = segments[counted], cells[counted]
    if not t.size:
        return CellScore(*[math.nan] * 6)
    inner = s > 0
    singles = int(t.size - np.count_nonzero(inner))
    both = _counts(s[inner].astype(np.int64) * (int(t.max()) + 1) + t[inner])
    of_s, of_t = _counts(s[inner]), _counts(t)
    pairs, pairs_s, pairs_t = (float((n**2).sum()) for n in (both, of_s, of_t))
    pairs, pairs_s = pairs + singles, pairs_s + singles
    # a segment of one pixel adds 0 to the sums over n log n
    h_st, h_s, h_t = (_entropy(n, t.size) for n in (both, of_s, of_t))
    shared = max(h_s + h_t - h_st, 0.0)
    return CellScore(
        2 * pairs / (pairs_s + pairs_t),
        pairs / pairs_t,
        pairs / pairs_s,
        _share(2 * shared, h_s + h_t),
        _share(shared, h_s),
        _share(shared, h_t),
    )


def mean_score(scores: Sequence[CellScore]) -> CellScore:
    """Mean of each score over those that are defined; ``nan`` without any."""
    defined = [astuple(score) for score in scores if not math.isnan(score.rand)]
    if not defined:
        return CellScore(*[math.nan] * 6)
    return CellScore(*(math.fsum(values) / len(defined) for values in zip(*defined, strict=True)))


def _counts(numbers: NDArray[Any]) -> NDArray[np.float64]:
    return np.unique(numbers, return_counts=True)[1].astype(np.float64)


def _entropy(counts: NDArray[np.float64], total: int) -> float:
    """Entropy in nats of parts with these counts; what ``total`` has more are parts of one each."""
    return max(math.log(total) - float((counts * np.log(counts)).sum()) / total, 0.0)


def _share(part: float, whole: float) -> float:
    """``part / whole``; 1 where there is no information to be shared, since then nothing can be split or merged."""
    return min(part / whole, 1.0) if whole > _NOTHING else 1.0
