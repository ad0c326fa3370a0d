"""README and docs/ name only what exists, and say which commands are run."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_PAGES = [
  *(_ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
  *sorted((_ROOT / "docs").glob("*.md")),
]
_TEXTS = {str(path.relative_to(_ROOT)): path.read_text() for path in _PAGES}
_COMMANDS = [
  pytest.param(command.strip(), id=f"{name}-{number}")
  for name, text in _TEXTS.items()
  for number, command in enumerate(
    command
    for form in (r"(?s)```bash\n(.*?)```", r"`(python -m launch[^`\n]+)`")
    for block in re.findall(form, text)
    for command in re.split(r"\n|&&", block.replace("\\\n", " "))
    if "python -m launch." in command and not command.startswith("#")
  )
]
_MARK = re.compile(r"<!-- (ci:\w+|run: \w+|not run: .+) -->")


def test_readme_is_short():
  assert _TEXTS["README.md"].count("\n") <= 150


def test_commands_are_found():
  assert len(_COMMANDS) >= 20


@pytest.mark.parametrize("command", _COMMANDS)
def test_binary_and_flags_exist(command):
  command = re.sub(r"'.*?'", "", command[command.index("python -m launch.") :])
  name = re.search(r"python -m launch\.(\w+)", command)[1]
  source = (_ROOT / "launch" / f"{name}.py").read_text()
  shared = re.search(r"from launch import (.+)", source)[1].split(", ")
  files = [_ROOT / "launch" / f"{it}.py" for it in shared]
  source += "".join(file.read_text() for file in files)
  for flag in re.findall(r" --([a-z_]+)", command):
    names = {flag, flag.removeprefix("no")}
    assert any(f'"{it}"' in source for it in names), f"{name} has no --{flag}"
  for path in re.findall(r"--config=(experiments/\S+?\.py)", command):
    assert (_ROOT / path).exists()


@pytest.mark.parametrize("name", _TEXTS)
def test_every_block_says_whether_it_is_run(name):
  """By a comment in the line above it; see integration/documentation_test."""
  lines = _TEXTS[name].splitlines()
  for number, line in enumerate(lines):
    if line == "```bash":
      assert _MARK.fullmatch(lines[number - 1]), f"{name}:{number + 1}"


@pytest.mark.parametrize("name", _TEXTS)
def test_files_that_are_named_exist(name):
  folders = "benchmarks|calm_jax|docs|experiments|launch|tests"
  for path in re.findall(rf"`((?:{folders})/[\w./*-]*)", _TEXTS[name]):
    assert "NAME" in path or list(_ROOT.glob(path)), path


@pytest.mark.parametrize("name", _TEXTS)
def test_links_lead_somewhere(name):
  folder = (_ROOT / name).parent
  for target in re.findall(r"\]\(([^)\s]+)\)", _TEXTS[name]):
    if re.match(r"https?:", target):
      continue
    path, _, anchor = target.partition("#")
    file = (folder / path) if path else _ROOT / name
    assert file.exists(), target
    if anchor:
      titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
      assert anchor in map(_slug, titles), target


def _slug(title: str) -> str:
  """The anchor that GitHub and the site give a heading."""
  return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_page_is_in_the_navigation():
  listed = re.findall(r"^(\w+)$", _TEXTS["docs/index.md"], re.MULTILINE)
  pages = {path.stem for path in (_ROOT / "docs").glob("*.md")}
  assert {*listed} == pages - {"index"}


def test_listed_files_exist():
  tree = re.search(r"```\n(calm_jax/\n.*?)```", _TEXTS["docs/code.md"], re.S)[1]
  folder = _ROOT
  for line in tree.splitlines():
    entry = line.split()[0]
    if not line.startswith(" "):
      folder = _ROOT / entry if entry == "calm_jax/" else _ROOT
      assert (_ROOT / entry).exists(), entry
    elif line.startswith("  ") and not line.startswith("   "):
      assert (folder / entry).exists(), entry
  binaries = re.search(r"absl binaries: ([\w\s]+?)\ntests", tree)[1].split()
  found = {
    path.stem
    for path in (_ROOT / "launch").glob("*.py")
    if "entry.run(main)" in path.read_text()
  }
  assert set(binaries) == found


def test_versions_are_those_of_the_constraints():
  """Both columns of docs/versions.md, line by line."""
  lines = (_ROOT / "constraints.txt").read_text().splitlines()
  pins = [line for line in lines if "==" in line]
  rows = re.findall(
    r"^\| (.+?) \| (.+?) \| (.+?) \|$", _TEXTS["docs/versions.md"], re.M
  )
  found = {title.split(",")[0]: cells for title, *cells in rows}
  for name in ("jax", "flax", "numpy", "scipy", "libtpu"):
    old, new = found[name]
    assert f'{name}=={old}; python_version < "3.12"' in pins
    assert f'{name}=={new}; python_version >= "3.12"' in pins


def test_the_site_builds_without_a_warning(tmp_path):
  for name in ("sphinx", "myst_parser", "furo"):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f"{name} is not installed; pip install '.[docs]'")
  finished = subprocess.run(
    [sys.executable, "-m", "sphinx", "-Wq", "--keep-going", "docs", tmp_path],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 0, finished.stderr
  page = (tmp_path / "api.html").read_text()
  assert "calm_jax.api.TextModel.generate" in page
  # It works from disk: nothing is fetched from elsewhere.
  for file in tmp_path.glob("*.html"):
    assert not re.search(r'(src|<link[^>]*href)="https?:', file.read_text())
