"""The recorded quantities, computed by this package from a run.

Each starts from the recorded inputs alone: what one recorded output says is
never the input of another.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.autoencoder import Autoencoder, Posterior
from calm_jax.config import (
  AutoencoderConfig,
  DiffusionHeadConfig,
  EnergyHeadConfig,
  FlowHeadConfig,
  NextVectorConfig,
  TokenModelConfig,
)
from calm_jax.evaluation import brier
from calm_jax.interop.recorded import Recorded
from calm_jax.kernels.distance import Distance
from calm_jax.losses.energy import energy_loss_from_targets
from calm_jax.losses.reconstruction import clipped_kl
from calm_jax.model import NextVectorModel, TokenModel
from calm_jax.model.heads import build_head, denoising, flow

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """One computation: what it reads, what it gives, and for which models."""

  compute: Callable[[Recorded], Arrays]
  inputs: tuple[str, ...]  # besides input_ids
  outputs: tuple[str, ...]
  kinds: tuple[type, ...]  # of the model's config, or of its head's

  def applies(self, recorded: Recorded) -> bool:
    """Whether the run is of such a kind and the inputs are there."""
    model = recorded.run.config.model
    is_kind = isinstance(model, self.kinds) or isinstance(
      getattr(model, "head", None), self.kinds
    )
    return is_kind and all(name in recorded for name in self.inputs)


def _autoencoder(recorded: Recorded) -> Callable[..., Any]:
  """The run's autoencoder, whichever role it has: call(method, *inputs)."""
  config, params = recorded.run.latent_model
  return _caller(Autoencoder(config), params)


def _autoencoder_config(recorded: Recorded) -> AutoencoderConfig:
  return recorded.run.latent_model[0]


def _head(recorded: Recorded) -> Callable[..., Any]:
  """The run's head by itself: call(method, *inputs)."""
  model = recorded.run.config.model
  return _caller(build_head(model), recorded.run.params["head"])


def _caller(module: Any, params: Any) -> Callable[..., Any]:
  def call(method: str, *inputs: Any) -> Any:
    apply = jax.jit(functools.partial(module.apply, method=method))
    return apply({"params": params}, *map(jnp.asarray, inputs))

  return call


def _posterior(recorded: Recorded) -> Arrays:
  call = _autoencoder(recorded)
  posterior = call("encode", recorded.chunks())
  logits = call("logits", posterior.mean)[..., : recorded.sizes["V"]]
  floor = _autoencoder_config(recorded).kl_floor
  return {
    "ae_mean": posterior.mean,
    "ae_log_std": posterior.log_std,
    "ae_logits": logits.reshape(*recorded["input_ids"].shape, -1),
    "ae_kl_clamped": clipped_kl(*posterior, floor).mean(),
  }


def _decode(recorded: Recorded) -> Arrays:
  latents = recorded["ae_decode_latents"]
  tokens = _autoencoder(recorded)("decode_tokens", latents)
  return {"ae_decode_tokens": tokens}


def _training_loss(recorded: Recorded) -> Arrays:
  call, config = _autoencoder(recorded), _autoencoder_config(recorded)
  tokens = recorded.chunks()
  is_masked = ~recorded["ae_train_token_keep"].reshape(tokens.shape)
  posterior = Posterior(*call("encode", tokens, is_masked))
  latents = posterior.sample(recorded["ae_train_eps"])
  latents *= recorded["ae_train_latent_keep"] / (1 - config.latent_dropout_rate)
  cross_entropy = call("cross_entropy", latents, tokens).mean()
  kl = clipped_kl(*posterior, config.kl_floor).mean()
  return {
    "ae_train_ce": cross_entropy,
    "ae_train_kl": kl,
    "ae_train_loss": config.chunk_size * cross_entropy + config.kl_weight * kl,
  }


@functools.lru_cache(maxsize=1)
def _hidden(recorded: Recorded) -> jax.Array:
  """[B, P, D], what predicts every chunk but the first."""
  run = recorded.run
  call = _caller(NextVectorModel(run.config.model), run.params)
  return call("hidden", recorded.chunks()[:, :-1])


def _hidden_arrays(recorded: Recorded) -> Arrays:
  kind = recorded.run.config.model.head.kind
  return {f"{kind}_hidden": _hidden(recorded)}


@functools.lru_cache(maxsize=1)
def _energy_samples(recorded: Recorded) -> jax.Array:
  """[B, P, n, Z]."""
  noise = np.moveaxis(recorded["energy_noise"], 0, -2)
  return _head(recorded)("__call__", _hidden(recorded), noise)


