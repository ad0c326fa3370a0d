"""A model of latents whose every probability is known."""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import randomness
from calm_jax.autoencoder import Posterior
from tests.evaluation.tabular import VOCABULARY, Tabular


class TabularLatents(Tabular):
  """`Tabular` with an atom and its noise for every chunk.

  A latent is the atom's mean with the noise of its posterior, and decodes to
  the nearest atom's chunk. Small `concentration` makes next chunks sure.
  """

  alpha = 1.0

  def __init__(
    self, chunk_size=3, *, latent_size=96, concentration=0.1, std=0.3, seed=0
  ):
    super().__init__(chunk_size, seed=seed)
    num_chunks = len(self.chunks)
    generator = np.random.default_rng(seed)
    even = np.full(num_chunks, concentration)
    table = generator.dirichlet(even, len(self.table))
    self.table = np.maximum(table, 1e-6)
    self.table /= self.table.sum(axis=-1, keepdims=True)
    shape = (num_chunks, latent_size)
    self.means = generator.normal(size=shape).astype(np.float32)
    stds = std * np.exp(0.3 * generator.normal(size=shape))
    self.log_stds = np.log(stds).astype(np.float32)

  def hidden(self, tokens, segment_ids):
    return self.read(tokens, segment_ids)[0]

  def draw_latents(self, hidden, keys, sample_ids):
    keys = randomness.sample_keys(keys, sample_ids)
    edges = jnp.cumsum(jnp.exp(hidden), axis=-1)[..., None, :-1]
    uniform = jax.vmap(jax.random.uniform)(keys.reshape(-1))
    chosen = jnp.sum(uniform.reshape(keys.shape)[..., None] > edges, axis=-1)
    draw = lambda key: jax.random.normal(key, (self.means.shape[1],))
    apart = randomness.draw(lambda key: jax.random.fold_in(key, 1), keys)
    noise = randomness.draw(draw, apart)
    return jnp.asarray(self.means)[chosen] + noise * jnp.exp(
      jnp.asarray(self.log_stds)[chosen]
    )

  def decode(self, latents):
    means = jnp.asarray(self.means)
    squares = jnp.sum(jnp.square(means), axis=-1)
    near = jnp.einsum("...z,cz->...c", latents, means) - jnp.broadcast_to(
      squares / 2, (*latents.shape[:-1], len(squares))
    )
    return jnp.asarray(self.chunks)[jnp.argmax(near, axis=-1)]

  def decoder_nats(self, latents, tokens):
    return jnp.where(self.decode(latents) == tokens, 0.0, 20.0)

  def encode(self, tokens):
    index = self.index(tokens)
    means, log_stds = jnp.asarray(self.means), jnp.asarray(self.log_stds)
    return Posterior(means[index], log_stds[index])

  def index(self, tokens):
    index = 0
    for k in range(self.chunk_size):
      index = index * VOCABULARY + tokens[..., k]
    return index

  def log_probability(self, context, chunks):
    """log P of chunks [J, K] behind the ids of a context, exactly."""
    past, total = [0, 0, *context], 0.0
    for chunk in chunks:
      row = self.table[past[-2] * VOCABULARY + past[-1]]
      total += np.log(row[self.index(chunk)])
      past += [*chunk]
    return total
