"""Estimates the law L(N, D, K), for many data sets at once.

    L = E + A·K^p / N^a + B·K^q / D^b

N parameters, D training tokens, K tokens a chunk. Without K it is the token
law of Hoffmann et al. (arXiv:2203.15556, eq. 10). With K, a chunk of K tokens
asks more of the network and shows it fewer positions: p and q say how fast,
as if there were N / K^(p/a) parameters and D / K^(q/b) tokens. E has no K: all
K factorise one distribution of text, whose own score is the same.

Deviation: the paper names such a law as open (§8); this form is ours.
"""

import dataclasses
import itertools

import numpy as np

_HUBER = 1.345  # robust standard deviations: 95 % efficient on Gaussian noise
_NUM_RESCALES = 4  # an outlier first widens Huber's threshold, too
_RUN_SCATTER = 0.01  # of ln L between seeds, which a run's error does not know
_EXPONENTS = (0.15, 0.4, 0.9)  # where the search for a and b starts
_BOUNDS = {
  "E": (0.0, 400.0),  # 0: the points do not tell it from 0
  "lnA": (-9.0, 6.0),
  "lnB": (-9.0, 6.0),
  "a": (0.01, 3.0),
  "b": (0.01, 3.0),
  "p": (-3.0, 3.0),
  "q": (-3.0, 3.0),
}


@dataclasses.dataclass(frozen=True)
class Estimates:
  """Estimates for R data sets with S bootstrap samples each.

  Parameters are E, lnA, lnB, a, b (, p, q), with A and B as in the law.
  """

  names: tuple[str, ...]
  estimate: np.ndarray  # [R, P] float64
  samples: np.ndarray  # [R, S, P] float64, as fitted
  widening: float  # n/(n−P), by which samples lie too close to the estimate
  scatter: np.ndarray  # [R], robust std of the ln L of a run without error
  is_at_bound: np.ndarray  # [R, P] bool: the search ended at its limit
  condition: np.ndarray  # [R], of the Jacobian: largest over smallest
  weakest: np.ndarray  # [R, P], the direction the points tell least about
  # An E of 0 is left out of both.


def parameter_names(use_chunk_size: bool) -> tuple[str, ...]:
  """Names of the law's parameters, with p and q where K enters."""
  return tuple(_BOUNDS)[: 7 if use_chunk_size else 5]


def log_law(
  parameters: np.ndarray,
  num_parameters: np.ndarray,
  num_tokens: np.ndarray,
  chunk_size: np.ndarray,
) -> np.ndarray:
  """ln L of parameters [..., P] at n points: [..., n]."""
  x = np.log(np.stack([num_parameters, num_tokens, chunk_size]))
  flat = parameters.reshape(-1, parameters.shape[-1])
  log_loss = _evaluate(flat, x)[0]
  return log_loss.reshape(*parameters.shape[:-1], -1)


def widen(
  estimate: np.ndarray, samples: np.ndarray, widening: float
) -> np.ndarray:
  """Samples [S, P] with their distance from the estimate [P] widened.

  E stops at 0.
  """
  wide = estimate + widening * (samples - estimate)
  wide[:, 0] = np.maximum(wide[:, 0], 0)
  return wide


def run_weights(relative_errors: np.ndarray) -> np.ndarray:
  """What the residual of a run counts by its error, 1 for one without."""
  return _RUN_SCATTER / np.hypot(_RUN_SCATTER, relative_errors)


def estimate_laws(
  num_parameters: np.ndarray,
  num_tokens: np.ndarray,
  chunk_size: np.ndarray,
  losses: np.ndarray,
  errors: np.ndarray | None = None,
  *,
  use_chunk_size: bool,
  num_bootstraps: int = 200,
  seed: int = 0,
) -> Estimates:
  """Fits the law by Huber's loss on ln L, and bootstraps over runs.

  Levenberg–Marquardt steps are damped on the exponents alone, so that each
  eliminates the coefficients of the three terms (variable projection). It
  starts from a grid of exponents. Huber's threshold follows the residuals'
  median. A bootstrap sample gives each run a weight from Exp(1), which unlike
  drawing runs never loses a size. Bands are to be widened by n/(n−P), as
  leaving out each run in turn would: few runs fit themselves.

  Args:
    num_parameters: [n], N.
    num_tokens: [n], D.
    chunk_size: [n], K.
    losses: [R, n], R data sets at the same points.
    errors: [n], standard errors of the losses; None: equal.
    use_chunk_size: whether the law has p and q.
    num_bootstraps: S.
    seed: of the bootstrap weights.

  Returns:
    The estimates of all data sets.
  """
  x = np.log(np.stack([num_parameters, num_tokens, chunk_size]).astype(float))
  log_losses = np.log(losses)
  # Around the points' middle a coefficient and its exponent are independent.
  centre = x.mean(axis=1) * np.array([1, 1, 0])
  # The level of L is taken out so that the bounds mean the same for all data.
  level = log_losses.mean(axis=1, keepdims=True)
  names = parameter_names(use_chunk_size)
  num_sets, (num_runs, size) = len(losses), (x.shape[1], len(names))
  scale = np.ones(num_runs)
  if errors is not None:
    scale = run_weights(errors / losses.mean(axis=0))
  problem = _Problem(x - centre[:, None], log_losses - level, scale)

  everything = np.arange(num_sets)
  inflation = num_runs / max(num_runs - size, 1)
  best, limit = _search(problem, everything, size, np.sqrt(inflation))
  residuals, jacobian = problem.residuals(everything, best)

  repeated = np.repeat(everything, num_bootstraps)
  weights = np.random.default_rng(seed).exponential(
    size=(len(repeated), num_runs)
  )
  samples, _ = _minimise(
    problem, repeated, best[repeated], weights, limit[repeated]
  )
  samples = samples.reshape(num_sets, num_bootstraps, size)

  low, high = _bounds(size)
  is_at_bound = (best <= low) | (best >= high)
  jacobian[is_at_bound[:, 0], 0] = 0
  _, singular, directions = np.linalg.svd(
    jacobian.transpose(0, 2, 1), full_matrices=False
  )
  last = size - 1 - is_at_bound[:, 0]
  return Estimates(
    names,
    _uncentred(best, centre, level),
    _uncentred(samples, centre, level[:, None]),
    inflation,
    np.sqrt(inflation) * _robust_scale(residuals),
    is_at_bound,
    singular[:, 0]
    / np.maximum(singular[everything, last], np.finfo(float).tiny),
    directions[everything, last],
  )


