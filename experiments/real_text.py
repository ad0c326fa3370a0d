"""Books and textbooks on CPU cores, about two hours of one.

    python -m launch.prepare --input=TRAIN --valid_input=VALID \
      --output=prepared/bpe8k --vocab_size=8192
    python -m launch.prepare --input=TRAIN --valid_input=VALID \
      --output=prepared/bytes --bytes
    python -m launch.train --config=experiments/real_text.py:autoencoder_8k \
      --config.data.path=prepared/bpe8k --workdir=runs/autoencoder_8k
    python -m launch.train --config=experiments/real_text.py:autoencoder_bytes \
      --config.data.path=prepared/bytes --workdir=runs/autoencoder_bytes
    python -m launch.train --config=experiments/real_text.py:calm_bytes \
      --config.data.path=prepared/bytes \
      --config.autoencoder_run=runs/autoencoder_bytes --workdir=runs/calm_bytes

`docs/results.md` has what they reach. A wide normal initialisation, 1/√E or
1/√D, is what lets models so narrow learn in this time.
"""

import dataclasses

from calm_jax import config
from experiments import autoencoder, calm, recipes


def get_config(argument: str | None = None) -> config.ExperimentConfig:
  """Settings for one `run`: autoencoder_8k, autoencoder_bytes, calm_bytes.

  calm_bytes_paper is the last by the paper's recipe.
  """
  runs = {
    "autoencoder_8k": _autoencoder_8k,
    "autoencoder_bytes": _autoencoder_bytes,
    "calm_bytes": lambda: _calm_bytes("fast"),
    "calm_bytes_paper": lambda: _calm_bytes("paper"),
  }
  return runs[config.parse_argument(argument, size=tuple(runs))["size"]]()


def _autoencoder_8k() -> config.ExperimentConfig:
  tiny = autoencoder.get_config("tiny")
  return dataclasses.replace(
    tiny,
    model=dataclasses.replace(
      tiny.model, hidden_size=192, ffn_size=512, init_std=0.07
    ),
    num_steps=1250,
    eval_interval=0,
  )


def _autoencoder_bytes() -> config.ExperimentConfig:
  tiny = autoencoder.get_config("tiny")
  return dataclasses.replace(
    tiny,
    model=dataclasses.replace(tiny.model, init_std=0.088),
    optimizer=dataclasses.replace(
      tiny.optimizer, name="muon", num_warmup_steps=20
    ),
    num_steps=800,
    eval_interval=0,
  )


def _calm_bytes(recipe: str) -> config.ExperimentConfig:
  tiny = calm.get_config("tiny,recipe=paper")
  experiment = dataclasses.replace(
    tiny,
    model=dataclasses.replace(
      tiny.model,
      hidden_size=256,
      ffn_size=704,
      num_heads=8,
      init_std=0.0625,
      head=config.EnergyHeadConfig(num_mlp_layers=2),
    ),
    data=dataclasses.replace(tiny.data, row_length=1024, batch_size=4),
    num_steps=3250,
    eval_interval=0,
  )
  return recipes.apply(experiment, recipe)
