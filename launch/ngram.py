"""Scores n-gram models of the training text: what a run has to beat.

  python -m launch.ngram --data=PREPARED --contexts=0,1,2,3,4,5 \\
      --chunk_size=4 --row_length=2048 --output=ngram.json

At the places where `launch.evaluate` scores a run of that chunk size and row
length, by the same estimate. A context of 0 tokens is the unigram model.
"""

from absl import flags

from calm_jax.evaluation.result_file import check_output, write_result
from launch import entry

_DATA = flags.DEFINE_string("data", None, "Prepared directory.")
_SPLIT = flags.DEFINE_string("split", "valid", "To score; train is counted.")
_CONTEXTS = flags.DEFINE_list(
  "contexts", ["0", "1", "2", "3", "4"], "Tokens of context, a model each."
)
_CHUNK_SIZE = flags.DEFINE_integer("chunk_size", 4, "K of the run to compare.")
_ROW_LENGTH = flags.DEFINE_integer("row_length", 2048, "Tokens of a window.")
_NUM_ROWS = flags.DEFINE_integer(
  "num_rows", None, "Windows to score, spread over the data; absent: all."
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 16, "Draws a position.")
_POSITIONS = flags.DEFINE_string("positions", "paper", "paper or grid:8.")
_CLOSE_CHUNKS = flags.DEFINE_bool(
  "close_chunks", False, "As data.close_chunks of the run to compare."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all draws.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
flags.mark_flags_as_required(["data"])


def main(arguments: list[str]) -> None:
  del arguments
  import tqdm

  from calm_jax.data.pipeline import eval_batches
  from calm_jax.data.store import TokenStore
  from calm_jax.evaluation.brier import check_samples
  from calm_jax.evaluation.ngram import NgramModel, ngram_columns
  from calm_jax.evaluation.table import format_table
  from calm_jax.evaluation.windows import summarise
  from calm_jax.randomness import check_seed
  from calm_jax.runs.provenance import commit, versions

  check_output(_OUTPUT.value)
  check_samples(_NUM_SAMPLES.value)
  check_seed(_SEED.value)
  lengths = [_context_length(text) for text in _CONTEXTS.value or [""]]
  store = TokenStore(_DATA.value)
  tokens = store.read("train", 0, store.num_tokens("train"))
  model = NgramModel(tokens, max(lengths), store.vocabulary.padded_size)
  models = {}
  for length in tqdm.tqdm(lengths, desc="n-gram models", unit="model", delay=1):
    columns = ngram_columns(
      model,
      eval_batches(
        store,
        _SPLIT.value,
        row_length=_ROW_LENGTH.value,
        chunk_size=_CHUNK_SIZE.value,
        batch_size=8,
        num_rows=_NUM_ROWS.value,
      ),
      context_length=length,
      num_samples=_NUM_SAMPLES.value,
      seed=_SEED.value,
      positions=_POSITIONS.value,
      closing_id=store.vocabulary.end_id if _CLOSE_CHUNKS.value else None,
    )
    scores, warnings = summarise(columns)
    models[str(length)] = scores | {"warnings": warnings}
  if _OUTPUT.value:
    settings = {
      name: flags.FLAGS[name].value
      for name in ("data", "split", "row_length", "chunk_size", "num_rows")
    }
    result = {
      "kind": "ngram",
      "models": models,
      "settings": settings
      | {"num_samples": _NUM_SAMPLES.value, "positions": _POSITIONS.value}
      | ({"close_chunks": True} if _CLOSE_CHUNKS.value else {}),
      "commit": commit(),
      "hashes": {"data": store.content_hash},
      "versions": versions(),
      "seed": _SEED.value,
    }
    write_result(_OUTPUT.value, result)
  for length, scores in models.items():
    print(f"\ncontext of {length} tokens\n{format_table(scores)}", flush=True)


def _context_length(text: str) -> int:
  if not text.strip().isdecimal():
    raise ValueError(
      f"--contexts has {text!r}; give numbers of tokens, such as 0,1,2,3."
    )
  return int(text)


if __name__ == "__main__":
  entry.run(main)