class _Problem:
  """Points x [3, n] with R rows of ln L; rows are chosen by index."""

  def __init__(self, x: np.ndarray, log_losses: np.ndarray, scale: np.ndarray):
    self._x, self._log_losses, self._scale = x, log_losses, scale
    self.num_runs = x.shape[1]

  def residuals(
    self, rows: np.ndarray, parameters: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Scaled residuals [R, n] and their Jacobian [R, P, n]."""
    log_loss, jacobian = _evaluate(parameters, self._x)
    residuals = (log_loss - self._log_losses[rows]) * self._scale
    return residuals, jacobian * self._scale


def _evaluate(
  parameters: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """ln L, [R, n], and its derivatives by the parameters, [R, P, n]."""
  e, a, b, exponent_a, exponent_b, *of_k = parameters.T[:, :, None]
  log_n, log_d, log_k = x
  term_a = a - exponent_a * log_n
  term_b = b - exponent_b * log_d
  if of_k:
    term_a = term_a + of_k[0] * log_k
    term_b = term_b + of_k[1] * log_k
  terms = np.exp([term_a, term_b])
  total = e + terms.sum(axis=0)
  share_a, share_b = terms / total
  columns = [1 / total, share_a, share_b, -log_n * share_a, -log_d * share_b]
  if of_k:
    columns += [log_k * share_a, log_k * share_b]
  return np.log(total), np.stack(columns, axis=1)


def _search(
  problem: _Problem, rows: np.ndarray, size: int, inflation: float
) -> tuple[np.ndarray, np.ndarray]:
  """Parameters [R, P] from all starts, and the threshold they end with [R]."""
  ones = np.ones((len(rows), problem.num_runs))
  no_limit = np.full(len(rows), np.inf)
  best, lowest = np.zeros((len(rows), size)), np.full(len(rows), np.inf)
  for start in _starts(size):
    start = np.tile(start, (len(rows), 1))
    found, value = _minimise(problem, rows, start, ones, no_limit)
    is_better = value < lowest
    best[is_better], lowest[is_better] = found[is_better], value[is_better]
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
  low, high = _bounds(start.shape[1])
  limit = limit[:, None]
  parameters = np.clip(start, low, high)
  residuals, jacobian = problem.residuals(rows, parameters)
  value = _huber(residuals, weights, limit)
  damping = np.full(len(rows), 1e-2)
  diagonal = np.arange(start.shape[1])
  # Coefficients follow the exponents, held only as far as solving needs.
  is_damped = np.where(diagonal < 3, 1e-3, 1.0)
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
    parameters[is_better] = trial[is_better]
    residuals[is_better] = trial_residuals[is_better]
    jacobian[is_better] = trial_jacobian[is_better]
    value = np.where(is_better, trial_value, value)
    damping = np.where(is_better, damping / 5, damping * 4).clip(1e-9, 1e6)
  return parameters, value


def _huber(
  residuals: np.ndarray, weights: np.ndarray, limit: np.ndarray
) -> np.ndarray:
  size = np.abs(residuals)
  inner = np.minimum(size, limit)
  return (weights * inner * (size - inner / 2)).sum(axis=1)


def _robust_scale(residuals: np.ndarray) -> np.ndarray:
  """Standard deviation of each row, from the median of its sizes."""
  return np.median(np.abs(residuals), axis=1) / 0.6745


def _starts(size: int) -> list[np.ndarray]:
  """Equal terms at the points' middle, over a grid of exponents."""
  grid = [_EXPONENTS, _EXPONENTS, *[(0.0, 0.5)] * (size - 5)]
  third = [1 / 3, -np.log(3), -np.log(3)]
  return [np.array([*third, *point]) for point in itertools.product(*grid)]


def _bounds(size: int) -> np.ndarray:
  return np.array(list(_BOUNDS.values())).T[:, :size]


def _uncentred(
  parameters: np.ndarray, centre: np.ndarray, level: np.ndarray
) -> np.ndarray:
  """Back to A and B as they stand in the law."""
  out = parameters.copy()
  out[..., :1] *= np.exp(level)
  out[..., 1:3] += level
  out[..., 1] += centre[0] * parameters[..., 3]
  out[..., 2] += centre[1] * parameters[..., 4]
  return out
