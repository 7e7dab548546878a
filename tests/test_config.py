import pickle
from pathlib import Path

import pytest
import yaml

from seg3d.config import Config, as_config, config_digest, describe_schema, load_config, schema, show, to_yaml
from seg3d.config.keys import walk
from seg3d.errors import ConfigError, FaultsError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALL = "name: small\ndata: {source: scans, store: store}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path, *overrides: str) -> dict[str, str]:
    """Kind of each fault by its key."""
    with pytest.raises(FaultsError) as caught:
        load_config(path, overrides)
    assert len({fault.where for fault in caught.value.faults}) == len(caught.value.faults)
    return {fault.where: fault.kind for fault in caught.value.faults}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path, SMALL)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_comes_back_from_its_yaml(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert load_config(write(tmp_path, to_yaml(config))) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_there_are_shipped_configs() -> None:
    assert len(CONFIGS) >= 5


def test_a_config_needs_no_more_than_name_source_and_store(small: Path, tmp_path: Path) -> None:
    config = load_config(small)
    assert config.sampling.patch_size == (96, 96, 96)
    assert [step.kind for step in config.prepare.normalise] == ["zscore"]
    assert [term.kind for term in config.loss.terms] == ["dice", "cross_entropy"]
    assert config.augment.flip is None
    path = tmp_path / "empty.yaml"
    path.write_text("seed: 1\n", encoding="utf-8")
    assert faults(path) == {"name": "missing_key", "data.source": "missing_key", "data.store": "missing_key"}


def test_misspelt_keys_of_any_depth_are_all_told_with_what_was_probably_meant(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        SMALL + "trian: {}\ntrain: {optimizer: {learning_rte: 0.1}}\nloss: {terms: [{kind: dice, wieght: 1}]}\n",
    )
    with pytest.raises(FaultsError) as caught:
        load_config(path, ["model.feature=[8]", "qqq=1"])
    told = {fault.where: fault.fix for fault in caught.value.faults}
    assert {fault.kind for fault in caught.value.faults} == {"unknown_key"}
    assert told.pop("qqq").startswith("The keys here are name, seed")
    assert told == {
        "trian": "did you mean train?",
        "train.optimizer.learning_rte": "did you mean learning_rate?",
        "loss.terms.0.wieght": "did you mean weight?",
        "model.feature": "did you mean features?",
    }
    assert all(fault.where in str(caught.value) for fault in caught.value.faults)


def test_faults_between_sections_are_told_together_with_faults_of_single_values(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        SMALL
        + "seed: '5'\nsampling: {patch_size: [50, 48, 31], queue_length: 2}\npredict: {mirror: [q], tile_size: 3}\n"
        "prepare: {normalise: [{kind: divide}]}\ntrain: {seed: 1}\n",
    )
    assert faults(path) == {
        "seed": "wrong_type",
        "train.seed": "unknown_key",
        "predict.mirror.0": "wrong_value",
        "predict.tile_size": "wrong_type",
        "prepare.normalise.0.by": "wrong_value",
        "sampling.patch_size": "wrong_value",
        "sampling.queue_length": "wrong_value",
    }


def test_a_section_that_is_no_mapping_hides_no_other_fault(small: Path) -> None:
    assert faults(small, "data=3", "sampling.queue_length=1") == {
        "data": "wrong_type",
        "sampling.queue_length": "wrong_value",
    }


def test_a_check_says_nothing_where_what_it_reads_is_at_fault(tmp_path: Path) -> None:
    # 34 suits two levels but not the default's three: the size may well be right
    path = write(tmp_path, SMALL + "model: {feature: [8, 16]}\nsampling: {patch_size: [34, 34, 34]}\n")
    assert faults(path) == {"model.feature": "unknown_key"}
    path = write(tmp_path, SMALL + "prepare: {normalise: [{kind: window, lower: low, upper: 5}]}\n")
    assert faults(path) == {"prepare.normalise.0.lower": "wrong_type"}


@pytest.mark.parametrize(
    ("size", "nearest"), [("[50, 48, 31]", "[52, 48, 32]"), ("[1, 97, 99]", "[4, 96, 100]"), ("[3, 4, 8]", "[4, 4, 8]")]
)
@pytest.mark.parametrize("key", ["sampling.patch_size", "predict.tile_size"])
def test_a_size_that_the_network_cannot_halve_is_refused_with_the_nearest_one(
    small: Path, key: str, size: str, nearest: str
) -> None:
    with pytest.raises(FaultsError, match="not divisible by 4") as caught:
        load_config(small, [f"{key}={size}"])
    (fault,) = caught.value.faults
    assert (fault.where, fault.expected) == (key, nearest)
    load_config(small, [f"{key}={nearest}"])


@pytest.mark.parametrize(
    "override",
    [
        "seed='5'",
        "seed=5.0",
        "seed=true",
        "train.max_epochs=many",
        "train.progress=1",
        "train.optimizer.learning_rate='0.1'",
        "train.optimizer.learning_rate=true",
        "train.gradient_clip=[1]",
        "name=7",
        "model.dims=3.0",
        "data=3",
        "data.source=null",
        "sampling.patch_size=96",
        "predict.mirror=x",
        "prepare.spacing_mm=[1, 1, one]",
        "sampling.class_weights.tumour=heavy",
    ],
)
def test_an_override_of_the_wrong_type_is_refused(small: Path, override: str) -> None:
    key = override.partition("=")[0]
    told = faults(small, override)
    assert all(where.startswith(key) for where in told)
    assert set(told.values()) == {"wrong_type"}


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "data.split.val_share=1.5",
        "data.split.fold=5",
        "data.split.test_share=0.9",
        "data.split.kind=file",
        "data.layout=folders",
        "data.folders={images: [image.nii.gz]}",
        "data.group_pattern='('",
        "data.group_pattern=abc",
        "train.batch_size=0",
        "train.optimizer.learning_rate=.inf",
        "model.norm=bach",
        "model.dims=4",
        "augment.affine.scale=[1.2, 0.8]",
        "augment.flip.p=1.1",
        "augment.low_resolution.factor=[0.5, 2]",
        "predict.mirror=[x, x]",
        "predict.tile_size=[96, 96]",
        "prepare.spacing_mm=[1, 1, 0]",
        "prepare.crop.foreground={}",
        "prepare.crop.foreground={threshold: 1, percentile: 2}",
        "prepare.normalise=[]",
        "prepare.normalise=[{kind: divide, by: 0}]",
        "prepare.normalise=[{kind: window, lower: 2, upper: 1}]",
        "prepare.normalise=[{kind: zscore, by: 2}]",
        "prepare.normalise=[{kind: zscore, lower: 0}]",
        "prepare.normalise=[{kind: window, lower: 0, upper: 1, foreground: true}]",
        "prepare.normalise=[{kind: percentile, upper: 101}]",
        "loss.terms.1.include_background=true",
        "loss.terms.7.weight=2",
        "loss.terms=[{kind: dice, weight: 0}, {kind: focal, weight: 0}]",
        "loss.terms=[{kind: tversky, alpha: 0, beta: 0}]",
        "data.split={kind: kfold, test_share: 0.1}",
        "data.split={kind: share, fold: 1}",
        "data={source: a, store: b, layout: msd, folders: {images: ['{case}.nii']}}",
        "train.optimizer={kind: adamw, momentum: 0.5}",
        "train.optimizer.nesterov=false",
        "train.schedule={kind: cosine, power: 3}",
        "train={early_stop_patience: 2, validate_every: 60}",
    ],
)
def test_a_value_out_of_bounds_or_without_effect_is_refused(small: Path, override: str) -> None:
    told = faults(small, override)
    assert list(told.values()) == ["wrong_value"]
    assert next(iter(told)).split(".")[0] == override.split(".")[0].split("=")[0]


