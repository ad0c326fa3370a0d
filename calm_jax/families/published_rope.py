"""The base of the rotary positions, under any of its names."""

from collections.abc import Mapping
from typing import Any

from calm_jax.families.published_fields import is_same, show

FIELDS = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})
DEFAULT = 10_000.0
_MAX = 3e38  # above it float32, in which positions are computed, has none
# What a group may say besides its type and base without changing anything.
_NEUTRAL = {"factor": 1.0, "partial_rotary_factor": 1.0}


def read_rope_theta(values: Mapping[str, Any]) -> float:
  """θ, from `rope_theta`, or `rope_parameters` or `rope_scaling` around it.

  transformers 4 writes the first, with `rope_scaling` beside it; in version 5
  it is inside `rope_parameters`.

  Args:
    values: of a `config.json`.

  Returns:
    θ; Llama's if none is given.

  Raises:
    ValueError: if positions are scaled, or two places contradict each other.
  """
  found = {}
  if values.get("rope_theta") is not None:
    found["rope_theta"] = _number("rope_theta", values["rope_theta"])
  for name in ("rope_parameters", "rope_scaling"):
    group = values.get(name)
    if group is None:
      continue
    _check_group(name, group)
    if "rope_theta" in group:
      place = f"{name}.rope_theta"
      found[place] = _number(place, group["rope_theta"])
  if len(set(found.values())) > 1:
    written = " and ".join(f"{name} {value}" for name, value in found.items())
    raise ValueError(
      f"config.json has {written}, which contradict each other; remove the"
      " wrong one."
    )
  return next(iter(found.values()), DEFAULT)


def _check_group(name: str, group: Any) -> None:
  if not isinstance(group, Mapping):
    raise ValueError(
      f"config.json has {name} {show(group)}; an object was expected."
    )
  for key in ("rope_type", "type"):
    if group.get(key, "default") != "default":
      raise ValueError(
        f"config.json has {name} of type {show(group[key])}; only 'default',"
        " positions that are not scaled, can be read."
      )
  for key, value in group.items():
    if key in ("rope_type", "type", "rope_theta"):
      continue
    if key not in _NEUTRAL or not is_same(value, _NEUTRAL[key]):
      raise ValueError(
        f"config.json has {name} with {show(key)} {show(value)}; only"
        " positions that are not scaled can be read."
      )


def _number(place: str, value: Any) -> float:
  if type(value) not in (int, float):
    raise ValueError(
      f"config.json has {place} {show(value)}; it should be of type float."
    )
  if not 0 < value < _MAX:  # also False of a NaN
    raise ValueError(
      f"config.json has {place} {show(value)}; it should be above 0, and a"
      " number of float32."
    )
  return float(value)
