"""Tests calm_jax/api.py, and the Python of the pages as it is printed."""

import ast
import dataclasses
import inspect
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import calm_jax
from calm_jax.api import TextModel
from calm_jax.autoencoder import Autoencoder
from calm_jax.config import MeshConfig
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.runner import evaluate_run
from calm_jax.sampling.prompt import encode_prompt
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.training import sharding
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  save_run,
  token_run,
)

_ROOT = pathlib.Path(__file__).parent.parent
_TEXT = "Some text, é and 漢."
_DOCUMENTS = [f"Document {i}: {list(range(3 * i))}" for i in range(12)]


def _settings(**changes):
  return {"temperature": 0.5, "num_candidates": 4} | changes


@pytest.mark.parametrize("run_fn", [calm_run, autoencoder_run])
def test_latents_are_those_of_the_autoencoder(run_fn):
  run = run_fn()
  config = run.config.autoencoder or run.config.model
  params = run.params if run.autoencoder is None else run.autoencoder
  apply = lambda *args, **kwargs: Autoencoder(config).apply(
    {"params": params}, *args, **kwargs
  )
  tokens = encode_prompt(_TEXT, run.tokenizer, config.chunk_size)
  model = TextModel(run)
  latents = model.encode(_TEXT)
  assert latents.shape == (len(tokens), config.latent_size)
  posterior = apply(tokens, method="encode")
  np.testing.assert_allclose(latents, posterior.mean, atol=1e-5)

  ids = np.asarray(apply(latents, method="decode_tokens"))
  assert model.decode(latents) == run.tokenizer.decode(ids.reshape(-1))
  # However many chunks follow, each is encoded alone.
  long = model.encode(_TEXT + "more" * 40)
  assert len(long) == len(latents) + 40
  np.testing.assert_allclose(long[: len(latents)], latents, atol=1e-5)


def test_latents_drawn_from_the_posterior():
  run = autoencoder_run()
  model = TextModel(run)
  mean, one, two = (model.encode(_TEXT, seed=seed) for seed in (None, 1, 2))
  np.testing.assert_array_equal(one, model.encode(_TEXT, seed=1))
  tokens = encode_prompt(_TEXT, run.tokenizer, run.config.model.chunk_size)
  posterior = Autoencoder(run.config.model).apply(
    {"params": run.params}, tokens, method="encode"
  )
  noise = np.stack([one - mean, two - mean]) / np.exp(posterior.log_std)
  # 2·L·Z standard normal draws; four standard errors.
  assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
  assert abs(np.square(noise).mean() - 1) < 4 * np.sqrt(2 / noise.size)


def test_no_latents_are_no_text():
  model = TextModel(autoencoder_run())
  assert model.decode(np.zeros((0, 8))) == ""


def test_generates_what_the_generator_gives():
  run = calm_run()
  settings = SamplingSettings(**_settings(), method="hybrid")
  expected = TextGenerator(run, settings).continue_prompts(
    ["a", "bc"], num_tokens=8, num_samples=2, seed=3
  )
  model = TextModel(run)
  found = model.generate(
    ["a", "bc"], num_tokens=8, num_samples=2, seed=3, **_settings()
  )
  assert found == expected
  alone = model.generate("a", num_tokens=8, seed=3, **_settings())
  assert alone == [expected[0][:1]]


def test_generates_by_default_what_the_binary_generates():
  tree = ast.parse((_ROOT / "launch/generate.py").read_text())
  flags = {
    call.args[0].value: ast.literal_eval(call.args[1])
    for call in ast.walk(tree)
    if isinstance(call, ast.Call)
    and ast.unparse(call.func).startswith("flags.DEFINE_")
  }
  parameters = inspect.signature(TextModel.generate).parameters
  defaults = {
    **{it.name: it.default for it in dataclasses.fields(SamplingSettings)},
    **{name: it.default for name, it in parameters.items()},
    "stop": [],
  }
  shared = flags.keys() & defaults.keys()
  assert {"temperature", "method", "num_candidates", "seed"} <= shared
  for name in shared:
    assert flags[name] == defaults[name], name


def test_generates_with_a_token_model():
  found = TextModel(token_run()).generate(
    "a", num_tokens=5, temperature=1.5, top_k=3
  )
  assert len(found[0][0].tokens) <= 5


@pytest.mark.parametrize("run_fn", [calm_run, autoencoder_run])
def test_scores_what_the_binary_scores(run_fn, tmp_path):
  run = run_fn()
  for i, text in enumerate(_DOCUMENTS):
    (tmp_path / f"{i:02}.txt").write_text(text)
  settings = {"num_samples": 2, "seed": 5}
  expected = evaluate_run(
    run, f"{tmp_path}/*.txt", PredictionSettings(**settings)
  )
  found = TextModel(run).score(_DOCUMENTS, **settings)
  assert found.items() <= expected.items()
  name = "brier_1" if run_fn is calm_run else "token_accuracy"
  assert {name, f"{name}_stderr", "warnings"} <= found.keys()


