"""Every model of the paper in float64 NumPy, by the names of the weight files.

A second, independent reading of the paper: written from its equations, sharing
no line with the package, slow and plain. `w` maps names to float64 arrays;
torch Linear weights are [out, in].
"""

import math

import numpy as np


def linear(w, name, x):
  y = x @ w[f"{name}.weight"].T
  return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def silu(x):
  return x / (1 + np.exp(-x))


def rms_norm(w, name, x, epsilon=1e-6):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * w[name]


def layer_norm(x, scale=1.0, bias=0.0):
  centred = x - x.mean(-1, keepdims=True)
  variance = (centred**2).mean(-1, keepdims=True)
  return centred / np.sqrt(variance + 1e-6) * scale + bias


def norm(w, name, x):
  return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])


def swiglu(w, name, x):
  gate, up = (linear(w, f"{name}.{part}_proj", x) for part in ("gate", "up"))
  return linear(w, f"{name}.down_proj", silu(gate) * up)


def count(w, prefix):
  return len(
    {k[len(prefix) :].split(".")[0] for k in w if k.startswith(prefix)}
  )


# The autoencoder; `p` is "" or "ae_model.".


def ae_block(w, name, x):
  return x + swiglu(
    w, f"{name}.mlp", rms_norm(w, f"{name}.layernorm.weight", x)
  )


def ae_encode_embedded(w, p, x):
  layers = count(w, f"{p}encoder.encoder_layers.")
  for i in range(layers):
    if i == layers // 2:
      x = linear(w, f"{p}encoder.squeeze_layer", x.reshape(*x.shape[:-2], -1))
    x = ae_block(w, f"{p}encoder.encoder_layers.{i}", x)
  x = rms_norm(w, f"{p}encoder.norm.weight", x)
  x = linear(w, f"{p}encoder.hidden_to_latent", x)
  return np.split(x, 2, axis=-1)


def ae_encode(w, p, tokens):
  """[..., K] ids to mean and log std, [..., Z]."""
  return ae_encode_embedded(w, p, w[f"{p}encoder.embed_tokens.weight"][tokens])


def ae_logits(w, p, latents):
  """[..., Z] to [..., K, V]."""
  x = linear(w, f"{p}decoder.latent_to_hidden", latents)
  layers = count(w, f"{p}decoder.decoder_layers.")
  for i in range(layers):
    if i == layers // 2:
      x = linear(w, f"{p}decoder.expand_layer", x)
      x = x.reshape(*x.shape[:-1], -1, w[f"{p}decoder.norm.weight"].size)
    x = ae_block(w, f"{p}decoder.decoder_layers.{i}", x)
  x = rms_norm(w, f"{p}decoder.norm.weight", x)
  return x @ w[f"{p}encoder.embed_tokens.weight"].T


def kl_clipped(mean, log_std, floor=0.5):
  kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std)
  return np.maximum(floor, kl).sum(-1)


def cross_entropy(logits, labels):
  high = logits.max(-1, keepdims=True)
  log_sum = np.log(np.exp(logits - high).sum(-1)) + high[..., 0]
  return log_sum - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


# The Llama backbone; `p` is "transformer." or "model.".


