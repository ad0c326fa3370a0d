"""Small random checkpoints in the form of the release, with their outputs.

The outputs come from `numpy_model`, in float64. Run as a program it writes the
fixtures again:

    python -m tests.interop.checkpoints
"""

import json
import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.interop import numpy_model

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
ARCHITECTURES = {
  "ae": "Autoencoder",
  "energy": "EnergyTransformer",
  "diffusion": "DiffusionTransformer",
  "flow": "FlowTransformer",
  "ar": "LlamaForCausalLM",
}
# Odd wherever nothing asks for more.
SIZES = {
  "vocab_size": 37,
  "patch_size": 2,
  "latent_size": 5,
  "num_encoder_layers": 2,
  "num_decoder_layers": 2,
  "hidden_size": 24,
  "intermediate_size": 33,
  "num_hidden_layers": 2,
  "num_attention_heads": 6,
  "num_key_value_heads": 2,
  "num_mlp_layers": 1,
  "noise_size": 3,
  "num_samples": 3,
}
_AE_SIZES = {"hidden_size": 18, "intermediate_size": 21}


def make_config(kind, **sizes):
  """Values of `config.json`."""
  own = _AE_SIZES if kind == "ae" else {}
  values = {
    **SIZES,
    **own,
    **sizes,
    "architectures": [ARCHITECTURES[kind]],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 64,
    "beta": 1.0,
    "ae_dropout": 0.15,
    "kl_weight": 0.001,
    "kl_clamp": 0.5,
    "tie_word_embeddings": False,
  }
  if kind in ("energy", "diffusion", "flow"):
    values["ae_path"] = "../ae"
  return values


def make_shapes(kind, values):
  """Shapes by name, of tensors that are stored twice once."""
  return _SHAPES[kind](values)


def make_weights(kind, values, seed=0):
  """Random float32 tensors by name, those that are stored twice once."""
  shapes = make_shapes(kind, values)
  rng = np.random.default_rng(seed)
  weights = {}
  for name, shape in shapes.items():
    array = rng.normal(size=shape)
    if "norm" in name.split(".")[-2] or "_ln" in name or "embed_proj.3" in name:
      array = 0.1 * array + (name.endswith("weight"))
    elif "embed_tokens" in name:
      array = 0.5 * array
    elif len(shape) == 2:
      array = array / np.sqrt(shape[1])
    else:
      array = 0.1 * array
    weights[name] = array.astype(np.float32)
  return weights


def write(directory, values, weights, dtype="float32", num_shards=1):
  """Writes `config.json` and safetensors, perhaps in shards."""
  directory.mkdir(parents=True)
  text = json.dumps(values, indent=2) + "\n"
  (directory / "config.json").write_text(text)
  dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
  weights = {name: array.astype(dtype) for name, array in weights.items()}
  if num_shards == 1:
    save_file(weights, directory / "model.safetensors")
    return
  shard_of = {}
  for i in range(num_shards):
    shard = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
    names = list(weights)[i::num_shards]
    save_file({name: weights[name] for name in names}, directory / shard)
    shard_of |= dict.fromkeys(names, shard)
  index = {"metadata": {}, "weight_map": shard_of}
  path = directory / "model.safetensors.index.json"
  path.write_text(json.dumps(index))


def round_to(weights, dtype):
  """The values that remain after storing them in a dtype."""
  if dtype == "bfloat16":
    dtype = ml_dtypes.bfloat16
  return {
    name: x.astype(dtype).astype(np.float32) for name, x in weights.items()
  }


def with_prefix(weights, prefix):
  return {prefix + name: array for name, array in weights.items()}


