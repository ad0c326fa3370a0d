"""What the backward pass computes again instead of keeping it."""

from typing import Any

import jax
from flax import linen as nn

from calm_jax.kernels.splash_attention import SAVED_ATTENTION
from calm_jax.layers.linear import SAVED_PRODUCT

_named = jax.checkpoint_policies.save_only_these_names(
  SAVED_PRODUCT, SAVED_ATTENTION
)


def save_products(primitive: Any, *arguments: Any, **params: Any) -> Any:
  """A policy: keeps products of Linears and what attention kernels give."""
  if primitive.name.startswith("dot_product_attention_fwd"):  # of cuDNN
    return True
  return _named(primitive, *arguments, **params)


# By the names in configs, beside "none".
_POLICIES = {
  "dots": save_products,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(module: type[nn.Module], kind: str, **options: Any) -> Any:
  """The class of modules with its call computed again in the backward pass.

  Args:
    module: the class; what its call takes and gives is kept.
    kind: none, which gives the class itself; dots: the products of its Linears
      and what attention kernels give are kept, too; full: nothing else is.
    **options: of `nn.remat`.

  Returns:
    A class with the same parameters.
  """
  if kind == "none":
    return module
  return nn.remat(module, policy=_POLICIES[kind], **options)
