"""What is wrong with a command line, in its user's words.

absl and ml_collections speak of their own classes and of Python's conversions;
this turns what they raise into the flag, what it takes and where to look.
"""

import dataclasses
import os
import re
from typing import Any

from absl import flags

from calm_jax import config

_KINDS = (
  ("invalid literal for int", "a whole number"),
  ("could not convert string to float", "a number"),
  ("Non-boolean argument", "true or false"),
)


def check_config(value: Any, arguments: list[str]) -> None:
  """Raises ValueError or OSError unless --config gave an experiment."""
  if problem := _about_sources(arguments):
    raise ValueError(problem)
  path = _config_path(arguments)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"there is no config file {path!r}; name one, such as"
      " --config=experiments/calm.py:tiny."
    )
  # What ml_collections gives in place of a config whose reading failed.
  if isinstance(error := getattr(value, "__dict__", {}).get("_error"), OSError):
    raise error
  if not isinstance(value, config.ExperimentConfig):
    raise ValueError(
      f"the get_config() in {path} gives {type(value).__name__}; it should give"
      " an ExperimentConfig of calm_jax.config."
    )


def explain(error: Exception, arguments: list[str]) -> str:
  """One sentence about what flag parsing raised.

  Args:
    error: of absl, ml_collections or an experiment file.
    arguments: the command line.

  Returns:
    The flag or field, what was expected and what to do.
  """
  text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
  if "tuple indices" in text and (problem := _about_sources(arguments)):
    return problem
  if "'config." in text and not _config_path(arguments):
    return (
      "--config is missing, the experiment whose fields are flags; such as"
      " --config=experiments/calm.py:tiny."
    )
  if "in argv before a value for --config" in text:
    return "give --config before the flags of its fields."
  missing = re.findall(r"Flag --(\w+) must have a value", text)
  if missing:
    names = " and ".join(f"--{name}" for name in missing)
    verb = "are" if len(missing) > 1 else "is"
    return f"{names} {verb} missing; --help says what to give."
  for words, kind in _KINDS:
    if words in text and (flag := re.match(r"flag (--[^:]*):", text)):
      return f"{flag[1]} is not {kind}."
  if text.startswith("Unknown command line flag"):
    text = text.replace(" ?", "?")
    return f"{text}{'' if text[-1] in '?.' else '.'} --help lists the flags."
  field = re.match(r"Field (\w+) not found on dataclass <class '(.+)'>", text)
  if field:
    return _unknown_field(field[2], field[1])
  field = re.match(r"Attribute <class '(.+)'>\.(\w+) does not exist", text)
  if field:
    return _unknown_field(field[1], field[2])
  if "config.vocabulary.VocabularyConfig" in text:
    return "the vocabulary cannot be set: it comes from the data."
  if re.search(r"as instance of <class 'calm_jax\.config\.", text):
    return (
      "a part of the config that can be of several kinds is no flag; name its"
      " kind after the experiment, as in"
      " --config=experiments/calm.py:tiny,head=flow, and its fields as flags."
    )
  field = re.match(r'Flag (\S+) can not be applied because field "(\w+)"', text)
  if field:
    return (
      f"--config.{field[1]} cannot be set: {field[2]} is not in the experiment,"
      " but comes from the data or the autoencoder; leave the flag out."
    )
  if "Error whilst parsing config file" in text:  # with a whole traceback
    last = text.strip().splitlines()[-1]
    return f"{_config_path(arguments)}: {last.removeprefix('ValueError: ')}"
  if isinstance(error, ValueError | flags.Error):
    return text
  path = _config_path(arguments)
  if not os.path.exists(path):
    return f"there is no config file {path!r}; look at what --config says."
  text = text.replace("module 'config_config'", "it")
  return f"the config {path} cannot be read ({type(error).__name__}: {text})."


def _unknown_field(kind: str, field: str) -> str:
  module, _, name = kind.rpartition(".")
  if not f"{module}.".startswith(f"{config.__name__}."):
    return (
      f"the config has no field {field!r}, because its get_config() gives"
      f" {name}; it should give an ExperimentConfig of calm_jax.config."
    )
  fields = [item.name for item in dataclasses.fields(getattr(config, name))]
  return (
    f"{field!r} is not a field of {name}; it has"
    f" {', '.join(fields) or 'no fields'}."
  )


def _about_sources(arguments: list[str]) -> str:
  """Several data sets are a list, and no flag; empty if none is tried."""
  if not any(re.match(r"--?config\.data\.sources[.=]", it) for it in arguments):
    return ""
  return (
    "data.sources, several prepared directories, is no flag; write it in an"
    " experiment file, or give one directory as --config.data.path."
  )


def _config_path(arguments: list[str]) -> str:
  """The file of the last --config, without its argument."""
  path = ""
  for i, argument in enumerate(arguments):
    if re.fullmatch(r"--?config", argument):
      path = "".join(arguments[i + 1 : i + 2])
    elif found := re.match(r"--?config=(.*)", argument):
      path = found[1]
  return path.partition(":")[0]
