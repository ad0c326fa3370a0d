"""How many tokens should a vector carry? What the points of a sweep say."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from calm_jax.scaling.allocation import Candidate, candidates_of
from calm_jax.scaling.best_chunk import (
  Band,
  BestChunk,
  Curve,
  best_chunk_sizes,
  common_budgets,
  gap_changes,
  loss_curves,
  trained_costs,
)
from calm_jax.scaling.held_out import FormResult, compare_forms
from calm_jax.scaling.law import Law, ends, fit_law
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
  best_of_second: tuple[BestChunk, ...]  # by full price and the second form
  changes: dict[int, Band]  # of the gaps of `best`, see `gap_changes`
  # At each budget of `best`: ln of the best CALM's L over the token model's.
  token_gaps: tuple[Band, ...]
  refusals: tuple[str, ...]  # why something is missing

  @property
  def law(self) -> Law | None:
    """The CALMs' law that predicts unseen runs best."""
    return self.candidates[0].law if self.candidates else None

  @property
  def second(self) -> FormResult | None:
    """The form that comes next, if the points identify it."""
    found = [it for it in self.candidates[1:2] if it.law is not None]
    return found[0] if found else None

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

  def part(name: str, find: Callable, nothing):
    try:
      return find()
    except ValueError as error:
      refusals.append(f"{name}: {error}")
      return nothing

  law, *others = [it.law for it in candidates] or [None]
  best, shared, of_second, changes, gaps = (), (), (), {}, ()
  if law is not None:
    curves = part("No best K", lambda: _curves(law), ())
    if curves:
      best, changes = tuple(best_chunk_sizes(curves)), gap_changes(curves)
      shared = part(
        "No best K with the autoencoder shared",
        lambda: tuple(best_chunk_sizes(_curves(law, is_shared=True))),
        (),
      )
      if others and others[0] is not None:
        of_second = tuple(best_chunk_sizes(_curves(others[0])))
      if token_law is not None:
        budgets = [it.training_flops for it in best]
        gaps = part(
          "No comparison with the token model",
          lambda: _token_gaps(law, token_law, budgets),
          (),
        )
  scatters = part(
    "No scatter of seeds",
    lambda: {
      name: seed_scatter(it, quantity) for name, it in families.items() if it
    },
    {},
  )
  return Answer(
    quantity,
    tuple(points),
    candidates,
    token_law,
    scatters,
    best,
    shared,
    of_second,
    changes,
    gaps,
    tuple(refusals),
  )


def _curves(law: Law, *, is_shared: bool = False) -> list[Curve]:
  """Of every K, at the budgets that all have in common."""
  models = candidates_of(law, is_shared=is_shared)
  if not candidates_of(law):
    raise ValueError("the points have no training FLOPs; collect them again.")
  if len(models) < len(candidates_of(law)):
    raise ValueError(
      "the table does not say how many points an autoencoder serves, so that"
      " the shared price is not known; collect them again."
    )
  return loss_curves(law, models, common_budgets(models))


def _token_gaps(
  law: Law, token_law: Law, budgets: Sequence[float]
) -> tuple[Band, ...]:
  """(nan, nan, nan) where no token model was trained near a budget."""
  models = candidates_of(token_law)
  if not models:
    raise ValueError("its points have no training FLOPs; collect them again.")
  mine = loss_curves(law, candidates_of(law), np.array(budgets))
  losses = np.min([curve.losses for curve in mine], axis=0)
  samples = np.min([curve.samples for curve in mine], axis=0)
  [token] = loss_curves(token_law, models, np.array(budgets))
  middle = np.log(losses / token.losses)
  num = min(len(samples), len(token.samples))
  spread = np.log(samples[:num] / token.samples[:num])
  low, high = np.quantile(spread, ends(0.9), axis=0)
  rows = np.stack([middle, low, high], axis=1).tolist()
  return tuple((a, b, c) for a, b, c in rows)


def _whole_range(models: Sequence[Candidate]) -> np.ndarray:
  costs = [cost for it in models for cost in trained_costs(it)]
  return np.geomspace(min(costs), max(costs), _NUM_CURVE_BUDGETS)
