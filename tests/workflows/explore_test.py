"""Tests workflows/explore.py and its picture on tiny models."""

import importlib.util
import json

import pytest
from etils import epath

from calm_jax.config import MeshConfig
from calm_jax.data.choice_forms import Item
from calm_jax.data.choice_items import Task
from calm_jax.runs.choosing import choose_run
from calm_jax.runs.text_scorer import ChoiceSettings
from calm_jax.training import sharding
from calm_jax.workflows.explore import ExploreSettings, explore
from calm_jax.workflows.explore_picture import (
  check_matplotlib,
  draw_curves,
  picture_path,
)
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  on_mesh,
  token_run,
)

_SETTINGS = ExploreSettings(
  temperatures=(1.0, 0.5),
  candidate_counts=(4, 10),
  noise_scales=(1.0, 0.5),
  baseline_temperatures=(1.0, 0.5),
  num_samples=3,
  num_rows=4,
)


@pytest.fixture(name="text")
def fixture_text(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
  return str(path)


def test_measures_every_point_at_the_same_places(text, tmp_path):
  words = ("quick", "brown", "fox", "lazy", "dog", "the", "over", "jumps")
  items = [
    Item((word,) * 4, tuple(f" {it}" for it in words[:4]), (5, 5, 3, 4), i % 4)
    for i, word in enumerate(words)
  ]
  runs = calm_run(), token_run(num_chunks=160)
  task = Task("plain", items)
  result = explore(runs[0], text, _SETTINGS, baseline=runs[1], task=task)
  points = result["points"]
  for point in points:
    answered = {
      "noise_scale": (runs[0], "noise_scale"),
      "token_model": (runs[1], "temperature"),
    }.get(point["method"])
    if answered is None:
      assert "choice_accuracy" not in point
      continue
    run, name = answered
    settings = ChoiceSettings(num_samples=3, mutual=False)
    expected = choose_run(run, task, settings, **{name: point[name]})
    assert point["choice_accuracy"] == expected["accuracy"]
    assert result["task"]["hash"] == expected["task_hash"]
  assert [point["method"] for point in points] == (
    ["batch"] * 4 + ["noise_scale"] * 2 + ["token_model"] * 2
  )
  assert len({point["num_positions"] for point in points}) == 1
  by_key = {
    (point.get("temperature"), point.get("num_candidates")): point
    for point in points
  }
  # Colder is more often the same.
  for count in (4, 10, None):
    cold, plain = by_key[0.5, count], by_key[1.0, count]
    assert cold["collision_1"] > plain["collision_1"]
  assert result["settings"]["data"] == text
  assert result["baseline"]["config"]["model"]["kind"] == "token"
  json.dumps(result, allow_nan=False)
  draw_curves(result, tmp_path / "curves.png")
  assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
  "mesh",
  [
    pytest.param(MeshConfig(data=8), id="rows", marks=pytest.mark.slow),
    pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), id="cube"),
  ],
)
def test_points_do_not_depend_on_the_mesh(mesh, text):
  run, baseline = calm_run(), token_run(num_chunks=160)
  expected = explore(run, text, _SETTINGS, baseline=baseline)["points"]
  mesh = sharding.make_mesh(mesh)
  found = explore(
    on_mesh(run, mesh), text, _SETTINGS, baseline=on_mesh(baseline, mesh)
  )["points"]
  for one, other in zip(expected, found, strict=True):
    assert {*other} == {*one}
    for name, value in one.items():
      if isinstance(value, float):  # others say: not resolved
        value = pytest.approx(value, rel=1e-6, abs=1e-6)
      assert other[name] == value, name


def test_says_before_the_work_that_matplotlib_is_missing(monkeypatch):
  check_matplotlib()
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"install '\.\[plots\]'"):
    check_matplotlib()


def test_refuses(text):
  with pytest.raises(ValueError, match="at least 5"):
    ExploreSettings(temperatures=(0.2,), candidate_counts=(3,))
  with pytest.raises(ValueError, match="noise_scales"):
    ExploreSettings(noise_scales=(0.0,))
  with pytest.raises(ValueError, match="next-vector run there"):
    explore(autoencoder_run(), text, _SETTINGS)
  with pytest.raises(ValueError, match="give a token model"):
    explore(calm_run(), text, _SETTINGS, baseline=calm_run())
  elsewhere = on_mesh(
    token_run(num_chunks=160), sharding.make_mesh(MeshConfig(data=8))
  )
  with pytest.raises(ValueError, match="with the same mesh"):
    explore(calm_run(), text, _SETTINGS, baseline=elsewhere)
  with pytest.raises(ValueError, match="grid:9"):
    explore(calm_run(chunk_size=3), text, _SETTINGS)


def test_the_picture_lies_beside_the_file(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert picture_path("~/x.json") == epath.Path(tmp_path / "x.png")
  with pytest.raises(ValueError, match="where the picture goes"):
    picture_path("x.png")


def test_numbers_that_float32_cannot_hold_are_refused():
  with pytest.raises(ValueError, match=r"noise_scale is 1e\+39"):
    ExploreSettings(noise_scales=(1.0, 1e39))
  with pytest.raises(ValueError, match="temperature is 1e-40"):
    ExploreSettings(baseline_temperatures=(1.0, 1e-40))
