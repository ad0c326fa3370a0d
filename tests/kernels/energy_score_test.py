"""Tests calm_jax/kernels/energy_score*.py against float64 NumPy.

The Pallas kernels run in interpret mode here. Value and gradient through the
public function, and the settings' checks, are in losses/energy_test.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import (
  AbstractDevice,
  AbstractMesh,
  AxisType,
  NamedSharding,
  PartitionSpec,
)

from calm_jax.kernels import (
  counter,
  energy_score,
  energy_score_gpu,
  energy_score_tpu,
  energy_score_xla,
)
from calm_jax.kernels.distance import DISTANCES, PAPER, Distance

_TRITON = "__gpu$xla.gpu.triton"
_VERSIONS = {
  "xla": energy_score_xla.energy_sums,
  "tpu": functools.partial(energy_score_tpu.energy_sums, interpret=True),
  "gpu": functools.partial(energy_score_gpu.energy_sums, interpret=True),
}


@pytest.fixture(params=_VERSIONS)
def version(request):
  return _VERSIONS[request.param]


def _definition(norm, distance):
  """ρ and ρ′/‖d‖ of norms, float64."""
  h = distance.parameter
  if distance.kind == "gaussian":
    kernel = np.exp(-(norm**2) / (2 * h**2))
    return 1 - kernel, kernel / h**2
  if distance.kind == "inverse_multiquadric":
    kernel = 1 / np.sqrt(1 + norm**2 / h**2)
    return 1 - kernel, kernel**3 / h**2
  safe = np.where(norm > 0, norm, 1.0)
  return norm**h, h * safe ** (h - 2) * (norm > 0)


def _float64(samples, mean, log_std, keys, num_targets, distance, antithetic):
  """Fidelity, diversity and the gradient, straight from eq. 9."""
  noise = counter.target_normals(
    keys, num_targets, mean.shape[-1], use_antithetic_targets=antithetic
  )
  x = np.float64(samples.astype(jnp.float32))
  y = np.float64(mean)[:, None]
  y = y + np.exp(np.float64(log_std))[:, None] * np.float64(noise)
  num_samples = x.shape[1]
  results = []
  for points, scale in (
    (y, 2 / (num_samples * num_targets)),
    (x, 1 / (num_samples * (num_samples - 1))),
  ):
    difference = x[:, :, None] - points[:, None]
    norm = np.linalg.norm(difference, axis=-1)
    value, weight = _definition(norm, distance)
    slope = np.sum(weight[..., None] * difference, axis=2)
    results.append((scale * np.sum(value, (1, 2)), scale * slope))
  (fidelity, pull), (diversity, push) = results
  return fidelity, diversity, pull - 2 * push


def _inputs(num_positions, num_samples, latent_size, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(num_samples), 4)
  shape = (num_positions, latent_size)
  samples = jax.random.normal(keys[0], (*shape[:1], num_samples, *shape[1:]))
  mean = jax.random.normal(keys[1], shape)
  log_std = -1.0 + 0.5 * jax.random.normal(keys[2], shape)
  return (
    samples.astype(dtype),
    mean,
    log_std,
    jax.random.split(keys[3], shape[0]),
  )


def _error(actual, expected):
  actual = np.float64(actual.astype(jnp.float32))
  assert actual.shape == expected.shape and np.all(np.isfinite(actual))
  return np.max(np.abs(actual - expected)) / max(
    np.max(np.abs(expected)), 1e-30
  )


def _check(
  version, inputs, num_targets, distance=PAPER, antithetic=False, tolerance=1e-5
):
  samples, mean, log_std, keys = inputs
  actual = version(
    samples,
    mean,
    log_std,
    *counter.key_words(keys),
    num_targets=num_targets,
    distance=distance,
    use_antithetic_targets=antithetic,
    use_gradient=True,
  )
  expected = _float64(*inputs, num_targets, distance, antithetic)
  assert actual[2].dtype == samples.dtype
  assert _error(actual[0], expected[0]) < 1e-5
  assert _error(actual[1], expected[1]) < 1e-5
  assert _error(actual[2], expected[2]) < tolerance


@pytest.mark.parametrize(
  ("num_positions", "num_samples", "num_targets", "latent_size", "alpha"),
  [
    (1, 2, 1, 1, 1.0),
    (3, 2, 2, 5, 0.5),
    (4, 3, 7, 130, 1.25),  # no side is a power of two
    (4, 8, 100, 128, 1.0),  # the paper's
    (5, 12, 16, 64, 1.75),
    (2, 17, 3, 33, 1.5),
  ],
)
def test_matches_float64(
  version, num_positions, num_samples, num_targets, latent_size, alpha
):
  inputs = _inputs(num_positions, num_samples, latent_size)
  _check(version, inputs, num_targets, Distance("energy", alpha))


@pytest.mark.parametrize("kind", ["gaussian", "inverse_multiquadric"])
@pytest.mark.parametrize("bandwidth", [0.5, 4.0, 300.0])
def test_kernel_scores_match_float64(version, kind, bandwidth):
  distance = Distance(kind, bandwidth)
  _check(version, _inputs(4, 3, 33), 7, distance)
  samples, *rest = _inputs(4, 8, 16)
  tied = samples.at[:, 1:5].set(samples[:, :1])
  _check(version, (tied, *rest), 10, distance)


def test_positions_beyond_the_last_full_block():
  _check(_VERSIONS["tpu"], _inputs(131, 3, 8), 5)


def test_bfloat16_samples(version):
  # Half a unit in the last of bfloat16's 8 bits.
  _check(version, _inputs(4, 8, 64, jnp.bfloat16), 20, tolerance=2**-8)


def test_antithetic_targets(version):
  _check(version, _inputs(4, 3, 20), 6, antithetic=True)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_coinciding_samples(version, alpha):
  samples, *rest = _inputs(4, 8, 16)
  tied = samples.at[:, 1:5].set(samples[:, :1])
  _check(version, (tied, *rest), 10, Distance("energy", alpha))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_no_gradient_where_everything_coincides(version, alpha):
  _, mean, log_std, keys = _inputs(4, 8, 16)
  results = version(
    jnp.repeat(mean[:, None], 4, axis=1),
    mean,
    jnp.full_like(log_std, -jnp.inf),
    *counter.key_words(keys),
    num_targets=3,
    distance=Distance("energy", alpha),
    use_antithetic_targets=False,
    use_gradient=True,
  )
  for result in results:
    np.testing.assert_array_equal(result, np.zeros_like(result))


def test_zero_std(version):
  samples, mean, log_std, keys = _inputs(4, 3, 16)
  _check(version, (samples, mean, jnp.full_like(log_std, -jnp.inf), keys), 3)


def test_samples_far_closer_to_the_mean_than_the_targets(version):
  samples, mean, log_std, keys = _inputs(4, 8, 32)
  _check(version, (mean[:, None] + 1e-4 * samples, mean, log_std, keys), 20)


@pytest.mark.parametrize("kind", list(DISTANCES))
@pytest.mark.parametrize("name", ["samples", "mean", "log_std"])
def test_nan_is_not_taken_for_a_distance_of_0(version, kind, name):
  """At its own position: fidelity and slope, and diversity but by log_std."""
  *inputs, keys = _inputs(3, 4, 5)
  place = ["samples", "mean", "log_std"].index(name)
  inputs[place] = inputs[place].at[1, ..., -1].set(jnp.nan)
  fidelity, diversity, slope = version(
    *inputs,
    *counter.key_words(keys),
    num_targets=3,
    distance=Distance(kind, 1.5),
    use_antithetic_targets=False,
    use_gradient=True,
  )
  is_bad = np.arange(3) == 1
  np.testing.assert_array_equal(np.isnan(fidelity), is_bad)
  np.testing.assert_array_equal(
    np.isnan(diversity), is_bad & (name != "log_std")
  )
  np.testing.assert_array_equal(np.isnan(slope).all(axis=(1, 2)), is_bad)
  assert np.isfinite(slope[~is_bad]).all()


def test_values_without_gradient_are_the_same(version):
  samples, mean, log_std, keys = _inputs(3, 4, 24)
  call = functools.partial(
    version,
    samples,
    mean,
    log_std,
    *counter.key_words(keys),
    num_targets=9,
    distance=Distance("energy", 1.5),
    use_antithetic_targets=False,
  )
  values, all_three = call(use_gradient=False), call(use_gradient=True)
  assert len(values) == 2 and len(all_three) == 3
  for value, same in zip(values, all_three[:2], strict=True):
    np.testing.assert_allclose(value, same, rtol=1e-6)


def test_blocks_change_nothing(monkeypatch):
  """Seven positions whole, and in blocks of three, the last of them short."""
  inputs = _inputs(7, 3, 8)
  settings = energy_score.Settings(5, PAPER, False, "xla", None)

  def gradient(*inputs):
    def total(samples):
      loss, *terms = energy_score.energy_score(samples, *inputs[1:], settings)
      return jnp.sum(loss), (loss, *terms)

    return jax.jit(jax.grad(total, has_aux=True))(inputs[0])

  whole = jax.tree.leaves(gradient(*inputs))
  monkeypatch.setattr(energy_score, "_BLOCK_BYTES", 3 * 4 * 3 * 8)
  for a, b in zip(jax.tree.leaves(gradient(*inputs)), whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("implementation", ["auto", "pallas"])
@pytest.mark.parametrize("num_chunks", [8, 7], ids=["even", "uneven"])
def test_a_mesh_changes_nothing(implementation, num_chunks):
  shape, partition = (4, num_chunks), PartitionSpec("rows", "chunks")
  inputs = _inputs(4 * num_chunks, 3, 8)
  inputs = [a.reshape(*shape, *a.shape[1:]) for a in inputs]
  mesh = jax.make_mesh(
    (2, 4), ("rows", "chunks"), axis_types=(AxisType.Auto,) * 2
  )

  def gradient(partition):
    settings = energy_score.Settings(5, PAPER, False, implementation, partition)

    def total(*inputs):
      loss, *terms = energy_score.energy_score(*inputs, settings)
      return jnp.sum(loss), (loss, *terms)

    return jax.jit(jax.grad(total, has_aux=True))

  slope, values = gradient(None)(*inputs)
  rows = NamedSharding(mesh, PartitionSpec("rows"))
  with jax.set_mesh(mesh):
    sharded_slope, sharded_values = gradient(partition)(
      *jax.device_put(inputs, rows)
    )
  for a, b in zip(
    (sharded_slope, *sharded_values), (slope, *values), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def _lowered_for_gpu(kind, shape, implementation="auto"):
  """The gradient's program for a GPU, with none at hand."""
  gpu = AbstractDevice(
    device_kind="NVIDIA H100", num_cores=None, platform="gpu"
  )
  mesh = AbstractMesh((1,), ("data",), abstract_device=gpu)
  export = jax.export
  check = export.DisabledSafetyCheck.custom_call(_TRITON)
  distance = Distance(kind, 1.5)
  settings = energy_score.Settings(7, distance, False, implementation, None)

  def gradient(*inputs):
    return jax.grad(
      lambda x: jnp.sum(energy_score.energy_score(x, *inputs[1:], settings)[0])
    )(inputs[0])

  lower = export.export(
    jax.jit(gradient), platforms=["cuda"], disabled_checks=[check]
  )
  inputs = _inputs(*shape)
  with jax.sharding.use_abstract_mesh(mesh):
    return lower(*inputs).mlir_module()


@pytest.mark.parametrize("kind", list(DISTANCES))
@pytest.mark.parametrize("shape", [(5, 8, 128), (3, 3, 130)])
def test_gpu_kernel_lowers(kind, shape):
  assert _TRITON in _lowered_for_gpu(kind, shape)


@pytest.mark.parametrize("implementation", ["auto", "pallas"])
def test_without_triton_gpus_take_what_xla_makes(monkeypatch, implementation):
  said = []
  note = lambda level, message, n, *values: said.append((message % values, n))
  monkeypatch.setattr(energy_score.logging, "log_first_n", note)
  monkeypatch.setattr(energy_score_gpu, "plgpu", None)
  program = _lowered_for_gpu("energy", (5, 4, 7), implementation)
  assert _TRITON not in program
  assert "custom_call" not in program
  assert not said  # the platform at hand is no GPU
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  _lowered_for_gpu("energy", (6, 4, 7), implementation)
  assert all("no Pallas for Triton" in message for message, _ in said)
  assert said and {count for _, count in said} == {1}
