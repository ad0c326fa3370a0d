"""Bias, spread and ranking of likelihood estimates where P is known.

  python -m benchmarks.choose_tabular

writes benchmarks/choose/tabular.json and tabular.csv. A chunk is one of 27, its
next-chunk distribution drawn from a Dirichlet of concentration c (0.1: a few
chunks are likely, as in text; 0.3: flatter), a latent is its chunk's mean with
the noise of its posterior. Items have four different continuations of two
chunks that the distribution itself drew, and the same samples judge them.
"""

import csv
import json
import pathlib

import jax
import numpy as np

from calm_jax.evaluation import likelihood
from calm_jax.evaluation.chunk_terms import ChunkTerms
from calm_jax.evaluation.energy_scores import energy_scores
from calm_jax.kernels.distance import PAPER

_TARGET = pathlib.Path(__file__).parent / "choose"
_NUM_CHUNKS, _LENGTH, _NUM_CHOICES = 27, 2, 4
_STD = 0.3
_SIZES = (16, 96)  # Z
_CONCENTRATIONS = (0.1, 0.3)
_NUM_SAMPLES = (16, 64, 256)
_FACTORS = (1, 2, 3, 4, 8)  # of Z^¼
_SHARES = (0.3, 0.1, 0.03)  # P of the chunks that bias is measured on

_energy_scores = jax.jit(lambda x, y: energy_scores(x, y, PAPER))


def main() -> None:
  rows = [
    row
    for size in _SIZES
    for concentration in _CONCENTRATIONS
    for row in _rows(size, concentration)
  ]
  _TARGET.mkdir(exist_ok=True)
  (_TARGET / "tabular.json").write_text(json.dumps(rows, indent=1) + "\n")
  with (_TARGET / "tabular.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _rows(size: int, concentration: float, num_items: int = 2000):
  generator = np.random.default_rng(0)
  means = generator.normal(size=(_NUM_CHUNKS, size))
  stds = _STD * np.exp(0.3 * generator.normal(size=means.shape))
  most = max(_NUM_SAMPLES)
  names = [
    *((f"kernel h={f}·Z^¼", f * size**0.25) for f in _FACTORS),
    *((f"density h={f}·Z^¼", f * size**0.25) for f in (1, 3)),
    ("match", None),
    ("energy", None),
  ]
  exact = np.zeros((num_items, _NUM_CHOICES))
  scores = np.zeros((len(names), len(_NUM_SAMPLES), *exact.shape))
  for item in range(num_items):
    table = generator.dirichlet(np.full(_NUM_CHUNKS, concentration), _LENGTH)
    table = np.maximum(table, 1e-6)
    table /= table.sum(axis=-1, keepdims=True)
    texts = set()
    while len(texts) < _NUM_CHOICES:
      texts.add(tuple(generator.choice(_NUM_CHUNKS, p=p) for p in table))
    drawn = np.stack(
      [generator.choice(_NUM_CHUNKS, most, p=p) for p in table]
    )  # [J, S]
    noise = generator.normal(size=(*drawn.shape, size))
    latents = means[drawn] + stds[drawn] * noise
    target_noise = generator.normal(size=latents.shape)
    for c, text in enumerate(sorted(texts)):
      ids = np.array(text)
      exact[item, c] = np.log(table[np.arange(_LENGTH), ids]).sum()
      terms = _terms(latents, drawn, ids, means, stds)
      targets = means[ids][:, None] + stds[ids][:, None] * target_noise
      terms = terms._replace(
        energy=jax.device_get(_energy_scores(latents, targets))
      )
      for n, (name, bandwidth) in enumerate(names):
        estimate = likelihood.ESTIMATES[name.split()[0]]
        for s, count in enumerate(_NUM_SAMPLES):
          scores[n, s, item, c] = estimate(terms, count, bandwidth).sum()
  ranked = np.sort(exact, axis=-1)
  is_clear = ranked[:, -1] - ranked[:, -2] > 1
  apart = exact[:, :, None] - exact[:, None] > 1
  for n, (name, bandwidth) in enumerate(names):
    for s, count in enumerate(_NUM_SAMPLES):
      found = scores[n, s]
      agrees = found.argmax(axis=-1) == exact.argmax(axis=-1)
      ordered = found[:, :, None] > found[:, None]
      yield {
        "latent_size": size,
        "concentration": concentration,
        "estimate": name,
        "num_samples": count,
        "num_clear_items": int(is_clear.sum()),
        "best_of_four_agrees": round(float(agrees[is_clear].mean()), 4),
        "pairs_agree": round(float(ordered[apart].mean()), 4),
        **_bias(name, bandwidth, count, size, means, stds),
      }


def _bias(name, bandwidth, count, size, means, stds, num_trials: int = 500):
  """log p̂ − log P of a chunk with P, the others sharing what is left."""
  if name == "energy":  # no probability
    return {f"{it}_P={p}": None for p in _SHARES for it in ("bias", "std")}
  generator = np.random.default_rng(1)
  result = {}
  for share in _SHARES:
    rest = (1 - share) / (_NUM_CHUNKS - 1)
    p = np.full(_NUM_CHUNKS, rest)
    p[0] = share
    drawn = generator.choice(_NUM_CHUNKS, (num_trials, count), p=p)
    noise = generator.normal(size=(*drawn.shape, size))
    latents = means[drawn] + stds[drawn] * noise
    ids = np.zeros(num_trials, int)
    terms = _terms(latents, drawn, ids, means, stds)
    estimate = likelihood.ESTIMATES[name.split()[0]]
    errors = estimate(terms, count, bandwidth) - np.log(share)
    result[f"bias_P={share}"] = round(float(errors.mean()), 3)
    result[f"std_P={share}"] = round(float(errors.std()), 3)
  return result


def _terms(latents, drawn, ids, means, stds) -> ChunkTerms:
  scaled = (latents - means[ids][:, None]) / stds[ids][:, None]
  return ChunkTerms(
    is_top=None,
    distances=np.square(scaled).sum(axis=-1),
    log_stds=np.broadcast_to(
      np.log(stds[ids]).sum(axis=-1)[:, None], drawn.shape
    ),
    is_match=drawn == ids[:, None],
    latent_size=latents.shape[-1],
  )


if __name__ == "__main__":
  main()
