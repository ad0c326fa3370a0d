"""Compiles tiny plans for absent TPUs through the binary."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

from calm_jax.planning.assumptions import complete
from calm_jax.planning.programs import plan_program
from calm_jax.scaling.flops import num_parameters
from experiments import autoencoder, calm

pytestmark = pytest.mark.aot

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = (
  "--config=experiments/calm.py:tiny,recipe=paper",
  "--config.model.num_layers=2",
  "--config.model.dtype=bfloat16",
  "--config.data.row_length=512",
  "--topology=v5e:2x2",
)
_SPLIT = "--config.mesh.fsdp=4"  # which a model so small is not


def _plan(path, *arguments, config=_CONFIG, libtpu_arguments=""):
  """Exit code, stdout, stderr and what was written."""
  pytest.importorskip("libtpu", reason="the extra [aot] brings libtpu")
  output = path / "plan.json"
  output.unlink(missing_ok=True)
  command = [sys.executable, "-m", "launch.plan", *config, *arguments]
  finished = subprocess.run(
    [*command, f"--output={output}"],
    cwd=_ROOT,
    env={
      name: value
      for name, value in os.environ.items()
      if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    }
    | {"LIBTPU_INIT_ARGS": libtpu_arguments},
    capture_output=True,
    text=True,
    check=False,
  )
  plan = json.loads(output.read_text()) if output.exists() else None
  return finished, plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
  path = tmp_path_factory.mktemp("plan")
  finished, plan = _plan(path, "--vocab_size=1000", _SPLIT)
  assert finished.returncode == 0, finished.stderr
  for words in ("tokens/s", "chip-hours", "leave out", "Nothing ran"):
    assert words in finished.stdout
  assert {*plan["lower_bounds_leave_out"]} == {"compute", "memory", "network"}
  for name in ("jax", "libtpu"):
    assert plan["versions"][name] == importlib.metadata.version(name)
  return plan


def test_the_step_fits_and_says_what_it_takes(plan):
  assert plan["fits"] and plan["compiled"]
  assert plan["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1, "sequence": 1}
  assert plan["bytes_available"] == round(15.75 * 2**30)
  assert sum(plan["bytes_by_kind"].values()) == plan["bytes_per_chip"]
  # Parameters and two moments in float32 are split over the four chips, and
  # each chip has the frozen autoencoder.
  config = complete(calm.get_config("tiny,recipe=paper"), 1000)
  frozen = sum(num_parameters(config.autoencoder).values())
  state = 12 * plan["parameters"] / 4 + 4 * frozen
  assert plan["bytes_by_kind"]["state"] == pytest.approx(state, rel=0.03)
  model = plan["flops_per_step"]
  assert 0.5 * model < plan["executed_flops_per_step"] < 3 * model


def test_parameters_are_gathered_and_samples_are_not(plan):
  kinds = {item["kind"] for item in plan["collectives"]}
  assert {"all-gather", "reduce-scatter"} & kinds
  backbone = [
    item["count"]
    for item in plan["collectives"]
    if item["kind"] == "all-gather" and "backbone, forward" in item["where"]
  ]
  assert sum(backbone) in range(2 * 4, 2 * 7 + 1)  # 7 matrices, 2 layers
  # Once forward, once backward, and the float32 gradient; the samples of the
  # head alone would be 8 × 128 × 8 × 192 numbers at each of its Linears.
  moved = sum(item["bytes"] for item in plan["collectives"])
  assert moved < 2 * 8 * plan["parameters"]


def test_memory_depends_on_mesh_and_remat(plan, tmp_path):
  vocabulary = "--vocab_size=1000"
  _, halves = _plan(tmp_path, vocabulary, "--mesh=data=2,tensor=2")
  state = [p["bytes_by_kind"]["state"] for p in (plan, halves)]
  split = 12 * plan["parameters"]
  assert state[1] - state[0] == pytest.approx(split / 4, rel=0.15)
  _, full = _plan(tmp_path, vocabulary, _SPLIT, "--config.model.remat=full")
  kept = [p["bytes_by_kind"]["activations"] for p in (plan, full)]
  assert kept[1] < kept[0]
  assert full["bytes_per_chip"] != plan["bytes_per_chip"]
  assert full["executed_flops_per_step"] > plan["executed_flops_per_step"]


def test_what_does_not_fit_ends_with_code_2(tmp_path):
  finished, plan = _plan(tmp_path, "--vocab_size=60000000")
  assert finished.returncode == 2, finished.stderr
  assert "does not fit" in finished.stdout
  assert not plan["fits"] and not plan["compiled"]
  assert plan["bytes_per_chip"] > plan["bytes_available"]


def test_the_compiler_knows_the_flags_of_the_scripts(plan, tmp_path):
  script = _ROOT / "launch" / "scripts" / "xla_flags.sh"
  printed = subprocess.run(
    ["bash", "-c", f'. {script} && echo "${{tpu_flags[*]}}"'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
  vocabulary = "--vocab_size=1000"
  finished, flagged = _plan(
    tmp_path, vocabulary, _SPLIT, libtpu_arguments=printed
  )
  assert finished.returncode == 0, finished.stderr
  assert flagged["executed_flops_per_step"] == plan["executed_flops_per_step"]
  finished, _ = _plan(tmp_path, vocabulary, libtpu_arguments="--xla_no_flag=1")
  assert finished.returncode != 0


def test_a_mistake_is_one_line(tmp_path):
  finished, plan = _plan(tmp_path, "--mesh=data=3")
  assert (finished.returncode, plan) == (1, None)
  assert finished.stderr.count("\n") == 1
  assert "nearest meshes that do are" in finished.stderr


def test_an_autoencoder_has_a_plan(tmp_path):
  finished, plan = _plan(
    tmp_path,
    "--vocab_size=1000",
    "--config.num_microbatches=1",
    config=("--config=experiments/autoencoder.py:tiny", "--topology=v5e:2x2"),
  )
  assert finished.returncode == 0, finished.stderr
  # Two rows for four chips; only the state is split by nothing.
  assert plan["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1, "sequence": 2}
  state = 12 * plan["parameters"]
  assert plan["bytes_by_kind"]["state"] == pytest.approx(state, rel=0.03)


@pytest.mark.parametrize("program", ["evaluate", "generate"])
@pytest.mark.parametrize(
  "mesh",
  [
    "",
    pytest.param("--mesh=data=2,tensor=2", marks=pytest.mark.slow),
    pytest.param("--config.mesh.tensor=2", marks=pytest.mark.slow),
  ],
)
def test_evaluation_and_generation_fit(tmp_path, program, mesh):
  flags = [f"--program={program}", "--rows=2", *([mesh] if mesh else [])]
  finished, plan = _plan(tmp_path, "--vocab_size=1000", *flags)
  assert finished.returncode == 0, finished.stderr
  assert "memory per chip" in finished.stdout
  kinds = plan["bytes_by_kind"]
  assert plan["fits"] and plan["num_rows"] == (4 if mesh else 8)
  assert sum(kinds.values()) == plan["bytes_per_chip"]
  config = calm.get_config("tiny,recipe=paper")
  config.model.num_layers, config.model.dtype = 2, "bfloat16"
  config = complete(config, 1000)
  trained = sum(num_parameters(config.model).values())
  frozen = sum(num_parameters(config.autoencoder).values())
  # Two bytes a number; norms, last Linear and posterior are float32.
  share = 0.5 if mesh else 1.0
  assert 2 * (share * trained + frozen) < kinds["parameters"]
  assert kinds["parameters"] < 2.3 * (share * trained + frozen)
  moved = [it["bytes"] for it in plan["collectives"]]
  assert sum(moved) < 1e6 if not mesh else moved


def test_an_autoencoder_has_no_program_to_plan():
  config = complete(autoencoder.get_config("tiny"), 1000)
  with pytest.raises(ValueError, match="predicts nothing"):
    plan_program("generate", config, None, 1)