def record(checkpoints, num_chunks=5, seed=1):
  """Inputs and outputs as in a recorded `io.npz`.

  Args:
    checkpoints: {kind: (values, weights)}; one of "ae" unless only "ar".
    num_chunks: L.
    seed: of the inputs.
  """
  rng = np.random.default_rng(seed)
  models = {
    kind: (values, {k: v.astype(np.float64) for k, v in weights.items()})
    for kind, (values, weights) in checkpoints.items()
  }
  values = next(iter(models.values()))[0]
  chunk_size, latent_size = values["patch_size"], values["latent_size"]
  length = num_chunks * chunk_size
  ids = rng.integers(0, values["vocab_size"], (2, length)).astype(np.int32)
  chunks = ids.reshape(2, num_chunks, chunk_size)
  io = {"input_ids": ids}
  posterior = None
  if "ae" in models:
    posterior = numpy_model.ae_encode(models["ae"][1], "", chunks)
    io |= _record_autoencoder(rng, *models["ae"], chunks, posterior)
  for kind in ("energy", "diffusion", "flow"):
    if kind in models:
      values, weights = models[kind]
      hidden = numpy_model.hidden(weights, chunks[:, :-1], values)
      io[f"{kind}_hidden"] = hidden
      target = [x[:, 1:] for x in posterior]
      if kind == "energy":
        io |= _record_energy(
          rng, *models[kind], hidden, target, models["ae"][1]
        )
      else:
        flat = hidden.reshape(-1, hidden.shape[-1])
        x = rng.normal(size=(len(flat), latent_size))
        record_head = {"diffusion": _record_diffusion, "flow": _record_flow}
        mean = target[0].reshape(len(flat), -1)
        io |= record_head[kind](rng, weights, flat, mean, x)
  if "ar" in models:
    values, weights = models["ar"]
    io["ar_logits"] = numpy_model.token_logits(weights, ids, values)
    io["ar_loss"] = numpy_model.cross_entropy(
      io["ar_logits"][:, :-1], ids[:, 1:]
    ).mean()
  return {
    name: x if x.dtype.kind in "ib" else np.asarray(x, np.float32)
    for name, x in ((name, np.asarray(x)) for name, x in io.items())
  }


def _record_autoencoder(rng, values, weights, chunks, posterior):
  mean, log_std = posterior
  logits = numpy_model.ae_logits(weights, "", mean)
  latents = rng.normal(size=(8, values["latent_size"])).astype(np.float32)
  decoded = numpy_model.ae_logits(weights, "", latents.astype(float))
  keep = rng.random(chunks.shape) > 0.15
  eps = rng.normal(size=mean.shape).astype(np.float32)
  latent_keep = rng.random(mean.shape) > 0.15
  noisy = numpy_model.ae_encode(weights, "", np.where(keep, chunks, 0))
  z = (noisy[0] + np.exp(noisy[1]) * eps) * latent_keep / 0.85
  ce = numpy_model.cross_entropy(
    numpy_model.ae_logits(weights, "", z), chunks
  ).mean()
  kl = numpy_model.kl_clipped(*noisy).mean()
  rows = len(chunks)
  return {
    "ae_mean": mean,
    "ae_log_std": log_std,
    "ae_logits": logits.reshape(rows, -1, logits.shape[-1]),
    "ae_kl_clamped": numpy_model.kl_clipped(mean, log_std).mean(),
    "ae_decode_latents": latents,
    "ae_decode_tokens": decoded.argmax(-1).astype(np.int32),
    "ae_train_token_keep": keep.reshape(rows, -1),
    "ae_train_eps": eps,
    "ae_train_latent_keep": latent_keep,
    "ae_train_ce": ce,
    "ae_train_kl": kl,
    "ae_train_loss": values["patch_size"] * ce + 1e-3 * kl,
  }


def _record_energy(rng, values, weights, hidden, target, autoencoder):
  shape = hidden.shape[:2]
  noise = rng.random((values["num_samples"], *shape, values["noise_size"]))
  noise = (noise - 0.5).astype(np.float32)
  samples = numpy_model.energy_samples(weights, hidden, noise)
  eps = rng.normal(size=(7, *target[0].shape)).astype(np.float32)
  targets = target[0] + np.exp(target[1]) * eps
  tied = samples.copy()
  tied[1] = tied[0]
  loss, slope = numpy_model.energy_loss(samples, targets)
  loss_1_5, slope_1_5 = numpy_model.energy_loss(samples, targets, 1.5)
  tied_loss, tied_slope = numpy_model.energy_loss(tied, targets)
  decoded = numpy_model.ae_logits(autoencoder, "", samples[:2]).argmax(-1)
  return {
    "energy_noise": noise,
    "energy_samples": samples,
    "energy_eps": eps,
    "energy_loss": loss.mean(),
    "energy_loss_per_position": loss,
    "energy_loss_grad_samples": slope / loss.size,
    "energy_loss_alpha_1_5": loss_1_5.mean(),
    "energy_loss_alpha_1_5_grad_samples": slope_1_5 / loss.size,
    "energy_ties_loss": tied_loss.mean(),
    "energy_ties_grad_samples": tied_slope / loss.size,
    "energy_decoded_tokens": decoded.reshape(2, len(decoded[0]), -1).astype(
      np.int32
    ),
  }


