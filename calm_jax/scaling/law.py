"""Laws fitted to the points of a study, or a reason why they cannot be."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling import estimator
from calm_jax.scaling.forms import CHUNK_FORMS, TOKEN_FORM, Form
from calm_jax.scaling.points import (
  Point,
  check_unique,
  point_features,
  split_censored,
)
from calm_jax.scaling.quantities import quantity_of
from calm_jax.scaling.seeds import SeedScatter, run_scatter, seed_scatter

_MAX_CONDITION = 1e5  # of the Jacobian by the parameters, coefficients as ln


@dataclasses.dataclass(frozen=True)
class Law:
  """A fitted law of one family and one quantity."""

  family: str  # calm | token
  quantity: str  # see `quantities`
  form: Form
  points: tuple[Point, ...]  # that were fitted
  censored: tuple[tuple[Point, str], ...]  # that were not, and why
  estimate: np.ndarray  # [P]
  samples: np.ndarray  # [S, P], of the bootstrap over places, as fitted
  widening: float  # of bands, see `estimator.estimate_laws`
  scatter: float  # robust std about the law of the ln L of an exact score
  seeds: SeedScatter | None = None  # None: no place has two

  @property
  def run_scatter(self) -> float:
    """Of ln L between seeds, measured or taken."""
    return run_scatter(self.seeds)

  def parameters(self, level: float = 0.9) -> dict[str, tuple[float, ...]]:
    """E, A, B, a, b, …: the estimate, low and high ends of its band."""
    samples = estimator.widen(self.estimate, self.samples, self.widening)
    low, high = np.quantile(samples, ends(level), axis=0)
    result = {}
    for i, name in enumerate(self.form.names):
      values = np.array([self.estimate[i], low[i], high[i]])
      if name.startswith("ln"):
        name, values = name[2:], np.exp(values)
      result[name] = tuple(values.tolist())
    return result

  def losses(self, x: np.ndarray) -> np.ndarray:
    """L at features x [V, n]: [n] float64."""
    return np.exp(self.form.log_law(self.estimate, x))

  def sampled_losses(self, x: np.ndarray) -> np.ndarray:
    """L of every bootstrap sample at the points, widened in ln L: [S, n]."""
    middle = self.form.log_law(self.estimate, x)
    shift = self.form.log_law(self.samples, x) - middle
    return np.exp(middle + self.widening * shift)

  def score(self, losses: np.ndarray) -> np.ndarray:
    """The quantity's score, such as BrierLM, of losses."""
    score_fn = quantity_of(self.quantity).score_of_loss
    return np.vectorize(score_fn, otypes=[float])(losses)


def fit_law(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  *,
  form: Form | None = None,
  num_bootstraps: int = 200,
  seed: int = 0,
) -> Law:
  """Fits a form of the law to the points of one family.

  A run counts by the error of its text and the scatter of seeds, measured where
  places have several; `quantities` says which points count.

  Args:
    points: of one family, in any order.
    quantity: see `quantities`.
    form: None: L = E + A·K^p/N^a + B·K^q/D^b where the points have several K,
      and the law without K otherwise.
    num_bootstraps: S.
    seed: of the bootstrap.

  Returns:
    The law with its bands.

  Raises:
    ValueError: with the reason, if the points cannot identify the law.
  """
  family = check_points(points, quantity)
  kept, censored = split_censored(points, quantity)
  if form is None:
    several = len({point.chunk_size for point in points}) > 1
    form = CHUNK_FORMS["coefficients"] if several else TOKEN_FORM
  check_variation(kept, form, len(censored))
  losses, errors = np.array([point.loss(quantity) for point in kept]).T
  seeds = seed_scatter(kept, quantity)
  estimates = estimator.estimate_laws(
    form,
    point_features(kept),
    losses[None],
    errors,
    run_scatter=run_scatter(seeds),
    num_bootstraps=num_bootstraps,
    seed=seed,
  )
  check_identified(estimates)
  return Law(
    family,
    quantity,
    form,
    tuple(kept),
    tuple(censored),
    estimates.estimate[0],
    estimates.samples[0],
    estimates.widening,
    float(estimates.scatter[0]),
    seeds,
  )


