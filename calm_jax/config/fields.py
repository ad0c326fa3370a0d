"""What every config class is made with: its decorator, its fields, its checks.

Configs are written to disk and read back by later versions, so a field that a
class gains says what its absence meant until then: `added`.
"""

import dataclasses
import math
from typing import Any

DTYPES = ("float32", "bfloat16")
IMPLEMENTATIONS = ("reference", "xla", "pallas", "auto")
REMAT = ("none", "dots", "full")

# Mutable, because flags set fields one by one; hashed by value, because a
# config decides what a compiled program is.
config_class = dataclasses.dataclass(kw_only=True, unsafe_hash=True)

_ABSENT = "absent"
_IS_OF_MODEL = "is_of_model"


def added(default: Any, *, absent: Any, is_of_model: bool = True) -> Any:
  """A field that the class has not had from the start.

  Args:
    default: of new configs; of a config class, an instance that is copied.
    absent: what a file means that was written before the field was there.
    is_of_model: whether it says what a model computes. Such a field has no
      place in published checkpoints, so any other value than `absent` is
      refused there; False for what only changes speed or training.

  Returns:
    The field.
  """
  metadata = {_ABSENT: absent, _IS_OF_MODEL: is_of_model}
  if dataclasses.is_dataclass(default):
    return dataclasses.field(
      default_factory=lambda: rebuild(default), metadata=metadata
    )
  return dataclasses.field(default=default, metadata=metadata)


def absent_values(kind: type) -> dict[str, Any]:
  """What the absence of each added field of a class means, by name."""
  return {
    field.name: rebuild(field.metadata[_ABSENT])
    for field in dataclasses.fields(kind)
    if _ABSENT in field.metadata
  }


def news(config: Any, prefix: str = "") -> dict[str, Any]:
  """What a config says of its model that the first version could not say.

  Args:
    config: any config.
    prefix: dotted name of the config itself.

  Returns:
    Values by dotted name, of the fields `added` to it or to a part of it that
    hold something else than their absence means.
  """
  found = {}
  absent = absent_values(type(config))
  for field in dataclasses.fields(config):
    name = f"{prefix}{field.name}"
    value = getattr(config, field.name)
    if field.name not in absent:
      if dataclasses.is_dataclass(value):
        found |= news(value, f"{name}.")
    elif field.metadata[_IS_OF_MODEL] and value != absent[field.name]:
      found[name] = value
  return found


def rebuild(config: Any) -> Any:
  """Builds a config anew from its fields, so that its checks run again."""
  if dataclasses.is_dataclass(config):
    return type(config)(
      **{
        field.name: rebuild(getattr(config, field.name))
        for field in dataclasses.fields(config)
      }
    )
  if isinstance(config, tuple | list):
    return tuple(rebuild(item) for item in config)
  return config


def check_positive(config: Any, *names: str) -> None:
  for name in names:
    if not 0 < getattr(config, name) < math.inf:
      raise ValueError(f"{name} is {getattr(config, name)}; it is positive.")


def check_not_negative(config: Any, *names: str) -> None:
  for name in names:
    if not 0 <= getattr(config, name) < math.inf:
      raise ValueError(f"{name} is {getattr(config, name)}; it is 0 or more.")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
  if getattr(config, name) not in choices:
    raise ValueError(
      f"{name} is {getattr(config, name)!r}; choose one of"
      f" {', '.join(choices)}."
    )


def check_range(config: Any, name: str, low: float, high: float) -> None:
  if not low <= getattr(config, name) <= high:
    raise ValueError(
      f"{name} is {getattr(config, name)}; it lies between {low} and {high}."
    )


def check_divides(config: Any, part: str, whole: str) -> None:
  if getattr(config, whole) % getattr(config, part):
    raise ValueError(
      f"{whole} {getattr(config, whole)} is not a multiple of {part}"
      f" {getattr(config, part)}."
    )
