"""Tests evaluation/reconstruction.py."""

import jax
import numpy as np

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import AutoencoderConfig, VocabularyConfig
from calm_jax.data.batch import Batch
from calm_jax.evaluation.reconstruction import reconstruction_columns
from calm_jax.layers.parameters import init_params
from tests.perturbation import perturb

# So few ids that an untrained decoder is often right.
_CONFIG = AutoencoderConfig(
  vocabulary=VocabularyConfig(size=4, begin_id=2, end_id=3, unscored_ids=(2,)),
  chunk_size=2,
  latent_size=5,
  hidden_size=16,
  ffn_size=24,
)


def _setup():
  model = Autoencoder(_CONFIG)
  generator = np.random.default_rng(0)
  tokens = generator.integers(0, 2, (5, 300, 2)).astype(np.int32)
  params = init_params(model, jax.random.key(0), tokens)
  mask = generator.random(tokens.shape) < 0.9
  mask[4] = False  # padding
  batch = Batch(
    tokens,
    mask,
    np.zeros(tokens.shape[:2], np.int32),
    np.array([3, 7, 8, 9, 0], np.uint32),
  )
  return model, perturb(params, scale=0.3), batch


def test_counts_what_comes_back():
  model, params, batch = _setup()
  found, stds = reconstruction_columns(_CONFIG, params, [batch], seed=0)
  variables = {"params": params}
  mean, log_std = (
    np.asarray(x, np.float64)
    for x in model.apply(variables, batch.tokens, method="encode")
  )
  decode = lambda z: np.asarray(
    model.apply(variables, z.astype(np.float32), method="decode_tokens")
  )
  is_right = decode(mean) == batch.tokens
  is_counted = batch.token_mask.all(axis=-1)
  noise = np.random.default_rng(1).normal(size=(40, *mean.shape))
  sampled = np.mean(
    [decode(mean + np.exp(log_std) * e) == batch.tokens for e in noise], axis=0
  )
  variance = np.exp(2 * log_std)
  expected = {
    "count": np.ones(is_counted.shape),
    "token_accuracy_from_mean": is_right.mean(axis=-1),
    "chunk_accuracy_from_mean": is_right.all(axis=-1),
    "posterior_std": np.exp(log_std).mean(axis=-1),
    "kl": 0.5 * (mean**2 + variance - 1 - 2 * log_std).sum(axis=-1),
  }
  for name, values in expected.items():
    values = np.where(is_counted, values, 0).sum(axis=-1)
    np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
  expected = np.exp(log_std)[is_counted].mean(axis=0)
  np.testing.assert_allclose(stds, expected, rtol=1e-5)
  assert found["count"][4] == 0
  # 1200 chunks of one noise against 40 noises: within 5 standard errors.
  total = is_counted.sum()
  share = sampled[is_counted].mean()
  assert 0.1 < share < 0.98
  error = np.sqrt(share * (1 - share) / total)
  assert abs(found["token_accuracy"].sum() / total - share) < 5 * error
  assert (found["chunk_accuracy"] <= found["token_accuracy"]).all()


def test_batches_change_nothing():
  _, params, batch = _setup()
  whole, stds = reconstruction_columns(_CONFIG, params, [batch], seed=0)
  rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(4)]
  parts, stds_of_parts = reconstruction_columns(_CONFIG, params, rows, seed=0)
  for name, values in parts.items():
    np.testing.assert_allclose(values, whole[name][:4], rtol=1e-5)
  np.testing.assert_allclose(stds_of_parts, stds, rtol=1e-5)
  other, _ = reconstruction_columns(_CONFIG, params, rows, seed=1)
  assert (other["token_accuracy"] != parts["token_accuracy"]).any()
  np.testing.assert_array_equal(other["kl"], parts["kl"])
