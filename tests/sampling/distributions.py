"""Known distributions over chunks, and draws from them."""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import randomness


def zipf(num_atoms: int) -> np.ndarray:
  p = 1 / np.arange(1, num_atoms + 1)
  return p / p.sum()


KNOWN = {
  "uniform": np.full(50, 1 / 50),
  "zipf": zipf(50),
  "two": np.array([1.0, 1e-3]) / 1.001,
  "one": np.ones(1),
}
TEMPERATURES = (1.0, 0.9, 0.7, 0.5, 0.4, 1 / 3, 0.21)


def powered(p: np.ndarray, temperature: float) -> np.ndarray:
  """P_T, with 1/T taken as it stands."""
  q = p ** (1 / temperature)
  return q / q.sum()


def draw_chunks(
  p: np.ndarray, keys: jax.Array, sample_ids: jax.Array
) -> jax.Array:
  """Atoms of `p` written as chunks of two tokens, [R, n, 2]."""
  edges = jnp.asarray(np.cumsum(p)[:-1], jnp.float32)
  flat = randomness.sample_keys(keys, sample_ids).reshape(-1)
  uniform = jax.vmap(jax.random.uniform)(flat)
  atoms = jnp.searchsorted(edges, uniform, side="right", method="compare_all")
  atoms = atoms.reshape(len(keys), len(sample_ids)).astype(jnp.int32)
  return jnp.stack([atoms // 7, atoms % 7], axis=-1)


def atoms_of(chunks: jax.Array) -> np.ndarray:
  return np.asarray(chunks[..., 0] * 7 + chunks[..., 1])
