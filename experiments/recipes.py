"""Recipes: how a model is trained, whatever its size, text and steps.

paper: AdamW, and the loss of the head alone (§7.1).
fast: Muon for the matrices, and beside the head's loss the auxiliary loss of
  the next chunk's tokens and, with the energy head, the Brier scores of what
  its samples decode to; half the samples. Found on two cores with small energy
  heads. At V = 128 thousand decoding the samples is dear: a training token of
  size m takes 2.8 times the FLOPs of the paper's recipe, of xl 1.1 times, and a
  planned step of xl on 64 chips of v5p 1.4 times its time, in as much memory.
  `experiments/sweep_recipe.py` takes it apart.
"""

import dataclasses

from calm_jax import config

NAMES = ("paper", "fast")


def apply(
  experiment: config.ExperimentConfig, name: str
) -> config.ExperimentConfig:
  """An experiment that follows the paper's recipe, with the one of that name.

  The rates of the fast one are twice the paper's.
  """
  if name == "paper":
    return experiment
  optimizer = dataclasses.replace(
    experiment.optimizer,
    name="muon",
    learning_rate=2 * experiment.optimizer.learning_rate,
  )
  return dataclasses.replace(
    experiment, optimizer=optimizer, model=_fast(experiment.model)
  )


def _fast(model: config.ModelConfig) -> config.ModelConfig:
  if not model.needs_autoencoder:
    return model
  model = dataclasses.replace(model, auxiliary_weight=1.0)
  if not model.head.samples_in_training:
    return model
  return dataclasses.replace(
    model,
    brier_weight=3.0,
    head=dataclasses.replace(model.head, num_samples=4),
  )
