"""The token baseline: the same backbone, cross-entropy (paper §7.1).

    python -m launch.train --config=experiments/token.py:tiny \
      --config.data.path=DATA --workdir=RUN

tiny: two CPU cores; recipe=fast (`experiments/recipes.py`), the other sizes
  recipe=paper, unless told.
s, m, l: 250 k steps of 2 M tokens, context 2048 tokens, Llama-3 vocabulary; 64
  TPU v5p chips or more. The paper's BrierLM on WikiText-103: 6.05, 7.07, 8.98.
"""

from calm_jax import config
from experiments import recipes

# layers, D, F, heads (paper §7.1)
_SIZES = {
  "tiny": (4, 192, 512, 6),
  "s": (12, 768, 2048, 16),
  "m": (16, 1024, 2752, 16),
  "l": (16, 1536, 4096, 16),
}


def get_config(argument: str | None = None) -> config.ExperimentConfig:
  """Settings for `size,recipe=NAME`."""
  options = config.parse_argument(
    argument, size=tuple(_SIZES), recipe=("own", *recipes.NAMES)
  )
  size, recipe = options["size"], options["recipe"]
  num_layers, hidden, ffn, num_heads = _SIZES[size]
  model = config.TokenModelConfig(
    hidden_size=hidden,
    ffn_size=ffn,
    num_layers=num_layers,
    num_heads=num_heads,
  )
  own = "fast" if size == "tiny" else "paper"
  experiment = _tiny(model) if size == "tiny" else _paper(model)
  return recipes.apply(experiment, own if recipe == "own" else recipe)


def _tiny(model: config.TokenModelConfig) -> config.ExperimentConfig:
  model.init_std = 0.07  # as the next-vector model it is compared with
  return config.ExperimentConfig(
    model=model,
    data=config.DataConfig(row_length=512, batch_size=8, use_random_fill=False),
    optimizer=config.OptimizerConfig(
      learning_rate=1e-3, schedule="wsd", num_warmup_steps=100
    ),
    num_steps=2000,
    save_interval=500,
    eval_interval=500,
    num_eval_rows=32,
    num_scored_rows=16,
  )


def _paper(model: config.TokenModelConfig) -> config.ExperimentConfig:
  model.dtype, model.remat = "bfloat16", "dots"
  return config.ExperimentConfig(
    model=model,
    data=config.DataConfig(
      row_length=2048, batch_size=1024, use_random_fill=False
    ),
    optimizer=config.OptimizerConfig(learning_rate=3e-4, num_warmup_steps=2000),
    num_steps=250_000,
    log_interval=50,
    save_interval=2000,
    eval_interval=2000,
    num_eval_rows=512,
    num_scored_rows=128,
    keep_interval=50_000,
  )
