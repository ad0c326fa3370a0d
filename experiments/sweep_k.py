"""Size × tokens × K × seed, and the token model beside it (paper §7.3).

    python -m launch.prepare --input=TEXT --bytes --output=DATA
    python -m launch.sweep --sweep=experiments/sweep_k.py:tiny --data=DATA \
      --workdir=RUNS --all

tiny: bytes as tokens, K in 1, 2, 4; two CPU cores; both families by the fast
  recipe (`experiments/recipes.py`), each at its own best rate.
tiny_paper: the same sizes and tokens by the paper's recipe.
small: any vocabulary, K in 1, 2, 4, 8; one GPU or one TPU host a point.

One autoencoder a K serves all its points. Every budget is a run of its own
whose learning rate decays at its end: a point on the way of a longer run would
be scored before its decay and come out too low.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator

from calm_jax import config
from experiments import recipes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ladder:
  """What one sweep varies, and what it holds fixed."""

  sizes: tuple[tuple[int, int, int], ...]  # layers, D, heads
  nums_steps: tuple[int, ...]
  chunk_sizes: tuple[int, ...]
  autoencoder_size: int  # E
  autoencoder_optimizer: config.OptimizerConfig
  num_autoencoder_steps: int
  num_autoencoder_chunks: int  # a step; chunks are what it learns from
  row_length: int  # T, tokens, the same for all K
  batch_size: int  # rows
  learning_rate: float  # of the paper's recipe
  token_learning_rate: float  # likewise, of the token model
  num_head_layers: int
  recipe: str
  dtype: str


_LADDERS = {
  "tiny": _Ladder(
    sizes=((2, 64, 4), (3, 96, 4), (4, 128, 4)),
    nums_steps=(400, 900, 2000),
    chunk_sizes=(1, 2, 4, 8),
    # A small one suffices for bytes; the loss decodes samples through it.
    autoencoder_size=64,
    autoencoder_optimizer=config.OptimizerConfig(
      name="muon", learning_rate=3e-3, schedule="cosine", num_warmup_steps=20
    ),
    num_autoencoder_steps=500,
    num_autoencoder_chunks=1024,
    row_length=256,
    batch_size=4,
    learning_rate=1e-3,
    token_learning_rate=2e-3,
    num_head_layers=2,
    recipe="fast",
    dtype="float32",
  ),
  "small": _Ladder(
    sizes=((6, 256, 4), (8, 384, 6), (10, 512, 8), (12, 768, 12)),
    nums_steps=(2000, 4000, 8000, 16_000),
    chunk_sizes=(1, 2, 4, 8),
    autoencoder_size=512,
    autoencoder_optimizer=config.OptimizerConfig(
      learning_rate=3e-4, schedule="cosine", num_warmup_steps=50
    ),
    num_autoencoder_steps=20_000,
    num_autoencoder_chunks=32_768,
    row_length=2048,
    batch_size=32,
    learning_rate=1e-3,
    token_learning_rate=1e-3,
    num_head_layers=2,
    recipe="paper",
    dtype="bfloat16",
  ),
}
_LADDERS["tiny_paper"] = dataclasses.replace(
  _LADDERS["tiny"],
  nums_steps=(200, 450, 1000),
  batch_size=8,
  learning_rate=2e-3,
  num_head_layers=1,
  recipe="paper",
  autoencoder_size=128,
  autoencoder_optimizer=config.OptimizerConfig(
    learning_rate=3e-3, schedule="cosine", num_warmup_steps=50
  ),
  num_autoencoder_steps=600,
)


def get_sweep(
  argument: str | None = None,
) -> Iterator[tuple[str, config.ExperimentConfig]]:
  """Points for `size,num_seeds=N`: autoencoders first, then what is scored.

  The `autoencoder_run` of a next-vector point is the name of another point.
  """
  options = config.parse_argument(argument, size=tuple(_LADDERS), num_seeds=1)
  ladder = _LADDERS[options["size"]]
  for chunk_size in ladder.chunk_sizes:
    yield f"autoencoder-k{chunk_size}", _autoencoder(ladder, chunk_size)
  for num_steps, seed, size, chunk_size in itertools.product(
    ladder.nums_steps,
    range(options["num_seeds"]),
    ladder.sizes,
    (None, *ladder.chunk_sizes),
  ):
    family = f"calm-k{chunk_size}" if chunk_size else "token"
    name = f"{family}-d{size[1]}-{num_steps}steps-seed{seed}"
    yield name, _point(ladder, size, chunk_size, num_steps, seed)


def _autoencoder(ladder: _Ladder, chunk_size: int) -> config.ExperimentConfig:
  return config.ExperimentConfig(
    model=config.AutoencoderConfig(
      chunk_size=chunk_size,
      hidden_size=ladder.autoencoder_size,
      ffn_size=5 * ladder.autoencoder_size // 2,
      dtype=ladder.dtype,
    ),
    data=config.DataConfig(
      row_length=ladder.row_length,
      batch_size=ladder.num_autoencoder_chunks
      * chunk_size
      // ladder.row_length,
    ),
    optimizer=copy.copy(ladder.autoencoder_optimizer),
    num_steps=ladder.num_autoencoder_steps,
    save_interval=max(100, ladder.num_autoencoder_steps // 20),
  )


def _point(
  ladder: _Ladder,
  size: tuple[int, int, int],
  chunk_size: int | None,
  num_steps: int,
  seed: int,
) -> config.ExperimentConfig:
  num_layers, hidden, num_heads = size
  backbone = {
    "num_layers": num_layers,
    "hidden_size": hidden,
    "ffn_size": 8 * hidden // 3 // 16 * 16,
    "num_heads": num_heads,
    # Narrow models learn nothing for hundreds of steps from the paper's 0.02.
    "init_std": round(1 / math.sqrt(hidden), 4),
    "dtype": ladder.dtype,
  }
  if chunk_size is None:
    model = config.TokenModelConfig(**backbone)
  else:
    model = config.NextVectorConfig(
      **backbone,
      chunk_size=chunk_size,
      head=config.EnergyHeadConfig(num_mlp_layers=ladder.num_head_layers),
    )
  experiment = config.ExperimentConfig(
    model=model,
    autoencoder_run=f"autoencoder-k{chunk_size}" if chunk_size else "",
    data=config.DataConfig(
      row_length=ladder.row_length, batch_size=ladder.batch_size
    ),
    optimizer=config.OptimizerConfig(
      learning_rate=ladder.learning_rate
      if chunk_size
      else ladder.token_learning_rate,
      schedule="wsd",
      num_warmup_steps=50,
    ),
    num_steps=num_steps,
    seed=seed,
    save_interval=max(50, num_steps // 20),
  )
  return recipes.apply(experiment, ladder.recipe)
