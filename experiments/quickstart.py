"""The quickstart: bytes as tokens, the standard library's own documentation.

    python -m launch.quickstart --workdir=runs/quickstart

Two CPU cores, five minutes: 99.96 % of held-out bytes come back from a sampled
latent, and the next-vector model's Brier-1 is 19 %, against 1 % of the same
model with permuted contexts.
"""

from calm_jax import config

_CHUNK_SIZE = 4


def get_config(argument: str | None = None) -> config.ExperimentConfig:
  """Settings for one `stage`: autoencoder or calm."""
  stages = {"autoencoder": _autoencoder, "calm": _calm}
  options = config.parse_argument(argument, size=tuple(stages))
  return stages[options["size"]]()


def _autoencoder() -> config.ExperimentConfig:
  return config.ExperimentConfig(
    model=config.AutoencoderConfig(
      chunk_size=_CHUNK_SIZE, hidden_size=128, ffn_size=320
    ),
    data=config.DataConfig(row_length=512 * _CHUNK_SIZE, batch_size=2),
    optimizer=config.OptimizerConfig(
      learning_rate=3e-3, schedule="cosine", num_warmup_steps=50
    ),
    num_steps=600,
    save_interval=300,
  )


def _calm() -> config.ExperimentConfig:
  return config.ExperimentConfig(
    model=config.NextVectorConfig(
      chunk_size=_CHUNK_SIZE,
      hidden_size=192,
      ffn_size=512,
      num_layers=4,
      num_heads=6,
      # 1/√D: at 0.02 the head's blocks start so close to zero that a narrow
      # model learns nothing of the context for hundreds of steps.
      init_std=0.07,
      head=config.EnergyHeadConfig(num_mlp_layers=2),
    ),
    data=config.DataConfig(row_length=128 * _CHUNK_SIZE, batch_size=8),
    optimizer=config.OptimizerConfig(
      learning_rate=1e-3, schedule="wsd", num_warmup_steps=50
    ),
    num_steps=300,
    save_interval=100,
  )
