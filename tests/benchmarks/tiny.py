"""The smallest model whose chunks agree as often as asked."""

import jax

from benchmarks.random_model import MODEL_SIZES, make_config, random_model


def model(chunk_size, num_chunks):
  config = make_config(
    MODEL_SIZES["tiny"],
    chunk_size=chunk_size,
    num_chunks=num_chunks,
    num_rows=2,
  )
  return random_model(config, jax.random.key(0), 0.3)
