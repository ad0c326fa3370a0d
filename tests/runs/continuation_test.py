"""Tests sampling/continuation.py and the compiled loop under it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import MeshConfig
from calm_jax.families import family_of
from calm_jax.randomness import stream_key
from calm_jax.runs.continuation import TextGenerator
from calm_jax.sampling import batch
from calm_jax.sampling.chunk_sampler import ChunkSampler
from calm_jax.sampling.generate import row_keys
from calm_jax.sampling.next_chunk import TemperatureSettings, draw_next
from calm_jax.sampling.prompt import encode_prompt, prompt_id
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.training import sharding
from tests.cached import cached
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  on_mesh,
  token_run,
)


@pytest.fixture
def patch_sampler(monkeypatch):
  """Replaces a method of ChunkSampler; programs compiled before do not know."""

  def patch(name, method):
    monkeypatch.setattr(ChunkSampler, name, method)

  jax.clear_caches()
  yield patch
  jax.clear_caches()


_PROMPTS = ["ab", "hello world", ""]
_COLD = SamplingSettings(temperature=0.5, num_candidates=20)


@cached
def _generator(run_fn, settings):
  return TextGenerator(run_fn(), settings)


def _continue(run_fn, settings=_COLD, prompts=tuple(_PROMPTS), **kwargs):
  generator = _generator(run_fn, settings)
  return generator.continue_prompts(prompts, num_tokens=14, **kwargs)


def _uncached(run, prompts, temperature, num_chunks, sample_id=0):
  """Reads the whole row anew for every chunk, up to 32 of them."""
  size = run.config.model.chunk_size
  sampler_fn = family_of(run.config.model).sampler_fn(run.config)
  params = family_of(run.config.model).bind_params(run.params, run.autoencoder)
  fold = jax.random.fold_in
  streams = (
    stream_key(0, "generation_noise"),
    stream_key(0, "generation_choice"),
  )

  @jax.jit
  def next_chunk(tokens, count, own_keys):
    sampler = sampler_fn(params)
    hidden = sampler.hidden(tokens, jnp.zeros(tokens.shape[:2], jnp.int32))
    keys = (fold(key, count)[None] for key in own_keys)
    return draw_next(
      sampler, hidden[0, count - 1][None], *keys, temperature.bind()
    )

  result = []
  for prompt in prompts:
    chunks = encode_prompt(prompt, run.tokenizer, size)
    keys = [fold(fold(key, prompt_id(chunks)), sample_id) for key in streams]
    tokens = np.zeros((1, 32, size), np.int32)
    tokens[0, : len(chunks)] = chunks
    for count in range(len(chunks), len(chunks) + num_chunks):
      tokens[0, count] = next_chunk(tokens, count, keys).tokens[0]
    new = tokens[0, len(chunks) : len(chunks) + num_chunks]
    result.append(new.reshape(-1).tolist()[:14])
  return result


def test_cached_equals_uncached():
  temperature = TemperatureSettings(temperature=0.5, num_candidates=20)
  expected = _uncached(calm_run(), _PROMPTS, temperature, 4)
  assert [found[0].tokens for found in _continue(calm_run)] == expected


def test_token_model_cached_equals_uncached():
  found = _continue(token_run, SamplingSettings(), num_samples=2)
  prompt = _PROMPTS[1]
  expected = _uncached(
    token_run(), [prompt], TemperatureSettings(), 14, sample_id=1
  )
  assert found[1][1].tokens == expected[0]


def test_a_prompt_gives_what_it_gives_alone():
  together = _continue(calm_run)
  alone = _continue(calm_run, prompts=(_PROMPTS[1],), num_samples=2)
  assert alone[0][0] == together[1][0]
  assert alone[0][1].tokens != alone[0][0].tokens
  in_blocks = _continue(calm_run, max_rows=1)
  assert in_blocks == together


def test_prompts_draw_apart():
  """Or all texts of a page would take their turns at the same places."""
  prompt_ids = [prompt_id(ids) for ids in ([97, 98], [98, 97], [97])]
  keys = row_keys(0, np.array(prompt_ids * 2, np.uint32), np.arange(6) // 3)
  draws = [jax.vmap(jax.random.bits)(key).tolist() for key in keys]
  assert len({*draws[0], *draws[1]}) == 12


def test_seeds():
  assert _continue(calm_run, seed=0) == _continue(calm_run)
  assert _continue(calm_run, seed=1) != _continue(calm_run)


def test_text_comes_in_pieces():
  pieces = {0: "", 1: "", 2: ""}

  def add(row, text):
    pieces[row] += text

  found = TextGenerator(calm_run(), _COLD).continue_prompts(
    _PROMPTS, num_tokens=14, text_fn=add
  )
  assert found == _continue(calm_run)
  assert list(pieces.values()) == [one[0].text for one in found]


def test_a_chunk_is_cut_at_its_end(patch_sampler):
  run = calm_run(num_chunks=12)
  end = run.tokenizer.vocabulary.end_id

  def draw(self, hidden, keys, sample_ids):
    chunk = jnp.array([65, 66, end, 67], jnp.int32)
    return jnp.broadcast_to(chunk, (*keys.shape, len(sample_ids), 4))

  patch_sampler("draw", draw)
  generator = TextGenerator(run, SamplingSettings())
  (found,) = generator.continue_prompts(["x"], num_tokens=14)[0]
  assert (found.text, found.tokens, found.finish) == ("AB", [65, 66], "end")
  assert found.num_draws == 1
  (found,) = generator.continue_prompts(["x"], num_tokens=1)[0]
  assert (found.text, found.finish) == ("A", "length")


def test_stop_strings(patch_sampler):
  def draw(self, hidden, keys, sample_ids):
    chunk = jnp.array([65, 66, 67, 68], jnp.int32)
    return jnp.broadcast_to(chunk, (*keys.shape, len(sample_ids), 4))

  patch_sampler("draw", draw)
  generator = TextGenerator(calm_run(num_chunks=12), SamplingSettings())
  kwargs = {"num_tokens": 14, "stop": ["DABCDA"]}
  (found,) = generator.continue_prompts(["x"], **kwargs)[0]
  assert (found.text, found.finish) == ("ABC", "stop")


def test_a_spent_budget_ends_its_own_row_alone(patch_sampler):
  # Row 1 never agrees with itself after its second chunk, row 0 always does.
  def draw(self, hidden, keys, sample_ids):
    is_spent = (jnp.arange(len(keys)) == 1) & (hidden[:, 0] == 2)
    shift = is_spent[:, None] * sample_ids[None].astype(jnp.int32)
    chunk = jnp.array([65, 66, 67, 68], jnp.int32)
    return chunk[None, None] + shift[..., None]

  patch_sampler("draw", draw)
  step = ChunkSampler.step

  def counting_step(self, tokens, positions, *context):
    hidden, cache = step(self, tokens, positions, *context)
    count = positions[..., None] + jnp.zeros_like(hidden)
    return count.astype(hidden.dtype), cache

  patch_sampler("step", counting_step)
  settings = SamplingSettings(temperature=0.5, method="exact", max_draws=6)
  generator = TextGenerator(calm_run(num_chunks=12), settings)
  (whole, cut), _ = generator.continue_prompts(
    ["x", "x"], num_tokens=16, num_samples=2
  )
  assert (cut.num_draws, whole.num_draws) == (10, 8)
  assert (whole.text, whole.finish, whole.num_spent) == (
    "ABCD" * 4,
    "length",
    0,
  )
  assert (cut.text, cut.finish, cut.num_spent) == ("ABCD" * 2, "spent", 1)


def test_a_spent_budget_can_give_way_to_candidates():
  exact = {"temperature": 0.9, "method": "exact", "max_draws": 3}
  (found,) = _continue(calm_run, SamplingSettings(**exact), prompts=("ab",))[0]
  assert (found.finish, found.num_spent) == ("spent", 1)
  settings = SamplingSettings(**exact, when_spent="batch", num_candidates=20)
  (found,) = _continue(calm_run, settings, prompts=("ab",))[0]
  assert 0 < found.num_spent <= 4
  assert 20 * found.num_spent < found.num_draws <= 4 * 23


def test_exact_in_the_loop_equals_exact_alone():
  # A model that knows one chunk at most positions accepts quickly.
  run_fn = functools.partial(calm_run, scale=0.05)
  settings = {"temperature": 0.5, "method": "exact", "max_draws": 500}
  (found,) = _continue(run_fn, SamplingSettings(**settings), prompts=("ab",))[0]
  expected = _uncached(run_fn(), ["ab"], TemperatureSettings(**settings), 4)
  assert found.tokens == expected[0]
  assert found.num_draws >= 8


@pytest.mark.parametrize(
  ("temperature", "method"),
  [
    (1.0, "batch"),
    (1.0, "hybrid"),
    (1.0, "exact"),
    (0.8, "batch"),
    (0.8, "hybrid"),
  ],
)
def test_one_candidate_is_one_draw(method, temperature):
  settings = SamplingSettings(
    temperature=temperature, method=method, num_candidates=1, max_draws=5000
  )
  found = _continue(calm_run, settings, prompts=("ab",))[0][0]
  expected = _continue(calm_run, SamplingSettings(), prompts=("ab",))[0][0]
  assert found.tokens == expected.tokens
  assert found.num_draws == 4


def test_below_a_sixteenth_all_candidates_are_drawn():
  """They are the batch method's, by hand."""
  count = 40
  settings = {"temperature": 0.05, "num_candidates": count}
  for method in ("batch", "hybrid"):
    (found,) = _continue(
      functools.partial(calm_run, scale=0.05),
      SamplingSettings(method=method, **settings),
      prompts=("ab",),
    )[0]
    assert found.num_draws == 4 * count
  run = calm_run(scale=0.05)
  family = family_of(run.config.model)
  params = family.bind_params(run.params, run.autoencoder)
  keys = jax.random.split(jax.random.key(0), 6)
  hidden = jax.random.normal(keys[0], (6, run.config.model.hidden_size))
  temperature = TemperatureSettings(**settings).bind()

  @jax.jit
  def both(keys, choice_keys):
    sampler = family.sampler_fn(run.config)(params)
    drawn = sampler.draw(hidden, keys, jnp.arange(count, dtype=jnp.uint32))
    chosen = batch.choose(drawn, temperature.log_weights, choice_keys)
    return draw_next(sampler, hidden, keys, choice_keys, temperature), chosen

  found, expected = both(keys, keys[::-1])
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_array_equal(found.is_fallback, expected.is_fallback)


