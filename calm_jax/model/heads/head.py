"""What every head returns."""

from typing import NamedTuple

import jax


class HeadLoss(NamedTuple):
  """A head's loss at each position, and what is worth logging beside it."""

  loss: jax.Array  # [B, L] float32
  metrics: dict[str, jax.Array]  # [B, L] float32 each, without gradient
