"""FLOPs of training and generation, counted from configs: the honest x-axis.

A matrix product of [m, k] with [k, n] counts 2·m·k·n; look-ups, norms and
other elementwise work count nothing. Numbers come as a dict of parts, whose
`sum(parts.values())` is the total. Two conventions:

  "executed": what this implementation multiplies, counted from its program
  (`calm_jax.families.costs`). All Linears of the heads; what the samples of one
  position share, once; the frozen encoder's forward pass in training; of the
  energy loss, which multiplies nothing, its distances; of a run, the products
  of its optimizer.

  "paper": reproduces the paper's Table 1, the default. Token model, a token:
    inference = 2·(blocks + V·D) + 4·P·D·layers
    training = 3 · inference
  and CALM:
    inference = [2·(blocks + chunk embed) + 4·P·D·layers + 2·6D²·head blocks]/K
                + 2·(autoencoder decoder a token)
    training = 3 · the bracket with N head samples, and no decoder
  with blocks = layers·(4D² + 3D·F), chunk embed = 2K·D² + 2D² and P attended
  positions (2048 in the paper), not halved for causality. A diffusion or flow
  head counts 5D² a block and network evaluation instead of 6D². So it differs
  from what is executed by the head alone; heads that the paper does not have
  count as they are executed, and so do an auxiliary loss and Brier scores in
  training, which go through the frozen decoder.

Deviation: V is the padded vocabulary in both, 0.1 % above the paper's 128256.
"""

from typing import Literal

import jax

from calm_jax.config import AutoencoderConfig, ExperimentConfig, ModelConfig
from calm_jax.families import build_model, costs, param_axes, param_shapes
from calm_jax.families.matrix_flops import matrix_flops
from calm_jax.model.heads import build_head
from calm_jax.training.optimizer import make_optimizer

Convention = Literal["paper", "executed"]


def num_parameters(model: ModelConfig) -> dict[str, int]:
  """Trained parameters by part; see `costs.num_parameters`."""
  return costs.num_parameters(model)


def training_flops_per_token(
  model: ModelConfig,
  *,
  num_positions: int = 2048,
  autoencoder: AutoencoderConfig | None = None,
  convention: Convention = "paper",
) -> dict[str, float]:
  """FLOPs of one training token: three forward passes' worth (module text).

  Args:
    model: a resolved config.
    num_positions: P, positions of a row, over which attention runs.
    autoencoder: the frozen one of a next-vector model; "executed" needs it, and
      so do Brier scores in training.
    convention: what is counted.

  Returns:
    FLOPs a token, by part.

  Raises:
    ValueError: if the convention is unknown or the autoencoder is missing.
  """
  _check_convention(convention)
  if not model.needs_autoencoder:
    autoencoder = None
  elif autoencoder is None and convention == "executed":
    raise ValueError(
      "executed FLOPs of a next-vector model include its frozen autoencoder;"
      " pass autoencoder=CONFIG."
    )
  parts = costs.training_flops_per_token(model, autoencoder, num_positions)
  if convention == "executed":
    return dict(parts)
  left_out = {"loss", "encoder"} if model.needs_autoencoder else {"loss"}
  parts = {name: it for name, it in parts.items() if name not in left_out}
  published = _published_head_flops(model)
  if published is not None:
    # Denoising heads evaluate their network once for each training target.
    parts["head"] = 3 * model.head.num_samples * published
  return parts


def inference_flops_per_token(
  model: ModelConfig,
  *,
  num_positions: int = 2048,
  autoencoder: AutoencoderConfig | None = None,
  temperature: float = 1.0,
  num_candidates: int = 200,
  convention: Convention = "paper",
) -> dict[str, float]:
  """FLOPs of one generated token, with a key/value cache (module text).

  Below temperature 1 a CALM draws and decodes `num_candidates` latents a
  chunk (Algorithm 2); at 1 it draws one. A token model pays the same at any
  temperature.

  Args:
    model: a resolved config.
    num_positions: P, positions attended to.
    autoencoder: the one of a next-vector model.
    temperature: T, in (0, 1].
    num_candidates: N_b.
    convention: what is counted.

  Returns:
    FLOPs a token: backbone, attention, head (CALM only) and decode, which is
    the autoencoder's decoder or the token model's output projection.

  Raises:
    ValueError: if an argument is out of range or the autoencoder is missing.
  """
  _check_convention(convention)
  if not 0 < temperature <= 1 or num_candidates < 1:
    raise ValueError(
      f"temperature is {temperature} and num_candidates {num_candidates};"
      " they lie in (0, 1] and from 1 upward."
    )
  if not model.needs_autoencoder:
    autoencoder = None
  elif autoencoder is None:
    raise ValueError(
      "a next-vector model decodes with its autoencoder;"
      " pass autoencoder=CONFIG."
    )
  n = 1 if temperature == 1 else num_candidates
  parts = costs.generation_flops_per_token(model, autoencoder, num_positions, n)
  published = _published_head_flops(model)
  if convention == "paper" and published is not None:
    num_evaluations = n * build_head(model).num_evaluations
    parts = parts | {"head": num_evaluations * published}
  return dict(parts)


def optimizer_flops_per_step(config: ExperimentConfig) -> float:
  """FLOPs of one update: Muon multiplies matrices, AdamW does not."""
  model = build_model(config.model)
  optimizer = make_optimizer(config, param_axes(model))
  params = param_shapes(model)
  state = jax.eval_shape(optimizer.init, params)
  return matrix_flops(jax.make_jaxpr(optimizer.update)(params, state, params))


def training_flops(
  config: ExperimentConfig,
  *,
  num_steps: int | None = None,
  convention: Convention = "paper",
) -> float:
  """FLOPs of a run: those of a token times steps · B · T tokens.

  "executed" counts the optimizer's, too, which weigh in small batches.

  Args:
    config: resolved.
    num_steps: of them; all by default.
    convention: what is counted.

  Returns:
    The sum.
  """
  per_token = training_flops_per_token(
    config.model,
    num_positions=config.num_chunks,
    autoencoder=config.autoencoder,
    convention=convention,
  )
  if convention == "executed" and config.teacher is not None:
    per_token = per_token | {"teacher": _teacher_flops_per_token(config)}
  step_tokens = config.data.batch_size * config.data.row_length
  per_step = sum(per_token.values()) * step_tokens
  if convention == "executed":
    per_step += optimizer_flops_per_step(config)
  return per_step * (config.num_steps if num_steps is None else num_steps)


def _teacher_flops_per_token(config: ExperimentConfig) -> float:
  """Of what a teacher reads and draws; see `training/teacher.py`.

  It reads the row, and for token k of each chunk the k tokens before it again.
  """
  parts = costs.generation_flops_per_token(
    config.teacher, None, config.data.row_length, 1
  )
  reading = parts["backbone"] + parts["attention"]
  return reading * (1 + (config.model.chunk_size - 1) / 2) + parts["decode"]


def _published_head_flops(model: ModelConfig) -> float | None:
  """Of one evaluation, a token, as the paper counts; None: it does not."""
  if not hasattr(model, "head"):
    return None
  products = build_head(model).published_products
  return None if products is None else 2 * products / model.chunk_size


def _check_convention(convention: str) -> None:
  if convention not in ("paper", "executed"):
    raise ValueError(
      f"convention is {convention!r}; choose one of paper, executed."
    )
