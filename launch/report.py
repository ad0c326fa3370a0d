"""Writes one self-contained HTML page about a run, a sweep or the quickstart.

    python -m launch.report --workdir=DIR [--output=report.html]

Every figure is written as a file, too, in a folder beside the page. Of a sweep,
--markdown=FILE puts the tables and sentences of the answer between two marks of
a page of documentation.
"""

import pathlib

from absl import flags

from calm_jax.evaluation.result_file import check_output
from launch import entry

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of a run, a sweep or the quickstart."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The page; report.html in the workdir by default."
)
_BESIDE = flags.DEFINE_string(
  "beside",
  None,
  "A second quickstart, whose scores and samples stand beside the first's.",
)
_MARKDOWN = flags.DEFINE_string(
  "markdown", None, "A page that gets a sweep's tables and sentences."
)
flags.mark_flag_as_required("workdir")


def main(arguments: list[str]) -> None:
  del arguments
  from calm_jax.scaling.report import write_report

  check_output(_OUTPUT.value)
  output = _OUTPUT.value or pathlib.Path(_WORKDIR.value) / "report.html"
  page, *figures = write_report(
    _WORKDIR.value, output, _BESIDE.value, _MARKDOWN.value
  )
  print(f"{page} and {len(figures)} figures beside it")


if __name__ == "__main__":
  entry.run(main)
