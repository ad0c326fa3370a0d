"""Tests the reference of benchmarks/generate.py against the package."""

import numpy as np

from benchmarks.generate import count_on_host, generate
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.prompt import Prompts
from tests.benchmarks import tiny


def test_the_host_counts_what_the_compiled_loop_counts():
  """Where all candidates agree, both give the only chunk there is."""
  model = tiny.model(4, 6)
  model = model._replace(params={**model.params, "noise_scale": 0.0})
  prompts = Prompts(np.full((2, 2, 4), 7, np.int32), np.full(2, 2, np.int32))
  settings = {"num_chunks": 3, "seed": 0}
  expected = count_on_host(model, prompts, num_candidates=8, **settings)
  for method in ("batch", "hybrid"):
    temperature = TemperatureSettings(
      temperature=0.5, method=method, num_candidates=8
    )
    found = generate(model, prompts, temperature, **settings)
    np.testing.assert_array_equal(found, expected)
