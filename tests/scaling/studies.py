"""Small studies on disk: a sweep of known laws, a quickstart, its runs."""

import json

import numpy as np

from calm_jax.scaling.points import Point, write_points


def sweep_points(*, noise=0.01, seed=0):
  """3 sizes × 3 token budgets × K ∈ {1, 2, 4}, and the baseline's 4 × 4.

  The scores follow L = 0.6 + 9·K^0.3/N^0.2 + 30·K^0.4/D^0.25.
  """
  rng = np.random.default_rng(seed)
  points = []
  for family, chunk_sizes, number in (
    ("calm", (1, 2, 4), 3),
    ("token", (1,), 4),
  ):
    for n in np.geomspace(1e5, 1e7, number):
      for d in np.geomspace(1e6, 1e8, number):
        for k in chunk_sizes:
          loss = 0.6 + 9 * k**0.3 / n**0.2 + 30 * k**0.4 / d**0.25
          loss *= np.exp(noise * rng.standard_normal())
          points.append(_point(family, n, d, k, float(loss)))
  return points


def _point(family, n, d, k, loss):
  score = float(np.exp(-loss))
  scores = {f"brier_{order}": score for order in range(1, 5)}
  errors = {name: 0.01 * score for name in scores} | {"brier_lm": score}
  return Point(
    name=f"{family}-n{n:.0f}-d{d:.0f}-k{k}",
    family=family,
    parameters=float(n),
    tokens=float(d),
    chunk_size=k,
    bytes_per_token=1.0,
    backbone_parameters=float(0.6 * n + 1e4 * n**0.1),
    training_flops=float(6 * n * d / k),
    inference_flops=float(2 * n / k),
    inference_flops_sampled=float(40 * n / k),
    scores=scores | {"brier_lm": 100 * score},
    errors=errors,
  )


def write_sweep(directory):
  directory.mkdir(exist_ok=True)
  write_points(sweep_points(), directory / "table")


def write_run(directory, *, kind="next_vector", names=("gradient_norm",)):
  """metrics.jsonl and config.json; the last line is only half there."""
  directory.mkdir(parents=True, exist_ok=True)
  lines = [
    json.dumps({"step": i, "loss": 5 / i} | {name: 0.3 for name in names})
    for i in range(1, 21)
  ]
  text = "\n".join([*lines, '{"step": 21, "lo'])
  (directory / "metrics.jsonl").write_text(text)
  config = {"format_version": 1, "config": {"model": {"kind": kind}}}
  (directory / "config.json").write_text(json.dumps(config))


def write_quickstart(directory, **changes):
  """results.json with everything a page can show, and two runs."""
  health = ("token_accuracy", "latent_std", "dead_dimensions")
  write_run(directory / "autoencoder", kind="autoencoder", names=health)
  write_run(directory / "calm")
  calm = {"brier_lm": "not resolved"}
  for n in range(1, 5):
    calm |= {
      f"brier_{n}": 0.1234 / n,
      f"brier_{n}_stderr": 0.0011,
      f"brier_{n}_permuted": 0.031,
    }
  results = {
    "autoencoder": {
      "token_accuracy": 0.99951,
      "token_accuracy_stderr": 0.0001,
      "std_per_dimension": [0.3, 0.2, 0.5],
    },
    "calm": calm,
    "seconds": {"prepare": 3.2, "autoencoder": 200.5},
    "samples": [
      {"name": "calm", "prompt": "The", "text": "<b>list</b> of"},
      {"name": "token", "prompt": "The", "text": "first\nline"},
    ],
    "continuations": [
      {
        "prompt": "A",
        "model": "what it went on with",
        "real": "what stood there",
      }
    ],
    "trade_off": {
      "energy head": [
        {"label": "T=1", "accuracy": 0.1, "collision": 0.05},
        {"label": "T=0.5", "accuracy": 0.2, "collision": 0.3},
      ]
    },
    "commit": "abc123",
    "versions": {"jax": "0.10.2"},
  }
  (directory / "results.json").write_text(json.dumps(results | changes))


def write_choices(path, **changes):
  """What a page shows of a result of launch.choose."""
  samples = [
    {"num_samples": 4, "accuracy": 0.4, "accuracy_stderr": 0.025},
    {"num_samples": 64, "accuracy": 0.45, "accuracy_stderr": 0.025},
  ]
  energy = samples[-1] | {
    "accuracy_mutual": 0.585,
    "accuracy_mutual_stderr": 0.025,
    "by_num_samples": samples,
  }
  kernel = {
    "accuracy": 0.325,
    "confidence": 0.721,
    "reliability": [{"num_items": 400, "confidence": 0.721, "accuracy": 0.325}],
  }
  result = {
    "form": "plain",
    "estimate": "energy",
    "num_items": 400,
    "chance": 0.25,
    "estimates": {"energy": energy, "kernel": kernel},
  }
  path.write_text(json.dumps(result | changes))
