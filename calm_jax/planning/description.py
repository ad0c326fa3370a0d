"""Plans as text for a terminal."""

from collections.abc import Iterable

from calm_jax.planning.plan import Plan

_COLUMNS = (
  "mesh",
  "remat",
  "micro",
  "memory",
  "compute",
  "memory bound",
  "network",
  "tokens/s",
  "days",
)


def describe(plan: Plan) -> str:
  """All of one plan, in lines."""
  by_kind = ", ".join(
    f"{name} {_gib(size)}" for name, size in plan.bytes_by_kind.items()
  )
  lines = [
    f"{plan.topology}: {plan.num_chips} chips, mesh {_mesh(plan)}, remat"
    f" {plan.remat}, {plan.batch_size} rows in {plan.num_microbatches} parts",
    f"trained parameters  {plan.parameters / 1e6:,.1f} M",
    f"FLOPs per step      {plan.flops_per_step:.3e}, with all that is repeated"
    f" and frozen {plan.executed_flops_per_step:.3e}",
    f"memory per chip     {_gib(plan.bytes_per_chip)} of"
    f" {_gib(plan.bytes_available)} ({by_kind})",
  ]
  for item in plan.collectives:
    lines.append(
      f"  {item.count:5d} × {item.kind} over {item.group_size} in"
      f" {item.where}: {item.bytes / 1e6:,.1f} MB"
    )
  lines += [f"note: {note}" for note in plan.notes]
  if not plan.fits:
    lines.append(
      "does not fit; try --search, a larger slice, more of mesh.fsdp or"
      " mesh.tensor, --config.model.remat=full or more"
      " --config.num_microbatches."
    )
    return "\n".join(lines)
  lines += [
    f"step at least       {_ms(plan.compute_seconds)} by compute,"
    f" {_ms(plan.memory_seconds)} by memory,"
    f" {_ms(plan.network_seconds)} by network",
    f"at best             {plan.tokens_per_second:,.0f} tokens/s;"
    f" {plan.num_steps:,} steps in {plan.days:.2f} days,"
    f" {plan.chip_hours:,.0f} chip-hours",
  ]
  return "\n".join(lines)


def describe_all(plans: Iterable[Plan]) -> str:
  """A line for each plan that fits, the fastest first."""
  rows = [
    (
      _mesh(plan),
      plan.remat,
      str(plan.num_microbatches),
      _gib(plan.bytes_per_chip),
      _ms(plan.compute_seconds),
      _ms(plan.memory_seconds),
      _ms(plan.network_seconds),
      f"{plan.tokens_per_second:,.0f}",
      f"{plan.days:.2f}",
    )
    for plan in sorted(plans, key=lambda plan: plan.step_seconds)
    if plan.fits
  ]
  widths = [
    max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)
  ]
  return "\n".join(
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in (_COLUMNS, *rows)
  )


def _mesh(plan: Plan) -> str:
  return (
    ",".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
    or "1"
  )


def _gib(size: float) -> str:
  return f"{size / 1024**3:.2f} GiB"


def _ms(seconds: float | None) -> str:
  return "unknown" if seconds is None else f"{1000 * seconds:.1f} ms"