def test_mistakes():
  model = TextModel(calm_run())
  with pytest.raises(ValueError, match=r"has no latents; load"):
    TextModel(token_run()).encode("a")
  with pytest.raises(ValueError, match=r"shape \(3,\); \[L, 8\] was expected"):
    model.decode(np.zeros(3))
  with pytest.raises(ValueError, match="the list of documents has no text"):
    model.score([])
  assert model.generate([]) == []
  with pytest.raises(ValueError, match="document 1: character 0"):
    model.score(["a", "\udcff"])
  with pytest.raises(ValueError, match="row_length is 999"):
    model.score(["a"], row_length=999)
  with pytest.raises(ValueError, match="temperature is 2"):
    model.generate("a", temperature=2)
  with pytest.raises(ValueError, match="holds an autoencoder"):
    TextModel(autoencoder_run()).generate("a")
  with pytest.raises(FileNotFoundError, match="no directory"):
    calm_jax.load("none")
  with pytest.raises(AttributeError, match="no attribute 'lode'"):
    _ = calm_jax.lode


def test_says_what_it_is():
  assert repr(TextModel(calm_run())) == "<next_vector model of tiny, step 7>"


def test_importing_touches_no_device_and_is_quick():
  """The package alone takes no library; its API starts no backend."""
  code = """
import sys, time
start = time.process_time()
import calm_jax
seconds = time.process_time() - start
print(seconds < 0.5, "jax" in sys.modules, "numpy" in sys.modules)
calm_jax.load
import calm_jax.workflows.training
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.split("\n")[:2] == ["True False False", "False"]
  assert not result.stderr


def test_loads_a_run_directory(tmp_path):
  run = calm_run()
  save_run(run, tmp_path / "run")
  model = calm_jax.load(tmp_path / "run", step=run.step)
  assert isinstance(model, calm_jax.TextModel) and model.run.step == run.step
  jax.tree.map(np.testing.assert_array_equal, model.run.params, run.params)
  np.testing.assert_array_equal(
    model.encode(_TEXT), TextModel(run).encode(_TEXT)
  )


def test_loads_onto_a_mesh(tmp_path):
  run = calm_run()
  save_run(run, tmp_path / "run")
  alone = calm_jax.load(tmp_path / "run")
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  shared = calm_jax.load(tmp_path / "run", mesh=mesh)
  settings = _settings(num_tokens=8, num_samples=3)
  assert shared.generate("ab", **settings) == alone.generate("ab", **settings)
  found, expected = (
    model.score(_DOCUMENTS, row_length=32, num_samples=2)
    for model in (shared, alone)
  )
  assert found["brier_1"] == pytest.approx(expected["brier_1"], abs=1e-6)
  assert len(_gate(shared.run).sharding.device_set) == 8


def _gate(run):
  return run.params["backbone"]["layers"]["mlp"]["gate"]["kernel"]


def test_loads_in_another_dtype(tmp_path):
  run = calm_run()
  save_run(run, tmp_path / "run")
  model = calm_jax.load(tmp_path / "run", dtype="bfloat16")
  params = model.run.params
  assert (
    params["backbone"]["layers"]["mlp"]["gate"]["kernel"].dtype == "bfloat16"
  )
  assert params["backbone"]["norm"]["norm"]["scale"].dtype == "float32"
  assert model.run.config.autoencoder.dtype == "bfloat16"
  exact = TextModel(run).encode(_TEXT)
  found = model.encode(_TEXT)
  assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
  with pytest.raises(ValueError, match="float16"):
    calm_jax.load(tmp_path / "run", dtype="float16")


@pytest.mark.parametrize("page", ["README.md", "docs/first_steps.md"])
def test_the_python_of_a_page_runs_as_printed(
  page, tmp_path, monkeypatch, capsys
):
  text = (_ROOT / page).read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  assert blocks
  save_run(calm_run(), tmp_path / "runs/quickstart/calm")
  (tmp_path / "README.md").write_text("\n".join(_DOCUMENTS))
  monkeypatch.chdir(tmp_path)
  for block in blocks:
    exec(compile(block, page, "exec"), {})
  shown = capsys.readouterr().out
  assert re.match(r"\(5, 8\) ", shown)
  if "model.score" in text:
    difference = r"\nbrier_1_minus_permuted -?\d\.\d{3} ± \d\.\d{3}\n"
    assert re.search(difference, shown)
