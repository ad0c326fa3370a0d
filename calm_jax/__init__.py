"""CALM in JAX: continuous autoregressive language models."""

from typing import TYPE_CHECKING, Any

from calm_jax.version import __version__

if TYPE_CHECKING:
  from calm_jax.api import TextModel, load

__all__ = ["TextModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
  # Read on first use: importing the package takes no JAX and no device.
  if name not in ("TextModel", "load"):
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from calm_jax import api

  return getattr(api, name)