def test_overrides_reach_sections_lists_and_label_names(small: Path) -> None:
    config = load_config(
        small,
        [
            "augment.flip={}",
            "augment.flip=null",
            "augment.noise.p=1",
            "predict.mirror=[x,y]",
            "prepare.crop.foreground.threshold=-400",
            "prepare.normalise.0.foreground=true",
            "loss.terms.1.weight=2",
            "sampling.patch_size.2=32",
            "sampling.class_weights.left atrium=2",
            "sampling.class_weights.v. cava=1e-3",
            "tracking.uri=http://host/?a=b",
            "train.optimizer.learning_rate=1e-4",
        ],
    )
    assert config.augment.flip is None
    assert config.augment.noise is not None
    assert config.augment.noise.p == 1
    assert config.predict.mirror == ("x", "y")
    assert config.prepare.crop.foreground is not None
    assert config.prepare.crop.foreground.threshold == -400
    assert config.prepare.normalise[0].foreground
    assert [(term.kind, term.weight) for term in config.loss.terms] == [("dice", 1), ("cross_entropy", 2)]
    assert config.sampling.patch_size == (96, 96, 32)
    assert config.sampling.class_weights == {"left atrium": 2, "v. cava": 0.001}
    assert config.tracking.uri == "http://host/?a=b"
    assert config.train.optimizer.learning_rate == 1e-4


