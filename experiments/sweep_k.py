"""Size × tokens × K ∈ {1, 2, 4, 8}, and the token model beside it (paper §7.3).

    python -m launch.prepare --input=TEXT --bytes --output=DATA
    python -m launch.sweep --sweep=experiments/sweep_k.py:tiny --data=DATA \
      --workdir=RUNS --all

Bytes as tokens, both families by the fast recipe (`experiments/recipes.py`):

tiny: two CPU cores, hours; each family at its own best rate.
tiny_paper: the same sizes and tokens by the paper's recipe.
small: one GPU. 9.3e16 FLOPs as executed on bytes, 3.9 minutes at 40 % of an
  H200's 989 TFLOP/s in bfloat16: of them 3 s for the autoencoders, then 16, 46,
  31 and 139 s in the order below. Matrices this narrow reach less than 40 %,
  and compiling and scoring come on top; several processes share the work, so
  that one compiles while another trains. Twelve minutes, then table and page:

    for i in 1 2 3 4; do
      XLA_PYTHON_CLIENT_MEM_FRACTION=0.2 timeout 720 python -m launch.sweep \
        --sweep=experiments/sweep_k.py:small --data=DATA --workdir=RUNS --all &
    done; wait
    python -m launch.sweep --sweep=experiments/sweep_k.py:small --data=DATA \
      --workdir=RUNS --collect --report=RUNS/page.html

Three sizes, three budgets, and 79 points: four autoencoders, 45 models, and two
more seeds of each of the 15 of the smallest budget, which say what another seed
changes. One autoencoder a K serves all its points. Every budget is a run of its
own whose learning rate decays at its end: a point on the way of a longer run
would be scored before its decay and come out too low.

A sweep that is cut off has a table of what is finished, and the order makes it
useful: autoencoders; the smallest budget, every size with every K, which
compares K; the second; the other seeds, which give errors; last and dearest,
from small to large, the third, without which laws are hardly identified.
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
    sizes=((3, 128, 4), (5, 256, 4), (6, 384, 6)),
    nums_steps=(250, 750, 2250),
    chunk_sizes=(1, 2, 4, 8),
    autoencoder_size=256,
    autoencoder_optimizer=config.OptimizerConfig(
      name="muon", learning_rate=2e-3, schedule="cosine", num_warmup_steps=50
    ),
    num_autoencoder_steps=1000,
    num_autoencoder_chunks=8192,
    row_length=1024,
    batch_size=32,
    learning_rate=1e-3,
    token_learning_rate=1e-3,
    num_head_layers=2,
    recipe="fast",
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

  `num_seeds` is that of the smallest budget; all other points have one. The
  `autoencoder_run` of a next-vector point is the name of another point.
  """
  options = config.parse_argument(argument, size=tuple(_LADDERS), num_seeds=3)
  ladder = _LADDERS[options["size"]]
  for chunk_size in ladder.chunk_sizes:
    yield f"autoencoder-k{chunk_size}", _autoencoder(ladder, chunk_size)
  first, second, *others = ladder.nums_steps
  rounds = [
    (first, 0),
    (second, 0),
    *((first, seed) for seed in range(1, options["num_seeds"])),
    *((num_steps, 0) for num_steps in others),
  ]
  for (num_steps, seed), size, chunk_size in itertools.product(
    rounds, ladder.sizes, (None, *ladder.chunk_sizes)
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
