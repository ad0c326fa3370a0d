"""The three heads on the same autoencoder, data and steps (paper §7.4).

    python -m launch.prepare --input=TEXT --bytes --output=DATA
    python -m launch.sweep --sweep=experiments/sweep_heads.py:tiny --data=DATA \
      --workdir=RUNS --all

tiny: bytes as tokens, K = 4, three seeds; two CPU cores, about half an hour.
paper: the study's 12 layers of width 768 for 50 k steps; 8 GPUs or more. The
  paper's BrierLM: energy 4.70, flow about 4.1, diffusion about 3.1.

As many blocks in every head, so that the parameters differ by the embedding of
the denoising time alone: 1.07, 1.11 and 1.13 M for energy, flow and diffusion
in tiny.
"""

import dataclasses
from collections.abc import Iterator

from calm_jax import config
from experiments import autoencoder, calm

_HEADS = ("energy", "flow", "diffusion")


def get_sweep(
  argument: str | None = None,
) -> Iterator[tuple[str, config.ExperimentConfig]]:
  """Points for `size,num_seeds=N`: the autoencoder, then every head."""
  options = config.parse_argument(argument, size=("tiny", "paper"), num_seeds=3)
  size, num_seeds = options["size"], options["num_seeds"]
  first = autoencoder.get_config("tiny" if size == "tiny" else "k4")
  if size == "tiny":
    first = dataclasses.replace(
      first,
      model=dataclasses.replace(first.model, init_std=0.088),
      num_steps=800,
    )
  yield "autoencoder", first
  for seed in range(num_seeds):
    for head in _HEADS:
      point = _tiny(head) if size == "tiny" else _paper(head)
      yield (
        f"{head}-seed{seed}",
        dataclasses.replace(point, autoencoder_run="autoencoder", seed=seed),
      )


def _tiny(head: str) -> config.ExperimentConfig:
  point = calm.get_config(f"tiny,head={head},recipe=paper")
  model = dataclasses.replace(
    point.model,
    num_layers=3,
    hidden_size=128,
    ffn_size=352,
    num_heads=4,
    init_std=0.088,
    head=dataclasses.replace(point.model.head, num_mlp_layers=2),
  )
  return dataclasses.replace(
    point,
    model=model,
    data=dataclasses.replace(point.data, row_length=256),
    num_steps=1000,
    eval_interval=0,
  )


def _paper(head: str) -> config.ExperimentConfig:
  point = calm.get_config(f"s,head={head}")
  return dataclasses.replace(point, num_steps=50_000)
