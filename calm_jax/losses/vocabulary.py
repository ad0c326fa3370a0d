"""Cross-entropy and argmax over the vocabulary's embedding."""

import chex
import jax
import jax.numpy as jnp

from calm_jax.kernels import per_shard, vocabulary, vocabulary_sum
from calm_jax.kernels.product import product
from calm_jax.losses.implementations import is_reference


def logits(hidden: jax.Array, embedding: jax.Array) -> jax.Array:
  """h · embeddingᵀ of every word, [..., E] and [Vp, E] → [..., Vp] float32."""
  places = "abcdfg"[: hidden.ndim - 1]
  return product(
    f"{places}e,ve->{places}v", hidden, embedding, result_dtype=jnp.float32
  )


def cross_entropy(
  hidden: jax.Array,
  embedding: jax.Array,
  labels: jax.Array,
  scored: jax.Array,
  *,
  implementation: str = "auto",
  block_mib: float | None = None,
) -> jax.Array:
  """−log softmax(hidden · embeddingᵀ)[label] over the scored words.

  Products are taken in the dtype of `hidden` and summed in float32; the softmax
  is float32. A label outside `scored` is legal where the caller gives the
  position no weight: its own logit is compared with the scored words', and the
  result is finite.

  Args:
    hidden: [..., E] float32 or bfloat16.
    embedding: [Vp, E].
    labels: [...] int32, below Vp.
    scored: [Vp] bool, the words in the denominator.
    implementation: reference | xla | pallas | auto. There is one fast version,
      in blocks of the vocabulary, which all but `reference` name.
    block_mib: of the float32 logits that it has at once, about, on a device;
      None: what suits the platform.

  Returns:
    [...] float32, nats; differentiable in `hidden` and `embedding`.
  """
  _check(hidden, embedding, scored)
  chex.assert_shape(labels, hidden.shape[:-1])
  if not is_reference(implementation):
    return vocabulary.cross_entropy(
      hidden, embedding, labels, scored, _num_bytes(block_mib)
    )
  found = logits(hidden, embedding)
  label_logits = jnp.take_along_axis(found, labels[..., None], axis=-1)
  found = jnp.where(_align(scored, found), found, -jnp.inf)
  return jax.nn.logsumexp(found, axis=-1) - label_logits[..., 0]


def cross_entropy_sum(
  hidden: jax.Array,
  embedding: jax.Array,
  labels: jax.Array,
  scored: jax.Array,
  weights: jax.Array,
  *,
  implementation: str = "auto",
  block_mib: float | None = None,
  partition: jax.sharding.PartitionSpec | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Σ weight · cross-entropy, faster to differentiate than the cross-entropy.

  The fast version computes the gradient with the value, because it knows the
  weights beforehand: three products instead of `cross_entropy`'s four.

  Args:
    hidden: [..., E] float32 or bfloat16.
    embedding: [Vp, E].
    labels: [...] int32, below Vp.
    scored: [Vp] bool, the words in the denominator.
    weights: [...], of the positions; no gradient. Where they are 0 the hidden
      vector may be anything, NaN included: it counts as 0.
    implementation: as `cross_entropy`.
    block_mib: likewise.
    partition: how the axes [...] lie on the mesh of `jax.set_mesh`, such as
      P(("data", "fsdp"), "sequence"): every device then visits its own
      positions. On a mesh of several devices without it, the version that
      splits over the vocabulary is taken.

  Returns:
    The sum, [] float32, differentiable in `hidden` and `embedding`, and the
    cross-entropy of each position, [...] float32, nats, without gradient.
  """
  _check(hidden, embedding, scored)
  chex.assert_shape([labels, weights], hidden.shape[:-1])
  # A slope of 0 is not enough: that of the embedding is a product with these.
  hidden = jnp.where(weights[..., None] == 0, 0, hidden)
  is_split = partition is None and per_shard.num_devices_unknown() > 1
  if not is_reference(implementation) and not is_split:
    return vocabulary_sum.cross_entropy_sum(
      hidden,
      embedding,
      labels,
      scored,
      weights,
      partition,
      _num_bytes(block_mib),
    )
  nats = cross_entropy(
    hidden,
    embedding,
    labels,
    scored,
    implementation=implementation,
    block_mib=block_mib,
  )
  weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
  total = vocabulary_sum.weighted_sum(weights, nats)
  return total, jax.lax.stop_gradient(nats)


def argmax(
  hidden: jax.Array,
  embedding: jax.Array,
  scored: jax.Array,
  *,
  implementation: str = "auto",
  block_mib: float | None = None,
) -> jax.Array:
  """The scored word of the largest logit; of equal ones, the first.

  NaN counts as the largest, as for `jnp.argmax`.

  Args:
    hidden: [..., E] float32 or bfloat16.
    embedding: [Vp, E].
    scored: [Vp] bool, the words that may win.
    implementation: as `cross_entropy`.
    block_mib: likewise.

  Returns:
    [...] int32.
  """
  _check(hidden, embedding, scored)
  if not is_reference(implementation):
    return vocabulary.argmax(hidden, embedding, scored, _num_bytes(block_mib))
  found = logits(hidden, embedding)
  # Above −∞, which is for words that must not win.
  found = jnp.maximum(found, jnp.finfo(found.dtype).min)
  found = jnp.where(_align(scored, found), found, -jnp.inf)
  return jnp.argmax(found, axis=-1).astype(jnp.int32)


def _num_bytes(mib: float | None) -> int | None:
  return None if mib is None else int(mib * 2**20)


def _align(scored: jax.Array, logits: jax.Array) -> jax.Array:
  return jnp.broadcast_to(scored, logits.shape)


def _check(hidden: jax.Array, embedding: jax.Array, scored: jax.Array) -> None:
  chex.assert_rank([embedding, scored], [2, 1])
  if hidden.shape[-1] != embedding.shape[1]:
    raise ValueError(
      f"hidden vectors have {hidden.shape[-1]} entries and embedding rows"
      f" {embedding.shape[1]}; the two must agree."
    )
  chex.assert_shape(scored, embedding.shape[:1])
