"""Estimates a form of the law, for many data sets at once.

Huber's loss on ln L, by Levenberg–Marquardt steps that are damped on the
exponents alone, so that each eliminates the coefficients (variable
projection), from a grid of starts. A bootstrap sample gives each place of the
sweep, one N, D and K with all its seeds, a weight from Exp(1): unlike drawing
runs this never loses a size, and seeds that were scored on one text are not
taken for more of it.
"""

import dataclasses

import numpy as np
from scipy import stats

from calm_jax.scaling.forms import Form, places_of

RUN_SCATTER = 0.01  # of ln L between seeds, where no two runs measure it
_HUBER = 1.345  # robust standard deviations: 95 % efficient on Gaussian noise
_NUM_RESCALES = 4  # an outlier first widens Huber's threshold, too
_NUM_FIRST_STEPS = 20  # from every start; the best of them goes on
_TOLERANCE = 1e-10  # of the value; a step that gains less is the last


@dataclasses.dataclass(frozen=True)
class Estimates:
  """Estimates for R data sets with S bootstrap samples each."""

  form: Form
  estimate: np.ndarray  # [R, P] float64
  samples: np.ndarray  # [R, S, P] float64, as fitted
  widening: float  # by which samples lie too close to the estimate
  scatter: np.ndarray  # [R], robust std of the ln L of a run without error
  is_at_bound: np.ndarray  # [R, P] bool: the search ended at its limit
  condition: np.ndarray  # [R], of the Jacobian: largest over smallest
  weakest: np.ndarray  # [R, P], the direction the points tell least about
  # An E of 0 is left out of both.


def widen(
  estimate: np.ndarray, samples: np.ndarray, widening: float
) -> np.ndarray:
  """Samples [S, P] with their distance from the estimate [P] widened.

  E stops at 0.
  """
  wide = estimate + widening * (samples - estimate)
  wide[:, 0] = np.maximum(wide[:, 0], 0)
  return wide


def run_weights(
  relative_errors: np.ndarray, run_scatter: float = RUN_SCATTER
) -> np.ndarray:
  """What the residual of a run counts by its error, 1 for one without."""
  return run_scatter / np.hypot(run_scatter, relative_errors)


def estimate_laws(
  form: Form,
  x: np.ndarray,
  losses: np.ndarray,
  errors: np.ndarray | None = None,
  *,
  run_scatter: float = RUN_SCATTER,
  num_bootstraps: int = 200,
  seed: int = 0,
  weights: np.ndarray | None = None,
) -> Estimates:
  """Fits a form, and bootstraps over the places of the sweep.

  Huber's threshold follows the residuals' median. Bands are to be widened by
  n/(n−P), as leaving out each place in turn would, for few of them fit
  themselves; and as much as Student's t with n − P degrees of freedom is wider
  than a normal distribution.

  Args:
    form: of the law.
    x: [V, n] of `features`, of the runs.
    losses: [R, n], R data sets at the same points.
    errors: [n], standard errors of the losses; None: equal.
    run_scatter: of ln L between runs that differ by their seed alone.
    num_bootstraps: S.
    seed: of the bootstrap weights.
    weights: [R, S, n], those of `bootstrap_weights` for more runs than are
      fitted here; None: drawn from the seed.

  Returns:
    The estimates of all data sets.
  """
  log_losses = np.log(losses)
  # Around the points' middle a coefficient and its exponent are independent.
  centre = form.centre(x)
  # The level of L is taken out so that the bounds mean the same for all data.
  level = log_losses.mean(axis=1, keepdims=True)
  num_sets, size = len(losses), len(form.names)
  scale = np.ones(x.shape[1])
  if errors is not None:
    scale = run_weights(errors / losses.mean(axis=0), run_scatter)
  problem = _Problem(form, x, centre, log_losses - level, scale)

  everything = np.arange(num_sets)
  place = places_of(x)
  num_places = place.max() + 1
  inflation = num_places / max(num_places - size, 1)
  best, limit = _search(problem, everything, np.sqrt(inflation))
  residuals, jacobian = problem.residuals(everything, best)

  repeated = np.repeat(everything, num_bootstraps)
  if weights is None:
    weights = bootstrap_weights(place, num_sets, num_bootstraps, seed)
  flat = weights.reshape(len(repeated), len(place))
  samples, _ = _minimise(
    problem, repeated, best[repeated], flat, limit[repeated]
  )
  samples = samples.reshape(num_sets, num_bootstraps, size)

  low, high = form.bounds
  is_at_bound = (best <= low) | (best >= high)
  jacobian[is_at_bound[:, 0], 0] = 0
  _, singular, directions = np.linalg.svd(
    jacobian.transpose(0, 2, 1), full_matrices=False
  )
  last = size - 1 - is_at_bound[:, 0]
  return Estimates(
    form,
    form.uncentred(best, centre, level),
    form.uncentred(samples, centre, level[:, None]),
    inflation * _student(num_places - size),
    np.sqrt(inflation) * _robust_scale(residuals),
    is_at_bound,
    singular[:, 0]
    / np.maximum(singular[everything, last], np.finfo(float).tiny),
    directions[everything, last],
  )


def bootstrap_weights(
  place: np.ndarray, num_sets: int, num_bootstraps: int, seed: int = 0
) -> np.ndarray:
  """Weights from Exp(1), [R, S, n], one for all runs of a place [n]."""
  size = (num_sets, num_bootstraps, place.max() + 1)
  return np.random.default_rng(seed).exponential(size=size)[..., place]


