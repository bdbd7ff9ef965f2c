"""Posteriors that a merge of shards gets wrong: never certified wrongly, never refused for a wrong reason."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.validation.hard_cases import CASES, judge, run_case
from homodyne.optimization.cmc.coordinator import sample_consensus
from homodyne.optimization.cmc.worker import run_shard

pytestmark = pytest.mark.slow

SEEDS = {"rare success": (1,), "two modes": (3, 15), "stuck chain": (0, 1)}


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in CASES for seed in SEEDS.get(name, (0, 2))])
def test_hard_case_is_mended_or_refused_for_the_right_reason(name, seed):
    outcome = run_case(CASES[name](seed), seed)
    assert not outcome.fault, outcome


def test_faults_are_seen():
    case = replace(CASES["stuck chain"](0), named="", run=run_shard)
    found = sample_consensus(case.model, case.data, num_shards=4, backend="sequential")
    assert found.verdict == "CERTIFIED"
    assert judge(case, found).fault == ""
    assert judge(replace(case, mean=case.mean + 0.5 * case.sd), found).fault == "wrong draws"
    assert judge(replace(case, sd=1.6 * case.sd), found).fault == "wrong draws"
    assert judge(replace(case, refusal="shard 3"), found).fault == "must be refused"
    assert judge(replace(case, named="shard 3"), found).fault == "shard 3 is not named"
    certificate = replace(found.certificate, verdict="REFUSED", reason="shard 2 is stuck")
    refused = replace(found, verdict="REFUSED", certificate=certificate)
    assert judge(replace(case, refusal="shard 3"), refused).fault == "wrong reason"
    assert judge(case, refused).fault == "wrong reason"


@pytest.mark.parametrize("name", list(CASES))
def test_cases_differ_from_seed_to_seed(name):
    first, second = CASES[name](3), CASES[name](4)
    assert not np.array_equal(first.mean, second.mean)
    assert np.isfinite([*first.mean, *first.sd, *second.mean, *second.sd]).all()
