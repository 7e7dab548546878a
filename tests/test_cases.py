"""Layouts, faults and splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scans import oblique_affine, write_nifti

from seg3d.cases import find_faults, read_dataset, split_cases
from seg3d.errors import ConfigError, DataError, FaultsError
from seg3d.phantom import PhantomSpec, write_phantom_dataset

SHAPE = (6, 7, 8)
PATTERNS = {"folders_images": ["{case}/image.nii.gz"], "folders_label": "{case}/mask.nii.gz"}


def label(value: int = 1) -> np.ndarray:
    data = np.zeros(SHAPE, np.uint8)
    data[2:4, 2:4, 2:4] = value
    return data


def write_case(root: Path, case: str, image: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
    write_nifti(root / case / "image.nii.gz", np.ones(SHAPE, np.int16) if image is None else image)
    write_nifti(root / case / "mask.nii.gz", label() if mask is None else mask)


def test_msd_layout(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(cases=3, kind="hippocampus"))
    dataset = read_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == ["hippocampus_000", "hippocampus_001", "hippocampus_002"]
    assert dataset.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert dataset.channels == ("MRI",)
    assert find_faults(dataset) == []


def test_msd_layout_with_channels_on_the_fourth_axis(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(cases=2, kind="sarcoma"))
    dataset = read_dataset(tmp_path / "dataset.json")
    assert dataset.channels == ("PET", "CT", "MR")
    assert len(dataset.cases[0].images) == 1
    assert find_faults(dataset) == []


def test_nnunet_layout_with_an_ignore_label(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(cases=2, kind="sarcoma"), layout="nnunet")
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["labels"]["ignore"] = 2
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert dataset.ignore_label == 2
    assert [path.name for path in dataset.cases[0].images] == [f"sarcoma_000_000{i}.nii.gz" for i in range(3)]
    assert find_faults(dataset) == []


def test_a_missing_nnunet_channel_is_a_fault(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(cases=2, kind="sarcoma"), layout="nnunet")
    (tmp_path / "imagesTr" / "sarcoma_001_0001.nii.gz").unlink()
    assert [fault.kind for fault in find_faults(read_dataset(tmp_path))] == ["missing_file"]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_table_layout(tmp_path: Path, separator: str) -> None:
    for case in ("a", "b"):
        write_case(tmp_path, case)
    rows = [["case", "patient", "CT", "label"], *([c, "p1", f"{c}/image.nii.gz", f"{c}/mask.nii.gz"] for c in "ba")]
    table = tmp_path / ("cases.csv" if separator == "," else "cases.tsv")
    table.write_text("\n".join(separator.join(row) for row in rows))
    dataset = read_dataset(table, labels={"background": 0, "tumour": 1})
    assert [(case.case_id, case.group) for case in dataset.cases] == [("a", "p1"), ("b", "p1")]
    assert dataset.channels == ("CT",)
    # both images are the same, but of one patient
    assert find_faults(dataset) == []


def test_folder_patterns(tmp_path: Path) -> None:
    for case in ("b", "a"):
        write_case(tmp_path, case)
    dataset = read_dataset(tmp_path, labels={"background": 0, "tumour": 1}, **PATTERNS)
    assert [case.case_id for case in dataset.cases] == ["a", "b"]
    assert [fault.kind for fault in find_faults(dataset)] == ["same_image"]


@pytest.mark.parametrize("layout", ["nnunet", "folders"])
def test_hidden_files_are_no_cases(tmp_path: Path, layout: str) -> None:
    """macOS puts one beside each file, and into what it packs."""
    write_phantom_dataset(tmp_path, PhantomSpec(cases=2, kind="blobs", shape=(16, 16, 16)), layout="nnunet")
    for path in sorted(tmp_path.glob("*Tr/*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    patterns = ["imagesTr/{case}_0000.nii.gz"] if layout == "folders" else []
    label = "labelsTr/{case}.nii.gz" if layout == "folders" else None
    dataset = read_dataset(tmp_path, layout=layout, folders_images=patterns, folders_label=label)
    assert [case.case_id for case in dataset.cases] == ["blobs_000", "blobs_001"]
    assert find_faults(dataset) == []


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("a", "b", "c"):
        write_case(tmp_path, case)
    original = Path.glob
    expected = read_dataset(tmp_path, **PATTERNS).cases
    monkeypatch.setattr(Path, "glob", lambda self, p: reversed(list(original(self, p))))
    assert read_dataset(tmp_path, **PATTERNS).cases == expected


def test_patients_come_from_the_case_name_or_the_table(tmp_path: Path) -> None:
    for case in ("p1_a", "p1_b", "p2_a"):
        write_case(tmp_path, case)
    dataset = read_dataset(tmp_path, group_pattern="^(p[0-9]+)", groups={"p2_a": "p1"}, **PATTERNS)
    assert [case.group for case in dataset.cases] == ["p1", "p1", "p1"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "cannot be read"),
        ("[]", "no labels"),
        ('{"labels": {"a": "b"}, "training": []}', "labels or modality"),
        ('{"labels": {"0": "b"}, "training": null}', "training of dataset.json is no list"),
        ('{"labels": {"0": "b"}, "modality": ["CT"]}', "labels or modality"),
        ('{"labels": {"b": 0}, "channel_names": ["CT"]}', "channel_names of dataset.json cannot be read"),
    ],
)
def test_a_broken_dataset_json_is_a_clear_error(tmp_path: Path, content: str, error: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=error):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"0": "b"}, "training": [{"image": "a.nii", "label": 5}]},
        {"labels": {"b": 0}, "channel_names": {"0": "CT"}, "dataset": {"a": {"images": ["a.nii"], "label": ["m"]}}},
    ],
)
def test_a_label_map_that_is_no_path_is_a_fault(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert [fault.kind for fault in read_dataset(tmp_path).faults] == ["bad_entry"]


def test_a_source_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match="no dataset of a known layout"):
        read_dataset(tmp_path)
    with pytest.raises(ConfigError, match="relative and holds"):
        read_dataset(tmp_path, folders_images=["image.nii.gz"])


def faulty_dataset(root: Path) -> None:
    """A case for each thing that can be wrong."""
    write_case(root, "ok")
    write_case(root, "shape", mask=np.zeros((6, 7, 9), np.uint8))
    write_case(root, "affine")
    write_nifti(root / "affine" / "mask.nii.gz", label(), oblique_affine())
    write_case(root, "nan", image=np.full(SHAPE, np.nan, np.float32))
    write_case(root, "half", mask=np.full(SHAPE, 0.5, np.float32))
    write_case(root, "undeclared", mask=label(9))
    write_case(root, "empty", mask=label(0))
    write_case(root, "channels", image=np.ones((*SHAPE, 2), np.int16))
    write_case(root, "truncated")
    path = root / "truncated" / "image.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    write_case(root, "unlabelled")
    (root / "unlabelled" / "mask.nii.gz").unlink()
    write_nifti(root / "imageless" / "mask.nii.gz", label())


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    faulty_dataset(tmp_path)
    found = find_faults(read_dataset(tmp_path, labels={"background": 0, "tumour": 1}, **PATTERNS))
    kinds = {(fault.where.split()[0], fault.kind) for fault in found if fault.kind != "same_image"}
    assert kinds == {
        ("shape", "shape_mismatch"),
        ("shape", "no_foreground"),
        ("affine", "affine_mismatch"),
        ("nan", "non_finite"),
        ("half", "unreadable"),
        ("undeclared", "undeclared_label"),
        ("empty", "no_foreground"),
        ("channels", "channels"),
        ("truncated", "unreadable"),
        ("unlabelled", "no_label"),
        ("imageless", "missing_file"),
    }
    assert {fault.kind for fault in found if fault.note} == {"no_foreground", "no_label", "same_image"}


def test_duplicate_names_are_a_fault(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    (tmp_path / "t.csv").write_text("case,image,label\n" + "a,a/image.nii.gz,a/mask.nii.gz\n" * 2)
    assert "duplicate_case" in {fault.kind for fault in read_dataset(tmp_path / "t.csv").faults}


MEMBERS = [(f"c{i:03d}", f"p{i // 2:03d}", i % 10 == 0) for i in range(100)]


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_cover_all_cases_once_and_keep_patients_together(folds: int) -> None:
    group = {case: patient for case, patient, _ in MEMBERS}
    tested: list[str] = []
    for fold in range(folds):
        split = split_cases(MEMBERS, kind="kfold", folds=folds, fold=fold, val_share=0.1)
        parts = [{group[case] for case in part} for part in (split.train, split.val, split.test)]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert len(split.train) + len(split.val) + len(split.test) == 100
        tested += split.test
    assert sorted(tested) == [case for case, _, _ in MEMBERS]


def test_the_rare_class_is_spread_evenly() -> None:
    rare = {case for case, _, holds in MEMBERS if holds}
    counts = [len(rare & set(split_cases(MEMBERS, kind="kfold", fold=fold).test)) for fold in range(5)]
    assert counts == [2, 2, 2, 2, 2]


def test_a_share_is_a_share() -> None:
    split = split_cases(MEMBERS, kind="share", val_share=0.1, test_share=0.2)
    assert (len(split.train), len(split.val), len(split.test)) == (70, 10, 20)


def test_the_split_depends_on_the_seed_alone() -> None:
    one = split_cases(MEMBERS, kind="kfold", seed=1)
    assert split_cases(list(reversed(MEMBERS)), kind="kfold", seed=1).digest == one.digest
    assert split_cases(MEMBERS, kind="kfold", seed=2).digest != one.digest


def test_fewer_patients_than_folds_is_an_error() -> None:
    with pytest.raises(ConfigError, match="fewer patients"):
        split_cases(MEMBERS[:4], kind="kfold", folds=5)


def test_nnunets_splits_are_accepted_and_their_val_is_only_scored(tmp_path: Path) -> None:
    cases = [case for case, _, _ in MEMBERS]
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": cases[:80], "val": cases[80:]}, {"train": cases[20:], "val": cases[:20]}]))
    split = split_cases(MEMBERS, kind="file", file=file, fold=1, val_share=0.1)
    assert split.test == tuple(cases[:20])
    assert set(split.train) | set(split.val) == set(cases[20:])
    assert len(split.val) == 8
    with pytest.raises(ConfigError, match="fewer folds"):
        split_cases(MEMBERS, kind="file", file=file, fold=2)


def test_a_fold_of_a_file_with_a_single_split_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["c000"], "val": [], "test": ["c004"]}))
    assert split_cases(MEMBERS, kind="file", file=file).test == ("c004",)
    with pytest.raises(ConfigError, match=r"data.split.fold: the file has a single split \(got 1"):
        split_cases(MEMBERS, kind="file", file=file, fold=1)


def test_a_split_that_leaks_a_patient_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["c000", "c002"], "val": ["c004"], "test": ["c001", "nobody"]}))
    with pytest.raises(FaultsError) as error:
        split_cases(MEMBERS, kind="file", file=file)
    assert [fault.kind for fault in error.value.faults] == ["leak", "unknown_case"]
    assert "p000" in str(error.value)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "count"), [("hippocampus", 208), ("heart_left_atrium", 16)])
def test_real_sets_have_no_fault(real_data: Callable[[str], Path], name: str, count: int) -> None:
    dataset = read_dataset(real_data(name))
    assert len(dataset.cases) == count
    assert [fault for fault in find_faults(dataset) if not fault.note] == []


@pytest.mark.real_data
def test_two_real_cases_that_share_an_image_are_told(real_data: Callable[[str], Path]) -> None:
    notes = find_faults(read_dataset(real_data("heart_left_atrium")))
    assert [(note.kind, note.where) for note in notes] == [("same_image", "la_005, la_026")]


def test_cases_that_hold_no_foreground_by_declaration_need_no_label_map(tmp_path: Path) -> None:
    write_case(tmp_path / "patients", "a")
    write_nifti(tmp_path / "healthy" / "b.nii.gz", np.zeros(SHAPE, np.int16))
    dataset = read_dataset(
        tmp_path,
        folders_images=["patients/{case}/image.nii.gz"],
        folders_label="patients/{case}/mask.nii.gz",
        folders_negatives=["healthy/{case}.nii.gz"],
        labels={"background": 0, "tumour": 1},
    )
    assert [(case.case_id, case.negative, case.labelled) for case in dataset.cases] == [
        ("a", False, True),
        ("b", True, True),
    ]
    assert find_faults(dataset) == []


def test_cases_whose_images_cannot_be_read_are_not_taken_for_the_same(tmp_path: Path) -> None:
    for case in ("a", "b"):
        write_case(tmp_path, case)
        path = tmp_path / case / "image.nii.gz"
        path.write_bytes(path.read_bytes()[:-30])
    found = find_faults(read_dataset(tmp_path, labels={"background": 0, "tumour": 1}, **PATTERNS))
    assert [fault.kind for fault in found] == ["unreadable", "unreadable"]


def test_a_group_of_no_case_is_a_fault_with_the_name_that_was_meant(tmp_path: Path) -> None:
    for case in ("p0", "p1", "p2"):
        write_case(tmp_path, case)
    faults = read_dataset(tmp_path, groups={"P0": "anna", "p1": "anna", "zz": "x"}, **PATTERNS).faults
    assert [(fault.where, fault.kind, fault.note) for fault in faults] == [
        ("data.groups.P0", "unknown_case", False),
        ("data.groups.zz", "unknown_case", False),
    ]
    assert "mean p0?" in faults[0].fix


def test_a_group_too_many_is_a_note_where_every_case_has_one(tmp_path: Path) -> None:
    write_case(tmp_path, "p0")
    (fault,) = read_dataset(tmp_path, groups={"p0": "anna", "p1": "anna"}, **PATTERNS).faults
    assert fault.note


@pytest.mark.parametrize(
    "text",
    [
        "case, ct, label, patient\na, a/image.nii.gz, a/mask.nii.gz, p1\n",
        "Case,ct,Label,Patient\na,a/image.nii.gz,a/mask.nii.gz,p1\n",
        "\ufeffcase ,ct,LABEL\t,GROUP\n\na , a/image.nii.gz,a/mask.nii.gz ,p1\n",
    ],
)
def test_blanks_and_capitals_of_a_table_do_not_count(tmp_path: Path, text: str) -> None:
    write_case(tmp_path, "a")
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    dataset = read_dataset(tmp_path / "t.csv")
    (case,) = dataset.cases
    assert dataset.channels == ("ct",)
    assert (case.case_id, case.group, case.label) == ("a", "p1", tmp_path / "a" / "mask.nii.gz")
    assert case.images == (tmp_path / "a" / "image.nii.gz",)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"case;ct;label\na;a.nii;b.nii\n", "another sign"),
        (b"case\tct\na\ta.nii\n", "another sign"),
        (b"case,Label,label,ct\na,a,a,a\n", "several columns"),
        ("case,ct\nmüller,a.nii\n".encode("latin-1"), "not UTF-8"),
        (b"", "no column with images"),
    ],
)
def test_a_table_that_cannot_be_understood_is_a_clear_error(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=error):
        read_dataset(tmp_path / "t.csv")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, PhantomSpec(cases=1, kind="hippocampus"))
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(read_dataset(tmp_path).cases) == 1
    (tmp_path / "splits.json").write_text('{"train": ["c000"], "val": [], "test": []}', encoding="utf-8-sig")
    assert split_cases(MEMBERS, kind="file", file=tmp_path / "splits.json").train == ("c000",)
