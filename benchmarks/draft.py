"""Drafted decoding on real text: tokens a verification, FLOPs and time.

  python -m benchmarks.draft --checkpoint=TOKEN_RUN --drafter=CALM_RUN \\
      --data=PREPARED --output=benchmarks/drafting/NAME.json
  python -m benchmarks.draft --checkpoint=TOKEN_RUN --parts=pairs \\
      --drafter=TAUGHT_0,TAUGHT_1,… --against=UNTAUGHT_0,UNTAUGHT_1,… \\
      --data=PREPARED --output=benchmarks/drafting/NAME.json

Prompts are pieces of the validation text, evenly spread. Every setting decodes
the same prompts with the same seed, so differences between settings are paired;
errors are bootstrapped over prompts, and all ids compared with plain decoding.
Pairs are drafters of two kinds, each pair of one seed: errors are of the seeds.

Time is taken with the token model as it is, and with one of the same function
that costs more: layers of zeros are added, which change nothing.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from calm_jax.checkpoint.run_directory import LoadedRun, load_run
from calm_jax.data.store import TokenStore
from calm_jax.evaluation.bootstrap import bootstrap
from calm_jax.evaluation.result_file import check_output, write_result
from calm_jax.families.costs import generation_flops_per_token
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.drafted import DraftedContinuation, DraftedGenerator
from calm_jax.runs.provenance import provenance
from calm_jax.sampling.drafter import DraftSettings
from calm_jax.sampling.settings import SamplingSettings
from launch import entry

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run of a token model.")
_DRAFTER = flags.DEFINE_list(
  "drafter", None, "Run of a next-vector model; several for the part pairs."
)
_AGAINST = flags.DEFINE_list(
  "against", [], "Of pairs: a run for each in --drafter, at its place."
)
_DATA = flags.DEFINE_string("data", None, "Prepared directory.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_PARTS = flags.DEFINE_list(
  "parts", "acceptance,seconds", "What to measure, of these and pairs."
)
_NUM_PROMPTS = flags.DEFINE_integer("num_prompts", 48, "Pieces of text.")
_PROMPT_LENGTH = flags.DEFINE_integer("prompt_length", 64, "Tokens of each.")
_NUM_TOKENS = flags.DEFINE_integer("num_tokens", 96, "New tokens of each.")
_NUM_TIMINGS = flags.DEFINE_integer("num_timings", 5, "Of each setting.")

_SAMPLING = {
  "T=1": SamplingSettings(temperature=1.0),
  "T=0.7": SamplingSettings(temperature=0.7),
  "greedy": SamplingSettings(temperature=1.0, top_k=1),
}
_DRAFTS = {
  "S=1": DraftSettings(num_drafts=1),
  "S=1 noise=0": DraftSettings(num_drafts=1, noise_scale=0.0),
  "S=1 overlap": DraftSettings(num_drafts=1, alignment="overlap"),
  "S=4": DraftSettings(num_drafts=4),
  "S=4 nodes=8": DraftSettings(num_drafts=4, num_nodes=8),
  "S=4 overlap": DraftSettings(num_drafts=4, alignment="overlap"),
  "S=16": DraftSettings(num_drafts=16),
  "S=16 nodes=8": DraftSettings(num_drafts=16, num_nodes=8),
  "S=16 nodes=16": DraftSettings(num_drafts=16, num_nodes=16),
}
_FEW = ("S=1", "S=4", "S=16 nodes=8", "S=16 nodes=16")  # where all take long
_TIMED = ("S=1", "S=16 nodes=8")
_NUM_TIMES_DEEPER = (1, 12)


def main(_):
  check_output(_OUTPUT.value)
  run = load_run(_CHECKPOINT.value)
  drafters, others = (
    [load_run(path) for path in flag.value] for flag in (_DRAFTER, _AGAINST)
  )
  _check_drafters(len(drafters), len(others))
  store = TokenStore(_DATA.value)
  prompts = _prompts(run, store)
  result = {
    "num_prompts": len(prompts),
    "prompt_length": _PROMPT_LENGTH.value,
    "num_tokens": _NUM_TOKENS.value,
    "acceptance": [],
    "seconds": [],
    "pairs": [],
    "drafter": provenance(drafters[0], data_hash=None, seed=0),
    **provenance(run, data_hash=store.content_hash, seed=0),
  }
  parts = {
    "seconds": (
      row
      for times in _NUM_TIMES_DEEPER
      for row in _times(deepened(run, times), drafters[0], prompts, times)
    ),
    "acceptance": _acceptance(run, drafters[0], prompts),
    "pairs": _pairs(run, drafters, others, prompts),
  }
  for part in _PARTS.value:
    for row in parts[part]:
      print(row, flush=True)
      result[part].append(row)
      write_result(_OUTPUT.value, result)


def _prompts(run: LoadedRun, store: TokenStore) -> list[str]:
  length = _PROMPT_LENGTH.value
  last = store.num_tokens("valid") - length
  starts = np.linspace(0, last, _NUM_PROMPTS.value, dtype=int)
  return [
    run.tokenizer.decode(store.read("valid", start, start + length))
    for start in starts.tolist()
  ]


def _acceptance(run: LoadedRun, drafter: LoadedRun, prompts: list[str]) -> Any:
  """A row for each way to sample and to draft."""
  for name, settings in _SAMPLING.items():
    plain = _decode(TextGenerator(run, settings), prompts)
    sums = {}
    for drafts, drafting in _DRAFTS.items():
      if name == "greedy" and drafts not in _FEW:
        continue
      found = _decode(
        DraftedGenerator(run, drafter, settings, drafting), prompts
      )
      num_different = sum(
        one.tokens != other.tokens
        for one, other in zip(found, plain, strict=True)
      )
      sums[drafts] = _sums(found)
      row = {"sampling": name, "drafts": drafts, **_row(sums[drafts])}
      row["minus_s_1"] = _difference(sums[drafts], sums["S=1"])
      row["num_different"] = num_different
      row["flops_per_token"] = _flops(
        run, drafter, drafting, row["tokens_per_verification"]
      )
      yield row


def _decode(generator: TextGenerator, prompts: list[str]) -> list[Any]:
  found = generator.continue_prompts(
    prompts, num_tokens=_NUM_TOKENS.value, max_rows=len(prompts)
  )
  return [continuations[0] for continuations in found]


def _sums(found: list[DraftedContinuation]) -> np.ndarray:
  """[R, 2 + K]: tokens, verifications, those of which j drafts were right."""
  rows = []
  for one in found:
    at_least = np.cumsum(one.num_accepted[::-1])[::-1][1:]
    num_tokens = len(one.tokens) + (one.finish == "end")
    rows.append([num_tokens, one.num_verifications, *at_least])
  return np.array(rows, np.float64)


def _row(sums: np.ndarray) -> dict[str, Any]:
  def statistic(sums):
    return np.concatenate([sums[..., :1], sums[..., 2:]], -1) / sums[..., 1:2]

  found = bootstrap(statistic, sums)
  return {
    "tokens_per_verification": float(found.value[0]),
    "tokens_per_verification_stderr": float(found.stderr[0]),
    "acceptance": found.value[1:].tolist(),
    "acceptance_stderr": found.stderr[1:].tolist(),
  }


def _difference(sums: np.ndarray, others: np.ndarray) -> dict[str, float]:
  """In tokens a verification, paired over prompts."""
  both = np.concatenate([sums[:, :2], others[:, :2]], axis=1)
  found = bootstrap(
    lambda s: (s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3])[..., None], both
  )
  return {"value": float(found.value[0]), "stderr": float(found.stderr[0])}


def _flops(
  run: LoadedRun,
  drafter: LoadedRun,
  drafting: DraftSettings,
  tokens_per_verification: float,
) -> dict[str, float]:
  """Products of one written token, by model; masked slots count."""
  num_slots = _PROMPT_LENGTH.value + _NUM_TOKENS.value
  model, size = run.config.model, drafter.config.model.chunk_size
  plain = sum(generation_flops_per_token(model, None, num_slots, 1).values())
  parts = generation_flops_per_token(
    drafter.config.model,
    drafter.config.autoencoder,
    num_slots,
    drafting.num_drafts,
  )
  reading = size * (parts["backbone"] + parts["attention"]) * (size + 1)
  drawing = size * (parts["head"] + parts["decode"])
  num_nodes = drafting.num_drafts * size
  num_nodes = min(drafting.num_nodes or num_nodes, num_nodes)
  return {
    "plain": plain,
    "verification": plain * (1 + num_nodes) / tokens_per_verification,
    "drafter_reading": reading / tokens_per_verification,
    "drafter_drawing": drawing / tokens_per_verification,
  }


def _check_drafters(num: int, num_others: int) -> None:
  if "pairs" in _PARTS.value:
    is_fit = num == num_others >= 2
  else:
    is_fit = num == 1 and not num_others
  if not is_fit:
    raise ValueError(
      f"--drafter names {num} runs and --against {num_others}; the part pairs"
      " needs two or more, as many in both, and the other parts one and none."
    )


def _pairs(
  run: LoadedRun,
  drafters: list[LoadedRun],
  others: list[LoadedRun],
  prompts: list[str],
) -> Any:
  """Means over seeds of two kinds of drafters, and their paired difference."""
  kinds = {"drafter": drafters, "against": others}
  settings = _SAMPLING["T=1"]
  for drafts in _FEW:
    found = {
      name: np.array(
        [
          _ratios(
            _decode(
              DraftedGenerator(run, it, settings, _DRAFTS[drafts]), prompts
            )
          )
          for it in runs
        ]
      )
      for name, runs in kinds.items()
    }
    found["difference"] = found["drafter"] - found["against"]
    yield {
      "sampling": "T=1",
      "drafts": drafts,
      "runs": {
        name: [_names(it) for it in runs] for name, runs in kinds.items()
      },
      **{name: _over_seeds(values) for name, values in found.items()},
    }


def _names(drafter: LoadedRun) -> dict[str, Any]:
  """What tells one drafter from another of a kind."""
  data = drafter.config.data
  return {
    "run": drafter.path.name,
    "step": drafter.step,
    "seed": drafter.config.seed,
    "teacher_share": data.teacher_share if data.teacher_run else 0.0,
  }


def _ratios(found: list[DraftedContinuation]) -> np.ndarray:
  """[1 + K]: tokens a verification, and the share with j drafts right."""
  sums = _sums(found).sum(axis=0)
  return np.concatenate([sums[:1], sums[2:]]) / sums[1]


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
  """Means and errors of [seeds, 1 + K]."""
  mean = values.mean(axis=0)
  stderr = values.std(axis=0, ddof=1) / np.sqrt(len(values))
  return {
    "tokens_per_verification": float(mean[0]),
    "tokens_per_verification_stderr": float(stderr[0]),
    "acceptance": mean[1:].tolist(),
    "acceptance_stderr": stderr[1:].tolist(),
  }


def deepened(run: LoadedRun, times: int) -> LoadedRun:
  """The same function by so many times the layers, the added ones all zeros.

  x + 0 is x: a layer whose output projections are zero adds nothing.
  """
  model, params = run.config.model, dict(run.params)
  num_added = (times - 1) * model.num_layers
  backbone = dict(params["backbone"])
  backbone["layers"] = jax.tree.map(
    lambda x: jnp.pad(x, [(0, num_added)] + [(0, 0)] * (x.ndim - 1)),
    backbone["layers"],
  )
  params["backbone"] = backbone
  model = dataclasses.replace(model, num_layers=times * model.num_layers)
  config = dataclasses.replace(run.config, model=model)
  return dataclasses.replace(run, config=config, params=params)


def _times(
  run: LoadedRun, drafter: LoadedRun, prompts: list[str], times_deeper: int
) -> Any:
  """Plain and drafted decoding of one row, in turns."""
  settings = _SAMPLING["T=1"]
  generators = {"plain": TextGenerator(run, settings)} | {
    drafts: DraftedGenerator(run, drafter, settings, _DRAFTS[drafts])
    for drafts in _TIMED
  }
  taken = prompts[:1]
  seconds = {key: [] for key in generators}
  for turn in range(1 + _NUM_TIMINGS.value):
    for key, generator in generators.items():
      elapsed = _seconds(functools.partial(_decode, generator, taken))
      if turn:  # the first compiles
        seconds[key].append(elapsed)
  for key in _TIMED:
    ratios = np.divide(seconds["plain"], seconds[key])
    row = {
      "sampling": "T=1",
      "drafts": key,
      "times_deeper": times_deeper,
      "plain_seconds": seconds["plain"],
      "seconds": seconds[key],
      "speedup_median": statistics.median(ratios.tolist()),
      "speedup_of_best": min(seconds["plain"]) / min(seconds[key]),
      "settings": dataclasses.asdict(_DRAFTS[key]),
    }
    yield row


def _seconds(call: Callable[[], Any]) -> float:
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


if __name__ == "__main__":
  flags.mark_flags_as_required(["checkpoint", "drafter", "data", "output"])
  entry.run(main)