def test_malformed_overrides_are_told_with_all_other_faults(small: Path) -> None:
    told = faults(small, "verbose", "=3", "train..x=1", "model.norm=[", "train.max_epochs.x=1", "seed=-1")
    assert told == {
        "verbose": "malformed_override",
        "=3": "malformed_override",
        "train..x": "malformed_override",
        "model.norm": "malformed_override",
        "train.max_epochs.x": "unknown_key",
        "seed": "wrong_value",
    }


@pytest.mark.parametrize("override", ["train.gradient_clip=", "name= ", "data.source=scans #2", "seed=3 # mine"])
def test_an_override_that_would_lose_its_value_is_refused(small: Path, override: str) -> None:
    assert faults(small, override) == {override.partition("=")[0]: "malformed_override"}
    assert load_config(small, ["name='scans #2'", "data.store=scans#2"]).name == "scans #2"


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "train:\n  batch_size: 2\n  max_epochs: 3\n  batch_size: 4\nseed: x\n")
    assert faults(path) == {"train.batch_size": "duplicate_key", "seed": "wrong_type"}
    with pytest.raises(FaultsError, match="lines 4 and 6"):
        load_config(path)


def test_text_that_yaml_takes_for_something_else_is_not_told_in_other_words(small: Path) -> None:
    for value, told in (("yes", "as it is written"), ("1e3", "as it is written"), ("12", ': "12"')):
        with pytest.raises(FaultsError, match=f"Put it in quotes ?{told}$"):
            load_config(small, [f"name={value}"])


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", ".1e-2", "1.e-3", "+1e-3"])
def test_numbers_with_an_exponent_are_numbers(small: Path, number: str) -> None:
    assert load_config(small, [f"train.optimizer.learning_rate={number}"]).train.optimizer.learning_rate == 1e-3


@pytest.mark.parametrize("number", ["010", "1:30", "00", "-0_7", "1:30:00.5"])
def test_numbers_of_other_bases_are_text(small: Path, number: str) -> None:
    """YAML 1.1 reads 8, 90, 0, -7 and 5400.5."""
    assert faults(small, f"seed={number}") == {"seed": "wrong_type"}
    assert load_config(small, [f"name={number}"]).name == number
    assert load_config(small, ["seed=10", "data.groups={007: no one}"]).data.groups == {"007": "no one"}


def test_text_that_looks_like_a_number_survives_the_round_trip(small: Path, tmp_path: Path) -> None:
    config = load_config(small, ['name="1e3"', 'data.groups={"007": "no"}'])
    assert load_config(write(tmp_path, to_yaml(config))) == config
    assert (config.name, config.data.groups) == ("1e3", {"007": "no"})


@pytest.mark.parametrize(
    ("text", "match"),
    [("a: 1\nb: [1\n", "line 3"), ("- a\n", "line 1"), ("", "nothing"), ("a: 2020-13-45\n", "not YAML")],
)
def test_what_is_no_yaml_mapping_is_refused_with_its_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.yaml")


def test_percentiles_have_ends_of_their_own(small: Path) -> None:
    (step,) = load_config(small, ["prepare.normalise=[{kind: percentile, upper: 98}]"]).prepare.normalise
    assert (step.lower, step.upper) == (0.5, 98)


