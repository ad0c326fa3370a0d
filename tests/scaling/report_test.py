"""Tests calm_jax/scaling/report.py and launch/report.py."""

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

from calm_jax.scaling import report
from calm_jax.scaling.answer import find_answer
from calm_jax.scaling.answer_words import markdown
from calm_jax.scaling.markdown_block import (
  BEGIN,
  END,
  replace_block,
  split_block,
)
from calm_jax.scaling.points import read_points

from . import studies

_VOID = {"meta", "br", "hr", "img"}
_OPTIONAL = {"tr", "td", "th"}  # HTML lets these end by themselves


class _Checker(html.parser.HTMLParser):
  """Collects ids and addresses, and that every element is closed."""

  def __init__(self):
    super().__init__()
    self.open, self.ids, self.addresses, self.tags = [], [], [], set()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    if tag not in _VOID | _OPTIONAL:
      self.open.append(tag)
    for name, value in attrs:
      if name == "id":
        self.ids.append(value)
      if name in ("src", "href", "xlink:href"):
        self.addresses.append(value)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in _VOID | _OPTIONAL:
      self.open.pop()

  def handle_endtag(self, tag):
    if tag not in _VOID | _OPTIONAL:
      assert self.open.pop() == tag


def _check(text):
  checker = _Checker()
  checker.feed(text)
  assert checker.open == []
  assert len(checker.ids) == len(set(checker.ids))
  assert all(address.startswith("#") for address in checker.addresses)
  assert "script" not in checker.tags and "link" not in checker.tags
  assert not re.search(r"@import|url\((?!#)", text)
  return checker


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
  directory = tmp_path_factory.mktemp("sweep")
  studies.write_sweep(directory)
  return directory


@pytest.fixture(scope="module")
def sweep_page(sweep):
  page, *figures = report.write_report(sweep, sweep / "page.html")
  return page.read_text(), figures


def test_quickstart_page(tmp_path):
  studies.write_quickstart(tmp_path)
  page, *figures = report.write_report(tmp_path, tmp_path / "report.html")
  text = page.read_text()
  _check(text)
  assert "0.1234 ± 0.0011" in text and "0.99951 ± 0.00010" in text
  assert "not resolved" in text
  assert "&lt;b&gt;list&lt;/b&gt; of" in text  # samples are escaped
  assert "what it went on with" in text and "what stood there" in text
  for words in ("Samples", "Accuracy and collision", "Health", "abc123"):
    assert words in text
  names = {figure.stem for figure in figures}
  assert {"trade-off", "health-autoencoder", "next-vector-loss"} <= names
  assert "health-stds" in names
  assert all(figure.read_text().startswith("<svg") for figure in figures)


def _two_quickstarts(tmp_path, text_of_old="a"):
  for name, text in (("new", "a"), ("old", text_of_old)):
    studies.write_quickstart(tmp_path / name)
    path = tmp_path / name / "results.json"
    results = json.loads(path.read_text())
    results["calm"]["hashes"] = {"data": text}
    if name == "old":
      results["calm"]["brier_1"] = 0.0777
      results["continuations"][0]["model"] = "what it once went on with"
    path.write_text(json.dumps(results))
  return tmp_path / "new", tmp_path / "old"


def _rows(text, first):
  """The cells of a table that begins with this column."""
  pattern = f"<tr><th>{re.escape(first)}</th>.*?</table>"
  table = re.search(pattern, text, re.DOTALL)[0]
  return [re.findall("<t[hd][^>]*>([^<]*)", row) for row in table.split("<tr>")]


def test_two_quickstarts_stand_side_by_side(tmp_path):
  new, old = _two_quickstarts(tmp_path)
  page, *_ = report.write_report(new, tmp_path / "report.html", old)
  text = page.read_text()
  _check(text)
  _, header, *rows = _rows(text, "prompt")
  assert header == ["prompt", "calm", "calm, old", "real text", "token"]
  assert ["A", "what it went on with", "what it once went on with"] in [
    row[:3] for row in rows
  ]
  scores = text[text.index("Results: calm") :]
  _, header, *rows = _rows(scores, "± standard error")
  cells = dict(
    zip(header, next(r for r in rows if r[0] == "brier_1"), strict=True)
  )
  assert cells["calm"] == "0.1234 ± 0.0011"
  assert cells["calm, old"] == "0.0777 ± 0.0011"