def rope(x, theta):
  length, size = x.shape[1], x.shape[3]
  angles = np.outer(
    np.arange(length), theta ** (-np.arange(size // 2) * 2 / size)
  )
  cos, sin = (f(angles)[None, :, None] for f in (np.cos, np.sin))
  a, b = np.split(x, 2, axis=-1)
  return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(w, name, x, config):
  rows, length, _ = x.shape
  heads = config["num_attention_heads"]
  size = config["hidden_size"] // heads
  q, k, v = (
    linear(w, f"{name}.{part}_proj", x).reshape(rows, length, -1, size)
    for part in "qkv"
  )
  q, k = rope(q, config["rope_theta"]), rope(k, config["rope_theta"])
  out = np.zeros_like(q)
  for h in range(heads):
    g = h * k.shape[2] // heads
    scores = q[:, :, h] @ k[:, :, g].transpose(0, 2, 1) / math.sqrt(size)
    scores[:, ~np.tri(length, dtype=bool)] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    out[:, :, h] = scores / scores.sum(-1, keepdims=True) @ v[:, :, g]
  return linear(w, f"{name}.o_proj", out.reshape(rows, length, -1))


def backbone(w, p, x, config):
  epsilon = config["rms_norm_eps"]
  for i in range(config["num_hidden_layers"]):
    name = f"{p}layers.{i}"
    y = rms_norm(w, f"{name}.input_layernorm.weight", x, epsilon)
    x = x + attention(w, f"{name}.self_attn", y, config)
    y = rms_norm(w, f"{name}.post_attention_layernorm.weight", x, epsilon)
    x = x + swiglu(w, f"{name}.mlp", y)
  return rms_norm(w, f"{p}norm.weight", x, epsilon)


def token_logits(w, tokens, config):
  x = backbone(w, "model.", w["model.embed_tokens.weight"][tokens], config)
  return linear(w, "lm_head", x)


def hidden(w, chunks, config):
  """[B, L, K] ids to [B, L, D]."""
  x = w["transformer.embed_tokens.weight"][chunks]
  x = linear(w, "embed_proj.0", x.reshape(*chunks.shape[:2], -1))
  x = norm(w, "embed_proj.3", linear(w, "embed_proj.2", silu(x)))
  return backbone(w, "transformer.", x, config)


# The energy head and its loss.


def energy_samples(w, h, noise, p="generative_head"):
  """[..., D] and [N, ..., U] to [N, ..., Z]."""
  x = norm(w, f"{p}.norm_noise", linear(w, f"{p}.noise_embd", noise))
  c = norm(w, f"{p}.norm_hidden", linear(w, f"{p}.hidden_embd", h))
  c = np.broadcast_to(c, x.shape)
  for i in range(count(w, f"{p}.mlp_blocks.")):
    name = f"{p}.mlp_blocks.{i}"
    y = np.concatenate([norm(w, f"{name}.in_ln", x), c], axis=-1)
    y = silu(linear(w, f"{name}.linears.0", y))
    y = linear(w, f"{name}.linears.4", silu(linear(w, f"{name}.linears.2", y)))
    gate, value = np.split(y, 2, axis=-1)
    x = x + linear(w, f"{name}.down_proj", silu(gate) * value)
  x = linear(
    w, f"{p}.final_layer.linears.0", norm(w, f"{p}.final_layer.in_ln", x)
  )
  return linear(w, f"{p}.final_layer.linears.2", silu(x))


def _distance(x, y, alpha):
  """‖x − y‖^α [...] and its gradient in x, [..., Z]; 0 at distance 0."""
  difference = x - y
  length = np.sqrt((difference**2).sum(-1, keepdims=True))
  safe = np.where(length > 0, length, 1.0)
  gradient = alpha * safe ** (alpha - 2) * difference * (length > 0)
  return length[..., 0] ** alpha, gradient


def energy_loss(samples, targets, alpha=1.0):
  """[N, ..., Z] and [M, ..., Z] to [...] and d loss/d samples."""
  n, m = len(samples), len(targets)
  loss = np.zeros(samples.shape[1:-1])
  gradient = np.zeros_like(samples)
  for i in range(n):
    distance, slope = _distance(samples[i], targets, alpha)
    loss += 2 / (n * m) * distance.sum(0)
    gradient[i] += 2 / (n * m) * slope.sum(0)
    for j in range(n):
      if j != i:
        distance, slope = _distance(samples[i], samples[j], alpha)
        loss -= distance / (n * (n - 1))
        gradient[i] -= 2 / (n * (n - 1)) * slope
  return loss, gradient


# The network of the diffusion and flow heads, and what they do with it.


def adaln(w, x, times, h, p="generative_head.net"):
  """[..., Z], [...] integers and [..., D] to [..., out]."""
  angles = times[..., None] * 10000.0 ** (-np.arange(128) / 128)
  y = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
  y = silu(linear(w, f"{p}.time_embed.mlp.0", y))
  y = linear(w, f"{p}.time_embed.mlp.2", y) + linear(w, f"{p}.cond_embed", h)
  y, x = silu(y), linear(w, f"{p}.input_proj", x)
  for i in range(count(w, f"{p}.res_blocks.")):
    name = f"{p}.res_blocks.{i}"
    modulation = linear(w, f"{name}.adaLN_modulation.1", y)
    shift, scale, gate = np.split(modulation, 3, axis=-1)
    inner = norm(w, f"{name}.in_ln", x) * (1 + scale) + shift
    inner = silu(linear(w, f"{name}.mlp.0", inner))
    x = x + gate * linear(w, f"{name}.mlp.2", inner)
  modulation = linear(w, f"{p}.final_layer.adaLN_modulation.1", y)
  shift, scale = np.split(modulation, 2, axis=-1)
  return linear(
    w, f"{p}.final_layer.linear", layer_norm(x) * (1 + scale) + shift
  )


def betas(steps=None):
  """β of the 1000 steps, or of the process that keeps only `steps`."""

  def signal(s):
    return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

  full = np.array(
    [
      min(1 - signal((t + 1) / 1000) / signal(t / 1000), 0.999)
      for t in range(1000)
    ]
  )
  if steps is None:
    return full
  a = np.cumprod(1 - full)
  kept = [
    1 - a[s] / (a[r] if i else 1.0) for i, (r, s) in enumerate(_pairs(steps))
  ]
  return np.array(kept)


def _pairs(steps):
  return zip([-1, *steps[:-1]], steps, strict=True)


def timesteps(count_kept):
  return np.array(
    [round(i * 999 / (count_kept - 1)) for i in range(count_kept)], np.int32
  )


def _variance(beta):
  """a_t, a_{t−1} and β̃_t, with β̃_0 := β̃_1."""
  a = np.cumprod(1 - beta)
  earlier = np.append(1.0, a[:-1])
  variance = beta * (1 - earlier) / (1 - a)
  variance[0] = variance[1]
  return a, earlier, variance


def noised(z, noise, t):
  a = np.cumprod(1 - betas())[t][:, None]
  return np.sqrt(a) * z + np.sqrt(1 - a) * noise


def reverse_step(beta, out, x, i):
  """Mean and log-variance of p(x_{i−1} | x_i), through the predicted z."""
  a, earlier, variance = _variance(beta)
  i = np.broadcast_to(i, len(x))
  beta, a, earlier, variance = (
    v[i][:, None] for v in (beta, a, earlier, variance)
  )
  noise, v = np.split(out, 2, axis=-1)
  z = (x - np.sqrt(1 - a) * noise) / np.sqrt(a)
  mean = posterior_mean(beta, a, earlier, z, x)
  w = (v + 1) / 2
  return mean, w * np.log(beta) + (1 - w) * np.log(variance)


def posterior_mean(beta, a, earlier, z, x):
  return (
    beta * np.sqrt(earlier) / (1 - a) * z
    + (1 - earlier) * np.sqrt(1 - beta) / (1 - a) * x
  )


def diffusion_loss(out, z, t, noise):
  """[P, 2Z], [P, Z], [P], [P, Z] to the two terms, [P] each."""
  beta = betas()
  x = noised(z, noise, t)
  mean, log_variance = reverse_step(beta, out, x, t)
  a, earlier, variance = (v[t][:, None] for v in _variance(beta))
  true_mean = posterior_mean(beta[t][:, None], a, earlier, z, x)
  log_ratio = log_variance - np.log(variance)
  kl = 0.5 * (
    log_ratio
    - 1
    + np.exp(-log_ratio)
    + (true_mean - mean) ** 2 * np.exp(-log_variance)
  )

  def cdf(y):
    with np.errstate(over="ignore"):
      return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))

  std = np.exp(0.5 * log_variance)
  upper = cdf((z - mean + 1 / 255) / std)
  lower = cdf((z - mean - 1 / 255) / std)
  probability = np.where(
    z < -0.999, upper, np.where(z > 0.999, 1 - lower, upper - lower)
  )
  first = -np.log(np.maximum(probability, 1e-12))
  nats = np.where((t == 0)[:, None], first, kl)
  mse = ((np.split(out, 2, axis=-1)[0] - noise) ** 2).mean(-1)
  return mse, nats.mean(-1) / math.log(2)


def flow_sample(w, h, x, num_steps, solver="midpoint"):
  for i in range(num_steps):
    times = np.full(len(x), 1000 * i // num_steps)
    slope = adaln(w, x, times, h)
    if solver == "midpoint":
      times = np.full(len(x), 1000 * (2 * i + 1) // (2 * num_steps))
      slope = adaln(w, x + slope / (2 * num_steps), times, h)
    x = x + slope / num_steps
  return x


def brier_within_chunk(first, second, truth, chunk_size):
  """[B, T] ids each to Brier-1 … 4, means over the chunks."""
  first, second, truth = (
    ids.reshape(len(ids), -1, chunk_size) for ids in (first, second, truth)
  )
  scores = []
  for n in range(1, 5):
    same = [
      (a[..., :n] == b[..., :n]).all(-1).astype(float)
      for a, b in ((first, truth), (second, truth), (first, second))
    ]
    scores.append((same[0] + same[1] - same[2]).mean())
  return np.array(scores)
