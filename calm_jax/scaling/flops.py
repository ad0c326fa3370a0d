"""Parameters and FLOPs, counted from configs: the honest x-axis.

A matrix product of [m, k] with [k, n] counts 2·m·k·n; look-ups, norms and
other elementwise work count nothing. Numbers come as a dict of parts, whose
`sum(parts.values())` is the total. Two conventions:

  "paper": reproduces the paper's Table 1, the default. Token model, a token:
    inference = 2·(blocks + V·D) + 4·P·D·layers
    training = 3 · inference
  and CALM:
    inference = [2·(blocks + chunk embed) + 4·P·D·layers + 2·6D²·head blocks]/K
                + 2·(autoencoder decoder a token)
    training = 3 · the bracket with N head samples, and no decoder
  with blocks = layers·(4D² + 3D·F), chunk embed = 2K·D² + 2D² and P attended
  positions (2048 in the paper), not halved for causality. A diffusion or flow
  head counts 5D² a block and network evaluation instead of 6D².

  "executed": what this implementation multiplies. All Linears of the heads;
  what the samples of one position share, once; the frozen encoder's forward
  pass in training; the energy loss itself.

Deviation: V is the padded vocabulary in both, 0.1 % above the paper's 128256.
"""

from typing import Literal

from calm_jax.config import (
  AutoencoderConfig,
  BackboneConfig,
  DiffusionHeadConfig,
  EnergyHeadConfig,
  ExperimentConfig,
  FlowHeadConfig,
  HeadConfig,
  ModelConfig,
  NextVectorConfig,
  TokenModelConfig,
)

Convention = Literal["paper", "executed"]

_TIME_SIZE = 256  # of the sinusoidal embedding of t (paper §7.4)


def num_parameters(model: ModelConfig) -> dict[str, int]:
  """Trained parameters by part, exactly those of the model's parameter tree.

  A next-vector model's frozen autoencoder is not among them.

  Args:
    model: a resolved config.

  Returns:
    Counts by part: embedding, encoder, decoder | embedding, chunk_embed,
    backbone, head | embedding, backbone, output.
  """
  embedding = model.vocabulary.padded_size * model.hidden_size
  if isinstance(model, AutoencoderConfig):
    return {"embedding": embedding, **_autoencoder_parameters(model)}
  blocks = _block_products(model) + 2 * model.num_layers * model.hidden_size
  backbone = {"backbone": blocks + model.hidden_size}
  if isinstance(model, TokenModelConfig):
    return {"embedding": embedding, **backbone, "output": embedding}
  d, k = model.hidden_size, model.chunk_size
  chunk_embed = 0
  if model.inputs == "latent":
    embedding = 0
  else:
    chunk_embed += _linear(k * d, 2 * d) + _linear(2 * d, d) + 2 * d
  if model.inputs != "tokens":
    chunk_embed += _linear(model.latent_size, d)
  head = _head_parameters(model.head, d, model.latent_size)
  return {
    "embedding": embedding,
    "chunk_embed": chunk_embed,
    **backbone,
    "head": head,
  }


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
    autoencoder: the frozen one of a next-vector model; "executed" needs it.
    convention: what is counted.

  Returns:
    FLOPs a token, by part.

  Raises:
    ValueError: if the convention is unknown or the autoencoder is missing.
  """
  _check_convention(convention)
  if isinstance(model, AutoencoderConfig):
    parts = {
      "encoder": _encoder_products(model),
      "decoder": _decoder_products(model),
    }
    return {name: 3 * 2 * count for name, count in parts.items()}
  parts = _backbone_flops(model, num_positions)
  if isinstance(model, TokenModelConfig):
    parts["output"] = 2 * model.vocabulary.padded_size * model.hidden_size
    return {name: 3 * count for name, count in parts.items()}
  head, n, k = model.head, model.head.num_samples, model.chunk_size
  if convention == "paper":
    products = n * _published_head_products(model)
    parts["head"] = 2 * products / k
    return {name: 3 * count for name, count in parts.items()}
  if autoencoder is None:
    raise ValueError(
      "executed FLOPs of a next-vector model include its frozen autoencoder;"
      " pass autoencoder=CONFIG."
    )
  position, time, sample = _head_products(model)
  parts["head"] = 2 * (position + n * (time + sample)) / k
  if isinstance(head, EnergyHeadConfig):
    # A difference, a square and a sum for each pair and coordinate.
    pairs = n * head.num_targets + n * (n - 1) / 2
    parts["loss"] = 3 * pairs * model.latent_size / k
  parts = {name: 3 * count for name, count in parts.items()}
  return parts | {"encoder": 2 * _encoder_products(autoencoder)}


def inference_flops_per_token(
  model: NextVectorConfig | TokenModelConfig,
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
  parts = _backbone_flops(model, num_positions)
  if isinstance(model, TokenModelConfig):
    decode = 2 * model.vocabulary.padded_size * model.hidden_size
    return parts | {"decode": decode}
  if autoencoder is None:
    raise ValueError(
      "a next-vector model decodes with its autoencoder;"
      " pass autoencoder=CONFIG."
    )
  n = 1 if temperature == 1 else num_candidates
  steps = _num_evaluations(model.head)
  if convention == "paper":
    products = n * steps * _published_head_products(model)
  else:
    position, time, sample = _head_products(model)
    products = position + steps * (time + n * sample)
  parts["head"] = 2 * products / model.chunk_size
  return parts | {"decode": 2 * n * _decoder_products(autoencoder)}


def training_flops(
  config: ExperimentConfig, *, convention: Convention = "paper"
) -> float:
  """FLOPs of a whole run: those of a token times steps · B · T tokens."""
  per_token = training_flops_per_token(
    config.model,
    num_positions=config.num_chunks,
    autoencoder=config.autoencoder,
    convention=convention,
  )
  row_tokens = config.data.batch_size * config.data.row_length
  return sum(per_token.values()) * config.num_steps * row_tokens


def _linear(num_inputs: int, num_outputs: int) -> int:
  """Parameters of a Linear with bias."""
  return (num_inputs + 1) * num_outputs


def _block_products(model: BackboneConfig) -> int:
  """Multiply-adds of all layers' matrices at one position."""
  d, f = model.hidden_size, model.ffn_size
  num_kv_heads = model.num_kv_heads or model.num_heads
  kv_size = num_kv_heads * model.head_size
  return model.num_layers * (2 * d * d + 2 * d * kv_size + 3 * d * f)


