"""How many tokens should a vector carry? What the points of a sweep say."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling.allocation import Candidate, candidates_of
from calm_jax.scaling.best_chunk import (
  BestChunk,
  Curve,
  best_chunk_sizes,
  common_budgets,
  loss_curves,
  trained_costs,
)
from calm_jax.scaling.held_out import FormResult, compare_forms
from calm_jax.scaling.law import Law, fit_law
from calm_jax.scaling.points import Point
from calm_jax.scaling.seeds import SeedScatter, seed_scatter

_NUM_CURVE_BUDGETS = 60


@dataclasses.dataclass(frozen=True)
class Answer:
  """Laws of both families and what follows from them for one quantity."""

  quantity: str
  points: tuple[Point, ...]
  candidates: tuple[FormResult, ...]  # forms of the CALMs' law, best first
  token_law: Law | None
  scatters: dict[str, SeedScatter | None]  # of seeds, by family
  best: tuple[BestChunk, ...]  # by full price of the autoencoder
  best_shared: tuple[BestChunk, ...]  # by shared price
  # At each budget of `best`: ln of the best CALM's L over the token model's.
  token_gaps: tuple[tuple[float, float, float], ...]
  refusals: tuple[str, ...]  # why something is missing

  @property
  def law(self) -> Law | None:
    """The CALMs' law that predicts unseen runs best."""
    return self.candidates[0].law if self.candidates else None

  def curves(self, *, is_shared: bool = False) -> dict[tuple[str, int], Curve]:
    """Of each family and K, over all that was trained of it."""
    found = {}
    for law in (self.law, self.token_law):
      if law is None:
        continue
      models = candidates_of(law, is_shared=is_shared)
      for chunk_size in sorted({it.chunk_size for it in models}):
        mine = [it for it in models if it.chunk_size == chunk_size]
        [found[law.family, chunk_size]] = loss_curves(
          law, mine, _whole_range(mine)
        )
    return found


def find_answer(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  *,
  num_bootstraps: int = 200,
) -> Answer:
  """Fits, compares and asks for the best K; says what could not be had.

  Args:
    points: of a sweep, of both families or one.
    quantity: see `quantities`.
    num_bootstraps: S.

  Returns:
    The answer; parts that the points do not give are empty, with the reason.
  """
  families = {family: [] for family in ("calm", "token")}
  for point in points:
    families.setdefault(point.family, []).append(point)
  candidates, token_law, refusals = (), None, []
  calms = families["calm"]
  try:
    if len({point.chunk_size for point in calms}) < 2:
      raise ValueError("K is compared where CALMs of several K were trained.")
    candidates = tuple(
      compare_forms(calms, quantity, num_bootstraps=num_bootstraps)
    )
    if candidates[0].law is None:
      refusals.append(
        f"No form of the law is identified: {candidates[0].refusal}"
      )
  except ValueError as error:
    refusals.append(f"No law of CALMs: {error}")
  if families["token"]:
    try:
      token_law = fit_law(
        families["token"], quantity, num_bootstraps=num_bootstraps
      )
    except ValueError as error:
      refusals.append(f"No law of the token model: {error}")
  best, shared, gaps = (), (), ()
  law = candidates[0].law if candidates else None
  if law is not None:
    try:
      best, shared = (
        _best(law, candidates_of(law, is_shared=s)) for s in (0, 1)
      )
      gaps = _token_gaps(law, token_law, [it.training_flops for it in best])
    except ValueError as error:
      refusals.append(f"No best K: {error}")
  return Answer(
    quantity,
    tuple(points),
    candidates,
    token_law,
    {name: seed_scatter(it, quantity) for name, it in families.items() if it},
    best,
    shared,
    gaps,
    tuple(refusals),
  )


def _best(law: Law, models: Sequence[Candidate]) -> tuple[BestChunk, ...]:
  if not models:
    raise ValueError("the points have no training FLOPs; collect them again.")
  budgets = common_budgets(models)
  return tuple(best_chunk_sizes(loss_curves(law, models, budgets)))


def _token_gaps(
  law: Law, token_law: Law | None, budgets: Sequence[float]
) -> tuple[tuple[float, float, float], ...]:
  """(nan, nan, nan) where no token model was trained near a budget."""
  if token_law is None or not budgets:
    return ()
  mine = loss_curves(law, candidates_of(law), np.array(budgets))
  losses = np.min([curve.losses for curve in mine], axis=0)
  samples = np.min([curve.samples for curve in mine], axis=0)
  [token] = loss_curves(token_law, candidates_of(token_law), np.array(budgets))
  middle = np.log(losses / token.losses)
  num = min(len(samples), len(token.samples))
  spread = np.log(samples[:num] / token.samples[:num])
  low, high = np.quantile(spread, (0.05, 0.95), axis=0)
  rows = np.stack([middle, low, high], axis=1).tolist()
  return tuple((a, b, c) for a, b, c in rows)


def _whole_range(models: Sequence[Candidate]) -> np.ndarray:
  costs = [cost for it in models for cost in trained_costs(it)]
  return np.geomspace(min(costs), max(costs), _NUM_CURVE_BUDGETS)
