"""How the samples of a chunk compare with the chunk that a text has there."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.evaluation.energy_scores import energy_scores
from calm_jax.kernels.counter import target_normals
from calm_jax.kernels.distance import Distance
from calm_jax.sampling.batch import count_chunks
from calm_jax.sampling.chunk_sampler import ChunkSampler

PARTIAL = ("marginal", "end")


class ChunkTerms(NamedTuple):
  """The J chunks of a candidate against S samples of each.

  Models with likelihoods have `is_top` and `log_probability`; other models have
  everything but the latter.
  """

  is_top: np.ndarray  # [J] bool, nothing is drawn more often (more probable)
  log_probability: np.ndarray | None = None  # [J] nats
  # ‖(x − mean) / std‖² of each sample from the chunk's posterior
  distances: np.ndarray | None = None  # [J, S]
  log_stds: np.ndarray | None = None  # [J, S], sum over the Z dimensions
  # −log of the decoder's probability of the chunk's tokens at the sample
  nats: np.ndarray | None = None  # [J, S]
  is_match: np.ndarray | None = None  # [J, S], the sample decodes to the chunk
  # Energy score of the first 1 … S samples; lower is better, NaN of one alone
  energy: np.ndarray | None = None  # [J, S]
  latent_size: int = 0  # Z


class TextTerms(NamedTuple):
  """The chunks of N candidates in a row, to be scored together."""

  chunks: ChunkTerms
  starts: np.ndarray  # [N], the first of each candidate


def joined(terms: Sequence[ChunkTerms]) -> TextTerms:
  """Puts the chunks of one candidate or more behind each other."""
  values = {
    name: np.concatenate([getattr(it, name) for it in terms])
    if np.ndim(first)
    else first
    for name, first in terms[0]._asdict().items()
  }
  starts = np.cumsum([0, *(len(it.is_top) for it in terms[:-1])])
  return TextTerms(ChunkTerms(**values), starts)


def compare(
  sampler: ChunkSampler,
  latents: jax.Array,
  tokens: jax.Array,
  num_real: jax.Array,
  target_keys: jax.Array,
  partial: str,
) -> dict[str, jax.Array]:
  """Compares samples with chunks, of which the last may be filled in part.

  With `marginal` the tokens behind the candidate's are left open: a sample is
  compared with the chunk that begins as the candidate does and goes on as the
  sample itself does. Of all ways to go on it is the one whose posterior the
  sample is near; that of any other is another atom, far away. The energy score
  compares each sample with how the *others* go on: its target is then what the
  candidate and the model together say of the chunk. The decoder's
  probabilities and the matches leave those tokens out.

  Args:
    sampler: the model.
    latents: [B, J, S, Z].
    tokens: [B, J, K] int32, end ids behind the candidate's.
    num_real: [B, J] int32, tokens of each chunk that are the candidate's; K but
      in its last chunk.
    target_keys: [B, J] typed keys, of the noise of the energy score's targets.
    partial: marginal, or end: end ids are compared like all others.

  Returns:
    The fields of `ChunkTerms` by name, with B in front.
  """
  chex.assert_rank([latents, tokens], [4, 3])
  num_rows, num_chunks, num_samples, latent_size = latents.shape
  drawn = sampler.decode(latents)  # [B, J, S, K]
  place = jnp.arange(tokens.shape[-1])[None, None]
  is_open = place >= num_real[..., None]  # [B, J, K]
  if partial == "end":
    is_open = jnp.zeros_like(is_open)
  is_open = is_open[:, :, None]
  texts = jnp.broadcast_to(tokens[:, :, None], drawn.shape)
  is_match = jnp.all((drawn == texts) | is_open, axis=-1)
  heads = jnp.where(is_open, 0, drawn)
  _, counts = count_chunks(heads.reshape(-1, *drawn.shape[2:]))
  top = jnp.max(counts, axis=-1).reshape(num_rows, num_chunks)
  num_matches = jnp.sum(is_match, axis=-1)
  nats = sampler.decoder_nats(latents, texts)
  posterior = sampler.encode(tokens)
  near = jax.tree.map(lambda x: x[:, :, None], posterior)
  if partial == "marginal":
    # One chunk of a candidate is filled in part, and it stands last; the places
    # behind it repeat it.
    last = jnp.argmax(is_open[:, :, 0, -1], axis=1)  # [B]
    rows = jnp.arange(num_rows)
    own = jnp.where(is_open, drawn, texts)[rows, last]  # [B, S, K]
    place = (jnp.arange(num_chunks)[None] == last[:, None])[..., None, None]
    place &= is_open[..., -1:]
    near = jax.tree.map(
      lambda x, own: jnp.where(place, own[:, None], x),
      near,
      sampler.encode(own),
    )
  noise = target_normals(target_keys, num_samples, latent_size)
  energy = energy_scores(
    latents,
    near.mean + jnp.exp(near.log_std) * noise,
    Distance("energy", sampler.alpha),
  )
  scaled = (latents - near.mean) * jnp.exp(-near.log_std)
  log_stds = jnp.sum(near.log_std, axis=-1)
  shape = (num_rows, num_chunks, num_samples)
  return {
    "is_top": (num_matches == top) & (top > 0),
    "distances": jnp.sum(jnp.square(scaled), axis=-1),
    "log_stds": jnp.broadcast_to(log_stds, shape),
    "nats": jnp.sum(jnp.where(is_open, 0.0, nats), axis=-1),
    "is_match": is_match,
    "energy": energy,
    "latent_size": jnp.full(num_rows, latent_size),
  }
