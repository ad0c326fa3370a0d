"""Scores of texts behind contexts, under a saved run."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.evaluation.candidates import (
  CandidateRow,
  CandidateSettings,
  candidate_terms,
  encode_candidate,
)
from calm_jax.evaluation.chunk_terms import ChunkTerms, TextTerms
from calm_jax.evaluation.likelihood import estimates_of
from calm_jax.families import family_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceSettings(CandidateSettings):
  """How questions are answered."""

  estimate: str | None = None  # of `likelihood`; None: the first of the model
  bandwidth: float | None = None  # h of the kernel; None: by the latent's size
  mutual: bool = True  # also by how much the context adds; reads texts twice

  def __post_init__(self):
    super().__post_init__()
    if self.bandwidth is not None and not 0 < self.bandwidth < np.inf:
      raise ValueError(f"bandwidth is {self.bandwidth}; it is positive.")


class TextScorer:
  """Scores texts behind contexts with a run."""

  def __init__(
    self, run: LoadedRun, settings: ChoiceSettings, **sampling: float
  ):
    """Prepares.

    Args:
      run: a next-vector or token model.
      settings: how.
      **sampling: `noise_scale` or `temperature`, see `Family.bind_params`.

    Raises:
      ValueError: if run and settings do not fit.
    """
    model = run.config.model
    if not model.predicts:
      raise ValueError(
        f"{run.path} holds a model of kind {model.kind!r}, which predicts"
        " nothing; give a next-vector or token run."
      )
    self.estimates = estimates_of(model.has_likelihoods)
    self.name = settings.estimate or next(iter(self.estimates))
    if self.name not in self.estimates:
      raise ValueError(
        f"estimate is {self.name!r}, and a model of kind {model.kind!r} has"
        f" {', '.join(self.estimates)}."
      )
    self.settings = settings
    self._run = run
    family = family_of(model)
    self._sampler_fn = family.sampler_fn(run.config)
    self._params = family.bind_params(run.params, run.autoencoder, **sampling)

  def encode(self, context: str, text: str) -> CandidateRow:
    """See `encode_candidate`."""
    config = self._run.config
    return encode_candidate(
      context,
      text,
      self._run.tokenizer,
      config.model.chunk_size,
      config.num_chunks,
    )

  def terms(
    self,
    candidates: Sequence[CandidateRow],
    batch_size: int = 8,
    progress_fn: Callable[[int, int], None] | None = None,
  ) -> list[ChunkTerms]:
    """See `candidate_terms`."""
    return candidate_terms(
      self._sampler_fn,
      self._params,
      candidates,
      self.settings,
      batch_size=batch_size,
      mesh=self._run.mesh,
      progress_fn=progress_fn,
    )

  def log_scores(
    self,
    texts: TextTerms,
    name: str | None = None,
    num_samples: int | None = None,
  ) -> np.ndarray:
    """The score of each text, the sum over its chunks.

    Args:
      texts: N of them, see `chunk_terms.joined`.
      name: of the estimate; None: that of the settings.
      num_samples: of the first so many samples; None: of all.

    Returns:
      [N] float64: log p̂ in nats, by `energy` minus the energy score.
    """
    count = num_samples or self.settings.num_samples
    estimate = self.estimates[name or self.name]
    chunks = estimate(texts.chunks, count, self.settings.bandwidth)
    return np.add.reduceat(chunks, texts.starts)
