"""All of CALM on text that every machine has, in minutes on two CPU cores.

    python -m launch.quickstart --workdir=runs/quickstart

Prepares the documentation in Python's standard library, trains an autoencoder
and a next-vector model on it, scores both on held-out documents and continues
a few of them. The same command again goes on where it stopped.
"""

from absl import flags

from experiments import quickstart, recipes
from launch import entry

_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/quickstart", "Directory for data, runs and results.json."
)
_SCALE = flags.DEFINE_float(
  "scale", 1.0, "Factor on the training steps; below 1 for a trial."
)
_RECIPE = flags.DEFINE_enum(
  "recipe", "fast", recipes.NAMES, "How the next-vector model is trained."
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of parameters and noise.", lower_bound=0
)
_CALM = {"fast": "calm", "paper": "calm_paper"}  # its configs by recipe


def main(arguments: list[str]) -> None:
  del arguments
  from calm_jax.workflows.quickstart import run_quickstart

  run_quickstart(
    _WORKDIR.value,
    autoencoder=quickstart.get_config("autoencoder"),
    calm=quickstart.get_config(_CALM[_RECIPE.value]),
    scale=_SCALE.value,
    seed=_SEED.value,
  )


if __name__ == "__main__":
  entry.run(main)
