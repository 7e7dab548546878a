"""The page of a case: data, script and style in one HTML file."""

from __future__ import annotations

import base64
import gzip
import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from seg3d.reporting.figures import FigureCase, rows_figure
from seg3d.reporting.outcome import CORRECT, MISSED, ONE_LABEL, SEVERAL_LABELS, WRONG
from seg3d.reporting.outcome_figure import COLOURS
from seg3d.reporting.panels import PLANES, best_slice
from seg3d.reporting.viewer.niivue import HOW_TO_GET_IT, VERSION, niivue_script
from seg3d.reporting.viewer.scene import Scene, make_scene
from seg3d.reporting.viewer.table import Row, label_rows
from seg3d.volume import Volume

MAX_VOXELS = 2**24  # a texture of 64 MB, of which the viewer keeps four
SHOWN_TURNED = "Viewers are told to show this picture turned; it was read, and is drawn, as it is stored."
SCRIPTS = ("data.js", "slices.js", "volume3d.js", "main.js")


def viewer_page(
    name: str,
    image: Volume,
    *,
    labels: Volume | None = None,
    prediction: Volume | None = None,
    uncertainty: Volume | None = None,
    probability: Volume | None = None,
    names: Mapping[int, str] | None = None,
    picture: bool = False,
    ignore_label: int | None = None,
    notes: Sequence[str] = (),
    max_voxels: int = MAX_VOXELS,
    niivue: bool = True,
) -> str:
    """A self-contained HTML document that shows a case: no network, no storage, also in a sandboxed frame.

    Volumes in mL and scores are those of the whole maps; what is cropped, reduced or resampled for display is said on
    the page. Without NiiVue, or where the browser has no WebGL2, it browses slices.

    Args:
        name: Case id, the title of the page.
        image: ``(channel, x, y, z)`` in any orientation; the first channel is shown.
        labels: Reference label map ``(1, x, y, z)``; on another grid it is resampled for display.
        prediction: Predicted label map, likewise.
        uncertainty: Real values of at least 0, likewise.
        probability: Probability of the first foreground label, 0 to 1, likewise; the page gets a threshold to move.
        names: Label value -> name, without background.
        picture: These are plain pictures: drawn as stored, without sides and millimetres.
        ignore_label: Value of the reference that counts nowhere.
        notes: More lines for the reader, plain text.
        max_voxels: More are shown at a lower resolution.
        niivue: Show by NiiVue where it is there.

    Raises:
        DataError: An overlay does not overlap the image, or is no label map.
    """
    maps = {key: volume for key, volume in (("reference", labels), ("prediction", prediction)) if volume is not None}
    heats = {key: v for key, v in (("uncertainty", uncertainty), ("probability", probability)) if v is not None}
    # the page may find the label of the probability where the prediction has none
    first = [] if probability is None else [min(names or (1,))]
    scene = make_scene(
        image, maps, heats, picture=picture, ignore_label=ignore_label, max_voxels=max_voxels, numbered=first
    )
    rows, more = label_rows(maps, scene.placed, scene.image_grid, scene.values, names, ignore_label, picture)
    script = niivue_script() if niivue else None
    return _environment().get_template("page.html.j2").render(
        name=name,
        scene=_facts(scene, rows, ignore_label) | {"first": scene.values.index(first[0]) + 1 if first else 0},
        volumes=_volumes(scene),
        rows=rows,
        maps=list(maps),
        heats=list(scene.heats),
        compared=len(maps) == 2,
        picture=picture,
        presets=list(scene.grey.presets),
        notes=[*notes, *scene.notes, *more],
        still=_still(name, scene, rows, ignore_label),
        niivue=None if script is None else _packed_script(script),
        licence=_asset("niivue-licence.txt"),
        version=VERSION,
        how_to_get_it=HOW_TO_GET_IT,
        style=Markup(_asset("page.css")),
        script=Markup("\n".join(_asset(part) for part in SCRIPTS)),
    )  # fmt: skip