def _record_diffusion(rng, weights, hidden, target, x):
  x = x.astype(np.float32)
  times = rng.integers(0, 1000, len(x)).astype(np.int32)
  times[:3] = 0, 1, 999
  noise = rng.normal(size=x.shape).astype(np.float32)
  steps = numpy_model.timesteps(100)
  noised = numpy_model.noised(target, noise, times)
  mse, vb = numpy_model.diffusion_loss(
    numpy_model.adaln(weights, noised, times, hidden), target, times, noise
  )
  io = {
    "diffusion_net_x": x,
    "diffusion_net_t": times,
    "diffusion_net_out": numpy_model.adaln(weights, x, times, hidden),
    "diffusion_target": target,
    "diffusion_noise": noise,
    "diffusion_loss_mse": mse,
    "diffusion_loss_vb": vb,
    "diffusion_loss_loss": mse + vb,
    "diffusion_sample_timesteps": steps,
  }
  for i in (0, 37):
    out = numpy_model.adaln(weights, x, np.full(len(x), steps[i]), hidden)
    mean, log_variance = numpy_model.reverse_step(
      numpy_model.betas(steps), out, x.astype(float), i
    )
    io[f"diffusion_p_mean_{i}"] = mean
    io[f"diffusion_p_log_variance_{i}"] = log_variance
  return io


def _record_flow(rng, weights, hidden, target, x):
  x = x.astype(np.float32)
  times = rng.random(len(x)).astype(np.float32)
  seen = np.floor(np.float32(1000) * times)
  between = (1 - times[:, None]) * x.astype(float) + times[:, None] * target
  velocity = numpy_model.adaln(weights, between, seen, hidden)
  return {
    "flow_net_x": x,
    "flow_net_t": times,
    "flow_net_out": numpy_model.adaln(weights, x, seen, hidden),
    "flow_target": target,
    "flow_loss": ((velocity - (target - x)) ** 2).mean(-1),
    "flow_sample_from_x": numpy_model.flow_sample(
      weights, hidden, x.astype(float), 10
    ),
  }


def _linear(name, num_outputs, num_inputs):
  return {
    f"{name}.weight": (num_outputs, num_inputs),
    f"{name}.bias": (num_outputs,),
  }


def _swiglu(name, size, ffn_size):
  return {
    f"{name}.gate_proj.weight": (ffn_size, size),
    f"{name}.up_proj.weight": (ffn_size, size),
    f"{name}.down_proj.weight": (size, ffn_size),
  }


def _autoencoder_shapes(v):
  e, k, z = v["hidden_size"], v["patch_size"], v["latent_size"]
  shapes = {"encoder.embed_tokens.weight": (v["vocab_size"], e)}
  for part in ("encoder", "decoder"):
    for i in range(v[f"num_{part}_layers"]):
      name = f"{part}.{part}_layers.{i}"
      shapes |= _swiglu(f"{name}.mlp", e, v["intermediate_size"])
      shapes[f"{name}.layernorm.weight"] = (e,)
    shapes[f"{part}.norm.weight"] = (e,)
  return {
    **shapes,
    **_linear("encoder.squeeze_layer", e, k * e),
    **_linear("encoder.hidden_to_latent", 2 * z, e),
    **_linear("decoder.latent_to_hidden", e, z),
    **_linear("decoder.expand_layer", k * e, e),
  }


def _llama_shapes(v, prefix):
  d = v["hidden_size"]
  kv = d * v["num_key_value_heads"] // v["num_attention_heads"]
  shapes = {f"{prefix}embed_tokens.weight": (v["vocab_size"], d)}
  for i in range(v["num_hidden_layers"]):
    name = f"{prefix}layers.{i}"
    for part, num_outputs in zip("qkvo", (d, kv, kv, d), strict=True):
      shapes[f"{name}.self_attn.{part}_proj.weight"] = (num_outputs, d)
    shapes |= _swiglu(f"{name}.mlp", d, v["intermediate_size"])
    shapes[f"{name}.input_layernorm.weight"] = (d,)
    shapes[f"{name}.post_attention_layernorm.weight"] = (d,)
  return shapes | {f"{prefix}norm.weight": (d,)}


