"""Parameters and FLOPs of a model, counted from its own program.

Nothing is written down again: parameters are the sizes of the tree, and FLOPs
those of the matrix products of the traced functions, with the plain versions of
attention, vocabulary and scores and nothing computed again. So a kind of model
that nobody has heard of is counted as exactly as the paper's.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from calm_jax.config import AutoencoderConfig, ModelConfig
from calm_jax.families.family import Work
from calm_jax.families.matrix_flops import matrix_flops
from calm_jax.families.table import build_model, family_of, param_shapes

_PLAIN = {
  "attention_implementation": "reference",
  "vocabulary_implementation": "reference",
  "implementation": "reference",
  "remat": "none",
}


def num_parameters(model: ModelConfig) -> dict[str, int]:
  """Trained parameters by part of the tree, tables of input ids apart.

  A next-vector model's frozen autoencoder is not among them.

  Args:
    model: a resolved config.

  Returns:
    Counts: embedding, encoder, decoder | embedding, chunk_embed, backbone, head
    | embedding, backbone, output, in the paper's families; and auxiliary, where
    a next-vector model is trained with that loss.
  """
  counts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes(model)):
    names = [part.key for part in path]
    is_table = names[-2:] == ["embedding", "embedding"]
    part = "embedding" if is_table else names[0]
    counts[part] = counts.get(part, 0) + leaf.size
  return counts


@functools.lru_cache(maxsize=512)
def training_flops_per_token(
  model: ModelConfig,
  autoencoder: AutoencoderConfig | None,
  num_positions: int,
) -> dict[str, float]:
  """FLOPs of one training token: three forward passes of what is trained.

  Of what is frozen there is one, or two where the gradient passes through.

  Args:
    model: resolved.
    autoencoder: the frozen one; None leaves out its forward pass.
    num_positions: P, chunks of a row, over which attention runs.

  Returns:
    FLOPs by part; "attention" is what grows with P, "loss" what is elementwise.
  """
  family, model = family_of(model), _plain(model)
  work = lambda p: family.training_work(model, autoencoder, p)
  num_passes = {name: it.num_passes for name, it in work(1).items()}
  return {
    name: num_passes.get(name, 3) * flops
    for name, flops in _per_token(model, work, num_positions).items()
  }


@functools.lru_cache(maxsize=512)
def generation_flops_per_token(
  model: ModelConfig,
  autoencoder: AutoencoderConfig | None,
  num_positions: int,
  num_draws: int,
) -> dict[str, float]:
  """FLOPs of one generated token, with a cache.

  Args:
    model: resolved.
    autoencoder: the one that decodes, of models that need it.
    num_positions: P, chunks attended to.
    num_draws: latents drawn and decoded for each chunk.

  Returns:
    FLOPs by part.
  """
  family, model = family_of(model), _plain(model)
  work = lambda p: family.generation_work(model, autoencoder, p, num_draws)
  return _per_token(model, work, num_positions)


def check(
  model: ModelConfig,
  autoencoder: AutoencoderConfig | None,
  num_positions: int,
) -> None:
  """Raises whatever counting a model raises, if it can't be counted."""
  num_parameters(model)
  training_flops_per_token(model, autoencoder, num_positions)
  generation_flops_per_token(model, autoencoder, num_positions, 1)


def _per_token(
  model: ModelConfig,
  work_fn: Callable[[int], dict[str, Work]],
  num_positions: int,
) -> dict[str, float]:
  """By part; of the backbone, what grows with the positions stands apart."""
  num_tokens = num_positions * model.chunk_size
  work = work_fn(num_positions)
  found = {name: _flops(it) / num_tokens for name, it in work.items()}
  if "backbone" in found:
    # Without attention twice the row costs twice as much.
    one = _flops(work_fn(1)["backbone"])
    two = _flops(work_fn(2)["backbone"])
    attention = (two - 2 * one) / 2 * num_positions / model.chunk_size
    backbone = found.pop("backbone") - attention
    found = {"backbone": backbone, "attention": attention, **found}
  if elementwise := sum(it.elementwise_flops for it in work.values()):
    found["loss"] = elementwise / num_tokens
  return found


@functools.lru_cache(maxsize=512)
def _flops(work: Work) -> float:
  function = functools.partial(
    build_model(work.config).apply, method=work.method
  )
  variables = {"params": _shapes(work.config)}
  traced = jax.make_jaxpr(function)(variables, *work.arguments)
  return matrix_flops(traced)


@functools.lru_cache(maxsize=64)
def _shapes(config: ModelConfig) -> Any:
  return param_shapes(build_model(config))


def _plain(config: ModelConfig) -> ModelConfig:
  """The same model without any fast version, which hide their products."""
  changes = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name in _PLAIN:
      changes[field.name] = _PLAIN[field.name]
    elif dataclasses.is_dataclass(value):
      changes[field.name] = _plain(value)
  return dataclasses.replace(config, **changes)