def _facts(scene: Scene, rows: Sequence[Row], ignore_label: int | None) -> dict[str, Any]:
    """What the script needs to know, for JSON."""
    words = ONE_LABEL if sum(row.score is not None for row in rows) <= 1 else SEVERAL_LABELS
    outcomes = [{"name": words[v], "colour": _hex(COLOURS[v])} for v in (CORRECT, WRONG, MISSED)]
    labels = {row.number: row for row in rows if row.number}
    grey = scene.grey
    return {
        "picture": scene.picture,
        "shape": list(scene.grid.shape),
        "spacing": list(scene.grid.spacing_mm),
        "affine": scene.grid.affine.tolist(),
        "voxelMl": scene.grid.voxel_volume_ml,
        "low": grey.low,
        "step": grey.step,
        "exact": grey.exact,
        "unit": grey.unit,
        "window": list(grey.window),
        "presets": {name: list(window) for name, window in grey.presets.items()},
        "labels": [{"name": labels[n].name, "colour": labels[n].colour} for n in sorted(labels)],
        "outcomes": outcomes,
        "maps": list(scene.maps),
        "heatStops": _heat_stops(),
        "start": _start(scene, ignore_label),
        "tops": {name: heat.top for name, heat in scene.heats.items()},
    }


def _volumes(scene: Scene) -> dict[str, str]:
    """Every volume as base64 of a compressed NIfTI file."""
    heats = {name: heat.codes for name, heat in scene.heats.items()}
    packed = {name: _nifti(data, scene) for name, data in {**scene.maps, **heats}.items()}
    # grey values are noise in their last bits: from level 2 to 6 they take four times as long for 3 % less
    return {"image": _nifti(scene.grey.codes, scene, level=2), **packed}


def _nifti(data: NDArray[Any], scene: Scene, level: int = 6) -> str:
    image = nib.Nifti1Image(data, scene.grid.affine)
    image.header.set_xyzt_units("mm")
    return _packed(image.to_bytes(), level)


def _packed(content: bytes, level: int = 6) -> str:
    return base64.b64encode(gzip.compress(content, compresslevel=level, mtime=0)).decode()


# the same in every page of a report; volumes are not kept
_packed_script = lru_cache(maxsize=1)(_packed)


def _start(scene: Scene, ignore_label: int | None) -> list[int]:
    """The voxel under the crosshair at first: where slices show most of the labels that count, else the middle."""
    ignored = scene.values.index(ignore_label) + 1 if ignore_label in scene.values else 0
    maps = [None if (m := scene.maps.get(name)) is None else m * (m != ignored) for name in ("reference", "prediction")]
    found = [best_slice(plane, maps[0], maps[1], "foreground") for plane in PLANES]
    start = [n // 2 for n in scene.grid.shape]
    for plane, index in zip(PLANES, found, strict=True):
        start[plane.normal] = start[plane.normal] if index is None else index
    return start


def _heat_stops() -> list[str]:
    # an orange outline, that of the first label, stands out from it
    colours = colormaps["viridis"](np.linspace(0.0, 1.0, 9))
    return [to_hex(colour) for colour in colours]


def _still(name: str, scene: Scene, rows: Sequence[Row], ignore_label: int | None) -> str:
    """Base64 of a PNG with a slice of each plane, for readers without scripts and for paper."""
    table = np.array([0, *scene.values], np.uint16)  # figures colour by the value in the files
    maps = {key: table[scene.maps[key]] for key in ("reference", "prediction") if key in scene.maps}
    image, low, step = scene.grey.codes, scene.grey.low, scene.grey.step
    window = ((scene.grey.window[0] - low) / step, (scene.grey.window[1] - low) / step)
    if scene.picture:  # as stored: first row on top
        image, maps = image[:, ::-1], {key: m[:, ::-1] for key, m in maps.items()}
    case = FigureCase(
        name, image, maps.get("reference"), maps.get("prediction"), scene.grid.spacing_mm,
        {row.value: row.name for row in rows if row.number}, window=window, picture=scene.picture,
        ignore_label=ignore_label,
    )  # fmt: skip
    figure = rows_figure([("", case)])
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("seg3d.reporting.viewer", "assets"), autoescape=select_autoescape(default=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the first window is the first preset
    environment.filters["score"] = _score
    environment.filters["distance"] = _distance
    environment.filters["size"] = _amount
    return environment


def _asset(name: str) -> str:
    return (files("seg3d.reporting.viewer") / "assets" / name).read_text(encoding="utf-8")


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _distance(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.1f}"


def _amount(value: float) -> str:
    """Three digits that count, without exponents."""
    if value == 0 or value >= 100:
        return f"{value:.0f}"
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
