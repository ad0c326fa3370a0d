"""Turns text into a prepared directory that training reads.

  python -m launch.prepare --output=prepared/docs --vocab_size=1000
  python -m launch.prepare --input='data/*.jsonl,more.txt' \\
      --valid_input=valid.jsonl --output=prepared/mine --vocab_size=8000

Inputs, separated by commas: files or globs of .txt (one document a file),
.jsonl (field `text`, or `prompt` and `completion`, of which only completions
are learnt), .parquet (column `text`), the first two also as .gz and
.zst; tfds:NAME or tfds:NAME@SPLIT; python_docs, the documentation that comes
with Python. On n machines, run the same command with --shard=0/n … n-1/n and
one shared --output.
"""

from absl import flags

from launch import entry

_INPUT = flags.DEFINE_string("input", "python_docs", "Text to train on.")
_VALID_INPUT = flags.DEFINE_string(
  "valid_input",
  None,
  "Text to validate on; by default a small share of the documents of --input.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write.")
_VOCAB_SIZE = flags.DEFINE_integer(
  "vocab_size", None, "Train a SentencePiece tokenizer of this many pieces."
)
_TOKENIZER = flags.DEFINE_string(
  "tokenizer",
  None,
  "Use this tokenizer: a SentencePiece .model, a Llama-3 rank file or"
  " tokenizer.json, or a directory prepared before.",
)
_BYTES = flags.DEFINE_bool("bytes", False, "Use the bytes as tokens.")
_SHARD = flags.DEFINE_string("shard", "0/1", "Prepare part i of n, as i/n.")


def main(_):
  from calm_jax.data import store
  from calm_jax.data.tokenizer import ByteTokenizer, load_tokenizer

  if not _OUTPUT.value:
    raise ValueError("--output=DIR is missing; it names what to write.")
  if _BYTES.value and _TOKENIZER.value:
    raise ValueError("give one of --bytes and --tokenizer, not both.")
  tokenizer = ByteTokenizer() if _BYTES.value else None
  if _TOKENIZER.value:
    tokenizer = load_tokenizer(_TOKENIZER.value)
  info = store.prepare(
    _OUTPUT.value,
    train_input=_INPUT.value,
    valid_input=_VALID_INPUT.value,
    tokenizer=tokenizer,
    vocab_size=_VOCAB_SIZE.value,
    shard=_parse_shard(_SHARD.value),
  )
  print(store.describe(_OUTPUT.value, info))


def _parse_shard(text: str) -> tuple[int, int]:
  index, _, count = text.partition("/")
  if not (index.isdecimal() and count.isdecimal()):
    raise ValueError(f"--shard={text} should be i/n, such as --shard=0/4.")
  return int(index), int(count)


if __name__ == "__main__":
  entry.run(main)
