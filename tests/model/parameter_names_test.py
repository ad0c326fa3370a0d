"""Names and shapes of the tiny models' parameters.

Every saved run depends on them: change the files in tests/fixtures/parameters
only together with `FORMAT_VERSION`, or with a reader for the runs that exist.
"""

import pathlib

import jax
import pytest

from calm_jax.config import VocabularyConfig, resolve
from calm_jax.families import build_model, param_shapes
from experiments import autoencoder, calm, token

_FOLDER = pathlib.Path(__file__).parent.parent / "fixtures" / "parameters"
_VOCABULARY = VocabularyConfig(size=258, begin_id=256, end_id=257)
_AUTOENCODER = resolve(
  autoencoder.get_config("tiny"), vocabulary=_VOCABULARY
).model


def _describe(config):
  config = resolve(config, vocabulary=_VOCABULARY, autoencoder=_AUTOENCODER)
  shapes = param_shapes(build_model(config.model))
  lines = [
    f"{jax.tree_util.keystr(path, simple=True, separator='.')}"
    f" {leaf.dtype}{list(leaf.shape)}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  ]
  return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
  "name, config",
  [
    ("autoencoder", autoencoder.get_config("tiny")),
    ("energy", calm.get_config("tiny,recipe=paper")),
    (
      "diffusion",
      calm.get_config("tiny,head=diffusion,inputs=both,recipe=paper"),
    ),
    ("flow", calm.get_config("tiny,head=flow,inputs=latent,recipe=paper")),
    ("token", token.get_config("tiny")),
  ],
)
def test_parameters_are_those_of_saved_runs(name, config):
  assert _describe(config) == (_FOLDER / f"{name}.txt").read_text()
