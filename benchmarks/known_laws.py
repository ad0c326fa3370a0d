"""Are known laws found again on the ladder of `experiments/sweep_k.py:small`?

  python -m benchmarks.known_laws

writes benchmarks/laws/recovery.json: of 100 synthetic sweeps a form, how often
each parameter lies in its 90 % band, and how often held-out prediction chooses
the form that is true, of those that the sweep does not refuse by the same rule
as a report; and the same where K matters less, its exponents 0.6
times as large, for forms that differ less are harder to tell apart. Sizes,
budgets, K and seeds are the ladder's, N and its parts counted from its models
on bytes. A run's ln L has the noise of a seed and the error of a text; half of
the text's variance is common to the whole sweep and half to the seeds of one
place, for all are scored on the same text.
"""

import dataclasses
import json
import pathlib

import numpy as np

from calm_jax.config import VocabularyConfig, resolve
from calm_jax.scaling import estimator
from calm_jax.scaling.flops import num_parameters
from calm_jax.scaling.forms import CHUNK_FORMS, Form, features, places_of
from calm_jax.scaling.held_out import prediction_errors, splits_of, win_counts
from calm_jax.scaling.law import ends, is_identified
from experiments import sweep_k

_TARGET = pathlib.Path(__file__).parent / "laws"
_BYTES = VocabularyConfig(size=258, begin_id=256, end_id=257)
SEED_SCATTER = 0.01  # std of ln L between seeds
TEXT_ERROR = 0.012  # relative, of L: that of 256 windows in `sweep_k/table.csv`
NUM_TRIALS = 100
_WEAK = 0.6  # times the exponents of K
_NUM_BOOTSTRAPS = 200

# E, ln A, …, as `Form.names`. K = 8 has 1.6 to 2.8 times the L of K = 1.
TRUTHS = {
  "coefficients": (0.3, np.log(14), np.log(900), 0.2, 0.4, 0.5, 0.2),
  "exponents": (0.3, np.log(25), np.log(700), 0.25, 0.4, 0.25, 0.05),
  "backbone": (0.3, np.log(15), np.log(12), np.log(900), 0.25, 0.4, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Recovery:
  """What became of R synthetic sweeps that follow one form."""

  form: str
  strength: float  # of K, see `truth_of`
  num_trials: int
  truth: dict[str, float]
  num_inside: dict[str, int]  # trials in which a parameter is in its band
  num_refused: int  # trials whose law of the true form would be refused
  num_chosen: dict[str, int]  # trials in which a form, not refused, is the best


def ladder(size: str = "small") -> np.ndarray:
  """Features [V, n] of the CALMs of a ladder, from its own configs."""
  points = dict(sweep_k.get_sweep(size))
  frozen = {
    name: resolve(config, vocabulary=_BYTES)
    for name, config in points.items()
    if not config.model.predicts
  }
  rows = []
  for config in points.values():
    if not config.model.needs_autoencoder:
      continue
    autoencoder = frozen[config.autoencoder_run].model
    config = resolve(config, vocabulary=_BYTES, autoencoder=autoencoder)
    parts = num_parameters(config.model)
    tokens = config.num_steps * config.data.batch_size * config.data.row_length
    rows.append(
      (
        sum(parts.values()),
        tokens,
        config.model.chunk_size,
        parts["backbone"],
        sum(num_parameters(autoencoder).values()),
      )
    )
  return features(*np.array(rows, float).T)


def truth_of(form: Form, strength: float = 1.0) -> np.ndarray:
  """The known law [P], its exponents of K times the strength."""
  is_of_k = [kind in ("power", "bend") for kind in form.kinds.values()]
  return np.array(TRUTHS[form.name]) * np.where(is_of_k, strength, 1.0)


def make_sweeps(
  form: Form,
  x: np.ndarray,
  num_trials: int,
  strength: float = 1.0,
  seed: int = 0,
) -> np.ndarray:
  """Losses [R, n] that follow a form's known law, with noise."""
  rng = np.random.default_rng(seed)
  place = places_of(x)
  half = TEXT_ERROR / np.sqrt(2)
  common = half * rng.standard_normal((num_trials, 1))
  text = half * rng.standard_normal((num_trials, place.max() + 1))
  seeds = SEED_SCATTER * rng.standard_normal((num_trials, len(place)))
  log_loss = form.log_law(truth_of(form, strength), x)
  return np.exp(log_loss + common + text[:, place] + seeds)


def recover(
  form: Form,
  x: np.ndarray,
  num_trials: int = NUM_TRIALS,
  num_bootstraps: int = _NUM_BOOTSTRAPS,
  strength: float = 1.0,
) -> Recovery:
  """Fits the form to sweeps that follow it, and lets all forms predict them."""
  truth = truth_of(form, strength)
  losses = make_sweeps(form, x, num_trials, strength)
  errors = TEXT_ERROR * losses.mean(axis=0)
  found = estimator.estimate_laws(
    form,
    x,
    losses,
    errors,
    run_scatter=SEED_SCATTER,
    num_bootstraps=num_bootstraps,
  )
  inside = np.zeros(len(truth), int)
  for estimate, samples in zip(found.estimate, found.samples, strict=True):
    samples = estimator.widen(estimate, samples, found.widening)
    low, high = np.quantile(samples, ends(0.9), axis=0)
    inside += (low <= truth) & (truth <= high)
  misses = {
    other.name: _errors_of_accepted(other, x, losses, errors)
    for other in CHUNK_FORMS.values()
  }
  return Recovery(
    form.name,
    strength,
    num_trials,
    dict(zip(form.names, truth.tolist(), strict=True)),
    dict(zip(form.names, inside.tolist(), strict=True)),
    int((~is_identified(found)).sum()),
    win_counts(misses),
  )


def _errors_of_accepted(
  form: Form, x: np.ndarray, losses: np.ndarray, errors: np.ndarray
) -> np.ndarray:
  """Errors of unseen runs, [splits, R]; inf where the form is refused."""
  whole = estimator.estimate_laws(
    form, x, losses, errors, run_scatter=SEED_SCATTER, num_bootstraps=0
  )
  found = [
    prediction_errors(
      form,
      x,
      losses,
      errors,
      mask,
      run_scatter=SEED_SCATTER,
      num_bootstraps=0,
    )[:, 0]
    for mask in splits_of(x).values()
  ]
  return np.where(is_identified(whole), np.array(found), np.inf)


def main() -> None:
  x = ladder()
  strong, weak = (
    [recover(form, x, strength=it) for form in CHUNK_FORMS.values()]
    for it in (1.0, _WEAK)
  )
  result = {
    "command": "python -m benchmarks.known_laws",
    "num_runs": x.shape[1],
    "num_bootstraps": _NUM_BOOTSTRAPS,
    "seed_scatter": SEED_SCATTER,
    "text_error": TEXT_ERROR,
    "forms": [dataclasses.asdict(it) for it in strong],
    "forms_where_k_matters_less": [dataclasses.asdict(it) for it in weak],
  }
  _TARGET.mkdir(exist_ok=True)
  text = json.dumps(result, indent=1, ensure_ascii=False)
  (_TARGET / "recovery.json").write_text(text + "\n")


if __name__ == "__main__":
  main()
