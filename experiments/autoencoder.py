"""The autoencoder (paper §2).

    python -m launch.train --config=experiments/autoencoder.py:tiny \
      --config.data.path=DATA --workdir=RUN

tiny: two CPU cores, a vocabulary of about 1000 tokens, a few minutes. About
  99.9 % of held-out tokens come back from a sampled latent.
k1, k2, k4, k8: the paper's, with K tokens a chunk and latents of 32·K; 30 k
  steps of 512 k tokens, vocabulary 128256 of Llama 3, on 16 TPU v5e chips or
  more. More than 99.9 % of held-out tokens come back from a sampled latent.
"""

from calm_jax import config


def get_config(argument: str | None = None) -> config.ExperimentConfig:
  """Settings for `size,posterior=NAME`; of tiny also `chunk_size=K`."""
  options = config.parse_argument(
    argument,
    size=("tiny", "k1", "k2", "k4", "k8"),
    chunk_size=4,
    posterior=tuple(config.PosteriorConfig.kinds),
  )
  experiment = _experiment(argument, options["size"], options["chunk_size"])
  posterior = config.PosteriorConfig.kinds[options["posterior"]]
  experiment.model.posterior = posterior()
  return experiment


def _experiment(
  argument: str | None, size: str, wanted: int
) -> config.ExperimentConfig:
  if size == "tiny":
    return _tiny(wanted)
  chunk_size = int(size[1:])
  if "chunk_size=" in argument and wanted != chunk_size:
    raise ValueError(
      f"config argument {argument!r}: {size} has chunk_size {chunk_size};"
      f" leave chunk_size out, or give k{wanted}."
    )
  return _paper(chunk_size)


def _tiny(chunk_size: int) -> config.ExperimentConfig:
  return config.ExperimentConfig(
    model=config.AutoencoderConfig(
      chunk_size=chunk_size, hidden_size=128, ffn_size=320
    ),
    data=config.DataConfig(row_length=512 * chunk_size, batch_size=2),
    optimizer=config.OptimizerConfig(
      learning_rate=3e-3, schedule="cosine", num_warmup_steps=50
    ),
    num_steps=1500,
    save_interval=500,
    eval_interval=500,
    num_eval_rows=16,
    num_scored_rows=16,
  )


def _paper(chunk_size: int) -> config.ExperimentConfig:
  return config.ExperimentConfig(
    model=config.AutoencoderConfig(chunk_size=chunk_size, dtype="bfloat16"),
    data=config.DataConfig(
      row_length=2048, batch_size=256, use_random_fill=False
    ),
    optimizer=config.OptimizerConfig(learning_rate=3e-4, num_warmup_steps=1000),
    num_steps=30_000,
    log_interval=50,
    save_interval=1000,
    eval_interval=1000,
    num_eval_rows=1024,
    num_scored_rows=128,
  )
