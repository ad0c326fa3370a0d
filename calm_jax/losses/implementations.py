"""The names of the ways to compute the same loss."""

from calm_jax.config import IMPLEMENTATIONS


def is_reference(implementation: str) -> bool:
  """Whether the definition was asked for, and not a fast version of it.

  Raises:
    ValueError: if there is no such implementation.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"implementation is {implementation!r}; choose one of"
      f" {', '.join(IMPLEMENTATIONS)}."
    )
  return implementation == "reference"
