"""Tests calm_jax/planning/search.py with plans that compile nothing."""

import math
import types

from calm_jax.planning.assumptions import complete
from calm_jax.planning.search import search
from experiments import autoencoder, calm

_NUM_CHIPS = 64


class _Planner:
  """Fits with enough microbatches; the fewest products are the fastest."""

  def __init__(self, fits_fn):
    self.fits_fn = fits_fn
    self.bytes_fn = lambda config: config.mesh.tensor
    self.tried = []

  def __call__(self, config):
    self.tried.append(config)
    remat = getattr(config.model, "remat", "none")
    repeated = ("none", "dots", "full").index(remat)
    seconds = config.mesh.tensor + repeated + config.num_microbatches / 100
    fits = self.fits_fn(config)
    return types.SimpleNamespace(
      config=config,
      fits=fits,
      rank=(seconds,),
      bytes_per_chip=self.bytes_fn(config),
    )


def _search(
  config, planner, max_compilations=1000, least_bytes_fn=lambda config: 1
):
  return search(
    complete(config, 1000),
    _NUM_CHIPS,
    plan_fn=planner,
    least_bytes_fn=least_bytes_fn,
    num_bytes=10,
    max_compilations=max_compilations,
  )


def test_the_fastest_that_fits_comes_first_and_slower_ones_are_not_tried():
  planner = _Planner(
    lambda config: config.num_microbatches >= 2 and config.mesh.fsdp >= 16
  )
  plans = _search(calm.get_config("xl"), planner)
  others = [plan.bytes_per_chip for plan in plans if not plan.fits]
  assert others == sorted(others) != []
  assert not any(plan.fits for plan in plans[-len(others) :])
  plans = plans[: -len(others)]
  assert len(plans) > 3
  seconds = [plan.rank for plan in plans]
  assert seconds == sorted(seconds)
  for plan in plans:
    assert planner.fits_fn(plan.config)
    assert plan.config.num_microbatches == 2
    assert plan.config.model.remat == "none"
  meshes = [tuple(vars(plan.config.mesh).items()) for plan in plans]
  assert len(set(meshes)) == len(meshes)


def test_every_candidate_can_run():
  planner = _Planner(lambda config: False)
  plans = _search(calm.get_config("xl"), planner)
  assert [plan.fits for plan in plans] == [False] * len(planner.tried)
  seen = set()
  for config in planner.tried:
    mesh = config.mesh
    sizes = (mesh.data, mesh.fsdp, mesh.tensor, mesh.sequence)
    assert math.prod(sizes) == _NUM_CHIPS
    assert config.model.num_heads % mesh.tensor == 0
    unit = mesh.data * mesh.fsdp * config.num_microbatches
    assert config.data.batch_size % unit == 0
    seen.add((sizes, config.model.remat, config.num_microbatches))
  assert len(seen) == len(planner.tried)
  assert {remat for _, remat, _ in seen} == {"none", "dots", "full"}


def test_it_ends_after_so_many():
  planner = _Planner(lambda config: False)
  _search(calm.get_config("xl"), planner, max_compilations=5)
  assert len(planner.tried) == 5


def test_what_is_hopeless_is_not_compiled():
  # A chip has 10 bytes, and the compiler needs twice what it needs at least.
  least = lambda config: 16 / config.num_microbatches
  planner = _Planner(lambda config: 2 * least(config) <= 10)
  planner.bytes_fn = lambda config: 2 * least(config)
  _search(calm.get_config("l"), planner, least_bytes_fn=least)
  first, *others = [config.num_microbatches for config in planner.tried]
  assert first == 2 and others and min(others) == 4
  too_much = lambda config: 11
  assert _search(calm.get_config("l"), planner, least_bytes_fn=too_much) == []


def test_an_autoencoder_has_no_remat():
  planner = _Planner(lambda config: config.num_microbatches == 2)
  plans = _search(autoencoder.get_config("k4"), planner)
  assert {plan.config.mesh.tensor for plan in plans} == {1}