@dataclasses.dataclass(frozen=True)
class _Problem:
  """Points with R rows of ln L; rows are chosen by index."""

  form: Form
  x: np.ndarray  # [V, n]
  centre: np.ndarray  # [T]
  log_losses: np.ndarray  # [R, n]
  scale: np.ndarray  # [n]

  def residuals(
    self, rows: np.ndarray, parameters: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Scaled residuals [R, n] and their Jacobian [R, P, n]."""
    log_loss, jacobian = self.form.evaluate(parameters, self.x, self.centre)
    residuals = (log_loss - self.log_losses[rows]) * self.scale
    return residuals, jacobian * self.scale


def _search(
  problem: _Problem, rows: np.ndarray, inflation: float
) -> tuple[np.ndarray, np.ndarray]:
  """Parameters [R, P] from all starts, and the threshold they end with [R]."""
  ones = np.ones((len(rows), problem.x.shape[1]))
  no_limit = np.full(len(rows), np.inf)
  best, lowest = None, np.full(len(rows), np.inf)
  for start in problem.form.starts():
    start = np.tile(start, (len(rows), 1))
    found, value = _minimise(
      problem, rows, start, ones, no_limit, num_steps=_NUM_FIRST_STEPS
    )
    is_better = value < lowest
    best = found if best is None else np.where(is_better[:, None], found, best)
    lowest = np.minimum(value, lowest)
  best, _ = _minimise(problem, rows, best, ones, no_limit)
  for _ in range(_NUM_RESCALES):
    residuals, _ = problem.residuals(rows, best)
    limit = np.maximum(_HUBER * inflation * _robust_scale(residuals), 1e-9)
    best, _ = _minimise(problem, rows, best, ones, limit)
  return best, limit


def _minimise(
  problem: _Problem,
  rows: np.ndarray,
  start: np.ndarray,
  weights: np.ndarray,
  limit: np.ndarray,
  num_steps: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
  """Σ weights · Huber(residual), one problem a row: parameters and value."""
  low, high = problem.form.bounds
  all_parameters = np.clip(start, low, high)
  all_values = np.empty(len(rows))
  is_open = np.arange(len(rows))  # rows that still gain
  limit = limit[:, None]
  parameters = all_parameters
  residuals, jacobian = problem.residuals(rows, parameters)
  value = _huber(residuals, weights, limit)
  damping = np.full(len(rows), 1e-2)
  diagonal = np.arange(start.shape[1])
  # Coefficients follow the exponents, held only as far as solving needs.
  is_damped = np.array(
    [
      1e-3 if kind in ("level", "coefficient") else 1.0
      for kind in problem.form.kinds.values()
    ]
  )
  for _ in range(num_steps):
    size = np.maximum(np.abs(residuals), 1e-300)
    weighted = jacobian * (weights * np.minimum(1, limit / size))[:, None]
    hessian = weighted @ jacobian.transpose(0, 2, 1)
    slope = (weighted @ residuals[..., None])[..., 0]
    # A bound holds what would leave; it must not bend the others' step.
    is_held = (parameters <= low) & (slope > 0)
    is_held |= (parameters >= high) & (slope < 0)
    slope[is_held] = 0
    hessian[is_held] = 0
    hessian.transpose(0, 2, 1)[is_held] = 0
    curvature = hessian[:, diagonal, diagonal]
    floor = 1e-9 * curvature.max(axis=1, keepdims=True) + 1e-300
    hessian[:, diagonal, diagonal] += (
      damping[:, None] * is_damped * (curvature + floor) + floor * 1e-3
    )
    step = np.linalg.solve(hessian, slope[..., None])[..., 0]
    step /= np.maximum(np.abs(step).max(axis=1, keepdims=True), 1)
    trial = np.clip(parameters - step, low, high)
    trial_residuals, trial_jacobian = problem.residuals(rows, trial)
    trial_value = _huber(trial_residuals, weights, limit)
    is_better = trial_value < value
    gain = value - trial_value
    is_done = is_better & (gain <= _TOLERANCE * value)
    is_done |= ~is_better & (damping > 1e3)
    parameters = np.where(is_better[:, None], trial, parameters)
    residuals = np.where(is_better[:, None], trial_residuals, residuals)
    jacobian = np.where(is_better[:, None, None], trial_jacobian, jacobian)
    value = np.where(is_better, trial_value, value)
    damping = np.where(is_better, damping / 5, damping * 4).clip(1e-9, 1e6)
    all_parameters[is_open], all_values[is_open] = parameters, value
    if is_done.any():
      left = ~is_done
      is_open, rows, weights = is_open[left], rows[left], weights[left]
      limit, parameters, residuals = (
        limit[left],
        parameters[left],
        residuals[left],
      )
      jacobian, value, damping = jacobian[left], value[left], damping[left]
      if not left.any():
        break
  return all_parameters, all_values


def _student(degrees: int) -> float:
  """How much wider a 90 % band is than if the scatter were known."""
  return float(stats.t.ppf(0.95, max(degrees, 1)) / stats.norm.ppf(0.95))


def _huber(
  residuals: np.ndarray, weights: np.ndarray, limit: np.ndarray
) -> np.ndarray:
  size = np.abs(residuals)
  inner = np.minimum(size, limit)
  return (weights * inner * (size - inner / 2)).sum(axis=1)


def _robust_scale(residuals: np.ndarray) -> np.ndarray:
  """Standard deviation of each row, from the median of its sizes."""
  return np.median(np.abs(residuals), axis=1) / 0.6745
