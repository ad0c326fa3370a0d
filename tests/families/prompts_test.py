"""Training on prompts with completions minimises what it says it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.batch import Row, make_batch
from calm_jax.families import family_of
from calm_jax.randomness import stream_key
from tests.sampling.tiny_runs import token_run

_BEGIN, _END = 256, 257
_IDS = np.array([_BEGIN, 50, 43, 50, 61, 52, _END, _BEGIN, 51, 61, 51, _END])
_IS_PROMPT = np.array([0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0], bool)
_LEARNT = [5, 6, 10, 11]  # "4" end, "3" end


def test_the_loss_is_of_completions_and_their_ends():
  run = token_run()
  model = family_of(run.config.model).build(run.config.model)
  row = Row(_IDS.astype(np.int32), 0, 0, _IS_PROMPT)
  batch = make_batch(
    [row], run.config.model.vocabulary, row_length=16, chunk_size=1
  )
  objective = family_of(run.config.model).objective(run.config)
  total, means = jax.jit(objective)(
    run.params, None, batch, stream_key(0, "test")
  )
  tokens = jnp.asarray(batch.tokens)
  logits = model.apply({"params": run.params}, tokens)
  log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)[0]
  nats = [-log_p[place - 1, _IDS[place]] for place in _LEARNT]
  assert float(total) == pytest.approx(sum(nats), rel=1e-5)
  assert float(means["loss"].count) == len(_LEARNT)
