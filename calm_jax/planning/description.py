"""Plans as text for a terminal."""

from collections.abc import Sequence

from calm_jax.planning.plan import LEFT_OUT, Plan

_MAX_COLLECTIVES = 12  # lines
_LEFT_OUT_LINES = [f"  {bound}: {what}" for bound, what in LEFT_OUT.items()]
_COLUMNS = (
  "mesh",
  "remat",
  "microbatches",
  "GiB a chip",
  "compute ms",
  "memory ms",
  "network ms",
  "tokens/s at most",
  "time at least",
)


def describe(plan: Plan) -> str:
  """All of one plan, in lines."""
  by_kind = ", ".join(
    f"{name} {_gib(size)}" for name, size in plan.bytes_by_kind.items()
  )
  lines = [
    f"{plan.topology}: chips {plan.num_chips}, mesh {_mesh(plan)}, remat"
    f" {plan.remat}, {plan.batch_size} rows in {_parts(plan)}",
    f"trained parameters  {plan.parameters / 1e6:,.1f} M",
    f"FLOPs per step      {plan.flops_per_step:.3e} as the paper counts; at"
    f" least {plan.executed_flops_per_step:.3e} are executed",
    f"memory per chip     {_gib(plan.bytes_per_chip)} of"
    f" {_gib(plan.bytes_available)} ({by_kind})",
  ]
  if plan.compiled:
    lines += _collective_lines(plan)
  lines += [f"note: {note}" for note in plan.notes]
  if not plan.fits:
    return "\n".join([*lines, _advice(plan)])
  lines += [
    f"a step takes at least {_ms(plan.compute_seconds)} ms by compute,"
    f" {_ms(plan.memory_seconds)} ms by memory, {_ms(plan.network_seconds)} ms"
    " by network, which leave out",
    *_LEFT_OUT_LINES,
    f"so at most {plan.tokens_per_second:,.0f} tokens/s; {plan.num_steps:,}"
    f" steps take at least {_duration(plan.days)}, {plan.chip_hours:,.0f}"
    " chip-hours. Nothing ran: a real run takes longer.",
  ]
  return "\n".join(lines)


def describe_all(plans: Sequence[Plan]) -> str:
  """A line for each plan that fits, the fastest first; or the nearest.

  Args:
    plans: of `search.search`, in its order.

  Returns:
    Lines.
  """
  if not plans:
    return (
      "nothing fits: with every mesh, remat policy and number of microbatches,"
      " state and kept activations alone are more than a chip has."
    )
  if not plans[0].fits:
    nearest = plans[0]
    return (
      f"none of {len(plans)} that were tried fits; the nearest, mesh"
      f" {_mesh(nearest)}, remat {nearest.remat}, {_parts(nearest)}, takes"
      f" {_gib(nearest.bytes_per_chip)} of {_gib(nearest.bytes_available)}. Try"
      " more --max_compilations, or a larger slice."
    )
  rows = [
    (
      _mesh(plan),
      plan.remat,
      str(plan.num_microbatches),
      f"{plan.bytes_per_chip / 1024**3:.2f}",
      _ms(plan.compute_seconds),
      _ms(plan.memory_seconds),
      _ms(plan.network_seconds),
      f"{plan.tokens_per_second:,.0f}",
      _duration(plan.days),
    )
    for plan in plans
    if plan.fits
  ]
  widths = [
    max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)
  ]
  lines = [
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in (_COLUMNS, *rows)
  ]
  lines += [
    f"{len(rows)} of {len(plans)} that were tried fit, the fastest first by"
    " bounds that leave out",
    *_LEFT_OUT_LINES,
  ]
  return "\n".join(lines)


def _advice(plan: Plan) -> str:
  if plan.bytes_by_kind["state"] > plan.bytes_available:
    return (
      "does not fit: the state alone is more than a chip has; take a larger"
      " slice, or more of mesh.fsdp or mesh.tensor."
    )
  return (
    "does not fit; try --search, a larger slice, more of mesh.fsdp or"
    " mesh.tensor, --config.model.remat=full or more"
    " --config.num_microbatches."
  )


def _collective_lines(plan: Plan) -> list[str]:
  shown, others = (
    plan.collectives[:_MAX_COLLECTIVES],
    plan.collectives[_MAX_COLLECTIVES:],
  )
  lines = [
    f"  {item.count:5d} × {item.kind} over {item.group_size} in"
    f" {item.where}: {_mb(item.bytes)}"
    for item in shown
  ]
  if others:
    count = sum(item.count for item in others)
    size = sum(item.bytes for item in others)
    lines.append(f"  {count:5d} × others: {_mb(size)}")
  if not lines:
    return ["no collectives"]
  return ["collectives of a step, bytes of the larger side on a chip", *lines]


def _parts(plan: Plan) -> str:
  if plan.num_microbatches == 1:
    return "one part"
  return f"{plan.num_microbatches} microbatches"


def _mesh(plan: Plan) -> str:
  return (
    ",".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
    or "of one chip"
  )


def _gib(size: float) -> str:
  return f"{size / 1024**3:.2f} GiB"


def _mb(size: float) -> str:
  return f"{size / 1e6:,.1f} MB"


def _ms(seconds: float | None) -> str:
  return "unknown" if seconds is None else f"{1000 * seconds:.1f}"


def _duration(days: float) -> str:
  return f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"
