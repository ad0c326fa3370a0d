"""The suite of kernels: energy score, vocabulary and attention."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.timing import Roofline, Row, Work, compare
from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  VocabularyConfig,
)
from calm_jax.data.batch import Batch
from calm_jax.families import build_model, family_of, param_shapes
from calm_jax.layers.attention import causal_attention
from calm_jax.losses import energy, vocabulary
from calm_jax.randomness import stream_key


class _Size(NamedTuple):
  """Letters of the specification; the authors' where a device can bear them."""

  num_positions: int  # of the energy score
  num_samples: int  # N
  num_targets: int  # M
  latent_size: int  # Z
  num_tokens: int  # of the vocabulary
  vocab_size: int  # V
  hidden_size: int  # E
  num_candidates: int  # latents decoded for a choice by temperature
  num_chunks: int  # L, of attention
  dtype: str  # of hidden states


_SIZES = {
  "tiny": _Size(16, 2, 4, 8, 32, 256, 16, 4, 16, "float32"),
  "cpu": _Size(1024, 8, 100, 128, 2048, 128256, 512, 200, 512, "float32"),
  "accelerator": _Size(
    8192, 8, 100, 128, 16384, 128256, 512, 3200, 2048, "bfloat16"
  ),
}


def run(
  size: str, seed: int, roofline: Roofline, seconds: float
) -> Iterator[Row]:
  """Yields a row for every implementation of every task."""
  key = stream_key(seed, "benchmark")
  for task in (
    _energy,
    _vocabulary,
    _argmax,
    _autoencoder_step,
    _attention,
  ):
    for name, versions, arguments, work in task(_SIZES[size], key):
      yield from compare(name, versions, arguments, work, roofline, seconds)


def _implementations():
  """Pallas is emulated on CPU, which says nothing of its speed."""
  on_cpu = jax.default_backend() == "cpu"
  return ("reference", "xla") if on_cpu else ("reference", "xla", "pallas")


def _energy(size, key):
  """The loss alone and with its gradient; targets drawn in all versions."""
  keys = jax.random.split(key, 3)
  shape = (size.num_positions, size.latent_size)
  samples = jax.random.normal(
    keys[0], (size.num_positions, size.num_samples, size.latent_size)
  )
  mean = jax.random.normal(keys[1], shape)
  log_std = jnp.full(shape, -1.0)
  position_keys = jax.random.split(keys[2], size.num_positions)

  def drawn(samples, mean, log_std, keys):
    """The definition with the library's normals, one key for all of them."""
    noise = jax.random.normal(
      keys[0], (size.num_positions, size.num_targets, size.latent_size)
    )
    targets = mean[:, None] + jnp.exp(log_std)[:, None] * noise
    return jnp.sum(energy.energy_loss_from_targets(samples, targets)[0])

  def total(implementation, *inputs):
    loss, _ = energy.energy_loss(
      *inputs, num_targets=size.num_targets, implementation=implementation
    )
    return jnp.sum(loss)

  versions = {"jax.random + reference": drawn}
  for name in _implementations():
    versions[name] = functools.partial(total, name)
  # A normal costs half a hash (75) and half a transform (50), a distance 3 and
  # its gradient 3 more for each number.
  num_targets = size.num_positions * size.num_targets * size.latent_size
  for name, flops, wrap in (
    ("energy loss", 3, lambda f: f),
    ("energy loss and gradient", 6, jax.value_and_grad),
  ):
    work = Work(
      vector_flops=num_targets * (63 + size.num_samples * flops),
      num_bytes=2 * samples.nbytes + mean.nbytes + log_std.nbytes,
    )
    yield (
      name,
      {key: wrap(function) for key, function in versions.items()},
      (samples, mean, log_std, position_keys),
      work,
    )


def _vocabulary_inputs(size, key, num_positions):
  keys = jax.random.split(key, 3)
  config = VocabularyConfig(size=size.vocab_size, begin_id=0, end_id=1)
  hidden = jax.random.normal(keys[0], (num_positions, size.hidden_size))
  embedding = jax.random.normal(keys[1], (config.padded_size, size.hidden_size))
  labels = jax.random.randint(keys[2], (num_positions,), 0, size.vocab_size)
  scored = jnp.arange(config.padded_size) < size.vocab_size
  return hidden.astype(size.dtype), 0.02 * embedding, labels, scored


