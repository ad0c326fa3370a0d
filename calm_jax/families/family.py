"""What a kind of model is: all that depends on its kind, in one place."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from calm_jax.config import AutoencoderConfig, ExperimentConfig, ModelConfig
from calm_jax.data.batch import Batch
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.families.published import Published
from calm_jax.losses.mean import Means
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.sampler import SamplerFn
from calm_jax.sampling.settings import SamplingSettings

# (params, frozen, batch, key) → (total of the loss, means by name). `frozen`
# holds the parameters that are not trained: those of the autoencoder, or None.
# The mean named "loss" is what the gradient is taken of.
Objective = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Means]]

# (params, batch, key) → means by name, each step of which would cost too much.
LoggedMeansFn = Callable[[Any, Batch, jax.Array], Means]

# (params, autoencoder params or None, batches) → scores by name, see
# `summarise`, and `warnings`, a list of sentences.
ScoresFn = Callable[[Any, Any, Iterable[Batch]], dict[str, Any]]


class Model(Protocol):
  """A Flax module of this package."""

  config: ModelConfig

  def init(self, *args: Any, **kwargs: Any) -> Any: ...

  def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Work(NamedTuple):
  """A part of what is computed for one row.

  Its cost is counted by it, and how parameters are read: of what a model's
  `generation_work` reads in the compute dtype alone, nothing else may be read.
  """

  config: ModelConfig  # of the model whose parameters it takes
  method: str  # of the module
  arguments: tuple[Any, ...]  # of the method; arrays or their shapes
  # Of the forward pass's size: 3 where all is trained, 2 where the gradient
  # passes through parameters that are not, 1 where none does.
  num_passes: int = 3
  elementwise_flops: float = 0.0  # worth counting beside products


class Family:
  """A kind of model: what builds, trains, samples, scores, counts and names it.

  One file of this folder, one line in `FAMILIES`, and a `ModelConfig` with the
  facts that need no code. Training, checkpoints, evaluation, planning, scaling
  and conversion ask here and know no kinds.
  """

  # Its form among published checkpoints; None: it has none.
  published: Published | None = None

  def build(self, config: ModelConfig) -> Model:
    """The module that a resolved config describes."""
    raise NotImplementedError

  def example_inputs(self, config: ModelConfig) -> tuple[Any, ...]:
    """The smallest arguments that the module can be called with."""
    raise NotImplementedError

  def objective(self, config: ExperimentConfig) -> Objective:
    """What training minimises."""
    raise NotImplementedError

  def logged_means(self, config: ExperimentConfig) -> LoggedMeansFn | None:
    """What is measured only in steps that are logged; None: nothing."""
    return None

  def make_scores_fn(
    self,
    config: ExperimentConfig,
    settings: PredictionSettings,
    mesh: Mesh | None = None,
  ) -> ScoresFn:
    """The evaluation on held-out text, compiled once for many steps.

    Args:
      config: of the run, resolved.
      settings: what is measured.
      mesh: of the parameters; None: they are on one device.
    """
    raise NotImplementedError

  def sampler_fn(
    self, config: ExperimentConfig, *, top_k: int = 0
  ) -> SamplerFn:
    """A function that binds parameters, for use inside compiled ones.

    Args:
      config: of a run, resolved.
      top_k: models with likelihoods: only the k most likely tokens; 0: all.

    Returns:
      What `bind_params` gives → sampler; a `Binding`, or programs are compiled
      anew for each that is made.

    Raises:
      ValueError: if the model predicts nothing.
    """
    raise NotImplementedError

  def bind_params(
    self,
    params: Any,
    autoencoder: Any,
    *,
    noise_scale: float = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
  ) -> dict[str, Any]:
    """What the function of `sampler_fn` takes, of which nothing is compiled in.

    Args:
      params: of the model.
      autoencoder: frozen parameters, of models that need them; else None.
      noise_scale: models without likelihoods: factor on the head's noise.
      temperature: models with likelihoods: divides the logits.
      top_p: models with likelihoods: only the most likely tokens that together
        have that probability.

    Returns:
      A tree of arrays and numbers.
    """
    raise NotImplementedError

  def temperature_settings(
    self, settings: SamplingSettings
  ) -> TemperatureSettings:
    """What the loop over chunks does; the rest is up to the sampler.

    Raises:
      ValueError: if a setting is not of this kind of model.
    """
    raise NotImplementedError

  def training_work(
    self,
    model: ModelConfig,
    autoencoder: AutoencoderConfig | None,
    num_positions: int,
  ) -> dict[str, Work]:
    """What a training step computes for one row, in named parts.

    The part that holds the attention, if there is one, is named "backbone".

    Args:
      model: resolved; its fast versions are switched off.
      autoencoder: the frozen one; None leaves out what it computes.
      num_positions: P, chunks of the row.
    """
    raise NotImplementedError

  def generation_work(
    self,
    model: ModelConfig,
    autoencoder: AutoencoderConfig,
    num_positions: int,
    num_draws: int,
  ) -> dict[str, Work]:
    """What generating the chunks of one row computes, with a cache.

    Args:
      model: as in `training_work`.
      autoencoder: the frozen one, of models that need it.
      num_positions: P, chunks of the row.
      num_draws: n, latents drawn and decoded for each chunk.
    """
    raise NotImplementedError
