"""Tests sampling/draft_tree.py and sampling/verification.py."""

import collections

import jax
import numpy as np
import pytest

from calm_jax.sampling.draft_tree import grow_tree
from calm_jax.sampling.verification import walk

_END = 3


def _chunks(rows=5, num_drafts=6, size=3):
  rng = np.random.default_rng(0)
  return rng.integers(0, 4, (rows, num_drafts, size)).astype(np.int32)


def _prefixes(drafts):
  """How many drafts begin with each prefix that does not go on after an end."""
  counts = collections.Counter()
  for draft in drafts.tolist():
    for length in range(1, len(draft) + 1):
      if _END not in draft[: length - 1]:
        counts[tuple(draft[:length])] += 1
  return counts


def _paths(tree, row):
  """The tokens on the way down to each used node."""
  paths = [()]
  for node in range(1, tree.tokens.shape[1]):
    above = paths[int(tree.parent[row, node])]
    paths.append((*above, int(tree.tokens[row, node])))
  return paths


@pytest.mark.parametrize("num_nodes", [1, 4, 9, 100])
def test_the_most_frequent_prefixes_once_each(num_nodes):
  chunks = _chunks()
  tree = jax.tree.map(np.asarray, grow_tree(chunks, num_nodes, _END))
  assert tree.tokens.shape == (5, 1 + min(num_nodes, 18))
  for row, drafts in enumerate(chunks):
    counts = _prefixes(drafts)
    used = np.flatnonzero(tree.is_used[row])
    paths = _paths(tree, row)
    kept = [paths[node] for node in used[1:]]
    assert len(kept) == len(set(kept)) == min(num_nodes, len(counts))
    assert sorted(counts[path] for path in kept) == sorted(
      sorted(counts.values(), reverse=True)[: len(kept)][::-1]
    )
    for i in used:
      assert tree.depth[row, i] == len(paths[i])
      for j in used:
        is_above = paths[i][: len(paths[j])] == paths[j]
        assert tree.sees[row, i, j] == is_above
    assert not tree.sees[row][np.ix_(used, ~tree.is_used[row])].any()


def test_the_walk_follows_what_is_drafted():
  chunks = _chunks(rows=40)
  tree = grow_tree(chunks, 10, _END)
  drawn = np.random.default_rng(1).integers(0, 4, tree.tokens.shape)
  found = walk(tree, drawn.astype(np.int32), 3)
  host = jax.tree.map(np.asarray, tree)
  for row in range(40):
    nodes = {
      path: node
      for node, path in enumerate(_paths(host, row))
      if host.is_used[row, node]
    }
    path, expected = (), []
    while path in nodes:
      expected.append(nodes[path])
      path = (*path, int(drawn[row, nodes[path]]))
    num_new = int(found.num_new[row])
    assert num_new == len(path) == len(expected)
    assert tuple(found.tokens[row, :num_new].tolist()) == path
    assert found.nodes[row, :num_new].tolist() == expected
  assert set(np.asarray(found.num_new).tolist()) == {1, 2, 3, 4}
