"""What every head is and returns."""

from typing import NamedTuple

import jax
from flax import linen as nn

from calm_jax.config import HeadConfig


class HeadLoss(NamedTuple):
  """A head's loss at each position, and what is worth logging beside it."""

  loss: jax.Array  # [B, L] float32
  metrics: dict[str, jax.Array]  # [B, L] float32 each, without gradient
  # [B, L, N, Z] float32, what the loss compared, of heads that draw some
  samples: jax.Array | None = None


class Head(nn.Module):
  """A hidden state to a distribution over the next latent.

  A head is one file with one subclass, its settings in `config/heads.py`, and
  one line in `HEADS`. Parameters are float32, products are taken in `dtype`,
  and what leaves the head is float32.

  Randomness: a draw is a function of its position's key and of its own number
  alone. `randomness.sample_keys` folds the numbers of samples into the keys;
  they are below 2³¹, so a head that draws something else at a position folds in
  numbers from there on.
  """

  config: HeadConfig
  hidden_size: int  # D
  latent_size: int  # Z
  dtype: str = "float32"
  init_std: float = 0.02  # of Linear parameters

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """The loss of each position against the posterior it should predict.

    All L positions are computed, and the last has no target of its own: what
    stands there is any posterior, its loss is finite, and the caller drops it.

    Args:
      hidden: [B, L, D].
      mean: [B, L, Z] float32, of the chunk after each; no gradient.
      log_std: [B, L, Z] float32; no gradient.
      keys: [B, L] typed keys.

    Returns:
      Loss and metrics, [B, L] float32 each, and the `num_samples` samples that
      were drawn, if the settings say `samples_in_training`.
    """
    raise NotImplementedError

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Draws latents of the next chunk.

    Args:
      hidden: [..., D].
      keys: [...] typed keys of the positions.
      sample_ids: [n] uint32; a draw depends on its key and its id alone.
      noise_scale: factor on all noise that is drawn; 1 is the model itself, and
        at 0 every draw is the same.

    Returns:
      [..., n, Z] float32.
    """
    raise NotImplementedError

  @property
  def alpha(self) -> float:
    """The exponent of the energy score that held-out text is scored with."""
    return 1.0

  @property
  def elementwise_flops(self) -> float:
    """What the loss of one position computes beside matrix products."""
    return 0.0

  @property
  def num_evaluations(self) -> int:
    """Of the network, for one draw."""
    return 1

  @property
  def published_products(self) -> int | None:
    """Multiply-adds of an evaluation as the paper counts; None: it does not."""
    return None