def test_answers_beside_a_run_have_a_section(tmp_path):
  studies.write_run(tmp_path)
  studies.write_choices(tmp_path / "choose.json")
  page, *figures = report.write_report(tmp_path, tmp_path / "report.html")
  text = page.read_text()
  _check(text)
  assert "Multiple choice: choose (plain, 400 questions)" in text
  _, header, energy, kernel = _rows(text, "± standard error")
  assert header[1:] == ["accuracy", "mutual", "confidence"]
  assert energy == ["energy", "0.450 ± 0.025", "0.585 ± 0.025", ""]
  assert kernel[-1] == "0.721"
  names = {figure.stem for figure in figures}
  assert {"choices-samples-choose", "choices-calibration-choose"} <= names


def test_damaged_answers_are_named(tmp_path):
  for changes, words in (
    ({"chance": "a"}, "choose.json is not a list of objects with form"),
    ({"estimates": {"energy": 3}}, "choose.json: estimates is not a list"),
    (
      {"estimates": {"energy": {"accuracy": 1, "reliability": [1]}}},
      r"choose.json: estimates.energy.reliability is not",
    ),
    (
      {"estimates": {"energy": {"accuracy": 1, "accuracy_stderr": "?"}}},
      "estimates.energy.accuracy_stderr is '\\?', not a number",
    ),
  ):
    studies.write_choices(tmp_path / "choose.json", **changes)
    with pytest.raises(ValueError, match=words):
      report.read_study(tmp_path)


def test_what_does_not_compare_is_refused(tmp_path):
  new, old = _two_quickstarts(tmp_path, text_of_old="b")
  output = tmp_path / "report.html"
  with pytest.raises(ValueError, match="scored on different text"):
    report.write_report(new, output, old)
  studies.write_run(tmp_path / "run")
  for pair in ((new, tmp_path / "run"), (tmp_path / "run", new)):
    with pytest.raises(ValueError, match="run holds no finished quickstart"):
      report.write_report(pair[0], output, pair[1])
  assert not output.exists()


def test_page_of_one_run_has_no_empty_sections(tmp_path):
  studies.write_run(tmp_path)
  text = report.build_page(report.read_study(tmp_path)).html()
  _check(text)
  titles = re.findall(r"<h2>(.*?)</h2>", text)
  assert titles == ["Learning curves: next vector", "Where it comes from"]


def test_sweep_page(sweep_page):
  text, figures = sweep_page
  _check(text)
  names = {figure.stem for figure in figures}
  assert {
    "brier_lm-whole_training_flops",
    "brier_lm-shared_training_flops",
    "brier_lm-inference_flops_sampled_per_byte",
    "law-calm-brier_lm",
    "law-token-brier_lm",
    "law-calm-brier_1",
  } <= names
  assert "L = E + A·K^p/N^a + B·K^q/D^b" in text
  assert "A larger K acts as if" in text and "rank_allocations" in text
  assert "predicted by the law of all others" in text
  first = text.index("<h2>How many tokens should a vector carry?</h2>")
  assert first < text.index('id="brier_lm-whole_training_flops"')
  assert text.index("a vector is best") < text.index("compared with that of K")
  assert "level where the budget buys more tokens than any of its" in text
  assert text.index("a vector is best") < text.index("laws side by side")
  assert "L = E + A/N^(a·K^−u) + B/D^(b·K^−v)" in text
  assert "Nothing is said of a K above 4" in text
  assert "no two runs differ by their seed alone" in text
  assert "<title>calm-n100000-d1000000-k1: BrierLM" in text  # for the mouse
  assert "extrapolated" in text  # ten times the largest budget
  assert "IsoFLOP curves" in text


def test_too_few_points_are_said_on_the_page(tmp_path):
  points = studies.sweep_points()[:4]
  studies.write_points(points, tmp_path / "table")
  text = report.build_page(report.read_study(tmp_path)).html()
  assert "No law: 4 points count and 0 are censored" in text


_ROOT = pathlib.Path(__file__).parents[2]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")
# A percentage, with its band where it has one.
_SHARE = re.compile(
  r"[\d.]+\s?%(?:\s(?:higher|lower)\s\([^)]*\))?|\([^()]*\s%\)"
)


def test_the_readme_says_what_the_documentation_says():
  _, block, _ = split_block(_ROOT / "docs/scaling.md")
  last = " ".join(block.split()).split("L of the best K, compared")[1]
  last = last.split(" training FLOPs.")[0].split(", ")[-1]  # the dearest budget
  readme = " ".join((_ROOT / "README.md").read_text().split())
  assert f"is {last} training FLOPs." in readme


