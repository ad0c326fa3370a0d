"""CALM in JAX: continuous autoregressive language models."""

from calm_jax.version import __version__

__all__ = ["__version__"]
