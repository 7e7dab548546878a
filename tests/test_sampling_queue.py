"""The queue: the same patches, bit for bit, however it is run."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import stats
from stored import make_store

from seg3d.digest import sha256_tensors
from seg3d.errors import RunError, StoreError
from seg3d.keyed import keyed
from seg3d.sampling.augment import Affine, Augmentation, Elastic, Gamma, Noise
from seg3d.sampling.certificate import Certifier
from seg3d.sampling.locations import draw_centre, place_patch
from seg3d.sampling.patches import PatchReader, read_patch
from seg3d.sampling.plan import Balance, SamplingPlan
from seg3d.sampling.prefetch import AheadLoader
from seg3d.sampling.queue import PatchQueue, VisitDataset, patch_loader
from seg3d.store import StoredVolume
from seg3d.volume import Shape

WEIGHTS = {0: 1.0, 1: 1.0, 2: 2.0}
AUGMENTATION = Augmentation(
    affine=Affine(p=0.5, rotation_deg=(15, 15, 15), scale=(0.9, 1.1), shift_mm=(2, 2, 2)),
    elastic=Elastic(p=0.5, control_spacing_mm=20, sd_mm=2),
    noise=Noise(p=0.5, sd=(0, 0.1)),
    gamma=Gamma(p=0.5, gamma=(0.7, 1.5)),
)


def make_queue(
    folder: Path,
    *,
    workers: int = 0,
    persistent: bool = True,
    length: int = 10,
    augmentation: Augmentation | None = None,
    balance: Balance = "case",
    size: Shape = (32, 24, 16),
) -> PatchQueue:
    cases = make_store(folder)
    plan = SamplingPlan(cases, WEIGHTS, patches_per_epoch=24, patches_per_visit=4, balance=balance, seed=5)
    return PatchQueue(VisitDataset(plan, PatchReader(cases, size, augmentation, 5)), length, size, workers, persistent)


def digests(queue: PatchQueue, epochs: int = 2, skip: int = 0) -> list[str]:
    found = []
    for epoch in range(epochs):
        queue.set_epoch(epoch, skip if epoch == 0 else 0)
        for batch in patch_loader(queue, 2):
            named = {f"{c}{p}": torch.zeros(1) for c, p in zip(batch["case_id"], batch["centre"], strict=True)}
            found.append(sha256_tensors({"image": batch["image"], "label": batch["label"], **named}))
    return found


@pytest.mark.parametrize("augmentation", [None, AUGMENTATION])
def test_patches_are_the_same_for_any_number_of_workers(tmp_path: Path, augmentation: Augmentation | None) -> None:
    torch.manual_seed(1)
    reference = digests(make_queue(tmp_path, augmentation=augmentation))
    assert len(set(reference)) == len(reference) == 24
    for workers, persistent in ((1, True), (2, False)):
        torch.manual_seed(2)
        queue = make_queue(tmp_path, workers=workers, persistent=persistent, augmentation=augmentation)
        assert digests(queue) == reference


@pytest.mark.parametrize("workers", [0, 1])
def test_a_volume_that_is_gone_is_told_alike_by_workers(tmp_path: Path, workers: int) -> None:
    queue = make_queue(tmp_path, workers=workers)
    for path in tmp_path.glob("*.h5"):
        path.rename(path.with_suffix(".gone"))
    with pytest.raises(StoreError, match=r"^\S+case_\d\.h5: the stored volume is missing\. Run 'seg3d prepare'\.$"):
        next(iter(patch_loader(queue, 2)))


def test_a_worker_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(PatchReader, "read", die)
    queue = make_queue(tmp_path, workers=1)
    with pytest.raises(RunError, match="a process that reads patches was killed"):
        list(AheadLoader(patch_loader(queue, 2)))  # as in a training: not in the main thread


def test_the_queue_leaves_global_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    digests(make_queue(tmp_path, augmentation=AUGMENTATION))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("length", [4, 7, 10, 24, 100])
def test_an_epoch_goes_on_from_any_position(tmp_path: Path, length: int) -> None:
    queue = make_queue(tmp_path, length=length)
    whole = digests(queue, epochs=1)
    for batches in range(13):
        assert digests(queue, epochs=1, skip=2 * batches) == whole[batches:]


def test_a_queue_mixes_cases_and_longer_queues_hold_the_same_patches(tmp_path: Path) -> None:
    def order(length: int) -> list[tuple[str, Shape]]:
        queue = make_queue(tmp_path, length=length)
        return [(s["case_id"], s["centre"]) for s in (queue[0] for _ in range(len(queue)))]

    short, long = order(4), order(24)
    assert short != long
    assert Counter(short) == Counter(long)
    assert len({case for case, _ in long[:6]}) > 1


def test_a_stock_torchio_loader_reads_the_queue(tmp_path: Path) -> None:
    batch = next(iter(tio.SubjectsLoader(make_queue(tmp_path), batch_size=3)))
    assert batch["image"][tio.DATA].shape == (3, 1, 32, 24, 16)
    assert batch["label"][tio.DATA].shape == (3, 1, 32, 24, 16)
    assert batch[tio.LOCATION].shape == (3, 6)


def test_a_patch_is_the_volume_at_its_location(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    volumes = {c.case_id: StoredVolume(c) for c in queue.subjects_dataset.plan.cases}
    for subject in (queue[0] for _ in range(len(queue))):
        i, j, k, *stop = subject[tio.LOCATION].tolist()
        box = slice(i, stop[0]), slice(j, stop[1]), slice(k, stop[2])
        volume = volumes[subject["case_id"]]
        np.testing.assert_array_equal(subject["image"].data.numpy(), volume.image[(slice(None), *box)])
        assert volume.label is not None
        np.testing.assert_array_equal(subject["label"].data[0].numpy(), volume.label[box])
        assert all(a <= c < b for a, c, b in zip((i, j, k), subject["centre"], stop, strict=True))


def test_a_small_volume_is_centred_in_the_patch_and_padded(tmp_path: Path) -> None:
    (case,) = make_store(tmp_path, 1, (50, 40, 31))
    start = place_patch((3, 3, 3), (64, 24, 40), (50, 40, 31))
    assert start == (-7, 0, -4)
    volume = StoredVolume(case)
    image, label = read_patch(volume, start, (64, 24, 40))
    inner = np.s_[7:57, :, 4:35]
    np.testing.assert_array_equal(image[0][inner].numpy(), volume.image[0][:, :24])
    rest = torch.ones(64, 24, 40, dtype=torch.bool)
    rest[inner] = False
    assert image[0][rest].unique().tolist() == [case.minimum[0]]
    assert label[rest].unique().tolist() == [0]


def test_centres_are_spread_evenly_over_the_voxels_of_a_class(tmp_path: Path) -> None:
    (case,) = make_store(tmp_path, 1)
    volume = StoredVolume(case)
    assert volume.label is not None
    rng = keyed(0, "chi-square")
    parts: Counter[tuple[int, ...]] = Counter()
    expected: Counter[tuple[int, ...]] = Counter()
    for voxel in np.argwhere(volume.label == 2):
        expected[tuple((voxel // (9, 10, 11)).tolist())] += 1
    for _ in range(6000):
        centre = draw_centre(volume, 2, 0, rng)
        assert volume.label[centre] == 2
        parts[tuple(np.array(centre) // (9, 10, 11))] += 1
    large = [key for key in sorted(expected) if expected[key] > 100]
    observed = [parts[key] for key in large]
    weights = np.array([expected[key] for key in large])
    assert stats.chisquare(observed, weights / weights.sum() * sum(observed)).pvalue > 0.001


@pytest.mark.parametrize("balance", ["case", "class", "lesion"])
def test_drawn_centres_follow_the_class_weights(tmp_path: Path, balance: Balance) -> None:
    queue = make_queue(tmp_path, balance=balance)
    volumes = {c.case_id: StoredVolume(c) for c in queue.subjects_dataset.plan.cases}
    classes: Counter[int] = Counter()
    for epoch in range(20):
        queue.set_epoch(epoch)
        for subject in (queue[0] for _ in range(len(queue))):
            label = volumes[subject["case_id"]].label
            assert label is not None
            classes[int(label[subject["centre"]])] += 1
    observed = [classes[value] for value in WEIGHTS]
    expected = [480 * weight / 4 for weight in WEIGHTS.values()]
    assert stats.chisquare(observed, expected).pvalue > 0.999  # stratified: not merely likely, exact


@pytest.mark.parametrize("limit", [64**3, 1])
def test_a_lesion_centre_lies_in_that_lesion(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg3d.sampling.locations._SMALL_BOX", limit)
    (case,) = make_store(tmp_path, 1)
    volume = StoredVolume(case)
    whole = volume.components((0, 0, 0), case.grid.shape)
    large = max((x for x in case.lesions if x.class_value == 2), key=lambda x: x.size)
    for lesion in case.lesions if limit > 1 else (large,):
        for draw in range(10):
            centre = draw_centre(volume, lesion.class_value, lesion.number, keyed(0, "lesion", draw))
            assert whole[centre] == lesion.number


def test_the_certificate_tells_realised_shares_and_lesions_left_out(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, balance="lesion")
    plan = queue.subjects_dataset.plan
    certifier = Certifier(plan, {0: "background", 1: "organ", 2: "tumour"})
    queue.set_epoch(0)
    centres = [(s["case_id"], s["centre"]) for s in (queue[0] for _ in range(len(queue)))]
    first = certifier.certify(0, centres)
    assert first["patches"] == 24
    assert first["classes"]["tumour"] == {
        "expected": 0.5,
        "planned": 0.5,
        "realised": 0.5,
        "drawn_but_moved_out": 0,
    }
    assert first["lesions"] == 9 + 4
    assert first["lesions_never_drawn"] == []  # 12 tumour and 6 organ draws cover 9 and 4
    tumours_only = [c for c in centres if plan.cases[int(c[0][-1])].case_id == "case_0"]
    certificate = Certifier(plan, {}).certify(1, tumours_only)
    assert {x["case"] for x in certificate["lesions_not_drawn"]} >= {"case_1", "case_2", "case_3"}
    assert certificate["classes"]["2"]["realised"] != 0.5


def test_the_certificate_expects_what_was_asked_and_says_what_whole_patches_come_to(tmp_path: Path) -> None:
    weights = {0: 20, 1: 20, 2: 1}
    plan = SamplingPlan(make_store(tmp_path), weights, patches_per_epoch=4, patches_per_visit=4, balance="case", seed=0)
    classes = Certifier(plan, {2: "tumour"}).certify(0, [])["classes"]
    assert classes["tumour"]["expected"] == pytest.approx(1 / 41)
    assert {share["planned"] for share in classes.values()} == {0, 0.5}


@pytest.mark.parametrize(("shift", "some"), [(0.0, False), (30.0, True)])
def test_patches_that_augmentation_left_without_their_class_are_counted(
    tmp_path: Path, shift: float, some: bool
) -> None:
    moving = Augmentation(affine=Affine(p=1.0, rotation_deg=(0, 0, 0), scale=(1, 1), shift_mm=(shift, shift, shift)))
    queue = make_queue(tmp_path, augmentation=moving, balance="lesion")
    plan = queue.subjects_dataset.plan
    subjects = [queue[0] for _ in range(len(queue))]
    volumes = {case.case_id: StoredVolume(case) for case in plan.cases}
    drawn = [int(volumes[s["case_id"]].label[s["centre"]]) for s in subjects]
    without = [value for value, s in zip(drawn, subjects, strict=True) if not (s["label"].data == value).any()]
    places = [(s["case_id"], s["centre"]) for s in subjects]
    lost = [place for place, s in zip(places, subjects, strict=True) if s["moved_out"]]
    classes = Certifier(plan, {}).certify(0, places, lost)["classes"]
    counted = {int(name): share["drawn_but_moved_out"] for name, share in classes.items()}
    assert counted == {value: without.count(value) for value in WEIGHTS}
    assert bool(without) == some