def _energy_sample_arrays(recorded: Recorded) -> Arrays:
  samples = _energy_samples(recorded)
  decoded = _autoencoder(recorded)("decode_tokens", samples)  # [B, P, n, K]
  tokens = jnp.moveaxis(decoded, -2, 0)
  tokens = tokens.reshape(*tokens.shape[:2], -1)
  if "energy_decoded_tokens" in recorded:
    tokens = tokens[: len(recorded["energy_decoded_tokens"])]
  return {
    "energy_samples": jnp.moveaxis(samples, -2, 0),
    "energy_decoded_tokens": tokens,
  }


def _energy_losses(recorded: Recorded) -> Arrays:
  posterior = _autoencoder(recorded)("encode", recorded.chunks()[:, 1:])
  mean, log_std = (x[:, :, None] for x in posterior)
  noise = np.moveaxis(recorded["energy_eps"], 0, -2)
  targets = mean + jnp.exp(log_std) * noise
  samples = _energy_samples(recorded)
  tied = samples.at[:, :, 1].set(samples[:, :, 0])

  @functools.partial(jax.jit, static_argnums=1)
  def score(samples, alpha):
    def mean_loss(samples):
      loss, _ = energy_loss_from_targets(
        samples, targets, distance=Distance("energy", alpha)
      )
      return loss.mean(), loss

    (loss, each), slope = jax.value_and_grad(mean_loss, has_aux=True)(samples)
    return loss, each, jnp.moveaxis(slope, -2, 0)

  alpha = recorded.run.config.model.head.alpha
  loss, each, slope = score(samples, alpha)
  loss_1_5, _, slope_1_5 = score(samples, 1.5)
  tied_loss, _, tied_slope = score(tied, alpha)
  return {
    "energy_loss": loss,
    "energy_loss_per_position": each,
    "energy_loss_grad_samples": slope,
    "energy_loss_alpha_1_5": loss_1_5,
    "energy_loss_alpha_1_5_grad_samples": slope_1_5,
    "energy_ties_loss": tied_loss,
    "energy_ties_grad_samples": tied_slope,
  }


def _brier(recorded: Recorded) -> Arrays:
  labels = recorded.chunks()[:, 1:]
  if labels.shape[-1] < 4:
    return {}  # four tokens do not lie within one chunk
  pair = [
    recorded[name].reshape(labels.shape)
    for name in ("brier_pred_1", "brier_pred_2")
  ]
  tokens = jnp.stack(pair, axis=-2)  # [B, P, 2, K]
  shape = (*labels.shape[:2], 2, 2)
  is_pair = jnp.broadcast_to(brier.all_pairs(2), shape)
  collision = [
    brier.pair_share(x) for x in brier.agreeing_pairs(tokens, is_pair)
  ]
  scores = brier.brier_scores(
    np.asarray(brier.accuracy(tokens, labels)), np.stack(collision, axis=-1)
  )
  return {"brier_within_chunk": scores.mean(axis=(0, 1))[:4]}


def _flat_hidden(recorded: Recorded) -> jax.Array:
  """[Q, D]."""
  return _hidden(recorded).reshape(recorded.sizes["Q"], -1)


def _flat_target(recorded: Recorded) -> jax.Array:
  """[Q, Z], the posterior means of the predicted chunks."""
  posterior = _autoencoder(recorded)("encode", recorded.chunks()[:, 1:])
  return posterior.mean.reshape(recorded.sizes["Q"], -1)


def _network(recorded: Recorded, x: Any, times: Any) -> jax.Array:
  """The AdaLN network, one latent a position: [Q, Z], [Q] → [Q, out]."""
  call = _head(recorded)
  hidden = _flat_hidden(recorded)
  return call("__call__", hidden, x[:, None], times[:, None])[:, 0]


def _diffusion_network(recorded: Recorded) -> Arrays:
  x, times = recorded["diffusion_net_x"], recorded["diffusion_net_t"]
  found = {"diffusion_net_out": _network(recorded, x, times)}
  schedule = denoising.noise_schedule(100)
  for index in (0, 37):
    steps = np.full_like(times, schedule.timesteps[index])
    mean, log_variance = denoising.p_mean_log_variance(
      schedule,
      _network(recorded, x, steps),
      x,
      jnp.full(times.shape, index),
    )
    found[f"diffusion_p_mean_{index}"] = mean
    found[f"diffusion_p_log_variance_{index}"] = log_variance
  return found


def _diffusion_loss(recorded: Recorded) -> Arrays:
  schedule = denoising.noise_schedule(denoising.NUM_STEPS)
  target = _flat_target(recorded)
  times = jnp.asarray(recorded["diffusion_net_t"])
  noise = recorded["diffusion_noise"]
  x = denoising.add_noise(schedule, target, times, noise)
  output = _network(recorded, x, times)
  terms = denoising.denoising_loss(schedule, output, target, times, noise)
  return {
    "diffusion_target": target,
    "diffusion_loss_mse": terms.mse,
    "diffusion_loss_vb": terms.vb,
    "diffusion_loss_loss": terms.mse + terms.vb,
  }


