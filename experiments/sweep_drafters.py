"""CALMs that draft for a token model: of several K, taught by it and not.

    python -m launch.prepare --input=TEXT --bytes --output=DATA
    python -m launch.sweep --sweep=experiments/sweep_drafters.py:tiny \
      --data=DATA --workdir=RUNS --all
    python -m benchmarks.draft --checkpoint=RUNS/token --drafter=RUNS/k4 \
      --data=DATA --output=JSON

tiny: bytes, four layers of D = 128 and 2000 steps as in `sweep_k.py:tiny`; and
  three seeds each of K = 4 and 900 steps on text alone and taught, the share of
  the chunks in the name. Two CPU cores, about an hour and a half.
"""

import dataclasses
from collections.abc import Iterator

from calm_jax import config
from experiments import sweep_k

_CHUNK_SIZES = (2, 4, 8)
_SHARES = (0.0, 1.0, 0.5)
_SIZE, _LONG, _SHORT = "d128", "2000steps", "900steps"


def get_sweep(
  argument: str | None = None,
) -> Iterator[tuple[str, config.ExperimentConfig]]:
  """Points for `size,num_seeds=N`, the models those of `sweep_k.py`."""
  options = config.parse_argument(argument, size=("tiny",), num_seeds=3)
  points = dict(sweep_k.get_sweep(options["size"]))
  for chunk_size in _CHUNK_SIZES:
    name = f"autoencoder-k{chunk_size}"
    yield name, points[name]
  yield "token", points[f"token-{_SIZE}-{_LONG}-seed0"]
  for chunk_size in _CHUNK_SIZES:
    name = f"calm-k{chunk_size}-{_SIZE}-{_LONG}-seed0"
    yield f"k{chunk_size}", points[name]
  untaught = points[f"calm-k4-{_SIZE}-{_SHORT}-seed0"]
  for share in _SHARES:
    for seed in range(options["num_seeds"]):
      point = dataclasses.replace(untaught, seed=seed)
      if share:
        point.data = dataclasses.replace(
          point.data, teacher_run="token", teacher_share=share
        )
      yield f"taught-{share:g}-seed{seed}", point
