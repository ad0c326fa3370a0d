"""The part after the colon of `--config=file.py:tiny,head=energy`."""

from typing import Any


def parse_argument(argument: str | None, **defaults: Any) -> dict[str, Any]:
  """Reads the part after the colon of `--config=file.py:tiny,head=energy`.

  Args:
    argument: comma-separated; a word without `=` names the `size`.
    **defaults: the names that may be given, with their default values, whose
      types the given values take, or with a tuple of the words to choose from,
      the default first.

  Returns:
    The defaults, overridden.

  Raises:
    ValueError: for a name or a word that may not be given.
  """
  result = {
    name: value[0] if isinstance(value, tuple) else value
    for name, value in defaults.items()
  }
  for word in filter(None, (argument or "").split(",")):
    name, value = word.split("=", 1) if "=" in word else ("size", word)
    if name not in defaults:
      known = ", ".join(f"{key}={value}" for key, value in result.items())
      raise ValueError(
        f"config argument {word!r} is not known; this experiment takes {known}."
      )
    choices = defaults[name]
    if isinstance(choices, tuple) and value not in choices:
      raise ValueError(
        f"config argument {word!r}: {name} is one of {', '.join(choices)}."
      )
    kind = type(result[name])
    try:
      result[name] = kind(value)
    except ValueError:
      raise ValueError(
        f"config argument {word!r} should be of type {kind.__name__}."
      ) from None
  return result
