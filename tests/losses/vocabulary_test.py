"""Tests calm_jax/losses/vocabulary.py against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from calm_jax.kernels import vocabulary as kernel
from calm_jax.kernels import vocabulary_sum as sum_kernel
from calm_jax.kernels import vocabulary_tiles as tiles
from calm_jax.losses import vocabulary
from calm_jax.losses.implementations import is_reference
from tests.devices import on_devices

_IMPLEMENTATIONS = ["reference", "xla"]


@pytest.fixture(autouse=True, params=[32, 48, 1024])
def block_size(request, monkeypatch) -> int:
  """Vocabulary of 128: blocks that divide it, that do not, and one block."""
  monkeypatch.setattr(kernel, "_BLOCK_SIZE", request.param)
  monkeypatch.setattr(kernel, "_TILE_SIZE", 16)
  monkeypatch.setattr(kernel, "_NUM_LOGITS_CPU", 15 * request.param)
  monkeypatch.setattr(kernel, "_NUM_LOGITS", 15 * request.param)
  # As many positions at a time: 4 of the 15, or 6, or all of them.
  num_bytes = 64 * request.param
  monkeypatch.setattr(sum_kernel, "_BLOCK_BYTES_CPU", (num_bytes, num_bytes))
  # What is added to the sum at once: a block of words, or all.
  monkeypatch.setattr(sum_kernel, "_PRODUCT_BYTES", num_bytes)
  monkeypatch.setattr(sum_kernel, "_PART", request.param)
  monkeypatch.setattr(tiles, "_NUM_POSITIONS", request.param // 8)
  monkeypatch.setattr(tiles, "_NUM_WORDS", request.param)
  return request.param


def make_inputs(
  dtype=jnp.float32, scale=1.0, *, shape=(3, 5), size=16, num_words=100
):
  """Hidden states, embedding, labels and scored words, some of them not."""
  keys = jax.random.split(jax.random.key(0), 4)
  padded = -(-num_words // 128) * 128
  hidden = scale * jax.random.normal(keys[0], (*shape, size))
  embedding = jax.random.normal(keys[1], (padded, size))
  labels = jax.random.randint(keys[2], shape, 0, num_words)
  scored = (jnp.arange(padded) < num_words).at[jnp.array([0, 7])].set(False)
  labels = jnp.where(scored[labels], labels, 1)
  return hidden.astype(dtype), embedding, labels, scored


def _numpy(hidden, embedding, labels, scored, weights):
  """Cross-entropy and the gradients of its weighted sum, float64."""
  hidden, embedding = np.float64(hidden), np.float64(embedding)
  logits = hidden @ embedding.T
  label_logits = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
  masked = np.where(scored, logits, -np.inf)
  top = masked.max(-1, keepdims=True)
  nats = np.log(np.exp(masked - top).sum(-1)) + top[..., 0] - label_logits
  slope = np.exp(masked - top) / np.exp(masked - top).sum(-1, keepdims=True)
  is_label = labels[..., None] == np.arange(len(embedding))
  slope = (slope - is_label) * weights[..., None]
  hidden_slope = slope @ embedding
  embedding_slope = np.einsum("abv,abe->ve", slope, hidden)
  return nats, hidden_slope, embedding_slope


def _error(actual, expected):
  actual = np.float64(actual)
  assert actual.shape == expected.shape and np.all(np.isfinite(actual))
  return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def check(inputs, implementation, tolerance=1e-5):
  hidden, embedding, labels, scored = inputs
  weights = jax.random.uniform(jax.random.key(9), labels.shape)

  def total(hidden, embedding):
    nats = vocabulary.cross_entropy(
      hidden, embedding, labels, scored, implementation=implementation
    )
    return jnp.sum(weights * nats), nats

  slopes, nats = jax.grad(total, argnums=(0, 1), has_aux=True)(
    hidden, embedding
  )
  expected = _numpy(
    hidden.astype(jnp.float32),
    embedding.astype(hidden.dtype).astype(jnp.float32),
    np.asarray(labels),
    np.asarray(scored),
    np.asarray(weights),
  )
  assert slopes[0].dtype == hidden.dtype
  for actual, wanted in zip((nats, *slopes), expected, strict=True):
    assert _error(actual, wanted) < tolerance
  np.testing.assert_array_equal(slopes[1][~scored], 0.0)


def check_sum(
  inputs, implementation, partition=None, tolerance=1e-5, uncounted=0.0
):
  """Of sum, nats and slopes; `uncounted` fills the vector of weight 0."""
  hidden, embedding, labels, scored = inputs
  weights = jax.random.uniform(jax.random.key(9), labels.shape)
  weights = weights.at[0, 0].set(0.0)
  counted = hidden.at[0, 0].set(0.0)
  hidden = hidden.at[0, 0].set(uncounted)

  def total(hidden, embedding):
    total, nats = vocabulary.cross_entropy_sum(
      hidden,
      embedding,
      labels,
      scored,
      weights,
      implementation=implementation,
      partition=partition,
    )
    # The nats are for watching only, so they must not change the slopes.
    return 2.0 * total + jnp.sum(nats), (total, nats)

  slopes, values = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(
    hidden, embedding
  )
  nats, *expected = _numpy(
    counted.astype(jnp.float32),
    embedding.astype(hidden.dtype).astype(jnp.float32),
    np.asarray(labels),
    np.asarray(scored),
    np.asarray(weights),
  )
  expected = [np.sum(weights * nats), nats, *[2 * slope for slope in expected]]
  assert slopes[0].dtype == hidden.dtype
  for actual, wanted in zip((*values, *slopes), expected, strict=True):
    assert _error(actual, wanted) < tolerance
  np.testing.assert_array_equal(slopes[0][0, 0], 0.0)
  np.testing.assert_array_equal(slopes[1][~scored], 0.0)
  # Without a gradient the value comes another way.
  value, _ = vocabulary.cross_entropy_sum(
    hidden, embedding, labels, scored, weights, implementation=implementation
  )
  np.testing.assert_allclose(value, values[0], rtol=1e-5)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_weighted_sum_matches_float64(implementation):
  check_sum(make_inputs(), implementation)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
@pytest.mark.parametrize("uncounted", [np.nan, np.inf, 1e38])
def test_a_vector_of_weight_0_may_be_anything(implementation, uncounted):
  check_sum(make_inputs(), implementation, uncounted=uncounted)


@on_devices
def test_weighted_sum_of_bfloat16_products():
  check_sum(make_inputs(dtype=jnp.bfloat16), "xla", tolerance=2**-7)


@pytest.fixture
def in_tiles(monkeypatch):
  """What a TPU takes, on any device."""
  visit = lambda maximum_fn, max_positions, *arrays: tiles.visit(None, *arrays)
  monkeypatch.setattr(sum_kernel, "_visit", visit)


@on_devices
@pytest.mark.parametrize(
  ("dtype", "scale", "tolerance"),
  [
    (jnp.float32, 1.0, 1e-5),
    (jnp.float32, 100.0, 1e-4),  # as of `cross_entropy` below
    (jnp.bfloat16, 1.0, 2**-7),
  ],
)
def test_tiles_match_float64(in_tiles, dtype, scale, tolerance):
  check_sum(make_inputs(dtype, scale), "xla", tolerance=tolerance)


@pytest.fixture(params=["on_cpu", "in_tiles"])
def in_both(request):
  """What takes exponentials of differences from a logit known before."""
  if request.param == "in_tiles":
    request.getfixturevalue("in_tiles")


@pytest.mark.parametrize("label_logit", [-1e4, -70.0, 0.0, 70.0, 88.0])
@pytest.mark.parametrize("far", [0, 40, 99])
def test_finds_what_is_far_from_the_label(in_both, label_logit, far):
  """Wherever it stands: a first, a middle or a last tile."""
  _, _, labels, scored = make_inputs()
  logits = np.linspace(-1.0, 1.0, 128, dtype=np.float32)
  logits[far] += 90.0
  hidden, embedding = jnp.ones((3, 5, 1)), jnp.asarray(logits)[:, None]
  embedding = embedding.at[50].set(label_logit)
  scored = scored.at[0].set(True)
  inputs = hidden, embedding, jnp.full_like(labels, 50), scored
  check_sum(inputs, "xla", tolerance=1e-3)


@pytest.mark.parametrize("label_logit", [-1e4, 0.0, 1e4])
def test_finds_the_scored_words_beside_an_unscored_label(in_both, label_logit):
  hidden, embedding, labels, scored = make_inputs()
  hidden, embedding = jnp.ones((3, 5, 1)), embedding[:, :1]
  embedding = embedding.at[7].set(label_logit)
  _, nats = vocabulary.cross_entropy_sum(
    hidden, embedding, jnp.full_like(labels, 7), scored, jnp.ones(labels.shape)
  )
  total = np.log(np.sum(np.exp(np.float64(embedding[scored]))))
  np.testing.assert_allclose(nats, total - label_logit, rtol=1e-5)


@pytest.mark.parametrize("uncounted", [np.nan, np.inf, 1e38])
def test_tiles_take_anything_where_the_weight_is_0(in_tiles, uncounted):
  check_sum(make_inputs(), "xla", uncounted=uncounted)


@pytest.mark.parametrize("far_logit", [-1e4, 70.0, 1e4])
def test_words_that_are_not_scored_may_be_far_above(in_both, far_logit):
  hidden, embedding, labels, scored = make_inputs()
  places = jnp.flatnonzero(~scored)[:2]
  embedding = embedding.at[places].set(far_logit / embedding.shape[1])
  check_sum((jnp.abs(hidden), embedding, labels, scored), "xla")


def test_no_nan_is_lost(in_both):
  hidden, embedding, labels, scored = make_inputs()
  for place in (3, 99):
    _, nats = vocabulary.cross_entropy_sum(
      hidden,
      embedding.at[place].set(jnp.nan),
      labels,
      scored,
      jnp.ones(labels.shape),
    )
    assert np.all(np.isnan(nats))


@pytest.mark.parametrize(
  "partition", [None, PartitionSpec("rows", "chunks")], ids=["words", "shards"]
)
@pytest.mark.parametrize("fixture", [None, "in_tiles"])
def test_a_mesh_changes_nothing(request, partition, fixture):
  if fixture:
    request.getfixturevalue(fixture)
  mesh = jax.make_mesh(
    (2, 4), ("rows", "chunks"), axis_types=(AxisType.Auto,) * 2
  )
  with jax.set_mesh(mesh):  # 3 rows and 5 chunks divide by neither axis
    check_sum(make_inputs(), "xla", partition)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_matches_float64(implementation):
  check(make_inputs(), implementation)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_large_logits_do_not_overflow(implementation):
  # Logits of a thousand are rounded by 3e-5, and so are the probabilities.
  check(make_inputs(scale=100.0), implementation, tolerance=1e-4)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_bfloat16_products(implementation):
  # The slope of the logits is stored in bfloat16 before the last products.
  check(make_inputs(dtype=jnp.bfloat16), implementation, tolerance=2**-7)


@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_uniform_logits_cost_the_logarithm_of_the_scored_words(implementation):
  _, embedding, labels, scored = make_inputs()
  nats = vocabulary.cross_entropy(
    jnp.zeros((3, 5, 16)),
    embedding,
    labels,
    scored,
    implementation=implementation,
  )
  np.testing.assert_allclose(nats, np.log(98), rtol=1e-6)


@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_an_unscored_label_stays_finite(implementation):
  hidden, embedding, labels, scored = make_inputs()
  nats = vocabulary.cross_entropy(
    hidden,
    embedding,
    jnp.full_like(labels, 127),
    scored,
    implementation=implementation,
  )
  assert np.all(np.isfinite(nats))


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_argmax_is_over_the_scored_words(implementation):
  hidden, embedding, _, scored = make_inputs()
  ids = vocabulary.argmax(
    hidden, embedding, scored, implementation=implementation
  )
  logits = np.where(
    scored, np.float64(hidden) @ np.float64(embedding).T, -np.inf
  )
  np.testing.assert_array_equal(ids, logits.argmax(-1))
  assert ids.dtype == jnp.int32


@on_devices
@pytest.mark.parametrize("block_mib", [None, 2**-12])
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_the_argmax_is_a_scored_word_where_logits_are_not_finite(
  implementation, block_mib
):
  hidden, embedding, _, scored = make_inputs(num_words=1000)
  call = lambda *arrays: vocabulary.argmax(
    *arrays, scored, implementation=implementation, block_mib=block_mib
  )
  finite = call(hidden, embedding)
  found = call(hidden.at[1, 2].set(jnp.nan), embedding)
  np.testing.assert_array_equal(found, finite.at[1, 2].set(1))  # not 0
  of_nan = embedding.at[jnp.array([70, 7, 90])].set(jnp.nan)  # 7 is not scored
  np.testing.assert_array_equal(call(hidden, of_nan), 70)
  low = jnp.full_like(embedding, -1e38)  # all logits are −∞
  np.testing.assert_array_equal(call(jnp.full_like(hidden, 1e3), low), 1)


def test_a_block_of_the_argmax_is_no_larger_when_mapped_over(monkeypatch):
  hidden, embedding, _, scored = make_inputs()
  call = lambda x: vocabulary.argmax(x, embedding, scored, implementation="xla")
  seen = []
  block_rows = kernel.block_rows

  def watched(hidden, *others):
    seen.append(hidden.shape)
    return block_rows(hidden, *others)

  jax.clear_caches()  # jax 0.12 does not trace again what has this shape
  monkeypatch.setattr(kernel, "block_rows", watched)
  found = jax.vmap(jax.vmap(call))(hidden)
  assert seen[-1] == (15, 16)  # what is compiled; smaller ones are only traced
  np.testing.assert_array_equal(found, call(hidden))


def test_the_argmax_may_stand_beside_a_loss():
  hidden, embedding, labels, scored = make_inputs()

  def loss(hidden, embedding):
    ids = vocabulary.argmax(hidden, embedding, scored, implementation="xla")
    return jnp.sum(hidden), jnp.mean(ids == labels)

  calls = {
    "grad": lambda: jax.jit(jax.grad(loss, has_aux=True))(hidden, embedding),
    "remat": lambda: jax.grad(jax.checkpoint(loss), has_aux=True)(
      hidden, embedding
    ),
  }
  for call in calls.values():
    slope, share = call()
    np.testing.assert_array_equal(slope, 1)
    assert 0 <= share <= 1


@pytest.mark.parametrize("top", ["_top", "_top_in_two_passes"])
def test_the_largest_logit_and_its_first_place(top):
  logits = np.random.default_rng(0).integers(0, 5, (50, 7)).astype(np.float32)
  logits[0] = -np.inf
  logits[1, 3:6] = -np.inf, np.nan, np.nan
  logits[2, 0] = np.nan
  largest, word = getattr(kernel, top)(jnp.asarray(logits))
  np.testing.assert_array_equal(largest, logits.max(-1))
  np.testing.assert_array_equal(word, logits.argmax(-1))
  assert word.dtype == jnp.int32


@pytest.mark.parametrize("num_words", [7, 256])
def test_one_pass_finds_the_largest_logit_or_says_that_it_does_not(num_words):
  logits = np.random.default_rng(0).normal(size=(50, num_words))
  logits = logits.astype(np.float32)
  logits[0, [2, 5]] = 9  # in two columns of 128
  logits[1, [2, 130 % num_words]] = 9  # in one
  largest, word = kernel._top_of_columns(jnp.asarray(logits))
  np.testing.assert_array_equal(largest, logits.max(-1))
  expected = logits.argmax(-1)
  if num_words % 128 == 0:
    assert word[0] < 0
    expected[0] = word[0]
  np.testing.assert_array_equal(word, expected)
  assert word.dtype == jnp.int32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("position", [None, (0, 0), (2, 4)])
def test_a_word_that_is_not_scored_may_have_the_largest_logit(dtype, position):
  hidden, embedding, _, scored = make_inputs()
  embedding = embedding.at[7].set(0)  # not scored
  if position is not None:
    embedding = embedding.at[7].set(100 * hidden[position])
  hidden, embedding = hidden.astype(dtype), embedding.astype(dtype)
  call = functools.partial(vocabulary.argmax, hidden, embedding, scored)
  expected = call(implementation="reference")
  assert not np.any(expected == 7)
  np.testing.assert_array_equal(call(implementation="xla"), expected)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_the_first_of_equal_words_wins(implementation):
  hidden, _, _, scored = make_inputs()
  ids = vocabulary.argmax(
    hidden, jnp.ones((128, 16)), scored, implementation=implementation
  )
  np.testing.assert_array_equal(ids, 1)  # 0 is not scored


@pytest.mark.parametrize("num_words", [8, 33, 129, 8320])
def test_blocks_visit_every_word_once_and_few_again(num_words, block_size):
  def visit(carry, block):
    start, size, is_new = block
    counts, num_visits = carry
    here = start + jnp.arange(size)
    return counts.at[here].add(is_new), num_visits + size

  carry = jnp.zeros(num_words, jnp.int32), 0
  counts, num_visits = kernel.scan_blocks(visit, carry, num_words, block_size)
  np.testing.assert_array_equal(counts, 1)
  num_blocks = -(-num_words // block_size)
  assert num_visits < num_words + num_blocks * kernel._TILE_SIZE


def test_no_logits_of_all_words_and_positions(block_size):
  hidden = jnp.ones((64, 16))
  embedding, scored = jnp.ones((8192, 16)), jnp.ones(8192, bool)
  labels, weights = jnp.zeros(64, jnp.int32), jnp.ones(64)

  def temporaries(function, *rest, **settings):
    def total(hidden, embedding):
      return jnp.sum(
        function(hidden, embedding, labels, scored, *rest, **settings)[0]
      )

    compiled = jax.jit(jax.grad(total, (0, 1))).lower(hidden, embedding)
    return compiled.compile().memory_analysis().temp_size_in_bytes

  reference = temporaries(vocabulary.cross_entropy, implementation="reference")
  assert temporaries(vocabulary.cross_entropy) <= reference / 4
  assert temporaries(vocabulary.cross_entropy_sum, weights) <= reference / 4


@pytest.mark.parametrize("block_size", [32], indirect=True)
@pytest.mark.parametrize("num_bytes", [1, 2000, 2**20])
def test_blocks_may_be_chosen(monkeypatch, block_size, num_bytes):
  """Of less than a word or position, of some, of all."""
  mib = num_bytes / 2**20
  inputs = hidden, embedding, _, scored = make_inputs()
  chosen = {
    name: functools.partial(getattr(vocabulary, name), block_mib=mib)
    for name in ("cross_entropy", "cross_entropy_sum", "argmax")
  }
  expected = vocabulary.argmax(hidden, embedding, scored)
  for name, function in chosen.items():
    monkeypatch.setattr(vocabulary, name, function)
  check(inputs, "xla")
  check_sum(inputs, "xla")
  in_tiles = lambda *arguments: tiles.visit(num_bytes, *arguments[2:])
  monkeypatch.setattr(sum_kernel, "_visit", in_tiles)
  check_sum(inputs, "xla")
  found = vocabulary.argmax(hidden, embedding, scored)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("block_size", [32], indirect=True)
@pytest.mark.parametrize(
  "name", ["cross_entropy", "cross_entropy_sum", "argmax"]
)
def test_chosen_blocks_bound_the_memory(name, block_size):
  hidden = jnp.ones((64, 16))
  embedding, scored = jnp.ones((8192, 16)), jnp.ones(8192, bool)
  rest = {
    "cross_entropy": (jnp.zeros(64, jnp.int32), scored),
    "cross_entropy_sum": (jnp.zeros(64, jnp.int32), scored, jnp.ones(64)),
    "argmax": (scored,),
  }[name]

  def temporaries(mib):
    def call(hidden, embedding):
      function = getattr(vocabulary, name)
      return jax.tree.leaves(function(hidden, embedding, *rest, block_mib=mib))[
        0
      ]

    def slopes(*arrays):
      return jax.grad(lambda *arrays: call(*arrays).sum(), (0, 1))(*arrays)

    function = jax.jit(call if name == "argmax" else slopes)
    compiled = function.lower(hidden, embedding).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20

  # The same but for the blocks: of 2 MiB of logits, 1/8 and 1/32.
  assert temporaries(1 / 4) - temporaries(1 / 16) > 1 / 8


def test_an_unknown_implementation_is_taken_for_no_other():
  with pytest.raises(ValueError, match="'palas'; choose one of reference, xla"):
    is_reference("palas")
  with pytest.raises(ValueError, match="implementation is 'palas'"):
    vocabulary.argmax(
      jnp.ones((1, 4)),
      jnp.ones((8, 4)),
      jnp.ones(8, bool),
      implementation="palas",
    )


def test_widths_that_differ_are_refused():
  with pytest.raises(ValueError, match="16 entries"):
    vocabulary.argmax(jnp.ones((2, 16)), jnp.ones((8, 4)), jnp.ones(8, bool))
