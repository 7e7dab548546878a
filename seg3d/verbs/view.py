"""``seg3d view``: a case in one HTML file, to be looked at in a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg3d.atomic import write_text
from seg3d.cases import Region, refuse_grey_levels
from seg3d.errors import ConfigError, DataError
from seg3d.io import image_stem, read_header, read_label_map, read_volume
from seg3d.reporting.viewer import SHOWN_TURNED, viewer_page
from seg3d.verbs.manifest import read_manifest
from seg3d.verbs.region_scores import drawn_as_shown, shown_names, unseen_names
from seg3d.volume import Volume


@dataclass(frozen=True)
class _Meaning:
    """What label values mean; ``names`` is ``None`` where nothing declares them, ``regions`` is what was predicted."""

    names: Mapping[int, str] | None
    ignore_label: int | None
    regions: tuple[Region, ...] = ()

    @property
    def shown(self) -> Mapping[int, str] | None:
        """Names of the labels that the predictions can tell apart."""
        return None if self.names is None else shown_names(self.names, self.regions)


def view(
    image: Path | str,
    output: Path | str,
    *,
    labels: Path | str | None = None,
    prediction: Path | str | None = None,
    uncertainty: Path | str | None = None,
    names: Mapping[int, str] | None = None,
    ignore_label: int | None = None,
) -> Path:
    """``output``: one HTML file that shows a case in a browser without a network.

    Three planes and a rendering, labels in their colours, right and wrong voxels, uncertainty, windows, values under
    the crosshair, volumes and scores. Overlays on another grid are resampled for display, and the page says so.

    Args:
        image: A scan or picture.
        output: The page; a name that ends in ``.html``.
        labels: Reference label map.
        prediction: Predicted label map.
        uncertainty: Map of real numbers of at least 0, as ``seg3d predict`` writes them.
        names: Label value -> name, without background; where ``None`` as the folder of the prediction says.
        ignore_label: Value of the reference that counts nowhere, likewise.

    Raises:
        DataError: A file is broken, an overlay lies elsewhere than the image, or the page would overwrite an input.
        ConfigError: The page is not called ``.html``.
    """
    target = Path(output)
    files = {"image": Path(image)}
    given = {"reference": labels, "prediction": prediction, "uncertainty": uncertainty}
    files |= {what: Path(path) for what, path in given.items() if path is not None}
    _refuse_output(target)
    meaning = _meaning(files, names, ignore_label)
    header = read_header(files["image"])
    picture = header.format == "picture"
    _refuse_mixture(files, picture)
    scan = read_volume(files["image"])
    page = viewer_page(
        image_stem(files["image"]),
        scan,
        labels=_labels(files.get("reference"), meaning, meaning.ignore_label),
        prediction=_labels(files.get("prediction"), meaning, None),  # which never holds the ignored label
        uncertainty=read_volume(files["uncertainty"]) if "uncertainty" in files else None,
        names=meaning.shown,
        picture=picture,
        ignore_label=meaning.ignore_label,
        notes=[
            *(f"{what.capitalize()}: {path.name}" for what, path in files.items()),
            *([SHOWN_TURNED] if header.shown_turned else []),
            *(f"Not shown, as in no region: {name}" for name in unseen_names(meaning.names or {}, meaning.regions)),
        ],
    )
    write_text(target, page)
    return target


def parse_names(words: Sequence[str]) -> dict[int, str] | None:
    """``{1: "liver"}`` of ``["1=liver"]``; ``None`` of nothing.

    Raises:
        ConfigError: A word is not of the form ``VALUE=NAME``, or a value is the background's or named twice.
    """
    found: dict[int, str] = {}
    for word in words:
        value, equals, name = word.partition("=")
        if not equals or not value.strip().isdecimal() or not name.strip():
            raise ConfigError("a label's name cannot be read", where="--name", got=word, expected="such as 1=liver")
        if int(value) == 0 or int(value) in found:
            what = "0 is the background" if int(value) == 0 else "a label has two names"
            raise ConfigError(what, where="--name", got=word, expected="a value from 1 on, once")
        found[int(value)] = name.strip()
    return found or None


def _meaning(files: Mapping[str, Path], names: Mapping[int, str] | None, ignore_label: int | None) -> _Meaning:
    manifest = read_manifest(files["prediction"]) if names is None and "prediction" in files else {}
    if not manifest:
        return _Meaning(names, ignore_label)
    ignored = manifest["ignore_label"] if ignore_label is None else ignore_label
    labels = {value: name for name, value in manifest["labels"].items() if isinstance(value, int)}
    regions = tuple(map(Region.from_dict, manifest.get("regions", [])))
    return _Meaning({value: name for value, name in labels.items() if value not in (0, ignored)}, ignored, regions)


def _labels(path: Path | None, meaning: _Meaning, ignore_label: int | None) -> Volume | None:
    """A label map in which labels that are not told apart are one, as ``seg3d evaluate`` scores them."""
    if path is None:
        return None
    names = meaning.names
    found = read_label_map(path, (0, *(names or ()), ignore_label))
    if names is None:
        refuse_grey_levels(found.data * (found.data != ignore_label), path)
    return Volume(drawn_as_shown(found.data, meaning.regions, names or {}), found.grid)


def _refuse_output(target: Path) -> None:
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("the page is an HTML file", where="--output", got=target.name, expected="such as case.html")
    if target.is_dir():
        raise DataError("the page cannot be written there: a folder has its name", where=target)


def _refuse_mixture(files: Mapping[str, Path], picture: bool) -> None:
    """A picture lies nowhere, so nothing but a picture can lie on it, nor it on a scan."""
    for what, path in files.items():
        found = read_header(path)
        if (found.format == "picture") != picture:
            kinds = ("a picture", "a scan") if picture else ("a scan", "a picture")
            raise DataError(
                f"the image is {kinds[0]} and the {what} {kinds[1]}", where=path, fix="Give files of the same kind."
            )
