"""One HTML page that needs nothing beside itself."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# No script and no address: the policy makes the browser refuse the network.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 0 auto; padding: 0 1rem 3rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.5rem;
  border-bottom: 1px solid #8886; }}
figure {{ margin: 1.5rem 0; }}
figcaption, .note {{ opacity: .8; font-size: .9rem; }}
svg {{ display: block; width: 100%; max-width: 44rem; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .8rem .2rem 0; text-align: left;
  vertical-align: top; white-space: nowrap; }}
th {{ font-weight: 600; }}
tr + tr {{ border-top: 1px solid #8883; }}
td.text {{ white-space: pre-wrap; min-width: 14rem; }}
pre {{ overflow-x: auto; font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
"""


class Page:
  """Sections in the order they are added, and the figures among them."""

  def __init__(self, title: str):
    self._parts = [_HEAD.format(title=html.escape(title))]
    self.figures: dict[str, str] = {}  # name to SVG

  def section(self, title: str) -> None:
    self._parts.append(f"<h2>{html.escape(title)}</h2>\n")

  def text(self, words: str) -> None:
    self._parts.append(f'<p class="note">{html.escape(words)}</p>\n')

  def figure(self, name: str, svg: str, caption: str) -> None:
    """Adds a picture; its name is that of its file, too."""
    self.figures[name] = svg
    self._parts.append(
      f'<figure id="{name}">{svg}'
      f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
    )

  def table(
    self,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    is_text: bool = False,
  ) -> None:
    """Adds a table; on a narrow screen it scrolls by itself."""
    cell = '<td class="text">' if is_text else "<td>"
    lines = ["<tr>", *(f"<th>{html.escape(name)}</th>" for name in header)]
    for row in rows:
      lines += ["<tr>", *(cell + html.escape(number(one)) for one in row)]
    self._parts.append(
      f'<div class="wide"><table>{"".join(lines)}</table></div>\n'
    )

  def details(self, summary: str, content: Mapping[str, Any]) -> None:
    """Adds JSON, folded away."""
    text = html.escape(json.dumps(content, indent=2))
    self._parts.append(
      f"<details><summary>{html.escape(summary)}</summary>"
      f"<pre>{text}</pre></details>\n"
    )

  def html(self) -> str:
    return "".join(self._parts) + "</body>\n</html>\n"


def number(value: Any) -> str:
  """A table's cell: four digits of a float, anything else as it is."""
  if isinstance(value, float):
    return f"{value:.4g}"
  return "" if value is None else str(value)


def with_error(value: Any, error: float | None) -> str:
  """A value and its standard error: two digits of it, and as many places."""
  if not error or not isinstance(value, int | float):
    return number(value)
  places = max(0, 1 - math.floor(math.log10(error)))
  return f"{value:.{places}f} ± {error:.{places}f}"


def identifier(name: str) -> str:
  """A name as that of a figure and its file."""
  return "".join(one if one.isalnum() else "-" for one in name)