def _backbone_flops(
  model: BackboneConfig, num_positions: int
) -> dict[str, float]:
  """Forward FLOPs a token of the layers, the chunk embed and attention."""
  d, k = model.hidden_size, model.chunk_size
  products = _block_products(model)
  if isinstance(model, NextVectorConfig):
    if model.inputs != "latent":
      products += 2 * k * d * d + 2 * d * d
    if model.inputs != "tokens":
      products += model.latent_size * d
  return {
    "backbone": 2 * products / k,
    "attention": 4 * num_positions * d * model.num_layers / k,
  }


def _head_parameters(head: HeadConfig, d: int, z: int) -> int:
  """Parameters of a head on D-wide hidden states and Z-wide latents."""
  if isinstance(head, EnergyHeadConfig):
    embeds = _linear(head.noise_size, d) + _linear(d, d) + 2 * 2 * d
    block = 2 * d + _linear(2 * d, d) + _linear(d, 2 * d) + 2 * _linear(d, d)
    final = 2 * d + _linear(d, d) + _linear(d, z)
  else:
    time = _linear(_TIME_SIZE, d) + _linear(d, d)
    embeds = _linear(z, d) + _linear(d, d) + time
    block = 2 * d + _linear(d, 3 * d) + 2 * _linear(d, d)
    final = _linear(d, 2 * d) + _linear(d, _output_size(head, z))
  return embeds + head.num_mlp_layers * block + final


def _head_products(model: NextVectorConfig) -> tuple[int, int, int]:
  """Multiply-adds once a position, for each of its times, for each sample.

  Training draws a time for every sample; in sampling all share the step's.
  """
  head, d, z = model.head, model.hidden_size, model.latent_size
  blocks = head.num_mlp_layers
  if isinstance(head, EnergyHeadConfig):
    # The conditioning half of each block's first Linear is once a position.
    sample = head.noise_size * d + 5 * d * d * blocks + d * d + d * z
    return d * d + d * d * blocks, 0, sample
  # Shift, scale and gate of each block, shift and scale of the last layer.
  time = _TIME_SIZE * d + d * d + 3 * d * d * blocks + 2 * d * d
  sample = z * d + 2 * d * d * blocks + d * _output_size(head, z)
  return d * d, time, sample


def _published_head_products(model: NextVectorConfig) -> int:
  """Multiply-adds of the head's blocks alone, for one sample."""
  factor = 6 if isinstance(model.head, EnergyHeadConfig) else 5
  return factor * model.hidden_size**2 * model.head.num_mlp_layers


def _num_evaluations(head: HeadConfig) -> int:
  """Network evaluations to draw one latent."""
  if isinstance(head, EnergyHeadConfig):
    return 1
  is_midpoint = isinstance(head, FlowHeadConfig) and head.solver == "midpoint"
  return head.num_sampling_steps * (2 if is_midpoint else 1)


def _output_size(head: HeadConfig, z: int) -> int:
  """The diffusion head predicts noise and variance, the flow a velocity."""
  return 2 * z if isinstance(head, DiffusionHeadConfig) else z


def _autoencoder_parameters(model: AutoencoderConfig) -> dict[str, int]:
  e, k, z = model.hidden_size, model.chunk_size, model.latent_size
  block = e + 3 * e * model.ffn_size
  encoder = _linear(k * e, e) + e + _linear(e, 2 * z)
  decoder = _linear(z, e) + _linear(e, k * e) + e
  return {
    "encoder": encoder + model.num_encoder_layers * block,
    "decoder": decoder + model.num_decoder_layers * block,
  }


def _encoder_products(model: AutoencoderConfig) -> float:
  """Multiply-adds a token."""
  e, k, z = model.hidden_size, model.chunk_size, model.latent_size
  blocks = model.num_encoder_layers // 2 * 3 * e * model.ffn_size
  return blocks + (k * e * e + blocks + 2 * e * z) / k


def _decoder_products(model: AutoencoderConfig) -> float:
  """Multiply-adds a token, projection onto the vocabulary included."""
  e, k, z = model.hidden_size, model.chunk_size, model.latent_size
  blocks = model.num_decoder_layers // 2 * 3 * e * model.ffn_size
  projection = e * model.vocabulary.padded_size
  return projection + blocks + (z * e + blocks + k * e * e) / k


def _check_convention(convention: str) -> None:
  if convention not in ("paper", "executed"):
    raise ValueError(
      f"convention is {convention!r}; choose one of paper, executed."
    )
