"""Cross-entropy and argmax over a vocabulary, a block of words at a time.

The logits of one position over a vocabulary of 128 thousand words take 0.5 MB;
here only those of one block of words exist at a time. The backward pass
computes them again.

Weighed against `linear_softmax_cross_entropy_loss` of tokamax 0.0.12, with both
gradients at 512 positions, 32768 words and width 256 on one CPU core: that took
505 ms and 192 MiB of temporaries, this 450 ms and 33 MiB, `vocabulary_sum` 394
ms and 88 MiB; both have become faster and smaller since. Its kernel for TPU
asks for a TPU at hand, so it cannot be compiled ahead of time, and it knows
neither words that are not scored nor weights of positions: not taken.
"""

import functools

import jax
import jax.numpy as jnp

from calm_jax.kernels.bits import from_bits, to_bits
from calm_jax.kernels.product import multiply

_BLOCK_SIZE = 8192  # words
_TILE_SIZE = 128  # words that a device takes at once
# Exponentials may be taken of differences from a logit this far from the
# largest: summed over all words, exp(60) is finite in float32.
FAR = 60.0
# Logits of a block of the argmax: 16 MiB on a CPU, and 128 elsewhere.
_NUM_LOGITS_CPU = 1 << 22
_NUM_LOGITS = 1 << 25


