"""What a new run takes over from one that was trained or converted before."""

from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.config import AutoencoderConfig, ExperimentConfig
from calm_jax.data.tokenizer import Tokenizer


def check_run(path: epath.PathLike) -> None:
  """Raises OSError or ValueError unless a run with a saved step is there."""
  run = RunDirectory(path)
  run.read_config()
  run.find_step(None)


def find_autoencoder(
  config: ExperimentConfig, path: epath.PathLike
) -> tuple[AutoencoderConfig | None, Any]:
  """The frozen autoencoder of the earlier run, for a next-vector model.

  Args:
    config: of the new run.
    path: of the earlier one.

  Returns:
    Its config and parameters; None twice if either run has none.
  """
  if not config.model.needs_autoencoder:
    return None, None
  run = RunDirectory(path)
  saved = run.read_config()
  if saved.autoencoder is None:
    return None, None
  return saved.autoencoder, run.read_autoencoder(saved.autoencoder)


def read_params(
  path: epath.PathLike, shapes: Any, tokenizer: Tokenizer, mesh: Mesh
) -> Any:
  """The newest parameters of the earlier run, placed as the new one needs them.

  Args:
    path: of the earlier run.
    shapes: of the new run's parameters.
    tokenizer: that of the new run's data.
    mesh: of the new run; all processes call this together.

  Returns:
    A tree of arrays.

  Raises:
    OSError: if there is no such run.
    ValueError: if its parameters or its tokenizer are not those that the new
      run needs.
  """
  loaded = load_run(path, mesh=mesh)
  if loaded.tokenizer.content_hash != tokenizer.content_hash:
    raise ValueError(
      f"the initial run {path} was trained with another tokenizer (hash"
      f" {loaded.tokenizer.content_hash[:12]}) than that of the data"
      f" ({tokenizer.content_hash[:12]}); prepare the data with its tokenizer:"
      f" --tokenizer={path}/tokenizer."
    )
  found, wanted = (_by_name(tree) for tree in (loaded.params, shapes))
  for name in sorted(found.keys() | wanted.keys()):
    here, there = found.get(name), wanted.get(name)
    if here != there:
      raise ValueError(
        f"the initial run {path} has the parameter {name} with shape {here},"
        f" and the config asks for {there}; give the model of that run:"
        f" --config=experiments/continued.py:{path}."
      )
  return loaded.params


def _by_name(tree: Any) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
