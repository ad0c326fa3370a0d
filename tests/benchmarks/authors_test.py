"""Tests benchmarks/authors.py and against.py on a stand-in for a checkout."""

import json

import pytest

from benchmarks import authors, suites
from benchmarks.against import OURS, THEIRS, Against
from benchmarks.timing import Version

pytestmark = pytest.mark.extras

_AUTOENCODER = """
import os
import types
import torch

class Autoencoder(torch.nn.Module):
  def __init__(self, config):
    super().__init__()
    assert 0 < config.ae_dropout < 1 and config.num_encoder_layers == 2
    self.table = torch.nn.Embedding(config.vocab_size, config.latent_size)

  def save_pretrained(self, path):
    torch.save(self.state_dict(), os.path.join(path, "weights"))

  def forward(self, input_ids, labels):
    assert self.training and input_ids.shape == labels.shape
    return types.SimpleNamespace(loss=self.table(input_ids).square().mean())
"""
_ENERGY = """
import os
import types
import torch
from .modeling_autoencoder import Autoencoder
from .modeling_calm import CALM

class EnergyTransformer(CALM):
  def __init__(self, config):
    super().__init__()
    assert os.path.exists(os.path.join(config.ae_path, "weights"))
    self.config, self.eos_token_id = config, 2
    self.table = torch.nn.Embedding(config.vocab_size, config.hidden_size)
    last = torch.nn.Linear(config.hidden_size, config.latent_size)
    layers = torch.nn.Sequential(last)
    self.generative_head = types.SimpleNamespace(
      final_layer=types.SimpleNamespace(linears=layers)
    )

  def energy_score(self, x, mean, log_std):
    assert x.shape == (self.config.num_samples, *mean.shape)
    return -(x - mean).square().sum(dim=(0, 2))

  def forward(self, input_ids, labels):
    return types.SimpleNamespace(loss=self.table(input_ids).square().mean())

  def generate(self, input_ids, max_length, temperature):
    assert temperature == 0.5 and self.eos_token_id == -1
    new = input_ids.new_zeros(len(input_ids), max_length - input_ids.shape[1])
    return torch.cat([input_ids, new], dim=1)
"""


def _configuration(name):
  return (
    f"class {name}:\n"
    "  def __init__(self, **settings):\n"
    "    self.__dict__.update(settings)\n"
  )


def _write_checkout(path):
  files = {
    "configuration_autoencoder": _configuration("AutoencoderConfig"),
    "configuration_calm": _configuration("CALMConfig"),
    "modeling_autoencoder": _AUTOENCODER,
    "modeling_calm": "import torch\n\nclass CALM(torch.nn.Module):\n  pass\n",
    "modeling_energy": _ENERGY,
  }
  (path / "models").mkdir(parents=True)
  for name, text in files.items():
    (path / "models" / f"{name}.py").write_text(text)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  pytest.importorskip("torch")
  _write_checkout(tmp_path / "checkout")
  _install_transformers(tmp_path, monkeypatch, "4.43.9")
  return tmp_path / "checkout"


def _install_transformers(tmp_path, monkeypatch, version):
  """What pip leaves of a package, without the package."""
  folder = tmp_path / version / f"transformers-{version}.dist-info"
  folder.mkdir(parents=True)
  (folder / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: transformers\nVersion: {version}\n"
  )
  monkeypatch.syspath_prepend(str(folder.parent))


def test_every_task_compares_with_theirs(checkout, monkeypatch):
  def refuse(function):
    def call(*arguments):
      raise RuntimeError("no compiler\nhere")

    return call

  monkeypatch.setattr(authors, "compiled", refuse)
  against = Against(str(checkout))
  seen, written = [], []
  result = suites.run_suite(
    "against",
    size="tiny",
    seconds=0.01,
    row_fn=seen.append,
    result_fn=lambda it: written.append(json.dumps(it, allow_nan=False)),
    suites={"against": against.run},
    facts=against.facts,
  )
  tasks = {}
  for row in seen:
    tasks.setdefault(row.task, []).append(row)
  assert list(tasks) == [
    "autoencoder step",
    "CALM step",
    "energy loss and gradient",
    "evaluation",
    "generation, T = 0.5",
  ]
  for rows in tasks.values():
    assert rows[0].implementation == THEIRS and rows[0].speedup == 1.0
    assert rows[1].implementation.startswith(OURS)
  counted = [it for name, it in tasks.items() if not name.startswith("energy")]
  for theirs, *ours in counted:
    for row in ours:
      ratio = row.tokens_per_second / theirs.tokens_per_second
      assert row.speedup == pytest.approx(ratio)
  assert len(written) == len(seen) + 1
  assert not json.loads(written[0])["is_complete"] and result["is_complete"]
  assert result["against"]["transformers"] == "4.43.9"
  assert result["num_parameters"]["calm"][THEIRS] == 300 * 64
  assert result["left_out"] == {
    f"{THEIRS}, torch.compile": "RuntimeError: no compiler here"
  }


def test_what_memory_does_not_suffice_for_is_left_out(checkout, monkeypatch):
  against = Against(str(checkout))

  def fail(words):
    def task(*arguments):
      raise RuntimeError(words)

    return task

  fits = lambda *arguments: {THEIRS: Version(lambda: None)}
  tasks = {"large": fail("CUDA out of memory."), "small": fits}
  monkeypatch.setattr(against, "_tasks", lambda: tasks)
  [row] = against.run("tiny", 0, None, 0.01)
  assert row.task == "small"
  [reason] = against.facts["left_out"].values()
  assert reason == "RuntimeError: CUDA out of memory."
  tasks["small"] = fail("something else")
  with pytest.raises(RuntimeError, match="something else"):
    list(against.run("tiny", 0, None, 0.01))


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("modeling_energy", r"models/modeling_energy\.py; give the root"),
    ("modeling_calm", r"models/modeling_calm\.py; give the root"),
  ],
)
def test_another_directory_is_refused(checkout, name, words):
  (checkout / "models" / f"{name}.py").unlink()
  with pytest.raises(ValueError, match=words):
    Against(str(checkout))


def test_a_changed_checkout_is_refused(checkout):
  (checkout / "models" / "modeling_energy.py").write_text("import nothing_here")
  with pytest.raises(ValueError, match=r"modeling_energy\.py .*nothing_here"):
    Against(str(checkout))
  (checkout / "models" / "modeling_energy.py").write_text("")
  with pytest.raises(ValueError, match="no attribute 'EnergyTransformer'"):
    Against(str(checkout))


def test_another_version_is_refused(checkout, tmp_path, monkeypatch):
  _install_transformers(tmp_path, monkeypatch, "5.0.1")
  with pytest.raises(ValueError, match=r"is 5\.0\.1, .* for 4\.43\.\*: pip"):
    Against(str(checkout))


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_package_is_named(checkout, monkeypatch, name):
  found = authors.importlib.metadata.version

  def version(package):
    if package == name:
      raise authors.importlib.metadata.PackageNotFoundError(package)
    return found(package)

  monkeypatch.setattr(authors.importlib.metadata, "version", version)
  with pytest.raises(ValueError, match=f"^{name} is not installed.*pip"):
    Against(str(checkout))


def test_a_torch_without_the_device_is_refused(checkout):
  assert authors.check_device("cpu") == "cpu"
  with pytest.raises(ValueError, match=r"runs on a TPU and torch \d.*does not"):
    authors.check_device("tpu")
