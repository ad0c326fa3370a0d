"""The next-vector model with one of its heads (paper §3, sizes of §7.1).

    python -m launch.train --config=experiments/calm.py:tiny,head=energy \
      --config.data.path=DATA --config.autoencoder_run=AUTOENCODER_RUN \
      --workdir=RUN

tiny: two CPU cores; learns slowly there, BrierLM above 0 after minutes.
s, m, l, xl: 250 k steps of 2 M tokens, K = 4, Llama-3 vocabulary; a slice of 64
  TPU v5p chips or more for xl. The paper's BrierLM on WikiText-103: m 5.72,
  l 6.58, xl 8.53; l with chunk_size=1, 2, 8: 7.15, 7.03, 5.31.
ablation: s for 50 k steps, on 16 TPU v5p chips or more. BrierLM 4.70; with
  inputs=latent 3.25, inputs=both 4.40, head=flow about 4.1, head=diffusion
  about 3.1; with --config.model.head.num_samples=2, 4, 12: 4.37, 4.53, 4.72;
  with --config.model.head.num_targets=1, 16: 4.50, 4.56.

tiny takes recipe=fast (`experiments/recipes.py`), the other sizes recipe=paper,
unless told: the fast one has been tried with small energy heads only.

Mesh and microbatches are chosen for the devices there are. `python -m
launch.plan` with the same --config and a --topology says which, and whether a
slice suffices.
"""

from calm_jax import config
from experiments import recipes

# layers, D, F, heads, head blocks (paper §7.1)
_SIZES = {
  "tiny": (4, 192, 512, 6, 1),
  "s": (12, 768, 2048, 16, 3),
  "ablation": (12, 768, 2048, 16, 3),
  "m": (16, 1024, 2752, 16, 4),
  "l": (16, 1536, 4096, 16, 4),
  "xl": (16, 2560, 6880, 16, 4),
}


def get_config(argument: str | None = None) -> config.ExperimentConfig:
  """Settings for `size,head=NAME,chunk_size=K,inputs=NAME,recipe=NAME`."""
  options = config.parse_argument(
    argument,
    size=tuple(_SIZES),
    head=tuple(config.HeadConfig.kinds),
    chunk_size=4,
    inputs=("tokens", "latent", "both"),
    recipe=("own", *recipes.NAMES),
  )
  num_layers, hidden, ffn, num_heads, num_blocks = _SIZES[options["size"]]
  model = config.NextVectorConfig(
    chunk_size=options["chunk_size"],
    hidden_size=hidden,
    ffn_size=ffn,
    num_layers=num_layers,
    num_heads=num_heads,
    inputs=options["inputs"],
    head=config.HeadConfig.kinds[options["head"]](num_mlp_layers=num_blocks),
  )
  is_tiny = options["size"] == "tiny"
  experiment = _tiny(model) if is_tiny else _paper(model)
  if options["size"] == "ablation":
    experiment.num_steps = 50_000
  own = "fast" if is_tiny else "paper"
  recipe = options["recipe"]
  return recipes.apply(experiment, own if recipe == "own" else recipe)


def _tiny(model: config.NextVectorConfig) -> config.ExperimentConfig:
  # 1/√D: from the paper's 0.02, meant for D ≥ 768, a narrow model learns
  # nothing of the context for hundreds of steps.
  model.init_std = 0.07
  return config.ExperimentConfig(
    model=model,
    data=config.DataConfig(row_length=128 * model.chunk_size, batch_size=8),
    optimizer=config.OptimizerConfig(
      learning_rate=1e-3, schedule="wsd", num_warmup_steps=100
    ),
    num_steps=2000,
    save_interval=500,
    eval_interval=500,
    num_eval_rows=32,
    num_scored_rows=16,
  )


def _paper(model: config.NextVectorConfig) -> config.ExperimentConfig:
  model.dtype, model.remat = "bfloat16", "dots"
  return config.ExperimentConfig(
    model=model,
    data=config.DataConfig(
      row_length=2048 * model.chunk_size,
      batch_size=1024 // model.chunk_size,
      use_random_fill=False,
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
