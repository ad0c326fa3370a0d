"""Saves the state of a run while it goes on, and finds it again."""

import sys
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from calm_jax.checkpoint import orbax_noise
from calm_jax.checkpoint import steps as steps_lib
from calm_jax.checkpoint.checksum import checksums
from calm_jax.checkpoint.run_directory import RunDirectory
from calm_jax.training import processes
from calm_jax.training.state import TrainState


class Checkpointer:
  """Writes steps in the background; the newest and every n-th stay."""

  def __init__(
    self,
    run: RunDirectory,
    *,
    hashes: dict[str, str],
    max_checkpoints: int,
    keep_interval: int,
  ):
    """Opens the run's steps.

    Args:
      run: the directory; all processes name the same one.
      hashes: of what the run reads, saved with every step.
      max_checkpoints: newest kept.
      keep_interval: steps whose multiples are kept for good; 0: none.
    """
    orbax_noise.silence()
    self._directory = run.steps
    self._hashes = hashes
    policies = [preservation_policy.LatestN(max_checkpoints)]
    if keep_interval:
      policies.append(preservation_policy.EveryNSteps(keep_interval))
    self._manager = ocp.CheckpointManager(
      run.steps,
      options=ocp.CheckpointManagerOptions(
        step_name_format=steps_lib.StepNames(),
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,  # left by a process that was killed
        # In the background its failure is noticed only by a timeout.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      ),
    )

  def restore(
    self, shapes: TrainState
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """Reads the newest step that can be read.

    A damaged step is named on stderr and, once an older one was read, moved to
    `damaged/` beside `steps/`, so that its number is free again.

    Args:
      shapes: of the state, with shardings; the mesh need not be that of the
        process which saved it.

    Returns:
      The state and the position saved with it; None if nothing was saved.

    Raises:
      ValueError: if steps were saved and none can be read, or if one was
        saved with another tokenizer, autoencoder or data.
    """
    damaged = []
    # What a shared file system lists may differ between hosts for seconds.
    steps = processes.first_lists(lambda: steps_lib.list_steps(self._directory))
    for step in reversed(steps):
      try:
        restored = self._read_together(step, shapes)
      except steps_lib.DamagedStepError as error:
        damaged.append(step)
        _warn(str(error))
        continue
      self._set_aside(damaged)
      self._check_hashes(step, restored[1]["hashes"])
      if damaged:
        _warn(f"going on from step {step} instead of {damaged[0]}.")
      return restored
    if damaged:
      raise ValueError(
        f"none of the {len(damaged)} steps in {self._directory} can be read;"
        " restore the directory, or give another --workdir to start anew."
      )
    return None

  def save(
    self, step: int, state: TrainState, position: dict[str, Any]
  ) -> None:
    """Copies the state to the host and goes on; files are written meanwhile.

    Args:
      step: steps done.
      state: may be donated once this returns.
      position: JSON values that belong to the step.

    Raises:
      OSError: if this step, or the one before it, cannot be written.
    """
    content = {
      **position,
      "step": step,
      "hashes": self._hashes,
      "sums": {
        steps_lib.PARAMS: checksums(state.params),
        steps_lib.OPTIMIZER: checksums(state.optimizer_state),
      },
    }
    args = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      optimizer=ocp.args.StandardSave(state.optimizer_state),
      position=ocp.args.JsonSave(steps_lib.sealed(content)),
    )
    self._guarded(lambda: self._manager.save(step, args=args, force=True))

  def wait(self) -> None:
    """Returns when what was saved is on disk; raises OSError if it is not."""
    self._guarded(self._manager.wait_until_finished)
    self._guarded(self._manager.check_for_errors)

  def close(self) -> None:
    """Waits, and stops the background threads."""
    self._guarded(self._manager.close)

  def _read_together(
    self, step: int, shapes: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    """Raises DamagedStepError on all processes, or on none."""
    try:
      restored = processes.together(lambda: self._read(step, shapes))
    except processes.OtherProcessError as error:
      raise steps_lib.DamagedStepError(
        f"step {step} cannot be read by another process."
      ) from error
    state, position = restored
    for item, arrays in (
      (steps_lib.PARAMS, state.params),
      (steps_lib.OPTIMIZER, state.optimizer_state),
    ):
      steps_lib.check_arrays(self._directory, step, item, arrays, position)
    return restored

  def _read(
    self, step: int, shapes: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    position = steps_lib.read_position(self._directory, step)
    read = lambda item, shapes: steps_lib.read_arrays(
      self._directory, step, item, shapes
    )
    state = TrainState(
      # device_put would compare it with that of all processes, which wait for
      # one that could not read its position.
      step=jax.make_array_from_callback(
        (), shapes.step.sharding, lambda _: np.int32(step)
      ),
      params=read(steps_lib.PARAMS, shapes.params),
      optimizer_state=read(steps_lib.OPTIMIZER, shapes.optimizer_state),
    )
    return state, position

  def _set_aside(self, steps: list[int]) -> None:
    if not steps:
      return
    if jax.process_index() == 0:
      steps_lib.set_aside(self._directory, steps)
    processes.meet("damaged steps set aside")
    self._manager.reload()

  def _check_hashes(self, step: int, saved: dict[str, str]) -> None:
    for name, found in self._hashes.items():
      if saved.get(name) != found:
        raise ValueError(
          f"the {name} is not the one that step {step} in {self._directory}"
          f" was trained with: its hash is {found[:12]}, and"
          f" {str(saved.get(name))[:12]} was saved; give the same {name}, or"
          " another --workdir."
        )

  def _guarded(self, action: Any) -> None:
    try:
      action()
    except Exception as error:  # Orbax raises whatever its writers raise
      raise OSError(
        f"cannot save a checkpoint to {self._directory}:"
        f" {orbax_noise.reason(error)}; what was saved before is intact. Is"
        " there room, and does no other process train there?"
      ) from error


def _warn(message: str) -> None:
  if jax.process_index() == 0:
    print(f"warning: {message}", file=sys.stderr, flush=True)