def ends(level: float) -> tuple[float, float]:
  """The quantiles between which a share `level` of samples lies."""
  return (1 - level) / 2, (1 + level) / 2


def check_points(points: Sequence[Point], quantity: str) -> str:
  """The one family of the points; raises ValueError if it is not one."""
  quantity_of(quantity)
  families = {point.family for point in check_unique(list(points))}
  if len(families) != 1:
    raise ValueError(
      f"the points are of {len(families)} families"
      f" ({', '.join(sorted(families)) or 'no points'}); fit each by itself."
    )
  return families.pop()


def counted_points(points: Sequence[Point], quantity: str) -> list[Point]:
  """Those of one family that count; ValueError if there are none."""
  check_points(points, quantity)
  kept, _ = split_censored(points, quantity)
  if not kept:
    raise ValueError(f"no point has a {quantity} that counts.")
  return kept


def check_variation(
  points: Sequence[Point], form: Form, num_censored: int = 0
) -> None:
  """Raises ValueError where counting shows that points do not suffice.

  Sizes and budgets are counted within the K that has most of them, for models
  of one shape have other N at another K.
  """
  num_places, needed = len({it.place for it in points}), len(form.names) + 1
  if num_places < needed:
    raise ValueError(
      f"{num_places} points count and {num_censored} are censored; a law with"
      f" {len(form.names)} parameters needs at least {needed} that count, seeds"
      " apart."
    )
  wanted = {"parameters": 3, "tokens": 3}
  if form.uses_chunk_size:
    wanted = {"parameters": 2, "tokens": 2, "chunk_size": 2}
  if form.needs_backbone:
    wanted["chunk_size"] = 3
    lacking = [it.name for it in points if not it.backbone_parameters]
    if lacking:
      raise ValueError(
        f"point {lacking[0]!r} has no backbone_parameters, which the form"
        f" {form.name!r} needs; collect the sweep again."
      )
  by_size: dict[int, list[Point]] = defaultdict(list)
  for point in points:
    by_size[point.chunk_size].append(point)
  for name, number in wanted.items():
    if name == "chunk_size":
      found, where = len(by_size), ""
    else:
      found = max(
        len({getattr(it, name) for it in mine}) for mine in by_size.values()
      )
      where = " at one K" if len(by_size) > 1 else ""
    if found < number:
      raise ValueError(
        f"the points that count have {found} different values of {name}{where};"
        f" the law needs at least {number}."
      )


def is_identified(estimates: estimator.Estimates) -> np.ndarray:
  """Whether the fit of each data set determines the law, [R] bool.

  No parameter but E is at its limit, for an E of 0 is an answer: the points do
  not tell it from 0. And no two are so alike in what they do that the Jacobian
  has no full rank.
  """
  is_inside = ~estimates.is_at_bound[:, 1:].any(axis=1)
  return is_inside & (estimates.condition <= _MAX_CONDITION)


def check_identified(estimates: estimator.Estimates) -> None:
  """Raises ValueError, with the reason, where the first is not identified."""
  if is_identified(estimates)[0]:
    return
  form = estimates.form
  variables = {f"ln{term.coefficient}": term.variable for term in form.terms}
  words = {"N_token": "what works on tokens", "N_chunk": "the backbone"}
  for i, name in enumerate(form.names):
    if estimates.is_at_bound[0, i] and name != "E":
      reason = "a power law does not follow these points"
      if name in variables:
        variable = words.get(variables[name], variables[name])
        reason = f"the loss does not fall with {variable}"
      raise ValueError(
        f"the points do not identify the law: {name} ran to its limit;"
        f" {reason}."
      )
  weak = np.abs(estimates.weakest[0])
  together = [
    name for name, share in zip(form.names, weak, strict=True) if share > 0.2
  ]
  raise ValueError(
    "the points do not identify the law: the Jacobian has no full rank"
    f" (condition {estimates.condition[0]:.0e}), {', '.join(together)} cannot"
    " be told apart; add points that vary N, D and K apart from each other."
  )
