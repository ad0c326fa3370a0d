"""The same work by the authors' code and by this, in turns in one process."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import authors
from benchmarks.generate import generate
from benchmarks.random_model import (
  MODEL_SIZES,
  RandomModel,
  make_config,
  random_batch,
  random_model,
)
from benchmarks.timing import (
  Roofline,
  Row,
  Version,
  compare_calls,
  compile_version,
)
from benchmarks.train import step_version
from calm_jax.config import DataConfig, ExperimentConfig, MeshConfig
from calm_jax.evaluation.positions import select_positions
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.losses.energy import energy_loss
from calm_jax.randomness import stream_key
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.prompt import Prompts
from calm_jax.scaling.flops import num_parameters
from calm_jax.training.sharding import make_mesh
from calm_jax.training.step import Program

THEIRS, OURS = "the authors' code", "calm_jax"


class _Size(NamedTuple):
  autoencoder: tuple[int, int]  # rows and chunks of a training step
  calm: tuple[int, int]
  num_positions: int  # of the energy loss
  evaluation: tuple[int, int]  # rows and chunks
  generation: tuple[int, int, int]  # rows, chunks of the prompt, new ones
  remat: str


_SIZES = {
  "tiny": _Size((2, 8), (2, 8), 16, (2, 8), (2, 2, 2), "none"),
  "cpu": _Size((4, 256), (4, 256), 1024, (4, 256), (4, 16, 8), "none"),
  # Logits of more tokens than 16384 at a time do not suit their autoencoder.
  "accelerator": _Size(
    (4, 1024), (8, 2048), 8192, (8, 512), (16, 64, 32), "dots"
  ),
}
_TEMPERATURE = 0.5
_NUM_CANDIDATES = 200  # theirs is fixed
# Shares of pairs of our samples that agree, see `random_model`. Ours take less
# time for some of them than for others, theirs the same for all.
_AGREEMENTS = (0.5, 0.1, 0.02)


class Against:
  """A suite of `benchmarks.suites`, and what its result file says of theirs.

  Both train in bfloat16 with float32 parameters and AdamW.

  Attributes:
    facts: versions of their packages; once it runs, trained parameters of both
      sides (ours have words that fill the table up), and what was left out and
      why.
  """

  def __init__(self, directory: str):
    """Checks the checkout, and that torch runs where JAX does.

    Raises:
      ValueError: if something is missing.
    """
    versions = authors.check_checkout(directory)
    # JAX would take most of a GPU's memory at once, and torch needs some.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Before torch is imported: JAX needs its own cuDNN or a newer one, torch is
    # content with JAX's, and whoever comes first loads the one for both.
    backend = jax.default_backend()
    self._classes = authors.load_classes(directory)
    self._device = authors.check_device(backend)
    self._models: dict[float, RandomModel] = {}
    self.facts: dict[str, Any] = {
      "against": versions,
      "left_out": {},
      "num_parameters": {},
    }

  def run(
    self, size: str, seed: int, roofline: Roofline, seconds: float
  ) -> Iterator[Row]:
    """Yields two rows or more for every task, theirs first.

    One for which memory does not suffice is left out.
    """
    del roofline
    letters, key = _SIZES[size], stream_key(seed, "benchmark")
    config = make_config(MODEL_SIZES[size]._replace(dtype="bfloat16"))
    config.model.remat = letters.remat
    theirs = authors.build_models(self._classes, config, self._device, seed)
    self._count("autoencoder", theirs.autoencoder, config.autoencoder)
    self._count("calm", theirs.calm, config.model)
    for name, task in self._tasks().items():
      try:
        yield from compare_calls(
          name, task(theirs, config, letters, key), seconds
        )
      except RuntimeError as error:
        if not _is_about_memory(error):
          raise
        self._leave_out(name, error)
      authors.release(self._device)

  def _tasks(self):
    return {
      "autoencoder step": self._autoencoder_step,
      "CALM step": self._calm_step,
      "energy loss and gradient": self._energy_loss,
      "evaluation": self._evaluation,
      f"generation, T = {_TEMPERATURE}": self._generation,
    }

  def _leave_out(self, name, error):
    reason = " ".join(str(error).split())[:200]
    self.facts["left_out"][name] = f"{type(error).__name__}: {reason}"

  def _count(self, name, theirs, ours):
    self.facts["num_parameters"][name] = {
      THEIRS: authors.num_parameters(theirs),
      OURS: sum(num_parameters(ours).values()),
    }

  def _random_model(self, config, key, agreement):
    """The same for all tasks that sample, and only once they do."""
    if agreement not in self._models:
      self._models[agreement] = random_model(config, key, agreement)
    return self._models[agreement]

  def _autoencoder_step(self, theirs, config, letters, key):
    num_rows, num_chunks = letters.autoencoder
    config = _resize(
      ExperimentConfig(model=config.autoencoder), num_rows, num_chunks
    )
    batch = random_batch(key, num_rows, num_chunks, config)
    return {
      THEIRS: authors.training_step(
        theirs.autoencoder, _flat(batch.tokens), self._device
      ),
      OURS: _step(config, None, batch),
    }

  def _calm_step(self, theirs, config, letters, key):
    config = _resize(config, *letters.calm)
    batch = random_batch(key, *letters.calm, config)
    autoencoder = _resize(
      ExperimentConfig(model=config.autoencoder), *letters.calm
    )
    frozen = Program(autoencoder, _mesh()).init().params
    return {
      THEIRS: authors.training_step(
        theirs.calm, _flat(batch.tokens), self._device
      ),
      OURS: _step(config, frozen, batch),
    }

  def _energy_loss(self, theirs, config, letters, key):
    head, size = config.model.head, config.model.latent_size
    shape = (letters.num_positions, size)
    keys = jax.random.split(key, 3)
    samples = jax.random.normal(keys[0], (shape[0], head.num_samples, shape[1]))
    mean, log_std = jax.random.normal(keys[1], shape), jnp.full(shape, -1.0)
    position_keys = jax.random.split(keys[2], shape[0])
    arrays = [np.asarray(it) for it in (samples, mean, log_std)]
    score_fn = theirs.calm.energy_score
    versions = {THEIRS: authors.energy_loss(score_fn, arrays, self._device)}
    name = f"{THEIRS}, torch.compile"
    compiled = authors.energy_loss(
      authors.compiled(score_fn), arrays, self._device
    )
    try:
      compiled.call()
      versions[name] = compiled
    except RuntimeError as error:  # there is no compiler, or it gives up
      self._leave_out(name, error)

    def total(samples, mean, log_std, keys):
      loss, _ = energy_loss(
        samples, mean, log_std, keys, num_targets=head.num_targets
      )
      return jnp.sum(loss)

    versions[OURS] = compile_version(
      jax.value_and_grad(total), samples, mean, log_std, position_keys
    )
    return versions

  def _evaluation(self, theirs, config, letters, key):
    """Theirs draws N samples for the loss and decodes two for Brier scores."""
    num_rows, num_chunks = letters.evaluation
    config = _resize(config, num_rows, num_chunks)
    batch = random_batch(key, num_rows, num_chunks, config)
    chunk_size = config.model.chunk_size
    positions = select_positions(
      "paper", row_length=config.data.row_length, chunk_size=chunk_size
    )
    versions = {
      THEIRS: authors.evaluation(
        theirs.calm,
        _flat(batch.tokens),
        num_rows * (num_chunks - 1) * chunk_size,
        self._device,
      )
    }
    for num_samples, agreement in itertools.product(
      (2, config.model.head.num_samples), _AGREEMENTS
    ):
      name = f"{OURS}, {num_samples} samples of each, {_percent(agreement)}"
      model = self._random_model(config, key, agreement)
      versions[name] = Version(
        functools.partial(
          prediction_columns,
          model.sampler_fn,
          model.params,
          [batch],
          PredictionSettings(num_samples=num_samples),
        ),
        num_tokens=num_rows * len(positions.chunk_ids) * chunk_size,
      )
    return versions

  def _generation(self, theirs, config, letters, key):
    num_rows, num_prompt, num_new = letters.generation
    tokens = random_batch(key, num_rows, num_prompt, config).tokens
    num_tokens = math.prod((num_rows, num_new, config.model.chunk_size))
    prompts = Prompts(tokens, np.full(num_rows, num_prompt, np.int32))
    versions = {
      THEIRS: authors.generation(
        theirs.calm,
        _flat(tokens),
        num_new * config.model.chunk_size,
        _TEMPERATURE,
        self._device,
      )
    }
    for agreement, method in itertools.product(
      _AGREEMENTS, ("batch", "hybrid")
    ):
      settings = TemperatureSettings(
        temperature=_TEMPERATURE,
        method=method,
        num_candidates=_NUM_CANDIDATES,
      )
      versions[f"{OURS}, {method}, {_percent(agreement)}"] = Version(
        functools.partial(
          generate,
          self._random_model(config, key, agreement),
          prompts,
          settings,
          num_chunks=num_new,
          seed=0,
        ),
        num_tokens=num_tokens,
      )
    return versions


def _percent(agreement: float) -> str:
  return f"{100 * agreement:.0f} % of pairs agree"


def _is_about_memory(error: RuntimeError) -> bool:
  text = str(error)  # XLA's, then torch's
  return "RESOURCE_EXHAUSTED" in text or "out of memory" in text


def _resize(config, num_rows, num_chunks) -> ExperimentConfig:
  row_length = num_chunks * config.model.chunk_size
  data = DataConfig(batch_size=num_rows, row_length=row_length)
  return dataclasses.replace(config, data=data)


def _mesh():
  return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def _step(config, frozen, batch) -> Version:
  return step_version(Program(config, _mesh()), frozen, jax.device_put(batch))


def _flat(tokens: np.ndarray) -> np.ndarray:
  """[B, L, K] → [B, L·K]."""
  return tokens.reshape(len(tokens), -1)
