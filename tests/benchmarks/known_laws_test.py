"""Tests benchmarks/known_laws.py: each form is found again, and told apart."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import known_laws
from calm_jax.scaling.forms import CHUNK_FORMS, VARIABLES

_RESULT = pathlib.Path(known_laws.__file__).parent / "laws/recovery.json"


@pytest.fixture(scope="module")
def x():
  return known_laws.ladder()


def _check(recovery, num_trials, num_inside, num_chosen):
  assert recovery["num_trials"] == num_trials
  for name, number in recovery["num_inside"].items():
    assert number >= num_inside, name
  assert recovery["num_chosen"][recovery["form"]] >= num_chosen


def test_the_ladder_has_sizes_budgets_k_and_seeds(x):
  assert x.shape == (len(VARIABLES), 3 * 4 * (3 + 2))
  n, d, k, token, chunk = np.exp(x)
  assert len(np.unique(d.round())) == 3 and set(k.round()) == {1, 2, 4, 8}
  assert np.all(chunk < n) and np.all(token > n - chunk)


def test_a_few_sweeps(x):
  """Bounds that a right program misses once in a thousand times."""
  form = CHUNK_FORMS["exponents"]
  found = known_laws.recover(form, x, num_trials=12, num_bootstraps=60)
  assert min(found.num_inside.values()) >= 7
  assert found.num_chosen["exponents"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", CHUNK_FORMS)
def test_a_hundred_sweeps(x, name):
  found = known_laws.recover(CHUNK_FORMS[name], x)
  _check(vars(found), 100, 85, 80)


def test_the_committed_outcome_holds():
  result = json.loads(_RESULT.read_text())
  assert [it["form"] for it in result["forms"]] == list(CHUNK_FORMS)
  for recovery in result["forms"]:
    truth = known_laws.TRUTHS[recovery["form"]]
    assert tuple(recovery["truth"].values()) == pytest.approx(truth)
    _check(recovery, 100, 85, 80)
