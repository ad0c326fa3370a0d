"""A trained run from Python: text in; latents, scores and text out."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import LoadedRun, load_run
from calm_jax.data.pipeline import eval_batches
from calm_jax.data.source_files import make_part
from calm_jax.evaluation.held_out_text import HeldOutText
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.families import family_of
from calm_jax.randomness import stream_key
from calm_jax.runs.continuation import Continuation, TextGenerator
from calm_jax.runs.runner import window_length
from calm_jax.sampling.latents import decode_chunks, encode_chunks
from calm_jax.sampling.prompt import encode_prompt
from calm_jax.sampling.rows import num_parts
from calm_jax.sampling.settings import SamplingSettings

_FEWEST_CHUNKS = 16  # lengths are rounded up to powers of two from here on


def load(
  checkpoint_dir: epath.PathLike,
  step: int | None = None,
  mesh: Mesh | None = None,
  dtype: str | None = None,
) -> "TextModel":
  """Loads a run for use from Python, say in a notebook.

  What a bfloat16 model only reads in bfloat16 is kept so, see `round_params`;
  to go on training take `load_run` instead.

  Args:
    checkpoint_dir: a run directory of any kind.
    step: one that was saved; None: the newest.
    mesh: such as `sharding.make_mesh(MeshConfig())` for all devices of this
      process; None: the first local device.
    dtype: computes in it, float32 or bfloat16; None: as in training.

  Returns:
    The model.

  Raises:
    OSError: if there is no such directory or step.
    ValueError: if it is not a run directory, has no saved step, or is damaged;
      if there is no such dtype.
  """
  run = load_run(checkpoint_dir, step, mesh, is_rounded=True, dtype=dtype)
  return TextModel(run)


class TextModel:
  """A loaded run as a few methods over text.

  They only turn text into arrays and back: the work is done by pure functions
  of `run.params`, which can be called by themselves (`encode_chunks`,
  `decode_chunks`, `TextGenerator`, `Family.make_scores_fn`).

  Attributes:
    run: config, parameters, tokenizer and step.
  """

  def __init__(self, run: LoadedRun):
    self.run = run

  def __repr__(self) -> str:
    run = self.run
    return f"<{run.config.model.kind} model of {run.path}, step {run.step}>"

  def encode(self, text: str, *, seed: int | None = None) -> np.ndarray:
    """Compresses a text into one latent for each chunk of K tokens.

    The chunks are those that a prompt of this text has: a begin id, and end ids
    before it that fill the first chunk.

    Args:
      text: may be empty.
      seed: draw from the posterior; None: take its mean.

    Returns:
      [L, Z] float32.

    Raises:
      ValueError: if the run has no autoencoder, or the text no UTF-8 form.
    """
    config, params = self.run.latent_model
    tokens = encode_prompt(text, self.run.tokenizer, config.chunk_size)
    posterior = encode_chunks(config, params, _padded(tokens))
    latents = posterior.mean
    if seed is not None:
      noise = jax.random.normal(stream_key(seed, "encode"), latents.shape)
      latents = posterior.sample(noise)
    return np.asarray(latents[: len(tokens)])

  def decode(self, latents: np.ndarray | jax.Array) -> str:
    """Turns latents into the most likely text.

    Args:
      latents: [L, Z].

    Returns:
      The text; bytes that are not UTF-8 become U+FFFD.

    Raises:
      ValueError: if the run has no autoencoder, or the shape is another.
    """
    config, params = self.run.latent_model
    latents = np.asarray(latents, np.float32)
    if latents.ndim != 2 or latents.shape[1] != config.latent_size:
      raise ValueError(
        f"latents have the shape {latents.shape}; [L, {config.latent_size}] was"
        " expected, one row a chunk."
      )
    tokens = decode_chunks(config, params, _padded(latents))
    ids = np.asarray(tokens[: len(latents)]).reshape(-1)
    return self.run.tokenizer.decode(ids)

  def generate(
    self,
    prompts: str | Sequence[str],
    *,
    num_tokens: int = 128,
    num_samples: int = 1,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    temperature: float = 0.5,
    method: str = "hybrid",
    **settings: Any,
  ) -> list[list[Continuation]]:
    """Continues prompts, as `launch.generate` does.

    Args:
      prompts: texts; one text is a list of one.
      num_tokens: at most so many new tokens each.
      num_samples: continuations of each prompt.
      stop: text at which a continuation ends, or several.
      seed: of all draws.
      temperature: of next-vector models 0 < T ≤ 1.
      method: of next-vector models at T < 1: batch, exact or hybrid.
      **settings: further fields of `SamplingSettings`: `num_candidates`,
        `max_draws`, `when_spent`, `noise_scale`, `top_k`, `top_p`.

    Returns:
      For each prompt its continuations; each has a `text`.

    Raises:
      ValueError: if run, prompts and settings do not fit.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    generator = TextGenerator(
      self.run,
      SamplingSettings(temperature=temperature, method=method, **settings),
    )
    return generator.continue_prompts(
      prompts,
      num_tokens=num_tokens,
      num_samples=num_samples,
      stop=stop,
      seed=seed,
    )

  def score(
    self,
    documents: str | Sequence[str],
    *,
    row_length: int | None = None,
    batch_size: int = 8,
    **settings: Any,
  ) -> dict[str, Any]:
    """Scores the model on documents it has not seen.

    Args:
      documents: texts; one text is a list of one.
      row_length: T, tokens of a window; None: that of training.
      batch_size: windows at once on a device.
      **settings: fields of `PredictionSettings`: `num_samples`, `positions`,
        `permuted`, `last_chunk`, `noise_scale`, `seed`.

    Returns:
      Scores by name, each with its standard error as `NAME_stderr` (None where
      there are too few windows), and `warnings`. An autoencoder gets
      `token_accuracy` and others, the other models `brier_lm` and others.

    Raises:
      ValueError: if run, documents and settings do not fit.
    """
    documents = [documents] if isinstance(documents, str) else documents
    config, tokenizer = self.run.config, self.run.tokenizer
    parts = (
      make_part(text, f"document {i}") for i, text in enumerate(documents)
    )
    text = HeldOutText(parts, tokenizer, name="the list of documents")
    batches = eval_batches(
      text,
      "valid",
      row_length=window_length(config, row_length),
      chunk_size=config.model.chunk_size,
      batch_size=batch_size * num_parts(self.run.mesh),
    )
    scores_fn = family_of(config.model).make_scores_fn(
      config, PredictionSettings(**settings), self.run.mesh
    )
    return scores_fn(self.run.params, self.run.autoencoder, batches)


def _padded(rows: np.ndarray) -> np.ndarray:
  """Rows [L, …] up to a power of two, so that few lengths are compiled."""
  length = _FEWEST_CHUNKS
  while length < len(rows):
    length *= 2
  return np.pad(rows, ((0, length - len(rows)), (0, 0)))