def _token_shapes(v):
  lm_head = {"lm_head.weight": (v["vocab_size"], v["hidden_size"])}
  return _llama_shapes(v, "model.") | lm_head


def _calm_shapes(v):
  d = v["hidden_size"]
  return {
    **_llama_shapes(v, "transformer."),
    **_linear("embed_proj.0", 2 * d, v["patch_size"] * d),
    **_linear("embed_proj.2", d, 2 * d),
    "embed_proj.3.weight": (d,),
    "embed_proj.3.bias": (d,),
  }


def _energy_shapes(v):
  d, p = v["hidden_size"], "generative_head"
  shapes = _calm_shapes(v) | {
    **_linear(f"{p}.noise_embd", d, v["noise_size"]),
    **_linear(f"{p}.hidden_embd", d, d),
    **_linear(f"{p}.final_layer.linears.0", d, d),
    **_linear(f"{p}.final_layer.linears.2", v["latent_size"], d),
  }
  norms = ["norm_hidden", "norm_noise", "final_layer.in_ln"]
  for i in range(v["num_mlp_layers"]):
    name = f"{p}.mlp_blocks.{i}"
    shapes |= _linear(f"{name}.linears.0", d, 2 * d)
    shapes |= _linear(f"{name}.linears.2", d, d)
    shapes |= _linear(f"{name}.linears.4", 2 * d, d)
    shapes |= _linear(f"{name}.down_proj", d, d)
    norms.append(f"mlp_blocks.{i}.in_ln")
  for name in norms:
    shapes |= {f"{p}.{name}.weight": (d,), f"{p}.{name}.bias": (d,)}
  return shapes


def _adaln_shapes(v, output_size):
  d, p = v["hidden_size"], "generative_head.net"
  shapes = _calm_shapes(v) | {
    **_linear(f"{p}.input_proj", d, v["latent_size"]),
    **_linear(f"{p}.cond_embed", d, d),
    **_linear(f"{p}.time_embed.mlp.0", d, 256),
    **_linear(f"{p}.time_embed.mlp.2", d, d),
    **_linear(f"{p}.final_layer.linear", output_size, d),
    **_linear(f"{p}.final_layer.adaLN_modulation.1", 2 * d, d),
  }
  for i in range(v["num_mlp_layers"]):
    name = f"{p}.res_blocks.{i}"
    shapes |= {f"{name}.in_ln.weight": (d,), f"{name}.in_ln.bias": (d,)}
    shapes |= _linear(f"{name}.mlp.0", d, d)
    shapes |= _linear(f"{name}.mlp.2", d, d)
    shapes |= _linear(f"{name}.adaLN_modulation.1", 3 * d, d)
  return shapes


_SHAPES = {
  "ae": _autoencoder_shapes,
  "energy": _energy_shapes,
  "diffusion": lambda v: _adaln_shapes(v, 2 * v["latent_size"]),
  "flow": lambda v: _adaln_shapes(v, v["latent_size"]),
  "ar": _token_shapes,
}


def _write_fixtures():
  """One checkpoint of each kind, each stored in another of the ways."""
  dtypes = {"energy": "bfloat16", "ar": "bfloat16"}
  shards = {"flow": 3}
  checkpoints = {}
  for seed, kind in enumerate(ARCHITECTURES):
    values = make_config(kind)
    weights = make_weights(kind, values, seed)
    dtype = dtypes.get(kind, "float32")
    weights = round_to(weights, dtype)
    checkpoints[kind] = values, weights
    stored = dict(weights)
    if kind == "diffusion":  # the only copy of its autoencoder is inside
      del values["ae_path"]
      stored |= with_prefix(checkpoints["ae"][1], "ae_model.")
    if kind == "energy":  # the other of the two names
      stored = {
        name.replace("generative_head", "mlp_generator"): array
        for name, array in stored.items()
      }
    write(FIXTURES / kind, values, stored, dtype, shards.get(kind, 1))
  np.savez_compressed(FIXTURES / "io.npz", **record(checkpoints))


if __name__ == "__main__":
  _write_fixtures()
