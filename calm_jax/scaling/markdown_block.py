"""A part of a Markdown file that is written from results, not by hand."""

import os
import pathlib
import re

from calm_jax import paths

BEGIN = "<!-- sweep: begin, written by launch.report --markdown -->"
END = "<!-- sweep: end -->"


def replace_block(path: str | os.PathLike, content: str) -> None:
  """Puts content between the two marks of a file.

  Raises:
    OSError: if it cannot be read or written.
    ValueError: if the file does not have each mark once, in this order.
  """
  path = pathlib.Path(path).expanduser()
  before, _, after = split_block(path)
  paths.write_whole(path, f"{before}{BEGIN}\n\n{content}\n{END}{after}")


def split_block(path: str | os.PathLike) -> tuple[str, str, str]:
  """What stands before the marks, between and behind them."""
  path = pathlib.Path(path).expanduser()
  try:
    text = path.read_text(encoding="utf-8")
  except OSError as error:
    raise OSError(
      f"--markdown={path} cannot be read ({error.strerror}); give a page that"
      " exists."
    ) from error
  found = re.findall(f"{re.escape(BEGIN)}|{re.escape(END)}", text)
  if found != [BEGIN, END]:
    raise ValueError(
      f"{path} has {len(found)} marks for the text of a sweep; put one line"
      f" {BEGIN!r} and below it one {END!r}."
    )
  before, rest = text.split(BEGIN)
  between, after = rest.split(END)
  return before, between.strip() + "\n", after
