"""What a new run takes over from one that was trained or converted before.

What `check_…` finds is found before anything is compiled or written.
"""

from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.config import AutoencoderConfig, ExperimentConfig, ModelConfig
from calm_jax.data.tokenizer import Tokenizer, load_tokenizer
from calm_jax.data.tokenizer_base import check_same_tokenizer
from calm_jax.families import build_model, param_shapes

_TABLE = "embedding/embedding"  # of the ids that a model reads; ends its name


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


def check_params(
  path: epath.PathLike, model: ModelConfig, tokenizer: Tokenizer
) -> None:
  """Raises unless the earlier run has the parameters that a new one needs.

  Args:
    path: of the earlier run.
    model: of the new run, resolved.
    tokenizer: that of the new run's data.

  Raises:
    OSError: if there is no such run.
    ValueError: if it has no saved step, other parameters or another tokenizer.
  """
  found = _shapes(_check_run(path, tokenizer))
  wanted = _shapes(model)
  for name in sorted(found.keys() | wanted.keys()):
    here, there = found.get(name), wanted.get(name)
    if here != there:
      raise ValueError(
        f"the initial run {path} has the parameter {name} with shape {here},"
        f" and the config asks for {there}; give the model of that run:"
        f" --config=experiments/continued.py:{path}."
      )


def read_params(path: epath.PathLike, mesh: Mesh) -> Any:
  """The newest parameters of the earlier run, placed as the new one needs them.

  All processes of the mesh call this together, after `check_params`.
  """
  return load_run(path, mesh=mesh).params


def check_embedding(
  path: epath.PathLike, model: ModelConfig, tokenizer: Tokenizer
) -> None:
  """Raises unless the earlier run has a table of ids that fits the new one.

  Args and errors are those of `check_params`.
  """
  found = _table_shape(_check_run(path, tokenizer))
  wanted = _table_shape(model)
  if None in (found, wanted) or found != wanted:
    raise ValueError(
      f"the embedding of {path} has the shape {found}, and that of the new run"
      f" {wanted}; give a run of the same hidden_size that reads tokens."
    )


def with_embedding(params: Any, path: epath.PathLike, mesh: Mesh) -> Any:
  """Parameters whose table of input ids is that of an earlier run.

  The runs may be of different kinds: a token model and the next-vector model
  that drafts for it read the same ids. All processes of the mesh call this
  together, after `check_embedding`.

  Args:
    params: of the new run.
    path: of the earlier run.
    mesh: of the new run.

  Returns:
    The tree, with one array from the earlier run.
  """
  loaded = jax.tree_util.tree_leaves_with_path(load_run(path, mesh=mesh).params)
  (table,) = [leaf for place, leaf in loaded if _is_table(_name(place))]
  return jax.tree_util.tree_map_with_path(
    lambda place, old: table if _is_table(_name(place)) else old, params
  )


def _check_run(path: epath.PathLike, tokenizer: Tokenizer) -> ModelConfig:
  run = RunDirectory(path)
  saved = run.read_config()
  run.find_step(None)
  found = load_tokenizer(run.tokenizer)
  check_same_tokenizer("the initial run", path, found, tokenizer)
  return saved.model


def _table_shape(model: ModelConfig) -> tuple[int, ...] | None:
  shapes = [it for name, it in _shapes(model).items() if _is_table(name)]
  return shapes[0] if shapes else None


def _is_table(name: str) -> bool:
  return f"/{name}".endswith(f"/{_TABLE}")


def _shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(param_shapes(build_model(model)))
  return {_name(place): leaf.shape for place, leaf in leaves}


def _name(place: Any) -> str:
  return jax.tree_util.keystr(place, simple=True, separator="/")
