"""The plan of an epoch: exact shares, every item in turn, nothing left to chance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from stored import make_store

from seg3d.errors import DataError
from seg3d.sampling.plan import Balance, SamplingPlan, largest_remainder


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


def test_largest_remainder_sums_to_the_total() -> None:
    assert largest_remainder({0: 1, 1: 1, 2: 1}, 10) == {0: 4, 1: 3, 2: 3}
    assert largest_remainder({0: 0, 1: 2, 2: 1}, 3) == {1: 2, 2: 1}
    for total in range(40):
        shares = largest_remainder({0: 0.3, 1: 0.25, 2: 0.45}, total)
        assert sum(shares.values()) == total
    for bad in ({0: -1.0, 1: 1.0}, {0: 0.0}, {0: float("nan")}, {}):
        with pytest.raises(ValueError, match="weights"):
            largest_remainder(bad, 3)
