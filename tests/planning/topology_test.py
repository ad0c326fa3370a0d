"""Tests what calm_jax/planning/topology.py makes of names and messages."""

import pytest

from calm_jax.planning.topology import find_topology, refused_bytes


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v9:2x2", "chip of v5e, v5p, v6e, tpu7x and its shape, such as v5e"),
    ("v5e", "chip of v5e, v5p, v6e"),
    ("tpu7x:4x4", "has 2 axes; slices of tpu7x have 3, such as tpu7x:4x4x4"),
    ("v5p:4x4", "has 2 axes; slices of v5p have 3, such as v5p:4x4x4"),
  ],
)
def test_an_unknown_slice_names_the_choices(name, message):
  with pytest.raises(ValueError, match=message):
    find_topology(name)


def test_both_numbers_of_a_refusal():
  message = "the total memory required (21.36G) exceeds available HBM (15.75G)."
  assert refused_bytes(message) == (
    round(21.36 * 2**30),
    round(15.75 * 2**30),
  )
  message = "Ran out of memory in memory space hbm. Used 1.5T of 31.25G hbm."
  assert refused_bytes(message) == (3 * 2**39, 125 * 2**28)
  with pytest.raises(ValueError, match="gave no numbers: something else"):
    refused_bytes("something   else")
