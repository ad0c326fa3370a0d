"""Laws that are known, and runs that follow them."""

import numpy as np

from calm_jax.scaling.forms import CHUNK_FORMS, TOKEN_FORM, features
from calm_jax.scaling.points import Point

SIZES = np.geomspace(5e7, 2e9, 4)
TOKENS = np.geomspace(1e9, 5e10, 4)
# E, lnA, lnB, a, b (, p, q); the first are those of Hoffmann et al.
TOKEN_LAW = np.array([1.69, np.log(406.4), np.log(410.7), 0.34, 0.28])
CHUNK_LAW = np.array([1.65, np.log(300), np.log(330), 0.34, 0.28, 0.3, 0.5])


def make_grid(sizes=SIZES, tokens=TOKENS, chunk_sizes=(1,)):
  mesh = np.meshgrid(sizes, tokens, np.array(chunk_sizes, float))
  return [axis.reshape(-1) for axis in mesh]


# A sweep as small as `sweep_k.py:tiny`, far above its E.
SMALL_LAW = np.array([0.0, 1.78, 7.79, 0.1, 0.54, 0.44, -0.05])
SMALL_GRID = make_grid([1.8e5, 5e5, 1e6], [4.1e5, 9.2e5, 2e6], (1, 2, 4))


def form_of(truth):
  return TOKEN_FORM if truth.shape[-1] == 5 else CHUNK_FORMS["coefficients"]


def log_law(truth, grid):
  return form_of(truth).log_law(truth, features(*grid))


def make_losses(truth, grid, noise, num_sets=1, seed=0):
  draws = np.random.default_rng(seed).standard_normal((num_sets, len(grid[0])))
  return np.exp(log_law(truth, grid) + noise * draws)


def make_points(truth, grid, losses, quantity="cross_entropy"):
  """Points whose loss in `quantity` is given."""
  points = []
  for i, (size, tokens, chunk_size) in enumerate(zip(*grid, strict=True)):
    loss = float(losses[i])
    scores, errors = {"cross_entropy": loss}, {}
    if quantity == "brier_lm":
      scores = {f"brier_{n}": float(np.exp(-loss)) for n in range(1, 5)}
      errors = {name: 1e-3 * score for name, score in scores.items()}
      scores["brier_lm"] = 100 * float(np.exp(-loss))
    points.append(
      Point(
        name=f"run{i}",
        family="token" if len(truth) == 5 else "calm",
        parameters=float(size),
        tokens=float(tokens),
        chunk_size=int(chunk_size),
        scores=scores,
        errors=errors,
      )
    )
  return points
