"""The notebook of docs/, executed from top to bottom on a tiny run."""

import os
import pathlib
import shutil

import pytest

from tests.sampling.tiny_runs import calm_run, save_run

_ROOT = pathlib.Path(__file__).parents[2]
_NOTEBOOK = _ROOT / "docs" / "first_look.ipynb"


@pytest.mark.processes
@pytest.mark.filterwarnings("default")  # jupyter's own
def test_every_cell_runs(tmp_path, monkeypatch):
  nbclient = pytest.importorskip("nbclient")
  pytest.importorskip("ipykernel")
  pytest.importorskip("matplotlib")
  import nbformat

  save_run(calm_run(), tmp_path / "runs/quickstart/calm")
  for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
    shutil.copy(_ROOT / name, tmp_path)
  (tmp_path / "launch").mkdir()  # what the notebook takes for the checkout
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
  paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
  notebook = nbformat.read(_NOTEBOOK, as_version=4)
  nbclient.NotebookClient(
    notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
  ).execute()
  outputs = [it for cell in notebook.cells for it in cell.get("outputs", [])]
  shown = "".join(it.get("text", "") for it in outputs)
  assert "(12, 8)" in shown and "brier_1_minus_permuted" in shown
  assert any("image/png" in it.get("data", {}) for it in outputs)


def test_it_is_kept_without_outputs():
  nbformat = pytest.importorskip("nbformat")
  notebook = nbformat.read(_NOTEBOOK, as_version=4)
  assert not any(cell.get("outputs") for cell in notebook.cells)
  assert _NOTEBOOK.stat().st_size < 20_000
