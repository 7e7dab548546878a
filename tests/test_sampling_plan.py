"""The plan of an epoch: exact shares, every item in turn, nothing left to chance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from stored import make_store

from seg3d.errors import DataError
from seg3d.keyed import keyed
from seg3d.sampling.apportion import Apportionment
from seg3d.sampling.plan import Balance, SamplingPlan


def make_plan(folder: Path, balance: Balance = "case", patches: int = 60, **weights: float) -> SamplingPlan:
    values = {"background": 0, "organ": 1, "tumour": 2}
    chosen = {values[k]: w for k, w in (weights or {"background": 1.0, "organ": 1.0, "tumour": 1.0}).items()}
    cases = make_store(folder)
    return SamplingPlan(cases, chosen, patches_per_epoch=patches, patches_per_visit=4, balance=balance, seed=3)


@pytest.mark.parametrize("balance", ["case", "class", "lesion", "slice"])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_class_shares_are_exact_in_every_epoch(tmp_path: Path, balance: Balance, epoch: int) -> None:
    plan = make_plan(tmp_path, balance, background=1, organ=1, tumour=3)
    draws = [draw for visit in plan.epoch(epoch).visits for draw in visit.draws]
    assert Counter(draw.class_value for draw in draws) == {0: 12, 1: 12, 2: 36}


def test_cases_are_visited_equally_often(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, patches=31, tumour=1)
    drawn = Counter(d.case for epoch in range(9) for v in plan.epoch(epoch).visits for d in v.draws)
    assert set(drawn) == {0, 1, 2}  # the last case has no tumour
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_lesions_are_drawn_equally_often_whatever_their_size(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "lesion", patches=10, tumour=1)
    drawn = Counter((d.case, d.lesion) for epoch in range(9) for v in plan.epoch(epoch).visits for d in v.draws)
    assert len(drawn) == 9
    assert set(drawn.values()) == {10}


def test_class_balance_follows_the_number_of_voxels(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "class", patches=3000, organ=1)
    drawn = Counter(d.case for v in plan.epoch(0).visits for d in v.draws)
    counts = [case.class_counts[1] for case in plan.cases]
    for case, count in enumerate(counts):
        expected = 3000 * count / sum(counts)
        assert abs(drawn[case] - expected) < 4 * expected**0.5


def test_a_plan_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    plan, again = make_plan(tmp_path), make_plan(tmp_path)
    again.epoch(5)
    assert plan.epoch(2) == again.epoch(2)
    assert plan.epoch(2) != plan.epoch(3)


def test_a_visit_is_of_one_case_and_no_longer_than_asked(tmp_path: Path) -> None:
    for visit in make_plan(tmp_path).epoch(0).visits:
        assert 1 <= len(visit.draws) <= 4
        assert {draw.case for draw in visit.draws} == {visit.case}


@pytest.mark.parametrize("balance", ["case", "slice"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_the_draws_equally_and_split_few_cases(tmp_path: Path, ranks: int, balance: Balance) -> None:
    plan = make_plan(tmp_path, balance, patches=48)
    whole = {d for v in plan.epoch(1).visits for d in v.draws}
    shares = [{d for v in plan.epoch(1, rank, ranks).visits for d in v.draws} for rank in range(ranks)]
    assert [len(share) for share in shares] == [48 // ranks] * ranks
    assert set.union(*shares) == whole
    owners = Counter(case for share in shares for case in {d.case for d in share})
    assert sum(owners.values()) <= len(plan.cases) + ranks - 1
    with pytest.raises(ValueError, match="multiple"):
        plan.epoch(0, 0, 5)


def test_a_label_that_no_case_holds_is_told(tmp_path: Path) -> None:
    cases = make_store(tmp_path)
    with pytest.raises(DataError, match="label 9"):
        SamplingPlan(cases, {9: 1.0}, patches_per_epoch=4, patches_per_visit=4, balance="case", seed=0)


def test_class_shares_hold_over_the_epochs_where_one_epoch_cannot_give_them(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, patches=4, background=20, organ=20, tumour=1)  # a tenth of a patch an epoch
    counts = [Counter(d.class_value for v in plan.epoch(e).visits for d in v.draws) for e in range(41)]
    assert {sum(count.values()) for count in counts} == {4}
    assert sum(counts, Counter()) == {0: 80, 1: 80, 2: 4}
    assert make_plan(tmp_path, patches=4, background=20, organ=20, tumour=1).epoch(40) == plan.epoch(40)


def test_items_go_on_in_turn_where_the_number_of_patches_changes_from_epoch_to_epoch(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "lesion", patches=4, background=2, tumour=1)  # 1 or 2 of 9 lesions an epoch
    drawn = [(d.case, d.lesion) for e in range(27) for v in plan.epoch(e).visits for d in v.draws if d.lesion]
    assert len(drawn) == 36
    assert set(Counter(drawn).values()) == {4}


def weights_to_try() -> list[tuple[dict[int, float], int]]:
    """Twenty organs beside the background, and weights drawn by chance."""
    many = [({0: 0.5} | dict.fromkeys(range(1, 21), 0.025), total) for total in (1, 16, 30, 64)]
    rng = keyed(0, "weights")
    drawn = [dict(enumerate(rng.exponential(size=rng.integers(1, 12)) ** 3)) for _ in range(40)]
    return [*many, *((weights, int(rng.integers(1, 40))) for weights in drawn)]


@pytest.mark.parametrize(("weights", "total"), weights_to_try())
def test_no_class_is_ever_a_patch_away_from_its_share(weights: dict[int, float], total: int) -> None:
    classes = Apportionment(weights, total)
    for epoch in range(60):
        quotas, given = classes.of_epoch(epoch), classes.before(epoch + 1)
        assert sum(quotas.values()) == total
        assert min(quotas.values()) >= 0
        for value, share in classes.shares.items():
            assert abs(given[value] - share * total * (epoch + 1)) < 1


@pytest.mark.parametrize("classes", [1, 2, 3, 6, 7, 11])
def test_shares_that_are_whole_are_given_whole_in_every_epoch(classes: int) -> None:
    """Though 0.5 / 3 is no sixth in floating point."""
    weights = {0: 0.5} | dict.fromkeys(range(1, classes + 1), 0.5 / classes)
    found = Apportionment(weights, 4 * classes)
    for epoch in (0, 1, 999):
        assert found.of_epoch(epoch) == {0: 2 * classes} | dict.fromkeys(range(1, classes + 1), 2)


def test_weights_that_are_no_weights_are_refused() -> None:
    assert Apportionment({0: 0, 1: 2, 2: 1}, 3).of_epoch(0) == {1: 2, 2: 1}
    for bad in ({0: -1.0, 1: 1.0}, {0: 0.0}, {0: float("nan")}, {}):
        with pytest.raises(ValueError, match="weights"):
            Apportionment(bad, 3)
