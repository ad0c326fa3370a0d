"""Runs as a model of lm-evaluation-harness; see `lm_eval_command`."""

import collections
import json
from typing import Any

import jax
import tqdm
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.config import MeshConfig
from calm_jax.evaluation.chunk_terms import joined
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.training.sharding import make_mesh

_NUM_TOKENS = 256  # of a generated text, where a task does not say


@register_model("calm_jax")
class CalmLM(LM):
  """A next-vector or token run.

  `loglikelihood` of a token run is exact; of a next-vector run it is an
  estimate that ranks texts and is no likelihood (`evaluation.likelihood`). Its
  name and S stand in the results, under `config`.
  """

  def __init__(
    self,
    run: str,
    step: int | None = None,
    estimate: str | None = None,
    num_samples: int = 64,
    bandwidth: float | None = None,
    partial: str = "marginal",
    seed: int = 0,
    temperature: float = 0.5,
    batch_size: int | str = 8,
    **others: Any,
  ):
    """Loads the run; all arguments come from `--model_args`.

    Args:
      run: run directory.
      step: one that was saved; None: the newest.
      estimate: see `ChoiceSettings`, as the next four.
      num_samples: S.
      bandwidth: h.
      partial: marginal or end.
      seed: of all draws.
      temperature: of what a next-vector run generates, where a task does not
        say or asks for greedy text.
      batch_size: texts at once on a device; "auto": 8.
      **others: what the harness adds: `device` and `max_batch_size`, which
        mean nothing here.

    Raises:
      OSError, ValueError: if the run cannot be read or an argument does not
        fit.
    """
    super().__init__()
    if unknown := sorted({*others} - {"device", "max_batch_size"}):
      raise ValueError(
        f"--model_args has {unknown[0]!r}; run, step, estimate, num_samples,"
        " bandwidth, partial, seed and temperature are known."
      )
    settings = ChoiceSettings(
      estimate=estimate,
      num_samples=num_samples,
      bandwidth=bandwidth,
      partial=partial,
      seed=seed,
    )
    mesh = make_mesh(MeshConfig()) if len(jax.devices()) > 1 else None
    self._run = load_run(run, step, mesh, is_rounded=True)
    self._scorer = TextScorer(self._run, settings)
    self._settings = settings
    self._temperature = temperature
    text = str(batch_size)
    self._batch_size = int(text) if text.isdecimal() else 8

  def get_model_info(self) -> dict[str, Any]:
    """What the harness writes into its results beside its own settings."""
    has_likelihoods = self._run.config.model.has_likelihoods
    return {
      "calm_jax_run": str(self._run.path),
      "calm_jax_step": self._run.step,
      "calm_jax_estimate": self._scorer.name,
      "calm_jax_num_samples": (
        None if has_likelihoods else self._settings.num_samples
      ),
      "calm_jax_bandwidth": self._settings.bandwidth,
      "calm_jax_partial": self._settings.partial,
      "calm_jax_seed": self._settings.seed,
    }

  def loglikelihood(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[tuple[float, bool]]:
    """The estimate, and whether nothing is drawn more often than the text."""
    rows = [self._scorer.encode(*request.args) for request in requests]
    with tqdm.tqdm(
      desc="calm_jax", total=len(rows), unit="text", disable=disable_tqdm
    ) as bar:
      found = self._scorer.terms(
        rows, self._batch_size, lambda done, _: bar.update(done - bar.n)
      )
    scores = self._scorer.log_scores(joined(found))
    return [
      (float(score), bool(terms.is_top.all()))
      for score, terms in zip(scores, found, strict=True)
    ]

  def loglikelihood_rolling(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[float]:
    """Refused: a perplexity is what the estimates are not."""
    raise ValueError(
      "calm_jax gives no perplexities: a next-vector model has no likelihood,"
      " and the error of its estimate grows with the text; use a task of"
      " multiple choice or generation, and BrierLM of launch.evaluate."
    )

  def generate_until(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[str]:
    """Text at the task's temperature, or greedy where that is meant."""
    del disable_tqdm
    alike = collections.defaultdict(list)  # those that go together
    for i, request in enumerate(requests):
      alike[json.dumps(request.args[1], sort_keys=True)].append(i)
    texts = [""] * len(requests)
    for places in alike.values():
      contexts = [requests[i].args[0] for i in places]
      found = self._generate(contexts, requests[places[0]].args[1])
      for i, text in zip(places, found, strict=True):
        texts[i] = text
    return texts

  def _generate(
    self, contexts: list[str], settings: dict[str, Any]
  ) -> list[str]:
    # The harness means greedy text where it gives no temperature, 0, or
    # do_sample=False. A model without likelihoods has none.
    temperature = settings.get("temperature")
    is_greedy = not temperature or settings.get("do_sample") is False
    if is_greedy and self._run.config.model.has_likelihoods:
      sampling = SamplingSettings(top_k=1)
    else:
      temperature = temperature or self._temperature
      sampling = SamplingSettings(temperature=temperature, method="hybrid")
    generator = TextGenerator(self._run, sampling)
    found = generator.continue_prompts(
      contexts,
      num_tokens=settings.get("max_gen_toks", _NUM_TOKENS),
      stop=settings.get("until") or (),
      seed=self._settings.seed,
      max_rows=self._batch_size,
    )
    return [one.text for (one,) in found]