def cross_entropy(
  hidden: jax.Array,
  embedding: jax.Array,
  labels: jax.Array,
  scored: jax.Array,
  block_bytes: int | None = None,
) -> jax.Array:
  """As `losses.vocabulary.cross_entropy`, in blocks of the vocabulary."""
  *shape, hidden_size = hidden.shape
  hidden = hidden.reshape(-1, hidden_size)
  num_words = (
    _BLOCK_SIZE
    if block_bytes is None
    else words_of(block_bytes // 4, len(hidden))
  )
  nats = _cross_entropy(
    num_words, hidden, embedding, labels.reshape(-1), scored
  )
  return nats.reshape(shape)


def argmax(
  hidden: jax.Array,
  embedding: jax.Array,
  scored: jax.Array,
  block_bytes: int | None = None,
) -> jax.Array:
  """As `losses.vocabulary.argmax`, in blocks of the vocabulary."""
  *shape, hidden_size = hidden.shape
  # Ids have no slope, and what is mapped by a rule of its own can have none.
  hidden, embedding = jax.lax.stop_gradient((hidden, embedding))
  call = _mappable_argmax(block_bytes)
  ids = call(hidden.reshape(-1, hidden_size), embedding, scored)
  return ids.reshape(shape)


def _mappable_argmax(block_bytes):
  """The argmax at positions [P], which vmap makes one of more positions."""

  @jax.custom_batching.custom_vmap
  def call(hidden, embedding, scored):
    in_blocks = lambda find, num_logits: functools.partial(
      _argmax_in_blocks,
      find=find,
      num_logits=num_logits if block_bytes is None else block_bytes // 4,
    )
    on_cpu = in_blocks(_find_on_cpu, _NUM_LOGITS_CPU)
    return jax.lax.platform_dependent(
      hidden,
      embedding,
      scored,
      cpu=lambda hidden, table, scored: on_cpu(hidden, to_bits(table), scored),
      default=in_blocks(_find, _NUM_LOGITS),
    )

  @call.def_vmap
  def call_once(axis_size, is_mapped, hidden, embedding, scored):
    """Positions of all that is mapped over count for the size of a block."""
    if is_mapped != [True, False, False]:
      raise NotImplementedError("only hidden states are mapped over.")
    ids = call(hidden.reshape(-1, hidden.shape[-1]), embedding, scored)
    return ids.reshape(axis_size, -1), True

  return call


def _argmax_in_blocks(hidden, embedding, scored, *, find, num_logits):
  num_positions = hidden.shape[0]

  def visit(carry, block):
    best, ids = carry
    start, size, is_new = block
    rows = block_rows(hidden, embedding, start, size)
    is_scored = jax.lax.dynamic_slice_in_dim(scored, start, size)
    largest, word = find(hidden, rows, is_scored, is_new)
    # Only a larger logit replaces an earlier one: of equals, the first wins.
    # NaN counts as the largest, as for `jnp.argmax`.
    is_larger = (largest > best) | (jnp.isnan(largest) & ~jnp.isnan(best))
    return (
      jnp.where(is_larger, largest, best),
      jnp.where(is_larger, start + word, ids),
    )

  start = (
    jnp.full([num_positions], -jnp.inf, jnp.float32),
    jnp.zeros([num_positions], jnp.int32),
  )
  size = words_of(num_logits, num_positions)
  return scan_blocks(visit, start, embedding.shape[0], size)[1]


def _find(hidden, rows, is_scored, is_new):
  """The largest logit of a block and its first place, of words that count."""
  return _top(_winnable(product("pe,ve->pv", hidden, rows), is_scored & is_new))


def _find_on_cpu(hidden, rows, is_scored, is_new):
  """The same: takes all words for scored and different, and only then looks.

  What is not scored seldom wins, and to leave it out takes another pass over
  the logits, as does the first of several equal ones. So does NaN, which XLA's
  maximum may pass over; where both sums of squares are finite no logit is NaN
  or infinite (|h · e| ≤ |h| |e|). A word seen before may win: it won before.
  """
  logits = product("pe,ve->pv", hidden, rows)
  square = lambda x: jnp.sum(jnp.square(x.astype(jnp.float32)))
  is_finite = jnp.isfinite(square(hidden)) & jnp.isfinite(square(rows))
  largest, word = _top_of_columns(logits)
  return jax.lax.cond(
    is_finite & jnp.all((word >= 0) & is_scored[word]),
    lambda: (largest, word),
    lambda: _top_in_two_passes(_winnable(logits, is_scored & is_new)),
  )


def _winnable(logits, counts):
  """The logits, −∞ where words do not count, and there alone."""
  lowest = jnp.finfo(jnp.float32).min
  logits = jnp.where(jnp.isneginf(logits), lowest, logits)
  return jnp.where(counts, logits, -jnp.inf)


def words_of(num_logits, num_positions):
  """How many make a block of so many logits, but a tile at least."""
  return max(_TILE_SIZE, num_logits // max(num_positions, 1))


def _top(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The largest of [P, v] and its first place, [P] and [P] int32."""
  word = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return jnp.max(logits, axis=-1), word


def _top_in_two_passes(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The same; XLA's argmax on CPUs takes several times what a maximum does."""
  size = logits.shape[-1]
  words = jnp.arange(size, dtype=jnp.int32)[None]
  largest = jnp.max(logits, axis=-1, keepdims=True)  # may pass over NaN
  place = jnp.where(logits >= largest, words, size - 1)
  place = jnp.min(jnp.where(jnp.isnan(logits), words - size, place), axis=-1)
  word = jnp.where(place < 0, place + size, place)
  return jnp.take_along_axis(logits, word[:, None], axis=-1)[:, 0], word


def _top_of_columns(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The same of finite logits; a negative place where several are the largest.

  Word r · C + c stands in row r and column c of C. One pass finds the largest
  of every column, and only the column with the largest of all is searched.
  """
  num_columns = _TILE_SIZE if logits.shape[-1] % _TILE_SIZE == 0 else 1
  columns = logits.reshape(len(logits), -1, num_columns)
  tops = jnp.max(columns, axis=1)
  largest, column = _top_in_two_passes(tops)
  found = jnp.take_along_axis(columns, column[:, None, None], axis=2)[:, :, 0]
  _, row = _top_in_two_passes(found)
  is_one = jnp.sum(tops == largest[:, None], axis=-1) == 1
  return largest, jnp.where(is_one, row * num_columns + column, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(num_words, *arrays):
  return _cross_entropy_forward(num_words, *arrays)[0]


def _cross_entropy_forward(num_words, hidden, embedding, labels, scored):
  def visit(carry, block):
    top, total = carry
    start, size, is_new = block
    logits, _ = block_logits(hidden, embedding, scored, start, size, is_new)
    new_top = jnp.maximum(top, jnp.max(logits, axis=-1))
    # Until the first scored word the maximum is −∞, and −∞ − −∞ is NaN.
    base = jnp.where(jnp.isfinite(new_top), new_top, 0.0)
    total = total * jnp.exp(top - base)
    total = total + jnp.sum(jnp.exp(logits - base[:, None]), axis=-1)
    return new_top, total

  num_positions = hidden.shape[0]
  start = (
    jnp.full([num_positions], -jnp.inf, jnp.float32),
    jnp.zeros([num_positions], jnp.float32),
  )
  top, total = scan_blocks(visit, start, embedding.shape[0], num_words)
  log_total = top + jnp.log(total)
  nats = log_total - label_logits(hidden, embedding, labels)
  return nats, (hidden, embedding, labels, scored, log_total)


def _cross_entropy_backward(num_words, residuals, slope):
  hidden, embedding, labels, scored, log_total = residuals

  def visit(carry, block):
    hidden_slope, embedding_slope = carry
    start, size, is_new = block
    logits, rows = block_logits(hidden, embedding, scored, start, size, is_new)
    ids = start + jnp.arange(size, dtype=jnp.int32)
    is_label = (labels[:, None] == ids[None]) & is_new[None]
    logit_slope = jnp.exp(logits - log_total[:, None])
    logit_slope = slope[:, None] * (logit_slope - is_label)
    logit_slope = logit_slope.astype(hidden.dtype)
    hidden_slope = hidden_slope + product("pv,ve->pe", logit_slope, rows)
    rows_slope = product("pv,pe->ve", logit_slope, hidden)
    return hidden_slope, add_rows(embedding_slope, start, rows_slope)

  start = (jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(embedding))
  hidden_slope, embedding_slope = scan_blocks(
    visit, start, embedding.shape[0], num_words
  )
  return hidden_slope.astype(hidden.dtype), embedding_slope, None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def scan_blocks(visit, carry, vocabulary_size, max_size):
  """Folds `visit` over blocks of words: (start, size, which are new [size]).

  Blocks are equally long. The last one starts early enough for that, so a few
  of its words, less than a tile for every block, have been seen before.
  """
  num_blocks = -(-vocabulary_size // max_size)
  size = -(-vocabulary_size // num_blocks)
  size = min(-(-size // _TILE_SIZE) * _TILE_SIZE, vocabulary_size)

  def step(carry, i):
    start = jnp.minimum(i * size, vocabulary_size - size)
    is_new = start + jnp.arange(size, dtype=jnp.int32) >= i * size
    return visit(carry, (start, size, is_new)), None

  indices = jnp.arange(num_blocks, dtype=jnp.int32)
  return jax.lax.scan(step, carry, indices)[0]


def block_logits(hidden, embedding, scored, start, size, is_new):
  """float32 logits [P, size], −∞ for words not scored or seen before."""
  rows = block_rows(hidden, embedding, start, size)
  counts = jax.lax.dynamic_slice_in_dim(scored, start, size) & is_new
  logits = product("pe,ve->pv", hidden, rows)
  return jnp.where(counts[None], logits, -jnp.inf), rows


def block_rows(hidden, embedding, start, size):
  """Rows of the table, [size, E], in the dtype they are multiplied in."""
  rows = jax.lax.dynamic_slice_in_dim(embedding, start, size)
  return from_bits(rows).astype(hidden.dtype)


def weighted_slope(shares, is_label, weights):
  """weight · (softmax − label) of [P, v], where shares are weight · softmax."""
  return shares - jnp.where(is_label, weights[:, None], 0.0)


def add_rows(table, start, rows):
  """The table, [V, E], with rows added to those from `start` on."""
  old = jax.lax.dynamic_slice_in_dim(table, start, len(rows))
  return jax.lax.dynamic_update_slice_in_dim(
    table, old + rows.astype(table.dtype), start, axis=0
  )


def label_logits(hidden, embedding, labels):
  """float32 logits [P] of the labels."""
  rows = jnp.take(embedding, labels, axis=0).astype(hidden.dtype)
  return product("pe,pe->p", hidden, rows)


product = functools.partial(multiply, result_dtype=jnp.float32)
