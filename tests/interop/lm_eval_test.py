"""lm-evaluation-harness' own command gives the numbers of launch.choose."""

import json
import sys

import pytest

from calm_jax.data.choice_items import read_task
from calm_jax.runs.choosing import choose_run
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.text_scorer import ChoiceSettings
from calm_jax.sampling.settings import SamplingSettings
from tests.sampling.tiny_runs import calm_run, token_run

_RUNS = {"calm": calm_run, "token": lambda: token_run(num_chunks=160)}
_SLOW = pytest.mark.slow
_ITEMS = [
  {
    "context": f"{'pebbles and shells ' * (i % 3)}number {i}",
    "choices": [f" is {i}", " was", " and so on", f"{i}, {i}"],
    "answer": i % 4,
  }
  for i in range(10)
]
_CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: context
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {{metric: acc}}
  - {{metric: acc_norm}}
  - {{metric: acc_mutual_info}}
"""
_TEXT = """
task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: generate_until
doc_to_text: context
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{max_gen_toks: 8, until: ["\\n"]}}
metric_list: [{{metric: exact_match}}]
"""
_ROLLING = """
task: local_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: context
metric_list: [{{metric: word_perplexity}}]
"""

# What the harness and its libraries warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def harness(tmp_path, monkeypatch):
  """Runs lm-eval's command on a run that is not on a disk."""
  pytest.importorskip("lm_eval")
  from lm_eval.__main__ import cli_evaluate

  from calm_jax.interop import lm_eval_model

  path = tmp_path / "items.jsonl"
  path.write_text("".join(json.dumps(item) + "\n" for item in _ITEMS))
  for name, text in (
    ("choice", _CHOICE),
    ("text", _TEXT),
    ("rolling", _ROLLING),
  ):
    (tmp_path / f"{name}.yaml").write_text(text.format(path=path))
  for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    monkeypatch.setenv(name, "1")
  monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

  def call(run, task, arguments):
    monkeypatch.setattr(lm_eval_model, "load_run", lambda *_, **__: run)
    # The other devices of these tests are not what is tested.
    monkeypatch.setattr(lm_eval_model.jax, "devices", lambda: [None])
    monkeypatch.setattr(
      sys,
      "argv",
      [
        "lm_eval",
        "run",
        "--model=calm_jax",
        f"--model_args=run=tiny,{arguments}",
        f"--include_path={tmp_path}",
        f"--tasks=local_{task}",
        f"--output_path={tmp_path / 'out'}",
        "--log_samples",
      ],
    )
    cli_evaluate()
    (found,) = (tmp_path / "out").rglob("results_*.json")
    return json.loads(found.read_text())

  call.path = path
  return call


@pytest.mark.parametrize("name", ["calm", pytest.param("token", marks=_SLOW)])
def test_multiple_choice_is_that_of_launch_choose(name, harness):
  run = _RUNS[name]()
  expected = choose_run(
    run, read_task(harness.path), ChoiceSettings(num_samples=8)
  )
  found = harness(run, "choice", "num_samples=8")
  scores = found["results"]["local_choice"]
  for theirs, ours in (
    ("acc", "accuracy"),
    ("acc_norm", "accuracy_normalised"),
    ("acc_mutual_info", "accuracy_mutual"),
  ):
    assert scores[f"{theirs},none"] == pytest.approx(expected[ours]), theirs
  config = found["config"]
  assert config["calm_jax_estimate"] == expected["estimate"]
  assert config["calm_jax_num_samples"] == (8 if name == "calm" else None)
  samples = next(harness.path.parent.rglob("samples_*.jsonl")).read_text()
  for line in map(json.loads, samples.splitlines()):
    texts = [float(it[0][0]) for it in line["resps"][:4]]
    scores = expected["items"][line["doc_id"]]["scores"]
    assert texts == pytest.approx(scores, rel=1e-5)


def test_greedy_text_is_what_a_token_run_is_asked_for(monkeypatch):
  pytest.importorskip("lm_eval")
  from lm_eval.api.instance import Instance

  from calm_jax.interop import lm_eval_model

  run = token_run()
  monkeypatch.setattr(lm_eval_model, "load_run", lambda *_, **__: run)
  monkeypatch.setattr(lm_eval_model.jax, "devices", lambda: [None])
  options = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "do_sample": False},
    {"temperature": 0.7},
  ]
  requests = [
    Instance("generate_until", {}, ("ab", {"max_gen_toks": 10} | it), i)
    for i, it in enumerate(options)
  ]
  *greedy, drawn = lm_eval_model.CalmLM("tiny").generate_until(requests)
  generator = TextGenerator(run, SamplingSettings(top_k=1))
  ((expected,),) = generator.continue_prompts(["ab"], num_tokens=10)
  assert greedy == [expected.text] * 3
  assert drawn != expected.text


@_SLOW
def test_generated_text_ends_where_it_is_told_to(harness):
  found = harness(calm_run(), "text", "num_samples=8")
  assert "exact_match,none" in found["results"]["local_text"]
  samples = next(harness.path.parent.rglob("samples_*.jsonl")).read_text()
  texts = [json.loads(it)["resps"][0][0] for it in samples.splitlines()]
  assert len(texts) == len(_ITEMS)
  assert all("\n" not in it and len(it.encode()) <= 8 * 3 for it in texts)


def test_perplexity_is_refused_with_the_reason(harness):
  with pytest.raises(ValueError, match="gives no perplexities"):
    harness(calm_run(), "rolling", "num_samples=8")
