"""Rows of tokens: what they are cut from and how they are ordered."""

import math

from calm_jax.config.fields import (
  added,
  check_not_negative,
  check_positive,
  check_range,
  config_class,
)


@config_class
class SourceConfig:
  """One prepared directory of a mixture."""

  path: str  # written by launch.prepare
  name: str = ""  # for metrics; empty: the directory's name
  weight: float = 1.0  # share of the rows, relative to the other sources
  num_epochs: int | None = None  # passes over it, then it ends; None: no end

  def __post_init__(self):
    if not 0 < self.weight < math.inf:
      raise ValueError(
        f"source {self.path!r} has weight {self.weight}; weights are positive."
      )
    if self.num_epochs is not None:
      check_positive(self, "num_epochs")


@config_class
class DataConfig:
  """Rows of tokens: what they are cut from and how they are ordered."""

  path: str = ""  # a directory written by launch.prepare; or give `sources`
  sources: tuple[SourceConfig, ...] = ()  # a weighted mixture instead of `path`
  row_length: int = 2048  # T, tokens; a multiple of K
  batch_size: int = 8  # B, rows of the global batch
  use_random_fill: bool = True  # 0 … K−1 end ids in front of each training row
  seed: int = 0  # of the order of the rows and of the fill
  num_prefetch_batches: int = 4
  # A chunk that a document ends in counts, with end ids for all that follows
  # there; False: it counts only where the end id is its last token.
  close_chunks: bool = added(False, absent=False)
  # A token model whose chunks stand for some of the text's as targets of a
  # next-vector model, see `training/teacher.py`.
  teacher_run: str = added("", absent="", is_of_model=False)
  # one that was saved; None: the newest at the start of the run
  teacher_step: int | None = added(None, absent=None, is_of_model=False)
  teacher_share: float = added(0.5, absent=0.5, is_of_model=False)  # so many
  teacher_temperature: float = added(1.0, absent=1.0, is_of_model=False)

  def __post_init__(self):
    check_positive(self, "row_length", "batch_size")
    check_not_negative(self, "num_prefetch_batches")
    check_range(self, "teacher_share", 0, 1)
    check_positive(self, "teacher_temperature")
    if self.path and self.sources:
      raise ValueError(
        f"data.path is {self.path!r} and data.sources names"
        f" {len(self.sources)} more; give one of the two."
      )

  def all_sources(self) -> tuple[SourceConfig, ...]:
    return self.sources or (SourceConfig(path=self.path),)
