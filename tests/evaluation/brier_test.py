"""Tests evaluation/brier.py and evaluation/bootstrap.py."""

import itertools
import pathlib

import numpy as np
import pytest

from calm_jax.evaluation import bootstrap, brier


def _scores(tokens, labels):
  """Both parts of the score, [..., K] each."""
  num_samples = tokens.shape[-2]
  shape = (*tokens.shape[:-2], num_samples, num_samples)
  pairs = np.broadcast_to(brier.all_pairs(num_samples), shape)
  agreed = brier.agreeing_pairs(tokens, pairs)
  collision = np.stack([brier.pair_share(it) for it in agreed], axis=-1)
  return np.asarray(brier.accuracy(tokens, labels)), collision


def test_counts_by_hand():
  generator = np.random.default_rng(0)
  tokens = generator.integers(0, 2, (7, 5, 3))
  labels = generator.integers(0, 2, (7, 3))
  accuracy, collision = _scores(tokens, labels)
  for i, n in itertools.product(range(7), range(1, 4)):
    heads = [tuple(sample[:n]) for sample in tokens[i].tolist()]
    truth = tuple(labels[i, :n].tolist())
    right = sum(head == truth for head in heads) / 5
    pairs = sum(a == b for a, b in itertools.permutations(heads, 2)) / 20
    assert accuracy[i, n - 1] == pytest.approx(right)
    assert collision[i, n - 1] == pytest.approx(pairs)


def test_two_samples_give_the_papers_estimator():
  generator = np.random.default_rng(0)
  tokens = generator.integers(0, 2, (50, 2, 4))
  labels = generator.integers(0, 2, (50, 4))
  first, second = (
    np.cumprod(tokens[:, s] == labels, axis=-1) for s in range(2)
  )
  same = np.cumprod(tokens[:, 0] == tokens[:, 1], axis=-1)
  accuracy, collision = _scores(tokens, labels)
  np.testing.assert_allclose(
    brier.brier_scores(accuracy, collision), first + second - same, atol=1e-6
  )


def test_brier_lm():
  assert brier.brier_lm(np.full(4, 0.25)) == pytest.approx(25)
  scores = np.array([[0.2, 0.1, 0.05, 0.02], [0.2, 0.1, -0.01, 0.02]])
  expected = [100 * (0.2 * 0.1 * 0.05 * 0.02) ** 0.25, 0]
  np.testing.assert_allclose(brier.brier_lm(scores), expected)


@pytest.mark.parametrize(
  ("num_samples", "noise_scale", "message"),
  [(1, 1.0, "at least 2"), (0, 1.0, "at least 2"), (2, 0.0, "greedy")],
)
def test_refuses_meaningless_requests(num_samples, noise_scale, message):
  with pytest.raises(ValueError, match=message):
    brier.check_samples(num_samples, noise_scale=noise_scale)


def _statistic(sums):
  """Brier-1 … 4 and BrierLM from sums of accuracy, collision and counts."""
  scores = brier.brier_scores(sums[..., :4], sums[..., 4:8]) / sums[..., 8:]
  return np.append(scores, brier.brier_lm(scores)[..., None], axis=-1)


def test_intervals_cover_what_they_claim():
  """100 data sets, each of 50 windows of one of two kinds of text."""
  num_sets, windows, places, num_samples = 100, 50, 10, 4
  generator = np.random.default_rng(0)
  kinds = np.array([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]])
  shape = (num_sets * windows, places, num_samples + 1, 4)
  kind = generator.integers(0, 2, num_sets * windows)
  edges = np.cumsum(kinds, axis=-1)[kind][:, None, None, None]  # [..., 3]
  tokens = (generator.random(shape)[..., None] > edges).sum(axis=-1)
  accuracy, collision = _scores(tokens[:, :, 1:], tokens[:, :, 0])
  columns = [
    accuracy.sum(axis=1),
    collision.sum(axis=1),
    np.full((len(kind), 1), float(places)),
  ]
  sums = np.concatenate(columns, axis=-1).reshape(num_sets, windows, 9)
  # y and the samples are alike, so Brier-n = Σ P² = (Σ p²)^n of each kind.
  powers = np.sum(kinds**2, axis=-1)[:, None] ** np.arange(1, 5)
  truth = powers.mean(axis=0)
  truth = np.append(truth, brier.brier_lm(truth))
  covered = np.zeros(5)
  for i, one in enumerate(sums):
    found = bootstrap.bootstrap(_statistic, one, num_resamples=500, seed=i)
    covered += (found.low <= truth) & (truth <= found.high)
  assert (covered >= 85).all()
  assert (covered <= 97).all()


def test_standard_error_of_a_mean():
  sums = np.random.default_rng(0).normal(size=(400, 1))
  found = bootstrap.bootstrap(lambda total: total / 400, sums)
  assert found.value == pytest.approx(sums.mean())
  assert found.stderr == pytest.approx(sums.std() / 20, rel=0.06)


def test_standard_error_of_a_mean_of_few_windows():
  """s/√W with the W − 1 of an unbiased s: at W = 4 it is 15 % more."""
  sums = np.array([[1.0], [2.0], [4.0], [9.0]])
  found = bootstrap.bootstrap(
    lambda total: total / 4, sums, num_resamples=20_000
  )
  # Of 20 000 resamples: 0.5 % is one standard error.
  assert found.stderr == pytest.approx(sums.std(ddof=1) / 2, rel=0.02)


def test_difference_is_paired():
  """Two columns that share their noise: the difference has almost none."""
  generator = np.random.default_rng(0)
  shared = generator.normal(size=(200, 1))
  sums = np.concatenate([shared, shared + 0.1], axis=-1) + 0.01 * (
    generator.normal(size=(200, 2))
  )
  found = bootstrap.bootstrap(
    lambda total: (
      np.stack([total[..., 0], total[..., 1] - total[..., 0]], axis=-1) / 200
    ),
    sums,
  )
  assert found.stderr[1] < 0.03 * found.stderr[0]
  assert abs(found.value[1] - 0.1) < 3 * found.stderr[1]


def test_few_windows_are_told():
  assert "29 windows" in bootstrap.cluster_warning(29)
  assert bootstrap.cluster_warning(30) is None


def test_agrees_with_the_authors_code():
  path = pathlib.Path(__file__).parents[3] / "shared" / "parity" / "io.npz"
  if not path.exists():
    pytest.skip("no recorded numbers of the authors' code")
  recorded = np.load(path)
  predictions = [recorded[f"brier_pred_{i}"].reshape(-1, 4) for i in (1, 2)]
  labels = recorded["input_ids"][:, 4:].reshape(-1, 4)
  accuracy, collision = _scores(np.stack(predictions, axis=1), labels)
  found = brier.brier_scores(accuracy, collision).mean(axis=0)
  np.testing.assert_allclose(found, recorded["brier_within_chunk"], rtol=1e-5)
