"""Tests what a terminal shows of a plan, calm_jax/planning/description.py."""

import dataclasses

from calm_jax.planning.collectives import Collective
from calm_jax.planning.description import describe, describe_all
from calm_jax.planning.plan import Plan

_GIB = 2**30
_PLAN = Plan(
  topology="v5p:4x4x4",
  num_chips=64,
  mesh={"data": 4, "fsdp": 16, "tensor": 1, "sequence": 1},
  remat="dots",
  batch_size=256,
  num_microbatches=1,
  parameters=1_830_000_000,
  flops_per_step=8.67e15,
  executed_flops_per_step=8.1e15,
  bytes_per_chip=20 * _GIB,
  bytes_by_kind={
    "state": 2 * _GIB,
    "activations": 14 * _GIB,
    "temporaries": 4 * _GIB,
  },
  bytes_available=95 * _GIB,
  fits=True,
  compiled=True,
  collectives=[
    Collective("all-gather", 16, "backbone, forward", 112, 2_000_000_000),
    *[Collective("all-reduce", 64, f"part {i}", 1, 1000) for i in range(20)],
  ],
  compute_seconds=0.28,
  memory_seconds=0.1,
  network_seconds=0.02,
  tokens_per_step=2_097_152,
  num_steps=250_000,
  notes=[],
)


def test_bounds_are_called_bounds_and_say_what_they_leave_out():
  text = describe(_PLAN)
  assert "at least 8.100e+15 are executed" in text
  assert "a step takes at least 280.0 ms by compute" in text
  assert "compute: elementwise work" in text
  assert "network: latency" in text
  assert "at most 7,489,829 tokens/s" in text
  assert "at least 19.4 hours, 1,244 chip-hours. Nothing ran" in text


def test_small_collectives_share_a_line():
  lines = describe(_PLAN).splitlines()
  assert (
    "    112 × all-gather over 16 in backbone, forward: 2,000.0 MB" in lines
  )
  assert "      9 × others: 0.0 MB" in lines
  assert len([line for line in lines if "all-reduce" in line]) == 11
  alone = describe(dataclasses.replace(_PLAN, collectives=[]))
  assert "no collectives" in alone


def test_what_does_not_fit_has_no_times():
  refused = dataclasses.replace(
    _PLAN, fits=False, compiled=False, collectives=[], network_seconds=None
  )
  text = describe(refused)
  assert text.splitlines()[-1].startswith("does not fit; try --search")
  assert "at most" not in text and "collectives" not in text
  too_large = {**_PLAN.bytes_by_kind, "state": 96 * _GIB}
  text = describe(dataclasses.replace(refused, bytes_by_kind=too_large))
  assert "does not fit: the state alone is more than a chip has" in text


def test_of_two_with_the_same_largest_bound_the_quieter_comes_first():
  loud = dataclasses.replace(_PLAN, network_seconds=0.2)
  assert _PLAN.rank < loud.rank
  _, first, second, *rest = describe_all([_PLAN, loud]).splitlines()
  assert first.split()[:4] == ["data=4,fsdp=16", "dots", "1", "20.00"]
  assert [line.split()[6] for line in (first, second)] == ["20.0", "200.0"]
  assert rest[0].startswith("2 of 2 that were tried fit")


def test_a_search_without_success_names_the_nearest():
  refused = dataclasses.replace(
    _PLAN, fits=False, bytes_per_chip=96 * _GIB, num_microbatches=4
  )
  text = describe_all([refused])
  assert "none of 1 that were tried fits" in text
  assert "4 microbatches, takes 96.00 GiB of 95.00 GiB" in text
  assert "nothing fits" in describe_all([])
