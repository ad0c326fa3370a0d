"""Flags of a next-vector model that drafts for a token model."""

from __future__ import annotations

import typing

from absl import flags

if typing.TYPE_CHECKING:
  from jax.sharding import Mesh

  from calm_jax.workflows.drafting import Drafting

_DRAFTER = flags.DEFINE_string(
  "drafter", None, "Run of a next-vector model that drafts for a token model."
)
_NUM_DRAFTS = flags.DEFINE_integer(
  "num_drafts", 4, "Chunks the drafter draws for each verification."
)
_NUM_NODES = flags.DEFINE_integer(
  "num_nodes", 0, "Drafted prefixes that are verified at most; 0: all."
)
_DRAFT_NOISE_SCALE = flags.DEFINE_float(
  "draft_noise_scale", 1.0, "Factor on the noise of the drafter's head."
)
_ALIGNMENT = flags.DEFINE_string(
  "alignment",
  "fill",
  "How the drafter reads a text: fill, as prompts, or overlap.",
)
_COMPARE_PLAIN = flags.DEFINE_bool(
  "compare_plain", False, "Decode without drafts too, and compare."
)


def runs() -> list[str]:
  """The drafter's run directory, if there is one."""
  return [_DRAFTER.value] if _DRAFTER.value is not None else []


def chosen(place: Mesh | None) -> Drafting | None:
  """The drafter that was asked for, loaded on a mesh; None: none.

  Raises:
    OSError: if there is no such run.
    ValueError: if it cannot be used, or its settings stand alone.
  """
  from calm_jax.checkpoint.run_directory import load_run
  from calm_jax.sampling.drafter import DraftSettings
  from calm_jax.workflows.drafting import Drafting

  settings = {
    "num_drafts": _NUM_DRAFTS,
    "num_nodes": _NUM_NODES,
    "noise_scale": _DRAFT_NOISE_SCALE,
    "alignment": _ALIGNMENT,
  }
  if _DRAFTER.value is None:
    for flag in (*settings.values(), _COMPARE_PLAIN):
      if flag.value != flag.default:
        raise ValueError(
          f"--{flag.name} belongs to a drafter; give --drafter=RUN as well."
        )
    return None
  drafting = DraftSettings(**{name: it.value for name, it in settings.items()})
  run = load_run(_DRAFTER.value, mesh=place, is_rounded=True)
  return Drafting(run, drafting, _COMPARE_PLAIN.value)
