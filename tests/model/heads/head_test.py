"""What every head of the table keeps to."""

import jax
import jax.numpy as jnp
import pytest

from calm_jax.config import HeadConfig, NextVectorConfig
from calm_jax.model.heads import build_head


@pytest.mark.parametrize("kind", HeadConfig.kinds)
def test_a_head_says_whether_its_loss_gives_samples(kind):
  settings = HeadConfig.kinds[kind]()
  head = build_head(
    NextVectorConfig(latent_size=4, hidden_size=16, num_heads=2, head=settings)
  )
  shape = (1, 2)
  latents = jnp.zeros((*shape, 4))
  keys = jnp.broadcast_to(jax.random.key(0), shape)
  inputs = (jnp.zeros((*shape, 16)), latents, latents, keys)

  def loss(*inputs):
    return head.init_with_output(jax.random.key(1), *inputs, method="loss")[0]

  samples = jax.eval_shape(loss, *inputs).samples
  assert settings.samples_in_training == (samples is not None)
  if samples is not None:
    assert samples.shape == (*shape, settings.num_samples, 4)
    assert samples.dtype == jnp.float32
