"""Tests calm_jax/scaling/{plots,sweep_plots,drawing}.py by their numbers."""

import dataclasses
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from calm_jax.scaling import drawing, plots, sweep_plots
from calm_jax.scaling.isoflop import isoflop_parabolas
from calm_jax.scaling.law import fit_law

from . import studies


@pytest.fixture(scope="module")
def points():
  return studies.sweep_points()


def _lines(figure, panel=0):
  """Label or marker to the (x, y) of every line in a panel."""
  return [line.get_xydata() for line in figure.axes[panel].lines]


def test_learning_curves_hold_their_data():
  curves = {"a": ([1, 2, 3], [9.0, 4.0, 2.0]), "b": ([1, 3], [8.0, 5.0])}
  figure = plots.learning_curves(curves, label="loss", use_log_scale=True)
  for line, (steps, values) in zip(
    _lines(figure), curves.values(), strict=True
  ):
    np.testing.assert_array_equal(line, np.array([steps, values]).T)
  assert figure.axes[0].get_yscale() == "log"
  names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
  assert names == ["a", "b"]


def test_scores_have_error_bars_of_their_errors(points):
  mine = [point for point in points if point.family == "token"]
  figure = sweep_plots.scores_over_flops(mine, "brier_lm", "training_flops")
  [bars] = figure.axes[0].containers
  segments = np.array(bars.lines[2][0].get_segments())  # [n, 2 ends, xy]
  expected = [
    [point.training_flops, point.scores["brier_lm"], point.errors["brier_lm"]]
    for point in mine
  ]
  middle, half = segments.mean(axis=1), np.diff(segments[:, :, 1])[:, 0] / 2
  found = np.column_stack([middle, half])
  np.testing.assert_allclose(sorted(found.tolist()), sorted(expected))


def test_frontier_rises(points):
  figure = sweep_plots.scores_over_flops(points, "brier_lm", "inference_flops")
  joined = [
    line.get_ydata()
    for line in figure.axes[0].lines
    if line.get_linestyle() == "-"
  ]
  # K = 1, 2, 4 and the baseline; the best run of each size.
  assert [len(scores) for scores in joined] == [3, 3, 3, 4]
  for scores in joined:
    assert np.all(np.diff(scores) > 0)


def test_law_stands_between_its_bands(points):
  # A larger K makes the same shape a little larger, as in a real sweep.
  law = fit_law(
    [
      dataclasses.replace(
        point, parameters=point.parameters * (1 + 0.02 * point.chunk_size)
      )
      for point in points
      if point.family == "calm"
    ]
  )
  figure = sweep_plots.law_with_bands(law)
  *panels, spare = figure.axes
  titles = [axes.get_title() for axes in panels]
  assert titles == ["CALM, K = 1", "CALM, K = 2", "CALM, K = 4"]
  assert not spare.axison
  for axes in panels:
    assert len(axes.collections) == 2 * 3  # a band and error bars a size
    band = axes.collections[0].get_paths()[0].vertices
    line = axes.lines[0].get_ydata()
    assert band[:, 1].min() < line.min() < line.max() < band[:, 1].max()


def test_large_numbers_are_written_out():
  values = (12, 999.9, 175_776, 999_900, 1.04e6, 2.3e11)
  words = ["12", "1 k", "176 k", "1 M", "1.04 M", "230 B"]
  assert [drawing.count(value) for value in values] == words


def test_isoflop_marks_the_best_size(points):
  fits = isoflop_parabolas(
    [point for point in points if point.family == "token"], "brier_lm"
  )
  figure = sweep_plots.isoflop_curves(fits, "brier_lm")
  dotted = [
    line.get_xdata()[0]
    for line in figure.axes[0].lines
    if line.get_linestyle() == ":"
  ]
  assert dotted == [one.best_parameters for one in fits if one.best_parameters]


def test_trade_off_and_health_hold_their_data():
  curve = [("T=1", 0.1, 0.05), ("T=0.5", 0.2, 0.3)]
  figure = plots.accuracy_over_collision({"calm": curve})
  np.testing.assert_array_equal(_lines(figure)[0], [[0.05, 0.1], [0.3, 0.2]])

  rows = [
    {"step": 1, "token_accuracy": 0.9, "latent_std": 0.5},
    {"step": 2, "token_accuracy": 1.0, "latent_std": 0.4, "other": 3},
  ]
  figure = plots.autoencoder_health(rows)
  assert len(figure.axes) == 2
  np.testing.assert_allclose(_lines(figure, 0)[0][0], [1, 0.1])
  assert np.isnan(_lines(figure, 0)[0][1, 1])  # log of no wrong token
  figure = plots.std_per_dimension({"a": [0.3, 0.1, 0.2], "b": [1.0]})
  first, second = _lines(figure)
  np.testing.assert_array_equal(first[:, 1], [0.1, 0.2, 0.3])
  np.testing.assert_array_equal(second[:, 1], [1.0])


def test_svg_fits_into_a_page():
  curves = {"a": ([1, 2], [3.0, 2.0])}
  first, second = (
    drawing.to_svg(plots.learning_curves(curves, label="a < b"), name)
    for name in ("one", "two")
  )
  root = ElementTree.fromstring(first)
  assert "width" not in root.attrib and "viewBox" in root.attrib
  assert "currentColor" in first and drawing.INK not in first
  ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, second)]
  assert ids[0] and not ids[0] & ids[1]
  assert set(re.findall(r"url\(#([^)]*)\)", first)) <= ids[0]
  assert first == drawing.to_svg(
    plots.learning_curves(curves, label="a < b"), "one"
  )


def test_missing_matplotlib_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(ValueError, match=r"pictures need matplotlib; .*plots"):
    plots.learning_curves({}, label="loss")