def test_stop_strings_draw_no_more_than_the_text_needs():
  for run_fn, num_tokens in ((token_run, 3), (calm_run, 9)):
    plain, stopped = (
      _generator(run_fn, SamplingSettings()).continue_prompts(
        ["ab"], num_tokens=num_tokens, stop=stop
      )[0][0]
      for stop in ((), ["not there"])
    )
    assert stopped == plain


def test_greedy_by_top_k():
  settings = SamplingSettings(top_k=1)
  found = _continue(token_run, settings, prompts=("ab",), num_samples=2)[0]
  assert found[0].tokens == found[1].tokens
  cold = _continue(
    token_run, SamplingSettings(temperature=1e-3), prompts=("ab",)
  )
  assert cold[0][0].tokens == found[0].tokens


@pytest.mark.parametrize(
  ("run", "settings", "message"),
  [
    (calm_run, {"temperature": 1.5}, "0 < temperature <= 1"),
    (calm_run, {"temperature": 0.2, "num_candidates": 4}, "at least 5"),
    (calm_run, {"top_k": 3}, "next-vector"),
    (calm_run, {"noise_scale": -1.0}, "noise_scale is -1"),
    (calm_run, {"method": "guess"}, "batch, exact"),
    (
      calm_run,
      {"temperature": 0.5, "method": "exact", "max_draws": 0},
      "max_draws is 0",
    ),
    (token_run, {"noise_scale": 0.5}, "token model"),
    (token_run, {"temperature": 0.0}, "positive"),
    (token_run, {"top_p": 0.0}, "top_p"),
    (token_run, {"top_p": 1e-50}, "top_p"),
    (token_run, {"temperature": float("inf")}, "temperature is inf"),
    (token_run, {"temperature": 1e-40}, "temperature is 1e-40"),
    (token_run, {"method": "exakt"}, "choose one of batch, exact, hybrid"),
    (token_run, {"when_spent": "go"}, "choose one of stop, batch"),
    (token_run, {"num_candidates": 0}, "num_candidates is 0"),
    (calm_run, {"noise_scale": 1e39}, "noise_scale is 1e"),
    (calm_run, {"max_draws": 3_000_000_000}, "max_draws is 3000000000"),
    (autoencoder_run, {}, "autoencoder"),
  ],
)
def test_refuses(run, settings, message):
  with pytest.raises(ValueError, match=message):
    TextGenerator(run(), SamplingSettings(**settings))


