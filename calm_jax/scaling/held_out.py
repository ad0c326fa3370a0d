"""Laws judged by what they predict of runs that they have not seen."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from calm_jax.scaling import estimator
from calm_jax.scaling.forms import CHUNK_FORMS, VARIABLES, Form, places_of
from calm_jax.scaling.law import Law, check_variation, counted_points, fit_law
from calm_jax.scaling.points import Point, point_features
from calm_jax.scaling.seeds import run_scatter, seed_scatter


@dataclasses.dataclass(frozen=True)
class FormResult:
  """A form among others."""

  form: Form
  law: Law | None  # of all points; None: they do not identify it
  refusal: str  # why; empty: they do
  errors: dict[str, float]  # rms of ln L in each split; nan: not predicted
  win_share: float  # of the bootstrap samples in which it predicts best

  @property
  def error(self) -> float:
    """The mean over splits."""
    return float(mean_error(list(self.errors.values())))


def compare_forms(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  forms: Sequence[Form] = tuple(CHUNK_FORMS.values()),
  *,
  num_bootstraps: int = 200,
  seed: int = 0,
) -> list[FormResult]:
  """Forms side by side, the best prediction of unseen runs first.

  Each size, the largest budget and each K are left out in turn and predicted
  from the rest, where the rest suffices for every form that the whole of the
  points identifies. A form that they do not identify comes last.

  In a bootstrap sample a place has one weight, wherever it is fitted or
  predicted, and what the fits predict is widened as all bands are.

  Args:
    points: of one family with several K.
    quantity: see `quantities`.
    forms: to compare.
    num_bootstraps: S.
    seed: of the bootstrap.

  Returns:
    One result a form.

  Raises:
    ValueError: if the points are of several families, or too few for any split.
  """
  kept = counted_points(points, quantity)
  x = point_features(kept)
  losses, errors = np.array([point.loss(quantity) for point in kept]).T
  seeds = seed_scatter(kept, quantity)
  laws = [
    _law_or_reason(points, quantity, form, num_bootstraps, seed)
    for form in forms
  ]
  able = [form for form, (law, _) in zip(forms, laws, strict=True) if law]
  splits = {
    name: mask
    for name, mask in splits_of(x).items()
    if all(_suffices(kept, mask, form) for form in able or forms)
  }
  if not splits:
    raise ValueError(
      f"{len(kept)} points count, too few to leave out a size, a budget or a K"
      " and fit the rest."
    )
  tables = {
    form.name: {
      name: prediction_errors(
        form,
        x,
        losses[None],
        errors,
        mask,
        run_scatter=run_scatter(seeds),
        num_bootstraps=num_bootstraps,
        seed=seed,
      )[0]
      if _suffices(kept, mask, form)
      else np.full(1 + num_bootstraps, np.nan)
      for name, mask in splits.items()
    }
    for form in forms
  }
  shares = dict.fromkeys(tables, 0.0)
  if able:
    counts = win_counts(
      {
        form.name: np.array(list(tables[form.name].values()))[:, 1:]
        for form in able
      }
    )
    shares |= {name: it / num_bootstraps for name, it in counts.items()}
  results = [
    FormResult(
      form,
      law,
      why,
      {name: float(it[0]) for name, it in tables[form.name].items()},
      shares[form.name],
    )
    for form, (law, why) in zip(forms, laws, strict=True)
  ]
  return sorted(results, key=lambda it: (it.law is None, it.error))


def splits_of(x: np.ndarray) -> dict[str, np.ndarray]:
  """What is left out in turn, by name, as masks [n] of features x [V, n].

  Sizes are ranked within each K, for models of one shape have other N at
  another K. Of the budgets it is the largest alone: without the smallest a
  ladder of three would no longer tell E from B.
  """
  n, d, k = (x[VARIABLES.index(name)].round(6) for name in "NDK")
  rank = np.zeros(len(n), int)
  for value in np.unique(k):
    mine = k == value
    rank[mine] = np.unique(n[mine], return_inverse=True)[1]
  last = rank.max()
  masks = {f"size {i + 1}": rank == i for i in range(last)}
  masks["the largest size"] = rank == last
  masks["the largest budget"] = d == d.max()
  masks |= {f"K = {np.exp(it):.0f}": k == it for it in np.unique(k)}
  return {name: mask for name, mask in masks.items() if not mask.all()}


def prediction_errors(
  form: Form,
  x: np.ndarray,
  losses: np.ndarray,
  errors: np.ndarray,
  is_held_out: np.ndarray,
  *,
  run_scatter: float,
  num_bootstraps: int,
  seed: int = 0,
) -> np.ndarray:
  """How far a fit of the others misses what was left out.

  Of what was left out, the seeds of a place share the weight of one run, so
  that a place with several does not count for more.

  Args:
    form: of the law.
    x: [V, n] features.
    losses: [R, n], data sets at the same points.
    errors: [n], standard errors of the losses.
    is_held_out: [n] bool.
    run_scatter: see `estimate_laws`.
    num_bootstraps: S; each weights the places anew.
    seed: of the bootstrap.

  Returns:
    [R, 1 + S], root mean square of ln L; that of the estimate first.
  """
  others, place = ~is_held_out, places_of(x)
  weights = estimator.bootstrap_weights(
    place, len(losses), num_bootstraps, seed
  )
  found = estimator.estimate_laws(
    form,
    x[:, others],
    losses[:, others],
    errors[others],
    run_scatter=run_scatter,
    num_bootstraps=num_bootstraps,
    weights=weights[..., others],
  )
  fits = np.concatenate([found.estimate[:, None], found.samples], axis=1)
  logs = form.log_law(fits, x[:, is_held_out])
  middle = logs[:, :1]
  wide = middle + found.widening * (logs - middle)
  residuals = wide - np.log(losses[:, None, is_held_out])
  weights = np.insert(weights[..., is_held_out], 0, 1.0, axis=1)
  weights = weights / np.bincount(place)[place[is_held_out]]
  weights /= weights.sum(axis=-1, keepdims=True)
  return np.sqrt((weights * residuals**2).sum(axis=-1))


def mean_error(errors) -> np.ndarray:
  """Geometric mean over splits, so that the hardest does not decide alone.

  Args:
    errors: [splits, ...].
  """
  return np.exp(np.log(errors).mean(axis=0))


def win_counts(errors: Mapping[str, np.ndarray]) -> dict[str, int]:
  """Of R data sets, how often each form predicts best.

  Args:
    errors: [splits, R] of each form; inf where a data set refuses it. One that
      refuses all counts for none.
  """
  names = list(errors)
  scores = np.array([mean_error(errors[name]) for name in names])
  best = np.argmin(scores, axis=0)[np.isfinite(scores).any(axis=0)]
  counts = np.bincount(best, minlength=len(names))
  return dict(zip(names, counts.tolist(), strict=True))


def _suffices(
  points: Sequence[Point], is_held_out: np.ndarray, form: Form
) -> bool:
  """Whether what is left can be fitted, by counting."""
  rest = [it for it, out in zip(points, is_held_out, strict=True) if not out]
  try:
    check_variation(rest, form)
  except ValueError:
    return False
  return True


def _law_or_reason(
  points: Sequence[Point],
  quantity: str,
  form: Form,
  num_bootstraps: int,
  seed: int,
) -> tuple[Law | None, str]:
  try:
    law = fit_law(
      points, quantity, form=form, num_bootstraps=num_bootstraps, seed=seed
    )
  except ValueError as error:
    return None, str(error)
  return law, ""
