"""Configs as JSON: strict reading, and where two of them differ.

A field that is missing is an error, unless its class was given it later: then
it has the value that its absence meant (`calm_jax.config.added`). So what any
earlier version wrote stays readable, and nothing else is guessed.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from etils import epath

from calm_jax import json_files
from calm_jax.config import FORMAT_VERSION, absent_values

_Config = TypeVar("_Config")


def to_dict(config: Any, *, with_absent: bool = True) -> dict[str, Any]:
  """Turns a config into what JSON can hold.

  Args:
    config: a dataclass of `calm_jax.config`. Where its field may hold one of
      several kinds, the `kind` of the one it holds is stored beside its fields.
    with_absent: False leaves out what reading would fill in again, so that a
      config is the same before and after its class is given a field.

  Returns:
    Nested dict of numbers, strings, lists and None.
  """
  hints = typing.get_type_hints(type(config))
  absent = {} if with_absent else absent_values(type(config))
  encoded = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name not in absent or value != absent[field.name]:
      encoded[field.name] = _encode(value, hints[field.name], with_absent)
  return encoded


def from_dict(
  kind: type[_Config], values: dict[str, Any], prefix: str = ""
) -> _Config:
  """Builds a config from what `to_dict` gave.

  Args:
    kind: the dataclass to build.
    values: every field of it that it has had from the start, any of those
      `added` later, and no other.
    prefix: dotted name of the config itself, for messages.

  Returns:
    The config; its own checks have run.

  Raises:
    ValueError: naming the dotted field that is unknown, missing or of the
      wrong type.
  """
  name = prefix or "the config"
  if not isinstance(values, dict):
    raise ValueError(f"{name} is {values!r}; a group of fields was expected.")
  hints = typing.get_type_hints(kind)
  fields = [field.name for field in dataclasses.fields(kind)]
  for field in values:
    if field not in fields:
      raise ValueError(
        f"{_join(prefix, field)} is not a field of {kind.__name__}; it has"
        f" {', '.join(fields)}."
      )
  decoded = absent_values(kind)
  for field in fields:
    if field in values:
      decoded[field] = _decode(
        values[field], hints[field], _join(prefix, field)
      )
    elif field not in decoded:
      raise ValueError(
        f"{_join(prefix, field)} is missing; {kind.__name__} needs it."
      )
  try:
    return kind(**decoded)
  except ValueError as error:
    raise ValueError(f"{prefix}: {error}" if prefix else str(error)) from None


def check_types(config: _Config) -> _Config:
  """Builds a config anew and raises ValueError where a field's type is wrong.

  Flags set fields without looking at their types; this is the boundary where
  `--config.num_steps=ten` becomes one line.
  """
  return from_dict(type(config), to_dict(config))


def differences(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
  """Compares two configs field by field.

  Args:
    first: any config.
    second: another, of the same class.

  Returns:
    Both values of every field that differs, by dotted name. A config that is
    of another kind, or absent in one of the two, counts as one field.
  """
  return _differences(to_dict(first), to_dict(second), "")


def check_names(config: Any, names: Iterable[str], what: str) -> None:
  """Raises ValueError, beginning with `what`, for a name of no field."""
  known = list(_field_names(to_dict(config), ""))
  for name in names:
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f"; did you mean {near[0]}?" if near else "."
      raise ValueError(f"{what}: the config has no field {name}{hint}")


def write(path: epath.PathLike, config: Any, **beside: Any) -> None:
  """Writes a config with its format version; nobody sees half of a file.

  Args:
    path: the file.
    config: a dataclass of `calm_jax.config`.
    **beside: what else is kept in the file, for JSON: `history`, what was
      changed in the config; `origins`, the runs that a run started from;
      `last_step`, where its data ended. What is None is left out.
  """
  content = {"format_version": FORMAT_VERSION, "config": to_dict(config)}
  content |= {name: it for name, it in beside.items() if it is not None}
  json_files.write_json(path, content)


def read_beside(path: epath.PathLike, name: str) -> Any:
  """What `write` kept of that name; None if it is not there."""
  return json_files.read_json(path).get(name)


def read(path: epath.PathLike, kind: type[_Config]) -> _Config:
  """Reads what `write` wrote.

  Args:
    path: the file.
    kind: the class of the config in it.

  Returns:
    The config.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is no JSON, of another format version, or does not fit.
  """
  content = json_files.read_json(path)
  version = content.get("format_version")
  if version != FORMAT_VERSION:
    raise ValueError(
      f"{path} has format_version {version!r}; this version of calm_jax reads"
      f" {FORMAT_VERSION}."
    )
  try:
    return from_dict(kind, content.get("config"))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def _encode(value: Any, hint: Any, with_absent: bool) -> Any:
  if dataclasses.is_dataclass(value):
    encoded = to_dict(value, with_absent=with_absent)
    if _kinds(hint) is not None:
      encoded = {"kind": getattr(value, "kind", None), **encoded}
    return encoded
  if isinstance(value, tuple | list):
    items = (typing.get_args(hint) or (Any,))[0]
    return [_encode(item, items, with_absent) for item in value]
  return value


def _decode(value: Any, hint: Any, name: str) -> Any:
  """Checks one value against the annotation of its field."""
  choices = _choices(hint)
  config = next(filter(dataclasses.is_dataclass, choices), None)
  if value is None and type(None) in choices:
    return None
  if config and isinstance(value, dict):
    if (kinds := _kinds(hint)) is not None:
      value = dict(value)
      chosen = value.pop("kind", None)
      if chosen not in kinds:
        raise ValueError(
          f"{_join(name, 'kind')} is {chosen!r}; choose one of"
          f" {', '.join(kinds)}."
        )
      config = kinds[chosen]
    return from_dict(config, value, name)
  if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
    items = typing.get_args(hint)[0]
    return tuple(
      _decode(item, items, f"{name}[{i}]") for i, item in enumerate(value)
    )
  if float in choices and type(value) is int:
    return float(value)
  if type(value) in choices:
    return value
  words = [getattr(choice, "__name__", str(choice)) for choice in choices]
  wanted = " or ".join(words).replace("NoneType", "null")
  raise ValueError(f"{name} is {value!r}; it should be of type {wanted}.")


def _choices(kind: Any) -> tuple[Any, ...]:
  """The members of a union, or the one class itself."""
  if isinstance(kind, types.UnionType) or typing.get_origin(kind) is (
    typing.Union
  ):
    return typing.get_args(kind)
  return (kind,)


def _kinds(hint: Any) -> dict[str, type] | None:
  """The table of what a field may hold, if it names the base of several."""
  for choice in _choices(hint):
    if dataclasses.is_dataclass(choice) and "kinds" in vars(choice):
      return choice.kinds
  return None


def _join(prefix: str, name: str) -> str:
  return f"{prefix}.{name}" if prefix else name


def _field_names(values: dict[str, Any], prefix: str) -> Iterator[str]:
  for name, value in values.items():
    yield _join(prefix, name)
    if isinstance(value, dict):
      yield from _field_names(value, _join(prefix, name))


def _differences(
  first: Any, second: Any, name: str
) -> dict[str, tuple[Any, Any]]:
  if isinstance(first, dict) and isinstance(second, dict):
    if first.keys() == second.keys() and (
      first.get("kind") == second.get("kind")
    ):
      found = {}
      for key in first:
        found |= _differences(first[key], second[key], _join(name, key))
      return found
    if "kind" in first:
      first, second = first["kind"], second["kind"]
  return {} if first == second else {name: (first, second)}
