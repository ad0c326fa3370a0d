"""Next-vector model, its heads, and the token baseline."""

from calm_jax.model.backbone import Cache, empty_cache
from calm_jax.model.next_vector import NextVectorModel
from calm_jax.model.token_baseline import TokenModel

__all__ = ["Cache", "NextVectorModel", "TokenModel", "empty_cache"]
