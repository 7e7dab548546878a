"""Slices and pictures: volumes with one thin axis through the same sampler, network and tiling."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scans import oblique_affine, oriented_affine
from stored import LABELS, make_store
from torch import nn

from seg3d.build.training import build_data
from seg3d.config import load_config
from seg3d.errors import DataError, FaultsError
from seg3d.inference.sliding import SlidingWindow
from seg3d.inference.source import Source
from seg3d.keyed import keyed
from seg3d.models import ReducedUNet, UNet
from seg3d.models.planar import Planar
from seg3d.preparation import Recipe, prepare_image, prepare_weights
from seg3d.preparation.recipe import Separation
from seg3d.sampling.augment import Affine, Augmentation, Elastic, Flip, Rot90, draw
from seg3d.sampling.intensity import lower_resolution
from seg3d.sampling.locations import draw_in_slice
from seg3d.sampling.patches import PatchReader, read_augmented, read_patch
from seg3d.sampling.plan import SamplingPlan, slices_of
from seg3d.sampling.spatial import Resampling, _smooth_field, resample_patch
from seg3d.store import StoredInfo, StoredVolume, read_info, write_stored
from seg3d.volume import Grid, Volume, mirrored

VALID = ["model.kind=unet", "model.padding=valid", "model.features=[4,4,4,4,4]"]
PLAIN = "name: p\ndata: {source: a, store: b}\nmodel: {dims: 2}\nsampling: {patch_size: [32, 32, 1]}\n"


@pytest.fixture
def cases(tmp_path: Path) -> tuple[StoredInfo, ...]:
    return make_store(tmp_path)


@pytest.fixture
def volume(cases: tuple[StoredInfo, ...]) -> StoredVolume:
    return StoredVolume(cases[0])


def stored_picture(folder: Path, weights: bool = False) -> StoredVolume:
    """A picture of 37 x 29 pixels, two channels, all values different."""
    shape = (37, 29, 1)
    image = np.arange(2 * 37 * 29, dtype=np.float16).reshape(2, *shape)
    label = (keyed(0, "label").random(shape) < 0.3).astype(np.uint8)
    path = folder / "picture.h5"
    write_stored(
        path,
        case_id="picture",
        image=image,
        label=label,
        grid=Grid(shape, np.eye(4)),
        way_back={},
        recipe_sha256="r",
        source_sha256={},
        labels={"background": 0, "cell": 1},
        ignore_label=None,
        weights=(2 + label).astype(np.float16) if weights else None,
    )
    return StoredVolume(read_info(path))


@pytest.mark.parametrize(("start", "stop"), [(-3, 9), (0, 5), (-12, -2), (6, 17), (-20, 20)])
def test_places_beyond_an_axis_are_mirrored_as_numpy_does(start: int, stop: int) -> None:
    axis = np.arange(5)
    padded = np.pad(axis, 20, mode="symmetric")
    np.testing.assert_array_equal(axis[mirrored(start, stop, 5)], padded[20 + start : 20 + stop])


@pytest.mark.parametrize("start", [(-7, -3, 0), (20, 15, 0), (0, 0, 0), (-40, 25, 0)])
def test_a_box_beyond_a_picture_is_the_mirrored_picture(tmp_path: Path, start: tuple[int, int, int]) -> None:
    volume = stored_picture(tmp_path)
    assert volume.label is not None
    size = (40, 24, 1)
    image, label = read_patch(volume, start, size, "mirror")
    pad = [(0, 0), (60, 60), (60, 60), (0, 0)]
    box = tuple(slice(k + a, k + a + n) for k, a, n in zip((60, 60, 0), start, size, strict=True))
    expected = np.pad(volume.image.astype(np.float32), pad, mode="symmetric")[(slice(None), *box)]
    np.testing.assert_array_equal(image.numpy(), expected)
    np.testing.assert_array_equal(label.numpy(), np.pad(volume.label, pad[1:], mode="symmetric")[box])


def test_a_resampled_patch_is_mirrored_too(tmp_path: Path) -> None:
    volume = stored_picture(tmp_path)
    start, size = (-9, 12, 0), (32, 24, 1)
    plain, plain_label = read_patch(volume, start, size, "mirror")
    found, label = resample_patch(volume, start, size, Resampling(np.eye(3), np.zeros(3), None), "mirror")
    np.testing.assert_allclose(found.permute(0, 3, 2, 1).numpy(), plain.numpy(), atol=0.05)  # of values up to 2,000
    assert (label.permute(2, 1, 0) == plain_label).float().mean() == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_index_counts_what_is_there(volume: StoredVolume, axis: int) -> None:
    assert volume.label is not None
    found = volume.info.slice_counts(axis)
    for value, counts in found.items():
        others = tuple(other for other in range(3) if other != axis)
        np.testing.assert_array_equal(counts, (np.asarray(volume.label) == value).sum(axis=others))


def test_slices_are_listed_without_reading_an_image(
    cases: tuple[StoredInfo, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: StoredVolume, _info: StoredInfo) -> None:
        raise AssertionError("a volume was opened")

    monkeypatch.setattr(StoredVolume, "__init__", refuse)
    plan = SamplingPlan(cases, {0: 1, 2: 1}, patches_per_epoch=40, patches_per_visit=4, balance="slice", seed=0)
    assert plan.epoch(0).patches == 40


def test_slices_of_a_class_are_drawn_evenly_and_the_shares_are_exact(cases: tuple[StoredInfo, ...]) -> None:
    items = [(case, n) for case, info in enumerate(cases) for n in slices_of(info, 2, 2)]
    plan = SamplingPlan(
        cases, {0: 1, 2: 1}, patches_per_epoch=2 * len(items), patches_per_visit=4, balance="slice", seed=0
    )
    draws = [draw for epoch in range(2) for visit in plan.epoch(epoch).visits for draw in visit.draws]
    tumour = Counter((d.case, d.slice[1]) for d in draws if d.class_value == 2 and d.slice)
    assert tumour == Counter(items * 2)
    assert sum(d.class_value == 0 for d in draws) == 2 * len(items)


def test_a_background_slice_holds_nothing_else_and_a_tumour_slice_holds_tumour(cases: tuple[StoredInfo, ...]) -> None:
    plan = SamplingPlan(cases, {0: 1, 2: 1}, patches_per_epoch=32, patches_per_visit=4, balance="slice", seed=0)
    reader = PatchReader(cases, (64, 48, 1), None, 0)
    for visit in plan.epoch(0).visits:
        for patch in reader.read(0, visit):
            _, index = patch.draw.slice or (0, -1)
            assert patch.start[2] == index == patch.centre[2]
            whole = np.asarray(StoredVolume(cases[patch.draw.case]).label)[:, :, index]
            assert (2 in whole) == (patch.draw.class_value == 2)
            assert patch.draw.class_value == 2 or not whole.any()


def test_no_slice_without_foreground_is_told(tmp_path: Path) -> None:
    info = stored_picture(tmp_path).info
    with pytest.raises(DataError, match="no training slice is without foreground"):
        SamplingPlan((info,), {0: 1, 1: 1}, patches_per_epoch=4, patches_per_visit=4, balance="slice", seed=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_centres_in_a_slice_are_of_its_class(volume: StoredVolume, axis: int) -> None:
    assert volume.label is not None
    index = slices_of(volume.info, 2, axis)[3]
    centres = {draw_in_slice(volume, 2, axis, index, keyed(0, n)) for n in range(50)}
    assert len(centres) > 30
    assert {centre[axis] for centre in centres} == {index}
    assert {int(volume.label[centre]) for centre in centres} == {2}


def test_neighbouring_slices_are_channels_with_the_middle_one_in_the_middle(cases: tuple[StoredInfo, ...]) -> None:
    plan = SamplingPlan(cases, {2: 1}, patches_per_epoch=8, patches_per_visit=4, balance="slice", seed=0)
    reader = PatchReader(cases, (64, 48, 1), None, 0, margin=(0, 0, 1))
    patch = reader.read(0, plan.epoch(0).visits[0])[0]
    volume = StoredVolume(cases[patch.draw.case])
    assert volume.label is not None
    x, y, z = patch.start
    flat = Planar(nn.Identity(), 2).flat(patch.image[None])[0]
    assert flat.shape == (3, 64, 48)
    for channel, index in enumerate((z - 1, z, z + 1)):
        np.testing.assert_array_equal(flat[channel], volume.image[0, x : x + 64, y : y + 48, index])
    np.testing.assert_array_equal(patch.label[..., 0], volume.label[x : x + 64, y : y + 48, z])


def stored_cube(folder: Path, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> StoredVolume:
    """A cube of 12 voxels, every value another."""
    shape = (12, 12, 12)
    write_stored(
        folder / "cube.h5",
        case_id="cube",
        image=np.arange(12**3, dtype=np.float16).reshape(1, *shape),
        label=keyed(0, "cube").integers(0, 3, shape).astype(np.uint8),
        grid=Grid(shape, np.diag([*spacing_mm, 1.0])),
        way_back={},
        recipe_sha256="r",
        source_sha256={},
        labels={"background": 0, "organ": 1, "tumour": 2},
        ignore_label=None,
    )
    return StoredVolume(read_info(folder / "cube.h5"))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_the_same_by_copying_and_by_resampling(tmp_path: Path, axis: int, quarters: int) -> None:
    volume = stored_cube(tmp_path)
    turning = Augmentation(rot90=Rot90(1.0, "xyz"[axis]), flip=Flip(1.0, ["x"]))
    barely = replace(turning, affine=Affine(1.0, (0, 0, 0), (1, 1), (1e-6, 0, 0)))  # so that it is resampled
    key = next(n for n in range(50) if draw(turning, 1, (12,) * 3, (1, 1, 1), keyed(n)).turned == (axis, quarters))
    box = (volume, (0, 0, 0), (12, 12, 12))
    copied, copied_label = read_augmented(*box, turning, keyed(key))
    resampled, resampled_label = read_augmented(*box, barely, keyed(key))
    np.testing.assert_allclose(resampled.numpy(), copied.numpy(), atol=0.01)  # neighbours differ by 1
    assert torch.equal(resampled_label, copied_label)
    plain, _ = read_patch(*box)
    assert not torch.equal(copied, plain.flip(1))


def test_nothing_moves_across_a_slice(volume: StoredVolume) -> None:
    moving = Augmentation(
        affine=Affine(1.0, (0, 0, 45), (0.85, 1.15), (3, 3, 3)), elastic=Elastic(1.0, 8, 3), flip=Flip(1.0, ["x"])
    )
    for number in range(20):
        drawn = draw(moving, 1, (32, 32, 1), (1.0, 1.0, 2.0), keyed(0, number), fixed=(2,)).resampling
        assert drawn is not None
        assert drawn.matrix[2].tolist() == [0, 0, 1]
        assert drawn.matrix[:, 2].tolist() == [0, 0, 1]
        assert drawn.shift_mm[2] == 0
        assert drawn.displacement_mm is not None
        assert not drawn.displacement_mm[2].any()
        assert drawn.displacement_mm[0].any()


def test_an_elastic_field_has_the_control_points_asked_for() -> None:
    part = Augmentation(elastic=Elastic(1.0, 8, 10.0, (3, 3, 1)))
    fields = [draw(part, 1, (388, 388, 1), (1, 1, 1), keyed(0, n), fixed=(2,)).resampling for n in range(300)]
    values = np.stack([field.displacement_mm for field in fields if field and field.displacement_mm is not None])
    assert values.shape == (300, 3, 3, 3, 1)
    assert values[:, :2].std() == pytest.approx(10, rel=0.05)


def test_an_elastic_field_of_a_slice_is_as_strong_as_that_of_a_volume() -> None:
    part = Augmentation(elastic=Elastic(1.0, 8, 10.0))
    fields = [draw(part, 1, (64, 64, 1), (1, 1, 1), keyed(0, n), fixed=(2,)).resampling for n in range(100)]
    read = [_smooth_field(field, (1, 1, 1), (64, 64, 1)) for field in fields if field]
    assert len(read) == 100
    # two points along z, averaged into the one slice, would make it weaker by the square root of 2
    alone = [draw(part, 1, (64, 64, 8), (1, 1, 1), keyed(0, n)).resampling for n in range(100)]
    planes = [field.displacement_mm[:, :, :, :1] for field in alone if field and field.displacement_mm is not None]
    wanted = [_smooth_field(Resampling(np.eye(3), np.zeros(3), plane), (1, 1, 1), (64, 64, 1)) for plane in planes]
    assert np.std([field[:2] for field in read]) == pytest.approx(np.std([field[:2] for field in wanted]), rel=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_of_voxels_that_are_not_square_keep_shapes(tmp_path: Path, axis: int, quarters: int) -> None:
    volume = stored_cube(tmp_path, spacing_mm=(1.0, 1.7, 2.9))
    turning = Augmentation(rot90=Rot90(1.0, "xyz"[axis]))
    barely = replace(turning, affine=Affine(1.0, (0, 0, 0), (1, 1), (1e-6, 0, 0)))
    key = next(n for n in range(50) if draw(turning, 1, (12,) * 3, (1, 2, 3), keyed(n)).turned == (axis, quarters))
    box = (volume, (0, 0, 0), (12, 12, 12))
    alone, label = read_augmented(*box, turning, keyed(key))
    among_others, same_label = read_augmented(*box, barely, keyed(key))
    np.testing.assert_allclose(alone.numpy(), among_others.numpy(), atol=0.1)
    assert float((label == same_label).float().mean()) > 0.99  # but for ties
    # half a turn is that of the array, exactly; a quarter is not: what is long stays long
    others = [1 + (axis + 1) % 3, 1 + (axis + 2) % 3]
    turned = read_patch(*box)[0].rot90(quarters, others)
    assert torch.equal(alone, turned) == (quarters == 2)


@pytest.mark.parametrize(("dims", "features", "fixed"), [(2, "[4, 8]", (2,)), (3, "[4]", ())])
def test_slices_move_in_their_plane_and_thin_patches_of_volumes_anywhere(
    cases: tuple[StoredInfo, ...], tmp_path: Path, dims: int, features: str, fixed: tuple[int, ...]
) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(PLAIN)
    turning = ["augment.affine={p: 1, rotation_deg: [0, 0, 30]}", f"model.features={features}"]
    config = load_config(path, [f"model.dims={dims}", *turning])
    assert config.augment.affine is not None
    shifted = config.augment.affine.model_copy(update={"shift_mm": (0, 0, 9)})  # of slices a config refuses it
    config = config.model_copy(update={"augment": config.augment.model_copy(update={"affine": shifted})})
    data = build_data(config, cases, (), LABELS)
    visits = data.train_dataloader().dataset.subjects_dataset
    visit = visits.epoch(0).visits[0]
    found = visits.reader.read(0, visit)
    wanted = replace_fixed(visits.reader, fixed).read(0, visit)
    other = replace_fixed(visits.reader, (2,) if not fixed else ()).read(0, visit)
    assert all(torch.equal(a.image, b.image) for a, b in zip(found, wanted, strict=True))
    assert not any(torch.equal(a.image, b.image) for a, b in zip(found, other, strict=True))


def replace_fixed(reader: PatchReader, fixed: tuple[int, ...]) -> PatchReader:
    return PatchReader(reader.cases, reader.patch_size, reader.augmentation, reader.seed, fixed=fixed)


def test_a_lower_resolution_is_one_of_the_plane_however_close_the_slices_lie() -> None:
    noise = keyed(0, "noise").standard_normal((1, 3, 32, 32)).astype(np.float32)
    image = noise.copy()
    lower_resolution(image, 2.0, (4.0, 4.0, 1.0), fixed=(2,))  # a picture made smaller: its third axis is as it was
    assert image.std() < 0.7 * noise.std()
    for number in range(3):
        alone = noise[:, number : number + 1].copy()
        lower_resolution(alone, 2.0, (1.0, 1.0, 1.0), fixed=(2,))
        np.testing.assert_array_equal(image[:, number : number + 1], alone)  # no slice looks at its neighbours


def test_weights_follow_the_label_through_every_spatial_change(tmp_path: Path) -> None:
    volume = stored_picture(tmp_path, weights=True)
    part = Augmentation(flip=Flip(0.5, ["x", "y"]), rot90=Rot90(0.5, "z"))
    for number in range(8):
        found, label = read_augmented(volume, (-4, 2, 0), (24, 24, 1), part, keyed(0, number), border="mirror")
        assert torch.equal(found[-1], 2.0 + label)
    moved = Augmentation(affine=Affine(1.0, (0, 0, 30), (0.9, 1.1), (0, 0, 0)))
    found, label = read_augmented(volume, (8, 2, 0), (24, 24, 1), moved, keyed(0, 1), border="mirror", fixed=(2,))
    assert float((found[-1] - (2.0 + label)).abs().mean()) < 0.3  # linear against nearest
    assert float(found[-1].min()) >= 2
    assert float(found[-1].max()) <= 3


def test_a_separation_map_is_stored_and_read_back(tmp_path: Path) -> None:
    label = np.zeros((24, 24, 1), np.uint8)
    label[2:10, 2:20], label[12:22, 2:20] = 1, 1
    weights = prepare_weights(label, Recipe(separation=Separation(w0=10, sigma=5)), None)
    assert weights is not None
    between, far = float(weights[10, 10, 0]), float(weights[23, 23, 0])
    assert between > far + 5
    assert prepare_weights(label, Recipe(), None) is None


@pytest.mark.parametrize("shape", [(100, 84, 1), (37, 61, 1), (20, 20, 1)])
@pytest.mark.parametrize("tile", [20, 36, 52])
def test_overlap_tiles_of_valid_convolutions_equal_one_pass(shape: tuple[int, int, int], tile: int) -> None:
    torch.manual_seed(0)
    network = UNet(2, 3, dims=2, features=(4, 8, 8, 8, 8), padding="valid", norm="batch")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    image = torch.randn(2, *shape)
    whole = (-(-(shape[0] - 4) // 16) * 16 + 4, -(-(shape[1] - 4) // 16) * 16 + 4, 1)
    margin = (network.margin, network.margin, 0)
    size = (tile, tile, 1)
    found = SlidingWindow(size, size, tiling="exact", margin=margin, border="mirror", batch_size=3)
    single = SlidingWindow(whole, tiling="exact", margin=margin, border="mirror")
    planar = Planar(network, 2)
    one, many = (window.probabilities(planar, image, [0, 0]) for window in (single, found))
    assert one.shape == (3, *shape)
    np.testing.assert_allclose(many.numpy(), one.numpy(), atol=1e-5)
    # and the single pass is the network on the mirrored picture, without any tiling
    padded = np.pad(
        image.numpy(), [(0, 0), (92, whole[0] - shape[0] + 92), (92, whole[1] - shape[1] + 92), (0, 0)], "symmetric"
    )
    with torch.inference_mode():
        network.eval()
        direct = torch.softmax(network(torch.from_numpy(padded[..., 0])[None]), 1)[0, :, : shape[0], : shape[1], None]
    np.testing.assert_allclose(one.numpy(), direct.numpy(), atol=1e-5)


def test_a_constant_surrounding_is_each_channels_value() -> None:
    source = Source(torch.ones(2, 3, 3, 1), [5.0, 7.0], "constant", (3, 3, 1), (0, 0, 0), torch.device("cpu"))
    found = source.cut((-1, 0, -1), (3, 5, 2))[0]
    assert found.shape == (2, 4, 5, 3)
    assert found[0, 0].unique().tolist() == [5]
    assert found[1, 1:, :3, 1].unique().tolist() == [1]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_planar_network_is_the_network_on_each_slice(axis: int) -> None:
    torch.manual_seed(0)
    network = ReducedUNet(2, 3, dims=2, features=(4, 8))
    image = torch.randn(2, 2, 8, 12)
    found = Planar(network, axis)(image.unsqueeze(axis + 2))
    assert torch.equal(found, network(image).unsqueeze(axis + 2))


def test_two_dimensions_predict_each_slice_of_a_volume_by_itself() -> None:
    torch.manual_seed(0)
    network = Planar(ReducedUNet(1, 2, dims=2, features=(4, 8), norm="instance"), 2)
    volume = torch.randn(1, 16, 16, 5)
    window = SlidingWindow((16, 16, 1), batch_size=1)
    whole = window.probabilities(network, volume, [0.0])
    for index in range(5):
        one = window.probabilities(network, volume[..., index : index + 1], [0.0])
        assert torch.equal(whole[..., index : index + 1], one)


def test_scans_whose_affine_does_not_tell_the_slices_are_refused() -> None:
    turned = np.eye(4)
    turned[:3, :3] = np.array([[1, 0, 0], [0, np.sqrt(0.5), -np.sqrt(0.5)], [0, np.sqrt(0.5), np.sqrt(0.5)]])
    volume = Volume(np.zeros((1, 8, 8, 8), np.float32), Grid((8, 8, 8), turned))
    with pytest.raises(DataError, match=r"does not tell which slices are axial.*45 degrees"):
        prepare_image([volume], Recipe(slice_axis=2))
    prepare_image([volume], Recipe(slice_axis=0))
    prepare_image([volume], Recipe())
    mild = Volume(np.zeros((1, 8, 8, 8), np.float32), Grid((8, 8, 8), oblique_affine()))
    prepare_image([mild], Recipe(slice_axis=2))


@pytest.mark.parametrize("codes", ["LPS", "SRA", "AIL"])
def test_axial_slices_are_axial_whatever_the_order_of_the_array(codes: str) -> None:
    shape = {"LPS": (4, 5, 6), "SRA": (6, 4, 5), "AIL": (5, 6, 4)}[codes]
    volume = Volume(np.zeros((1, *shape), np.float32), Grid(shape, oriented_affine(codes, shape, (1, 1, 1))))
    assert prepare_image([volume], Recipe(slice_axis=2, size=(8, 8, None))).image.shape == (1, 8, 8, 6)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (["sampling.patch_size=[32, 32, 32]"], "sampling.patch_size"),
        (["sampling.patch_size=[32, 1, 1]"], "sampling.patch_size"),
        (["sampling.patch_size=[33, 32, 1]"], "sampling.patch_size"),
        (["model.dims=3", "sampling.patch_size=[32, 32, 32]", "sampling.neighbours=1"], "sampling.neighbours"),
        (["model.dims=3", "sampling.patch_size=[32, 32, 32]", "sampling.balance=slice"], "sampling.balance"),
        (["augment.rot90={p: 1}", "sampling.patch_size=[32, 64, 1]"], "augment.rot90"),
        (["augment.affine={p: 1, rotation_deg: [5, 0, 5]}"], "augment.affine.rotation_deg"),
        (["augment.affine={rotation_deg: [0, 0, 5], shift_mm: [3, 3, 3]}"], "augment.affine.shift_mm"),
        (["model.padding=valid"], "model.padding"),
        (["model.upsampling=transposed", "sampling.neighbours=1", "sampling.balance=slice"], "model.upsampling"),
        (["predict.tile_size=[1, 32, 32]"], "predict.tile_size"),
        (["predict.tile_size=[32, 32, 4]"], "predict.tile_size"),
        (["predict.tile_size=[4, 4, 1]"], "predict.tile_size"),
        (["sampling.patch_size=[4, 4, 1]"], "sampling.patch_size"),
        (["sampling.patch_size=[4, 4, 1]", "model.norm=batch", "train.batch_size=1"], "sampling.patch_size"),
        ([*VALID, "sampling.patch_size=[4, 4, 1]"], "sampling.patch_size"),
        ([*VALID, "sampling.patch_size=[36, 36, 1]", "predict.tile_size=[4, 36, 1]"], "predict.tile_size"),
        (["predict.mirror=[x, z]"], "predict.mirror"),
        (["augment.elastic={control_points: [3, 3, 3]}"], "augment.elastic.control_points"),
        (["sampling.class_weights={tumour: 0}"], "sampling.class_weights"),
        (["prepare.size=[32, 32, null]", "prepare.spacing_mm=[1, 1, 1]"], "prepare.size"),
    ],
)
def test_settings_that_do_not_suit_slices_are_refused(tmp_path: Path, settings: list[str], where: str) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(PLAIN)
    load_config(path)
    with pytest.raises(FaultsError) as caught:
        load_config(path, settings)
    assert {fault.where for fault in caught.value.faults} == {where}


@pytest.mark.parametrize(
    "settings",
    [
        ["predict.mirror=[x, z]", "sampling.neighbours=1"],
        ["sampling.patch_size=[1, 32, 32]", "augment.elastic={control_points: [1, 3, 3]}", "augment.rot90={about: x}"],
        ["sampling.patch_size=[32, 1, 32]", "augment.elastic={control_points: [3, 1, 3]}", "predict.mirror=[x, z]"],
        ["sampling.patch_size=[4, 8, 1]"],
        ["sampling.patch_size=[4, 4, 1]", "model.norm=batch"],
        ["sampling.patch_size=[4, 4, 1]", "model.norm=none", "train.batch_size=1"],
    ],
)
def test_settings_that_suit_slices_are_taken(tmp_path: Path, settings: list[str]) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(PLAIN)
    load_config(path, settings)


def test_patches_of_slices_without_two_dimensions_are_told_so(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PLAIN)
    with pytest.raises(FaultsError, match=r"need model\.dims 2; of volumes the nearest size is \[32, 32, 4\]"):
        load_config(path, ["model.dims=3"])
    with pytest.raises(FaultsError, match=r"The nearest size is \[32, 32, 1\]"):
        load_config(path, ["sampling.patch_size=[33, 32, 1]"])


def test_sizes_of_valid_convolutions_are_told(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(PLAIN)
    load_config(path, [*VALID, "sampling.patch_size=[388, 388, 1]"])
    with pytest.raises(FaultsError, match=r"nearest size is \[388, 36, 1\]"):
        load_config(path, [*VALID, "sampling.patch_size=[390, 32, 1]"])
