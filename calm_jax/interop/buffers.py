"""Tensors of a checkpoint that are no parameters: they follow from its config.

Older versions of transformers save them with the weights. They are compared
with the config and left out.
"""

import numpy as np

from calm_jax.config import BackboneConfig, ModelConfig
from calm_jax.interop.safetensors_file import DTYPES
from calm_jax.interop.weights import Weights

_FREQUENCIES = "rotary_emb.inv_freq"
_POSITIONS = "position_ids"
# max|a−b|/b of what was rounded to a dtype, and the least number it has.
_ROUNDING = {"F32": (1e-5, 0.0), "F16": (2e-3, 1e-7), "BF16": (1e-2, 0.0)}


def find_buffers(weights: Weights, config: ModelConfig) -> set[str]:
  """Names of the tensors that say again what the config says.

  Args:
    weights: the tensors.
    config: of the model.

  Returns:
    The names.

  Raises:
    ValueError: if one says something else.
  """
  found = set()
  for name in weights.names:
    last = name.rpartition(".")[2]
    if f".{name}".endswith(f".{_FREQUENCIES}"):
      if isinstance(config, BackboneConfig) and weights.dtype(name) in DTYPES:
        _check_frequencies(weights, name, config)
        found.add(name)
    elif last == _POSITIONS and weights.dtype(name) in ("I32", "I64"):
      _check_positions(weights, name)
      found.add(name)
  return found


def _check_frequencies(
  weights: Weights, name: str, config: BackboneConfig
) -> None:
  """θ^(−2i/d) for each pair i of the d numbers of a head."""
  half = config.head_size // 2
  expected = config.rope_theta ** (-np.arange(half) / half)
  found = weights.read(name).reshape(-1).astype(np.float64)
  relative, absolute = _ROUNDING[weights.dtype(name)]
  if found.shape == (half,) and np.allclose(
    found, expected, rtol=relative, atol=absolute
  ):
    return
  said = f"{len(found)} frequencies"
  if found.shape == (half,) and half > 1 and found[1] > 0:
    said = f"the frequencies of rope_theta {found[1] ** -half:.6g}"
  raise ValueError(
    f"tensor {name} in {weights.directory} holds {said}, and config.json has"
    f" rope_theta {config.rope_theta:.6g} and heads of {config.head_size}; one"
    " of the two belongs to another model."
  )


def _check_positions(weights: Weights, name: str) -> None:
  found = weights.read(name).reshape(-1)
  if not np.array_equal(found, np.arange(len(found))):
    raise ValueError(
      f"tensor {name} in {weights.directory} holds other numbers than 0, 1, 2,"
      " …; models of this package know no other positions."
    )