def test_the_documentation_says_what_the_table_says():
  """Word for word; numbers to what linear algebra on another CPU changes."""
  table = _ROOT / "benchmarks/sweep_k/table.csv"
  _, found, _ = split_block(_ROOT / "docs/scaling.md")
  expected = markdown(find_answer(read_points(table)))
  texts = [
    _NUMBER.sub("#", " ".join(text.split())) for text in (found, expected)
  ]
  assert texts[0] == texts[1]
  plain = [
    [*map(float, _NUMBER.findall(_SHARE.sub("", it)))]
    for it in (found, expected)
  ]
  assert plain[0] == pytest.approx(plain[1], rel=0.05, abs=0.02)
  shares = [
    [*map(float, _NUMBER.findall(" ".join(_SHARE.findall(it))))]
    for it in (found, expected)
  ]
  assert len(shares[0]) > 40
  assert shares[0] == pytest.approx(shares[1], rel=0.05, abs=0.3)


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n"])
def test_a_page_without_its_two_marks_is_refused(tmp_path, text):
  path = tmp_path / "a.md"
  path.write_text(text)
  with pytest.raises(ValueError, match=r"a.md has \d marks for the text of"):
    replace_block(path, "b")
  assert path.read_text() == text
  studies.write_run(tmp_path)
  with pytest.raises(ValueError, match="has no table of a sweep to tell of"):
    report.write_report(tmp_path, tmp_path / "page.html", markdown=path)
  assert not (tmp_path / "page.html").exists()


def _launch(*flags):
  return subprocess.run(
    [sys.executable, "-m", "launch.report", *flags],
    capture_output=True,
    text=True,
    check=False,
  )


def test_binary_writes_the_page(tmp_path):
  studies.write_run(tmp_path)
  result = _launch(f"--workdir={tmp_path}")
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith(str(tmp_path / "report.html"))
  _check((tmp_path / "report.html").read_text())


def test_home_is_written_as_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  studies.write_sweep(tmp_path / "runs")
  (tmp_path / "page.md").write_text(f"{BEGIN}\n{END}\n")
  report.write_report("~/runs", "~/page.html", markdown="~/page.md")
  assert (tmp_path / "page.html").exists()
  assert "K = " in (tmp_path / "page.md").read_text()
  assert not (tmp_path / "~").exists()


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
  studies.write_run(tmp_path)
  (tmp_path / "page").mkdir()
  result = _launch(f"--workdir={tmp_path}", f"--output={tmp_path}/page")
  assert result.returncode == 1 and "--output=" in result.stderr
  assert not (tmp_path / "page_figures").exists()
  with pytest.raises(OSError, match=r"--markdown=.*page cannot be read"):
    split_block(tmp_path / "page")


def test_binary_says_mistakes_in_one_line(tmp_path):
  for flags in ([f"--workdir={tmp_path}/none"], ["--workdri=x"], []):
    result = _launch(*flags)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*\n", result.stderr), result.stderr


_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_PHONE = 390  # CSS pixels
# A frame as wide as a phone with the page in it; the title gets the sizes.
_FRAME = """<!doctype html><title>waiting</title>
<iframe style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const drawings = [...page.querySelectorAll("svg")].map(
    drawing => drawing.getBoundingClientRect());
  document.title = JSON.stringify({{
    page: page.documentElement.scrollWidth,
    widest: Math.max(...drawings.map(box => box.right)),
    drawings: drawings.filter(box => box.height > 50).length,
  }});
}};
</script>"""


@pytest.mark.skipif(not _BROWSER, reason="needs Chromium")
def test_page_fits_a_phone_in_a_real_browser(sweep_page, tmp_path):
  text, figures = sweep_page
  frame = tmp_path / "frame.html"
  frame.write_text(
    _FRAME.format(width=_PHONE, page=html.escape(text, quote=True))
  )
  with tempfile.TemporaryDirectory() as profile:
    result = subprocess.run(
      [
        _BROWSER,
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--enable-logging=stderr", "--v=0"),
        f"--user-data-dir={profile}",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
      ],
      capture_output=True,
      text=True,
      timeout=120,
      check=True,
    )
  measured = re.search(r"<title>(\{.*?\})</title>", result.stdout)
  assert measured, result.stdout[:500]
  sizes = json.loads(html.unescape(measured[1]))
  assert sizes["page"] <= _PHONE
  assert sizes["widest"] <= _PHONE
  assert sizes["drawings"] == len(figures)
  assert "Content Security Policy" not in result.stderr  # of the page itself