def _vocabulary(size, key):
  """Cross-entropy with both gradients."""
  inputs = _vocabulary_inputs(size, key, size.num_tokens)
  weights = jnp.ones(size.num_tokens)

  def each(implementation, hidden, embedding, labels, scored):
    nats = vocabulary.cross_entropy(
      hidden, embedding, labels, scored, implementation=implementation
    )
    return jnp.sum(weights * nats)

  def one_pass(hidden, embedding, labels, scored):
    return vocabulary.cross_entropy_sum(
      hidden, embedding, labels, scored, weights, implementation="xla"
    )[0]

  versions = {
    "reference": functools.partial(each, "reference"),
    "xla, blocks of words": functools.partial(each, "xla"),
    "xla, one pass": one_pass,
  }
  product = 2 * inputs[0].size * inputs[1].shape[0]
  work = Work(matmul_flops=3 * product, num_bytes=3 * inputs[1].nbytes)
  versions = {
    name: jax.value_and_grad(function, (0, 1))
    for name, function in versions.items()
  }
  yield "cross-entropy and gradient", versions, inputs, work


def _argmax(size, key):
  """The most likely token of every candidate."""
  hidden, embedding, _, scored = _vocabulary_inputs(
    size, key, size.num_candidates * 4
  )
  versions = {
    name: functools.partial(vocabulary.argmax, implementation=name)
    for name in ("reference", "xla")
  }
  product = 2 * hidden.size * embedding.shape[0]
  work = Work(matmul_flops=product, num_bytes=embedding.nbytes)
  yield "argmax", versions, (hidden, embedding, scored), work


def _autoencoder_step(size, key):
  """Objective and gradients of the autoencoder, without the optimizer."""
  num_chunks = size.num_tokens // 4
  vocabulary_config = VocabularyConfig(
    size=size.vocab_size, begin_id=0, end_id=1
  )
  versions = {}
  for name in ("reference", "xla"):
    model = AutoencoderConfig(
      vocabulary=vocabulary_config,
      hidden_size=size.hidden_size,
      ffn_size=5 * size.hidden_size // 2,
      latent_size=size.latent_size,
      dtype=size.dtype,
      vocabulary_implementation=name,
    )
    config = ExperimentConfig(model=model)
    objective = family_of(model).objective(config)

    def total(params, batch, objective=objective):
      return objective(params, None, batch, key)

    versions[name] = jax.value_and_grad(total, has_aux=True)
  params = _random_params(param_shapes(build_model(model)), key)
  shape = (1, num_chunks, 4)
  tokens = jax.random.randint(key, shape, 0, size.vocab_size)
  batch = Batch(
    tokens=tokens,
    token_mask=jnp.ones(shape, bool),
    segment_ids=jnp.zeros(shape[:2], jnp.int32),
    row_ids=jnp.zeros(1, jnp.uint32),
  )
  embedding_size = vocabulary_config.padded_size * size.hidden_size
  work = Work(
    matmul_flops=6 * size.num_tokens * embedding_size,
    num_bytes=2 * 4 * embedding_size,
  )
  yield "autoencoder step", versions, (params, batch), work


def _random_params(shapes, key):
  """Small random numbers in every array: speed does not ask for more."""
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(key, len(leaves))
  drawn = [
    0.02 * jax.random.normal(k, leaf.shape, leaf.dtype)
    for k, leaf in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, drawn)


def _attention(size, key):
  """Causal self-attention of one row with its gradient, 16 heads of 64."""
  shape = (1, size.num_chunks, 16, 64)
  inputs = [
    jax.random.normal(k, shape).astype(size.dtype)
    for k in jax.random.split(key, 3)
  ]

  def total(implementation, *inputs):
    out = causal_attention(*inputs, implementation=implementation)
    return jnp.sum(out.astype(jnp.float32))

  # Splash attention on TPU, cuDNN on GPU; on CPU it is the reference.
  accelerated = () if jax.default_backend() == "cpu" else ("auto",)
  versions = {
    name: jax.value_and_grad(functools.partial(total, name), (0, 1, 2))
    for name in ("reference", "xla", *accelerated)
  }
  # Two products forward and five backward, half of each being masked.
  product = 2 * size.num_chunks * inputs[0].size
  work = Work(matmul_flops=7 * product / 2, num_bytes=6 * inputs[0].nbytes)
  yield "attention and gradient", versions, tuple(inputs), work
