"""Texts on which tokenizers fail, drawn from a seed."""

import random

# Control words, byte names, odd spaces and signs with a meaning in a file.
TRAPS = [
  "",
  " ",
  "  \t x  \n\n y\r\n",
  "▁",
  "a▁b ▁▁ c▁",
  "<s> </s> <unk> <pad> <0x41> <0x0A>",
  "<|begin_of_text|>a<|end_of_text|><|reserved_special_token_0|>",
  "a\0b\x01\x7f",
  "\ufeffbyte order mark\ufffd\ufffe",
  "é e\u0301 Å Å ﬁ ① ｆｕｌｌ",  # normalisation would change these
  "😀👩\u200d👩\u200d👧 𝔘𝔫𝔦 \U0010ffff",
  "ا لعربية עברית हिन्दी 漢字",
  "\u2028\u2029\u0085\u00a0\u3000\u2585\u2047",
  "x" * 3000 + " " * 3000 + "\n" * 50,
  "'ll 'LL I'm 1234567 3.14159 a_b-c…",
]

_ODD = [0x2581, 0x20, 0x0A, 0x09, 0x0D, 0, 0x2585, 0xFFFD, 0xFEFF, 0x1C, 0xA0]


def random_texts(seed, count):
  """Strings of up to 60 characters from all planes, without surrogates."""
  generator = random.Random(seed)
  for _ in range(count):
    length = generator.randrange(60)
    yield "".join(_random_character(generator) for _ in range(length))


def _random_character(generator):
  kind = generator.randrange(4)
  code = (
    generator.choice(_ODD)
    if kind == 0
    else generator.randrange((128, 0x3000, 0x110000)[kind - 1])
  )
  return "?" if 0xD800 <= code < 0xE000 else chr(code)


ENGLISH = (
  "It was the best of times, it was the worst of times, it was the age of"
  " wisdom, it was the age of foolishness.\nThe quick brown fox jumps over the"
  " lazy dog; pack my box with five dozen liquor jugs.\n\n  def f(x):\n"
  "    return x + 1\n"
)


def words(seed, count):
  """English-like text of `count` words."""
  generator = random.Random(seed)
  vocabulary = ENGLISH.split()
  return " ".join(generator.choice(vocabulary) for _ in range(count))
