"""Scores that rank texts under a model that can only be sampled.

`energy` is the energy score, which such a model is trained to make small: a
proper score, without bias at any number of samples S, and no probability. The
others estimate probabilities: `kernel` is a kernel density estimate whose
kernel is the posterior of the chunk, `decoder` the mean over samples of what
the decoder gives the chunk's tokens, `match` the share of samples that decode
to it. Their logarithm of a mean over S samples is too small on average, by more
the rarer the chunk, and the sum over chunks adds that up: they need S well
above 1/P. None is a perplexity.

Published: kernel (Parzen window) estimates of generative models rank *models*
badly in many dimensions (Theis et al., arXiv:1511.01844; Wu et al.,
arXiv:1611.04273, where the kernel's width is fitted to data). Here one model
ranks a few texts, and the kernel is that of the very noise each chunk's latent
was given in training. log (1/S) Σ p as a lower bound that S tightens: Burda et
al., arXiv:1509.00519; Monte-Carlo likelihoods for multiple choice with masked
diffusion, 128 draws: Nie et al., arXiv:2502.09992.
"""

from collections.abc import Callable

import numpy as np
from scipy import special

from calm_jax.evaluation.chunk_terms import ChunkTerms


def default_bandwidth(latent_size: int) -> float:
  """h at which a sample of the right chunk says little by its own noise.

  A latent x ~ N(mean, std²) has k_h(x), see `kernel`, with mean 1 and

      E k_h(x)² = (1 + 1/(h²(h² + 2)))^(Z/2),

  10⁸ at h = 1 with Z = 128, and at most 1.65 at h = Z^¼. A model's samples are
  spread wider than a posterior, which asks for more: among Z^¼ times 1, 2, 3, 4
  and 8 the third is good both on known distributions and on a trained model
  (`benchmarks/choose/`).

  Args:
    latent_size: Z.

  Returns:
    3·Z^¼.
  """
  return 3 * latent_size**0.25


def kernel(
  terms: ChunkTerms, num_samples: int, bandwidth: float | None
) -> np.ndarray:
  """log p̂_j = log (1/S) Σ_s k_h(x_s), a kernel estimate for every chunk.

      k_h(x) = N(x; mean, h²·std²) / N(mean; mean, (1 + h²)·std²)
             = (1 + 1/h²)^(Z/2) · exp(−‖(x − mean)/std‖² / 2h²)

  The numerator makes (1/S) Σ a density at the chunk's mean. The denominator is
  what a model that always draws this chunk, with its posterior's noise, would
  have there, so that p̂ estimates the probability of the chunk: without it a
  chunk with a narrow posterior wins. For chunks whose posteriors lie apart
  E p̂ = P; others add P(b)·exp(−‖Δmean/std‖² / 2(1 + h²)). The variance is
  P·(E k_h² − P)/S, so E log p̂ ≈ log P − (E k_h²/P − 1)/2S.

  Args:
    terms: of J chunks.
    num_samples: S, of the first of which it is made.
    bandwidth: h; None: `default_bandwidth`.

  Returns:
    [J] float64, nats.
  """
  size = int(terms.latent_size)
  square = (default_bandwidth(size) if bandwidth is None else bandwidth) ** 2
  distances = np.asarray(terms.distances[:, :num_samples], np.float64)
  mean = _log_mean(-distances / (2 * square))
  return mean + size / 2 * np.log1p(1 / square)


def density(
  terms: ChunkTerms, num_samples: int, bandwidth: float | None
) -> np.ndarray:
  """log (1/S) Σ_s N(x_s; mean, h²·std²): `kernel` without its denominator."""
  size = int(terms.latent_size)
  square = (default_bandwidth(size) if bandwidth is None else bandwidth) ** 2
  distances = np.asarray(terms.distances[:, :num_samples], np.float64)
  logs = -distances / (2 * square) - terms.log_stds[:, :num_samples]
  return _log_mean(logs) - size / 2 * np.log(2 * np.pi * square)


def decoder(
  terms: ChunkTerms, num_samples: int, bandwidth: float | None
) -> np.ndarray:
  """log (1/S) Σ_s Π_k p(token k | x_s), of the decoder's own probabilities.

  Unbiased, before the logarithm, for a model that draws tokens from the
  decoder's distribution; this one takes the most likely of each, which is the
  same as far as the decoder is sure.
  """
  del bandwidth
  return _log_mean(-np.asarray(terms.nats[:, :num_samples], np.float64))


def match(
  terms: ChunkTerms, num_samples: int, bandwidth: float | None
) -> np.ndarray:
  """log (c + ½)/(S + 1), where c of S samples decode to the chunk."""
  del bandwidth
  counts = terms.is_match[:, :num_samples].sum(axis=-1)
  return np.log((counts + 0.5) / (num_samples + 1))


def energy(
  terms: ChunkTerms, num_samples: int, bandwidth: float | None
) -> np.ndarray:
  """The negative energy score of each chunk (`energy_scores.py`)."""
  del bandwidth
  return -np.asarray(terms.energy[:, num_samples - 1], np.float64)


def exact(
  terms: ChunkTerms, num_samples: int, bandwidth: float | None
) -> np.ndarray:
  """log P of each token, of models with likelihoods."""
  del num_samples, bandwidth
  return np.asarray(terms.log_probability, np.float64)


Estimate = Callable[[ChunkTerms, int, float | None], np.ndarray]

# Of models without likelihoods; others have `exact` alone.
ESTIMATES: dict[str, Estimate] = {
  "energy": energy,
  "kernel": kernel,
  "decoder": decoder,
  "match": match,
  "density": density,
}
# Estimates of probabilities, which may be calibrated.
PROBABILITIES = ("kernel", "decoder", "match", "exact")


def estimates_of(has_likelihoods: bool) -> dict[str, Estimate]:
  """What texts are scored by, first that which is asked for by default."""
  return {"exact": exact} if has_likelihoods else ESTIMATES


def _log_mean(logs: np.ndarray) -> np.ndarray:
  return special.logsumexp(logs, axis=-1) - np.log(logs.shape[-1])
