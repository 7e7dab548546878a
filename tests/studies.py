"""The phantom of each study in ``configs/``, and settings that make the study small enough for a test."""

from __future__ import annotations

from seg3d.phantom import PhantomSpec

SMALL = ["sampling.patch_size=[32,32,32]", "predict.tile_size=[48,48,48]", "model.features=[4,8,8,8]"]
STUDIES = {
    "demo": (PhantomSpec(cases=6, shape=(64, 48, 32)), "msd", ["model.features=[4,8,8]"]),
    "hippocampus3d": (PhantomSpec(cases=6, kind="hippocampus"), "msd", ["model.features=[4,8,8]"]),
    "sarcoma3d": (PhantomSpec(cases=6, kind="sarcoma"), "folders", ["model.features=[4,8,8]"]),
    "heart3d": (PhantomSpec(cases=6, kind="heart"), "msd", ["model.features=[4,8,8,8]", "data.groups={}"]),
    "lits3d": (
        PhantomSpec(cases=6, kind="liver", labels=("liver", "cancer")),
        "msd",
        [*SMALL, "prepare.spacing_mm=[4,4,5]"],
    ),
    "lung3d": (
        PhantomSpec(cases=6, labels=("cancer",), shape=(80, 64, 32)),
        "msd",
        [*SMALL, "prepare.spacing_mm=[2.0,2.0,3.0]"],
    ),
    "lung2d": (
        PhantomSpec(cases=6, labels=("cancer",), shape=(64, 64, 24)),
        "msd",
        [
            "model.features=[4,8]",
            "prepare.crop.inferior_slices=4",
            "prepare.size=[32,32,null]",
            "sampling.patch_size=[32,32,1]",
        ],
    ),
    "cxr2d": (
        PhantomSpec(cases=8, kind="xray"),
        "folders",
        ["model.features=[4,8]", "prepare.size=[64,64,null]", "sampling.patch_size=[64,64,1]"],
    ),
    "mip_pet2d": (
        PhantomSpec(cases=8, negatives=6, kind="mip"),
        "folders",
        ["model.features=[4,8,8]", "sampling.patch_size=[48,64,1]"],
    ),
    "isbi2d": (
        PhantomSpec(cases=12, kind="cells"),
        "folders",
        ["model.features=[4,8]", "sampling.patch_size=[68,68,1]", "predict.tile_size=[132,132,1]"],
    ),
}
