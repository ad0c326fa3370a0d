"""The model of an earlier run, trained or converted, for more training.

    python -m launch.prepare --input=TEXT --output=DATA \
      --tokenizer=RUN/tokenizer
    python -m launch.train --config=experiments/continued.py:RUN \
      --initial_run=RUN --config.data.path=DATA --workdir=NEW_RUN

Parameters, and in a CALM the autoencoder, come from RUN, and so does what is
minimised; optimizer (AdamW), data and step start anew, and mesh and
microbatches are chosen for the devices there are. Hardware: what the model
needs; published weights are float32 here, and --config.model.dtype=bfloat16
halves what activations take.
"""

import dataclasses

from etils import epath

from calm_jax import config, config_file


def get_config(argument: str | None = None) -> config.ExperimentConfig:
  """Settings for the path of a run directory."""
  if not argument:
    raise ValueError("give the earlier run: experiments/continued.py:RUN.")
  path = epath.Path(argument) / "config.json"
  if not path.exists():
    raise ValueError(
      f"{argument} is not a run directory: it has no {path.name}."
    )
  saved = config_file.read(path, config.ExperimentConfig)
  return dataclasses.replace(
    saved,
    autoencoder=None,
    autoencoder_run="",
    data=config.DataConfig(
      row_length=saved.data.row_length, close_chunks=saved.data.close_chunks
    ),
    optimizer=config.OptimizerConfig(learning_rate=1e-4),
    mesh=config.MeshConfig(),
    num_microbatches=config.CHOSEN,
  )