def test_refuses_what_exceeds_the_context():
  generator = TextGenerator(calm_run(num_chunks=12), SamplingSettings())
  with pytest.raises(ValueError, match="at most 44 tokens"):
    generator.continue_prompts(["ab"], num_tokens=45)
  with pytest.raises(ValueError, match="at least 1"):
    generator.continue_prompts(["ab"], num_tokens=0)


@pytest.mark.parametrize(
  ("run_fn", "mesh"),
  [
    (calm_run, MeshConfig(data=8)),
    (calm_run, MeshConfig(data=2, fsdp=2, tensor=2)),
    pytest.param(token_run, MeshConfig(data=8), marks=pytest.mark.slow),
    pytest.param(
      token_run, MeshConfig(data=1, fsdp=4, tensor=2), marks=pytest.mark.slow
    ),
  ],
)
def test_continuations_do_not_depend_on_the_mesh(run_fn, mesh):
  run = run_fn()
  moved = on_mesh(run, sharding.make_mesh(mesh))
  settings = {
    "num_tokens": 16,
    "num_samples": 3,
    "stop": ["q"],
    "prompts": ["ab", "the class of", "x"],
  }
  expected = TextGenerator(run, _COLD).continue_prompts(**settings)
  assert TextGenerator(moved, _COLD).continue_prompts(**settings) == expected


