"""Valid command lines and files with something wrong in them, by seed."""

import random
from collections.abc import Callable, Sequence

# What people and scripts write in place of a number or a name.
_VALUES = (
  "",
  " ",
  "0",
  "-1",
  "1",
  "3",
  "7",
  "1.5",
  "1e3",
  "1e-30",
  "1e400",
  "nan",
  "inf",
  "None",
  "true",
  "[]",
  "{}",
  "0x10",
  "1_0",
  "١",
  "4294967296",
  "99999999999999999999",
  "a,b",
  "../x",
  "/",
  ".",
  "~none/x",
  "*",
  "[",
  "a b",
  "a\nb",
  "é😀",
  "\udcff",
  "%s{x}",
  "-",
  "--help",
)
_NAMES = "abcdefghijklmnopqrstuvwxyz_-.= 0"


def mutate_arguments(arguments: Sequence[str], rng: random.Random) -> list[str]:
  """One change of a command line."""
  found = list(arguments)
  i = rng.randrange(len(found))
  name, _, value = found[i].partition("=")
  kind = rng.randrange(8)
  if kind == 0:
    del found[i]
  elif kind == 1:
    found.insert(rng.randrange(len(found) + 1), rng.choice(_VALUES))
  elif kind == 2:
    found.append(f"{name}={rng.choice(_VALUES)}")
  elif kind == 3:
    found[i : i + 1] = [name, value]
  elif kind == 4:
    found[i] = f"{_edit(name, rng)}={value}"
  elif kind == 5:
    found[i] = f"{name}={_edit(value, rng)}"
  else:
    found[i] = f"{name}={rng.choice(_VALUES)}"
  # A null byte cannot stand in an argument of a process.
  return [argument.replace("\0", "") for argument in found]


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
  """One change of a file."""
  data = bytearray(content)
  place = rng.randrange(len(data) + 1)
  length = min(rng.choice((1, 1, 2, 16, 200)), len(data) - place)
  changes: list[Callable[[], None]] = [
    lambda: data.__delitem__(slice(place, place + length)),
    lambda: data.__delitem__(slice(place, None)),
    lambda: data.clear(),
    lambda: data.__setitem__(
      slice(place, place + length), rng.randbytes(length)
    ),
    lambda: data.__setitem__(slice(place, place), rng.randbytes(length)),
    lambda: data.extend(data[place:]),
    lambda: data.__setitem__(slice(0, None), _edit_number(bytes(data), rng)),
  ]
  rng.choice(changes)()
  return bytes(data)


def _edit(text: str, rng: random.Random) -> str:
  """Leaves out, adds, replaces or swaps a character."""
  place = rng.randrange(len(text) + 1)
  rest = text[place:]
  letter = rng.choice(_NAMES)
  return text[:place] + rng.choice(
    (
      rest[1:],
      letter + rest,
      letter + rest[1:],
      rest[1:2] + rest[:1] + rest[2:],
    )
  )


def _edit_number(data: bytes, rng: random.Random) -> bytes:
  """Replaces a word between two signs of JSON, or of anything."""
  words = data.split(b" ")
  words[rng.randrange(len(words))] = rng.choice(_VALUES).encode(
    errors="surrogateescape"
  )
  return b" ".join(words)
