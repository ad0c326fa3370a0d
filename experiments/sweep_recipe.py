"""What the parts of the fast recipe bring, one by one, and which do not help.

    python -m launch.prepare --input=TEXT --bytes --output=DATA
    python -m launch.sweep --sweep=experiments/sweep_recipe.py:tiny \
      --data=DATA --workdir=RUNS --all

tiny: the quickstart's model: bytes as tokens, K = 4, three seeds; two CPU
  cores, some hours.
ladder: K = 4, D = 128 and 900 steps of `sweep_k.py:tiny`: what may narrow the
  gap to the token model.

`paper` and `fast` are the model by one recipe and the other; `paper-with-X` has
one change more, `fast-without-X` one less, `fast-with-X` one more. Rates are
named where they change with the optimizer, which halves or doubles what is
best. All of a size read the same rows in the same order with the same
autoencoder, unless the latent is what changes: seeds are of parameters and
noise.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from calm_jax import config
from experiments import quickstart, sweep_k

Change = Callable[[config.ExperimentConfig], config.ExperimentConfig]


def _model(**values: Any) -> Change:
  return lambda point: dataclasses.replace(
    point, model=dataclasses.replace(point.model, **values)
  )


def _head(**values: Any) -> Change:
  return lambda point: _model(
    head=dataclasses.replace(point.model.head, **values)
  )(point)


def _optimizer(**values: Any) -> Change:
  return lambda point: dataclasses.replace(
    point, optimizer=dataclasses.replace(point.optimizer, **values)
  )


def _rows(batch_size: int) -> Change:
  """As many tokens, in batches of another size."""
  return lambda point: dataclasses.replace(
    point,
    data=dataclasses.replace(point.data, batch_size=batch_size),
    num_steps=point.num_steps * point.data.batch_size // batch_size,
  )


_CHANGES = {
  "paper-with": {
    "rate-5e-4": _optimizer(learning_rate=5e-4),
    "rate-2e-3": _optimizer(learning_rate=2e-3),
    "rate-4e-3": _optimizer(learning_rate=4e-3),
    "muon-1e-3": _optimizer(name="muon"),
    "muon-2e-3": _optimizer(name="muon", learning_rate=2e-3),
    "auxiliary": _model(auxiliary_weight=1.0),
    "brier": _model(brier_weight=3.0),
    "samples-4": _head(num_samples=4),
    "rows-8": _rows(8),
  },
  "fast-without": {
    "muon-1e-3": _optimizer(name="adamw", learning_rate=1e-3),
    "muon-2e-3": _optimizer(name="adamw"),
    "auxiliary": _model(auxiliary_weight=0.0),
    "brier": _model(brier_weight=0.0),
  },
  "fast-with": {
    "brier-10": _model(brier_weight=10.0),
    "rate-4e-3": _optimizer(learning_rate=4e-3),
    "inputs-both": _model(inputs="both"),
    "samples-8": _head(num_samples=8),
    "rows-8": _rows(8),
  },
}


_Points = dict[str, config.ExperimentConfig]


def get_sweep(
  argument: str | None = None,
) -> Iterator[tuple[str, config.ExperimentConfig]]:
  """Points for `size,num_seeds=N`: autoencoders, then every recipe."""
  options = config.parse_argument(argument, size=tuple(_SIZES), num_seeds=3)
  autoencoders, points = _SIZES[options["size"]]()
  yield from autoencoders.items()
  for seed in range(options["num_seeds"]):
    for name, point in points.items():
      yield f"{name}-seed{seed}", dataclasses.replace(point, seed=seed)


def _tiny() -> tuple[_Points, _Points]:
  whole = {
    name: dataclasses.replace(point, autoencoder_run="autoencoder")
    for name, point in (
      ("paper", quickstart.get_config("calm_paper")),
      ("fast", quickstart.get_config("calm")),
    )
  }
  points = dict(whole)
  for title, changes in _CHANGES.items():
    start = whole[title.split("-")[0]]
    for name, change in changes.items():
      points[f"{title}-{name}"] = change(start)
  return {"autoencoder": quickstart.get_config("autoencoder")}, points


def _ladder() -> tuple[_Points, _Points]:
  known = dict(sweep_k.get_sweep("tiny"))
  first = known["autoencoder-k4"]
  fast = known["calm-k4-d128-900steps-seed0"]
  autoencoders = {"autoencoder-k4": first}
  points = {
    "fast": fast,
    "fast-with-samples-8": _head(num_samples=8)(fast),
    "fast-with-blocks-3": _head(num_mlp_layers=3)(fast),
  }
  for latent_size in (64, 32):
    name = f"autoencoder-z{latent_size}"
    autoencoders[name] = _model(latent_size=latent_size)(first)
    points[f"fast-with-latent-{latent_size}"] = dataclasses.replace(
      fast, autoencoder_run=name
    )
  return autoencoders, points


_SIZES = {"tiny": _tiny, "ladder": _ladder}