@pytest.fixture
def compilations():
  """Names of what jax has compiled since."""
  seen = []

  def listen(name, *unused, **others):
    if name.endswith("backend_compile_duration"):
      seen.append(name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield seen
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
  ("run_fn", "fixed"),
  [
    (calm_run, {"method": "batch", "num_candidates": 25}),
    (calm_run, {"method": "hybrid", "num_candidates": 25}),
    (calm_run, {"method": "exact"}),
    (calm_run, {"method": "exact", "when_spent": "batch"}),
    (token_run, {}),
  ],
)
def test_other_numbers_compile_nothing(run_fn, fixed, compilations):
  run = run_fn()
  jax.clear_caches()
  temperatures = (1.0, 0.5, 0.7, 1 / 3, 0.25, 0.05)
  if run_fn is token_run:
    changes = [{"top_p": 1 - 0.03 * i} for i in range(20)]
  else:
    changes = [
      {"noise_scale": 1 - 0.04 * i, "max_draws": 20 + i} for i in range(20)
    ]
  counts = []
  for i, change in enumerate(changes):
    change["temperature"] = temperatures[i % len(temperatures)]
    generator = TextGenerator(run, SamplingSettings(**fixed, **change))
    generator.continue_prompts(
      ["ab"], num_tokens=8 + i, seed=i, stop=["z" * (i + 1)]
    )
    counts.append(len(compilations))
  assert counts[0] > 0 and counts[-1] == counts[0]
