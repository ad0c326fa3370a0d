"""Small tokenizer files of Llama 3's two published forms."""

import base64
import json

from calm_jax.data import tokenizer_llama3

# Each merge joins two earlier pieces; its id is its place in the list.
MERGES = [
  (b"t", b"h"),
  (b"th", b"e"),
  (b" ", b"the"),
  (b"i", b"n"),
  (b" ", b"a"),
  (b"a", b"a"),
  (b"aa", b"aa"),
  (b"\n", b"\n"),
  (b" ", b" "),
  (b"  ", b"  "),
  (b"\xc3", b"\xa9"),
]


def pieces():
  # Not in the order of the bytes, as in the published files.
  single = [bytes([byte]) for byte in [*range(33, 256), *range(33)]]
  return single + [first + second for first, second in MERGES]


def rank_file():
  return b"".join(
    base64.b64encode(piece) + b" %d\n" % rank
    for rank, piece in enumerate(pieces())
  )


def json_content():
  """What a tokenizer.json of the published form holds."""
  visible = tokenizer_llama3._visible_bytes()

  def write(piece):
    return "".join(visible[byte] for byte in piece)

  known = pieces()
  special = ["<|begin_of_text|>", "<|end_of_text|>"] + [
    f"<|reserved_special_token_{i}|>" for i in range(254)
  ]
  return {
    "version": "1.0",
    "added_tokens": [
      {
        "id": len(known) + i,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
      }
      for i, content in enumerate(special)
    ],
    "normalizer": None,
    "pre_tokenizer": {
      "type": "Sequence",
      "pretokenizers": [
        {
          "type": "Split",
          "pattern": {"Regex": tokenizer_llama3.PATTERN},
          "behavior": "Isolated",
          "invert": False,
        },
        {
          "type": "ByteLevel",
          "add_prefix_space": False,
          "trim_offsets": True,
          "use_regex": False,
        },
      ],
    },
    "post_processor": None,
    "decoder": {
      "type": "ByteLevel",
      "add_prefix_space": True,
      "trim_offsets": True,
      "use_regex": True,
    },
    "model": {
      "type": "BPE",
      "ignore_merges": True,
      "vocab": {write(piece): i for i, piece in enumerate(known)},
      "merges": [f"{write(a)} {write(b)}" for a, b in MERGES],
    },
  }


def json_file(**model):
  content = json_content()
  content["model"].update(model)
  return json.dumps(content).encode()