def _diffusion_steps(recorded: Recorded) -> Arrays:
  num_steps = len(recorded["diffusion_sample_timesteps"])
  schedule = denoising.noise_schedule(num_steps)
  return {"diffusion_sample_timesteps": schedule.timesteps}


def _flow_network(recorded: Recorded) -> Arrays:
  x, times = recorded["flow_net_x"], recorded["flow_net_t"]
  target = _flat_target(recorded)
  between = flow.interpolate(x, target, times)
  velocity = _network(recorded, between, times)
  return {
    "flow_net_out": _network(recorded, x, times),
    "flow_target": target,
    "flow_loss": flow.matching_loss(velocity, x, target),
  }


def _flow_samples(recorded: Recorded) -> Arrays:
  x = recorded["flow_net_x"][:, None]
  latents = _head(recorded)("integrate", _flat_hidden(recorded), x)
  return {"flow_sample_from_x": latents[:, 0]}


def _token_model(recorded: Recorded) -> Arrays:
  run = recorded.run
  call = _caller(TokenModel(run.config.model), run.params)
  tokens = recorded["input_ids"]
  hidden = call("hidden", tokens[..., None])
  loss = call("cross_entropy", hidden[:, :-1], tokens[:, 1:])
  logits = call("logits", hidden)[..., : recorded.sizes["V"]]
  return {"ar_logits": logits, "ar_loss": loss.mean()}


_WITH_AUTOENCODER = (AutoencoderConfig, NextVectorConfig)
_ENERGY, _DIFFUSION, _FLOW = (
  (kind,) for kind in (EnergyHeadConfig, DiffusionHeadConfig, FlowHeadConfig)
)
CHECKS = (
  Check(
    compute=_posterior,
    inputs=(),
    outputs=("ae_mean", "ae_log_std", "ae_logits", "ae_kl_clamped"),
    kinds=_WITH_AUTOENCODER,
  ),
  Check(
    compute=_decode,
    inputs=("ae_decode_latents",),
    outputs=("ae_decode_tokens",),
    kinds=_WITH_AUTOENCODER,
  ),
  Check(
    compute=_training_loss,
    inputs=("ae_train_token_keep", "ae_train_eps", "ae_train_latent_keep"),
    outputs=("ae_train_ce", "ae_train_kl", "ae_train_loss"),
    kinds=_WITH_AUTOENCODER,
  ),
  *(
    Check(
      compute=_hidden_arrays,
      inputs=(),
      outputs=(f"{kind.kind}_hidden",),
      kinds=(kind,),
    )
    for kind in (EnergyHeadConfig, DiffusionHeadConfig, FlowHeadConfig)
  ),
  Check(
    compute=_energy_sample_arrays,
    inputs=("energy_noise",),
    outputs=("energy_samples", "energy_decoded_tokens"),
    kinds=_ENERGY,
  ),
  Check(
    compute=_energy_losses,
    inputs=("energy_noise", "energy_eps"),
    outputs=(
      "energy_loss",
      "energy_loss_per_position",
      "energy_loss_grad_samples",
      "energy_loss_alpha_1_5",
      "energy_loss_alpha_1_5_grad_samples",
      "energy_ties_loss",
      "energy_ties_grad_samples",
    ),
    kinds=_ENERGY,
  ),
  Check(
    compute=_brier,
    inputs=("brier_pred_1", "brier_pred_2"),
    outputs=("brier_within_chunk",),
    kinds=_WITH_AUTOENCODER,
  ),
  Check(
    compute=_diffusion_network,
    inputs=("diffusion_net_x", "diffusion_net_t"),
    outputs=(
      "diffusion_net_out",
      "diffusion_p_mean_0",
      "diffusion_p_log_variance_0",
      "diffusion_p_mean_37",
      "diffusion_p_log_variance_37",
    ),
    kinds=_DIFFUSION,
  ),
  Check(
    compute=_diffusion_loss,
    inputs=("diffusion_net_t", "diffusion_noise"),
    outputs=(
      "diffusion_target",
      "diffusion_loss_mse",
      "diffusion_loss_vb",
      "diffusion_loss_loss",
    ),
    kinds=_DIFFUSION,
  ),
  Check(
    compute=_diffusion_steps,
    inputs=("diffusion_sample_timesteps",),
    outputs=("diffusion_sample_timesteps",),
    kinds=_DIFFUSION,
  ),
  Check(
    compute=_flow_network,
    inputs=("flow_net_x", "flow_net_t"),
    outputs=("flow_net_out", "flow_target", "flow_loss"),
    kinds=_FLOW,
  ),
  Check(
    compute=_flow_samples,
    inputs=("flow_net_x",),
    outputs=("flow_sample_from_x",),
    kinds=_FLOW,
  ),
  Check(
    compute=_token_model,
    inputs=(),
    outputs=("ar_logits", "ar_loss"),
    kinds=(TokenModelConfig,),
  ),
)