def test_the_digest_sees_only_what_can_change_a_result(small: Path) -> None:
    digest = config_digest(load_config(small))
    without_effect = [
        "output_dir=elsewhere",
        "data.source=other",
        "data.store=other",
        "data.num_workers=3",
        "prepare.workers=3",
        "train.progress=false",
        "tracking.enabled=false",
        "train.gradient_clip=12",  # the default, written as a whole number
    ]
    assert config_digest(load_config(small, without_effect)) == digest
    others = ["seed=1", "data.split.fold=1", "train.max_epochs=51", "reproducibility.threads=2", "augment.flip={}"]
    assert len({config_digest(load_config(small, [other])) for other in others} | {digest}) == len(others) + 1


def test_as_config_takes_paths_and_configs_and_checks_again(small: Path) -> None:
    config = as_config(str(small), ["seed=3"])
    assert as_config(config) == config
    changed = as_config(config, ["train.max_epochs=2"])
    assert (config.train.max_epochs, changed.train.max_epochs, changed.seed) == (50, 2, 3)
    with pytest.raises(FaultsError, match="not divisible"):
        as_config(config, ["model.features=[1, 1, 1, 1, 1, 1, 1]"])


def test_a_config_is_frozen(small: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(small).train.max_epochs = 3  # the very thing that must fail


def test_every_key_is_explained_with_type_and_default(small: Path) -> None:
    lines = describe_schema().splitlines()
    assert [line.split()[0] for line in lines[1:]] == [path for path, _ in walk(Config)]
    assert all(field.description for _, field in walk(Config))
    (line,) = (line for line in lines if line.startswith("predict.step "))
    assert line.split()[1:8] == ["number", ">", "0", "and", "<=", "1", "0.5"]
    assert set(schema()["properties"]) == set(Config.model_fields)
    assert yaml.safe_load(show(load_config(small)))["predict"]["step"] == 0.5


def test_a_limit_of_memory_is_refused_with_an_engine_whose_memory_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    load_config(tmp_path / "small.yaml", ["predict.memory_gib=2"])
    with pytest.raises(FaultsError, match="memory openvino takes is not known"):
        load_config(tmp_path / "small.yaml", ["predict.memory_gib=2", "predict.backend=openvino"])


def test_an_early_stop_needs_something_that_is_validated(small: Path) -> None:
    overrides = ["train.early_stop_patience=2", "data.split.val_share=0"]
    with pytest.raises(FaultsError, match=r"early_stop_patience: has no effect.*as data.split.val_share is 0"):
        load_config(small, overrides)
    load_config(small, [*overrides, "data.split={kind: file, file: parts.json, val_share: 0}"])


@pytest.mark.parametrize("kind", ["dice", "generalised_dice", "tversky"])
def test_ratios_of_volumes_may_count_the_background(small: Path, kind: str) -> None:
    (term,) = load_config(small, [f"loss.terms=[{{kind: {kind}, include_background: true}}]"]).loss.terms
    assert term.include_background


@pytest.mark.parametrize("terms", ["{kind: dice}", "{kind: dice}, {kind: cross_entropy, weight: 0}", "{kind: tversky}"])
def test_a_map_of_voxel_weights_needs_a_loss_that_knows_it(small: Path, terms: str) -> None:
    overrides = ["prepare.separation={}", f"loss.terms=[{terms}]"]
    with pytest.raises(FaultsError, match=r"prepare.separation: has no effect: .* no cross_entropy or focal"):
        load_config(small, overrides)
    load_config(small, [overrides[0], f"loss.terms=[{terms}, {{kind: focal}}]"])
    load_config(small, overrides[1:])


def test_a_file_may_have_more_folds_than_kfold(small: Path) -> None:
    assert load_config(small, ["data.split={kind: file, file: splits_final.json, fold: 7}"]).data.split.fold == 7


def test_shares_of_kinds_that_do_not_take_them_leave_enough_to_train_on(small: Path) -> None:
    load_config(small, ["data.split={kind: kfold, val_share: 0.85}"])
