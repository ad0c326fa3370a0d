"""Tests calm_jax/autoencoder/posteriors: closed forms of each kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.autoencoder.posteriors import posterior_kind
from calm_jax.config import AutoencoderConfig, PosteriorConfig, news
from calm_jax.families import build_model, family_of, param_shapes
from calm_jax.randomness import stream_key
from tests.training import tiny

_Z = 6
_KINDS = PosteriorConfig.kinds


def _kind(name, **settings):
  return posterior_kind(
    AutoencoderConfig(latent_size=_Z, posterior=_KINDS[name](**settings))
  )


def _outputs(kind, num_chunks=5):
  shape = (num_chunks, kind.num_outputs(_Z))
  return 3 * jax.random.normal(jax.random.key(1), shape)


def _draws(kind, num_chunks):
  """z − mean of many chunks."""
  posterior = kind.read(_outputs(kind, num_chunks))
  noise = jax.random.normal(jax.random.key(2), posterior.mean.shape)
  keys = jax.random.split(jax.random.key(3), num_chunks)
  return np.asarray(kind.draw(posterior, noise, keys) - posterior.mean)


def test_gaussian_reads_both_and_clips_its_divergence():
  kind = _kind("gaussian")
  outputs = _outputs(kind)
  posterior = kind.read(outputs)
  np.testing.assert_array_equal(posterior.mean, outputs[:, :_Z])
  np.testing.assert_array_equal(posterior.log_std, outputs[:, _Z:])
  mean, log_std = np.float64(outputs[:, :_Z]), np.float64(outputs[:, _Z:])
  divergence = (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std) / 2
  np.testing.assert_allclose(
    kind.penalty(posterior), np.maximum(divergence, 0.5).sum(-1), rtol=1e-5
  )


def test_unit_rms_means_lie_on_the_sphere():
  kind = _kind("unit_rms", std=0.25)
  outputs = _outputs(kind)
  posterior = kind.read(outputs)
  square = np.square(posterior.mean).mean(-1)
  np.testing.assert_allclose(square, 1, rtol=1e-5)
  np.testing.assert_allclose(posterior.log_std, np.log(0.25), rtol=1e-6)
  np.testing.assert_allclose(
    posterior.mean, kind.read(7 * outputs).mean, rtol=1e-4, atol=1e-6
  )
  np.testing.assert_array_equal(kind.penalty(posterior), 0)
  slope = jax.grad(lambda x: kind.read(x).mean.sum())(jnp.zeros((2, _Z)))
  assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("is_std_drawn", [False, True])
def test_drawn_stds_have_the_variance_of_the_fixed_one(is_std_drawn):
  kind = _kind("unit_rms", std=0.5, is_std_drawn=is_std_drawn)
  _check_noise(_draws(kind, 20_000), 0.5, is_std_drawn)


def test_sigma_vae_draws_its_std_and_penalises_the_mean():
  kind = _kind("sigma_vae", std=0.5)
  _check_noise(_draws(kind, 20_000), 0.5, True)
  outputs = _outputs(kind)
  posterior = kind.read(outputs)
  np.testing.assert_array_equal(posterior.mean, outputs)
  np.testing.assert_allclose(posterior.log_std, np.log(0.5), rtol=1e-6)
  np.testing.assert_allclose(
    kind.penalty(posterior),
    np.square(np.float64(outputs)).sum(-1) / 2,
    rtol=1e-5,
  )


def _check_noise(errors, std, is_std_drawn):
  """Variance std², and equal or varying sizes from chunk to chunk."""
  squares = np.square(errors).mean(-1)  # of each chunk
  standard_error = squares.std() / np.sqrt(len(squares))
  assert abs(squares.mean() - std**2) < 4 * standard_error
  # var of mean ε² is 2/Z; with n² in front, whose fourth moment is 3, it is
  # 3·(1 + 2/Z) − 1.
  expected = 3 * (1 + 2 / _Z) - 1 if is_std_drawn else 2 / _Z
  assert squares.var() / std**4 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("name", list(_KINDS))
def test_every_kind_trains_and_says_what_is_new(name):
  experiment = tiny.experiment("autoencoder")
  model = dataclasses.replace(experiment.model, posterior=_KINDS[name]())
  experiment = dataclasses.replace(experiment, model=model)
  shapes = param_shapes(build_model(model))
  num_outputs = posterior_kind(model).num_outputs(model.latent_size)
  assert shapes["encoder"]["posterior"]["kernel"].shape == (16, num_outputs)
  objective = jax.jit(
    jax.grad(family_of(model).objective(experiment), has_aux=True)
  )
  gradient, means = objective(
    tiny.params(model), None, tiny.batch(experiment), stream_key(0, "test")
  )
  assert np.isfinite(means["loss"].total)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
  assert (news(model) == {}) == (name == "gaussian")


@pytest.mark.parametrize(
  ("name", "field"),
  [(name, field) for name in _KINDS for field in _KINDS[name].unused],
)
def test_fields_without_meaning_are_refused(name, field):
  with pytest.raises(ValueError, match=f"{field} is 0.25, and a {name} post"):
    AutoencoderConfig(posterior=_KINDS[name](), **{field: 0.25})


def test_a_drawn_std_depends_on_the_key_alone():
  kind = _kind("unit_rms", is_std_drawn=True)
  whole = _draws(kind, 9)
  posterior = kind.read(_outputs(kind, 9))
  noise = jax.random.normal(jax.random.key(2), posterior.mean.shape)
  keys = jax.random.split(jax.random.key(3), 9)
  part = jax.tree.map(lambda x: x[4:], posterior)
  found = kind.draw(part, noise[4:], keys[4:]) - part.mean
  np.testing.assert_allclose(found, whole[4:], rtol=1e-5, atol=1e-6)
