"""What of a tokenizer.json decides about ids, and whether it is Llama 3's.

The file also keeps the state of whoever saved it, such as padding. What the
ids of a text do not depend on in Llama 3 is left out; all else is as published,
or refused.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

# Left out: what is done with ids afterwards, or with text made from them.
_UNUSED = {"version", "truncation", "padding", "post_processor", "decoder"}
_READ = {"added_tokens", "normalizer", "pre_tokenizer", "model"}
# Other settings of the model than its pieces and merges, none of which may
# do anything.
_OFF = {
  "dropout": (None, 0.0),
  "unk_token": (None,),
  "continuing_subword_prefix": (None, ""),
  "end_of_word_suffix": (None, ""),
  "fuse_unk": (False, True, None),  # only of unknown bytes, and there are none
  "byte_fallback": (False, True, None),
}


def why_not(
  content: dict[str, Any], pattern: str, controls: tuple[str, ...]
) -> str:
  """What differs from the published file in a way that changes ids.

  Args:
    content: of the file.
    pattern: that splits text into words.
    controls: tokens that it must have.

  Returns:
    A clause; empty if nothing differs.
  """
  model = content.get("model") or {}
  if model.get("type") != "BPE" or "ByteLevel" not in json.dumps(
    content.get("pre_tokenizer")
  ):
    return f"its model is {model.get('type')} and not BPE of bytes"
  if content.get("normalizer") is not None:
    return "it normalises text"
  return (
    _why_not_split(content["pre_tokenizer"], pattern)
    or _why_not_model(model)
    or _why_not_added(content.get("added_tokens", []), model, controls)
    or _why_not_known(content)
  )


def plain(content: dict[str, Any]) -> dict[str, Any]:
  """The file with nothing in it but what turns text into pieces.

  Text that looks like a control token is text.
  """
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": content["pre_tokenizer"],
    "post_processor": None,
    "decoder": None,
    "model": content["model"],
  }


def unusual_merges(model: dict[str, Any]) -> bytes:
  """The merges as bytes; empty if they are all those between two pieces.

  All of them follow from the pieces and say nothing new. Some of them give
  other ids to the same text.
  """
  vocabulary = model["vocab"]
  found = {tuple(pair) for pair in _pairs(model)}
  follow = {
    (piece[:i], piece[i:])
    for piece in vocabulary
    for i in range(1, len(piece))
    if piece[:i] in vocabulary and piece[i:] in vocabulary
  }
  return b"" if found == follow else json.dumps([*_pairs(model)]).encode()


def _pairs(model: dict[str, Any]) -> Iterator[list[str]]:
  for merge in model["merges"]:
    yield merge.split(" ") if isinstance(merge, str) else merge


def _why_not_split(splits: dict[str, Any], pattern: str) -> str:
  parts = splits.get("pretokenizers", [])
  if splits.get("type") != "Sequence" or len(parts) != 2:
    return "it splits words by another pattern"
  split, byte_level = parts
  if split.get("pattern") != {"Regex": pattern} or split.get("type") != "Split":
    return "it splits words by another pattern"
  if split.get("behavior") != "Isolated" or split.get("invert") is not False:
    return "it does not keep words as its pattern finds them"
  if byte_level.get("type") != "ByteLevel":
    return "it splits words into something else than bytes"
  if byte_level.get("add_prefix_space") is not False:
    return "it adds a space before each text (add_prefix_space)"
  if byte_level.get("use_regex") is not False:
    return "it splits words a second time (use_regex)"
  return ""


def _why_not_model(model: dict[str, Any]) -> str:
  vocabulary = model["vocab"]
  if model.get("ignore_merges") is not True:
    return "it does not set ignore_merges"
  known = {"type", "vocab", "merges", "ignore_merges", *_OFF}
  for name, value in model.items():
    if name not in known:
      return f"its model has the field {name[:40]!r}"
    if name in _OFF and value not in _OFF[name]:
      return f"its model has {name} {str(value)[:40]}"
  if sorted(vocabulary.values()) != [*range(len(vocabulary))]:
    return "the ids of its pieces are not 0, 1, 2, …"
  if any(type(piece_id) is not int for piece_id in vocabulary.values()):
    return "the ids of its pieces are not integers"
  ids = [vocabulary.get("".join(pair), -1) for pair in _pairs(model)]
  if any(first > second for first, second in itertools.pairwise([0, *ids])):
    return "its ids are not in the order of its merges"
  return ""


def _why_not_added(
  added: list[dict[str, Any]], model: dict[str, Any], controls: tuple[str, ...]
) -> str:
  names = [token["content"] for token in added]
  if not set(controls) <= set(names):
    return f"{' and '.join(controls)} are not among its added tokens"
  for token in added:
    name = str(token["content"])[:40]
    if token.get("special") is not True:
      return (
        f"its added token {name!r} is not special, and takes the place of that"
        " text"
      )
    if token["content"] in model["vocab"]:
      return f"its added token {name!r} is one of its pieces"
  first = len(model["vocab"])
  ids = sorted(token["id"] for token in added)
  if ids != [*range(first, first + len(ids))] or len(set(names)) < len(names):
    return f"the ids of its added tokens are not {first}, {first + 1}, …"
  return ""


def _why_not_known(content: dict[str, Any]) -> str:
  for name in content:
    if name not in _READ | _UNUSED:
      return f"it has the field {name[:40]!r}"
  return ""
