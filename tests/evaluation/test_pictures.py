"""Comparison pictures. How pleasant they look is not asserted: look at one."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from skimage.color import rgb2lab

from stdpipe.evaluation.pictures import GAP, heat, label_height, save_comparison

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def panel_of(sheet: np.ndarray, index: int, height: int, width: int) -> np.ndarray:
    left, top = GAP + index * (width + GAP), label_height(width)
    return sheet[top : top + height, left : left + width]


def save_and_read(path: Path, columns: dict[str, np.ndarray]) -> np.ndarray:
    save_comparison(path, columns)
    return np.asarray(iio.imread(path))


def test_panels_stand_in_a_row_at_hr_size(tmp_path: Path) -> None:
    lr, hr, attention = picture(40, 50), picture(160, 200), RNG.random((160, 200))
    columns = {"LR": lr, "HR": hr, "attention": attention}
    sheet = save_and_read(tmp_path / "new" / "a.png", columns)
    assert sheet.shape == (label_height(200) + 160 + GAP, GAP + 3 * (200 + GAP), 3)
    enlarged = lr.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(panel_of(sheet, 0, 160, 200), enlarged)
    np.testing.assert_array_equal(panel_of(sheet, 1, 160, 200), hr)
    np.testing.assert_array_equal(panel_of(sheet, 2, 160, 200), heat(attention))


def test_the_middle_is_cut_out_of_large_frames(tmp_path: Path) -> None:
    hr = picture(400, 500)
    sheet = save_and_read(tmp_path / "a.png", {"HR": hr})
    np.testing.assert_array_equal(panel_of(sheet, 0, 360, 480), hr[20:380, 10:490])
    small = picture(170, 180)
    sheet = save_and_read(tmp_path / "b.png", {"HR": small})
    np.testing.assert_array_equal(panel_of(sheet, 0, 170, 180), small)


def test_small_panels_are_enlarged_for_their_labels(tmp_path: Path) -> None:
    hr = picture(16, 32)
    sheet = save_and_read(tmp_path / "a.png", {"HR": hr})
    np.testing.assert_array_equal(panel_of(sheet, 0, 80, 160)[::5, ::5], hr)


def test_labels_are_written_and_kept_off_their_neighbours(tmp_path: Path) -> None:
    blank = np.full((160, 200, 3), 255, np.uint8)
    long = "a label that is much too long for the panel under it, and then some"
    sheet = save_and_read(tmp_path / "a.png", {"": blank, long: blank, " ": blank})
    strip = sheet[: label_height(200)]
    left = GAP + 200 + GAP
    assert strip[:, left : left + 200].min() < 100
    assert strip[:, :left].min() > 240
    assert strip[:, left + 200 :].min() > 240


def test_heat_grows_evenly_in_lightness() -> None:
    ramp = np.linspace(0, 1, 256)[None] * 7
    lightness = rgb2lab(heat(ramp))[0, :, 0]
    steps = np.diff(lightness)
    assert (lightness[0], round(lightness[-1])) == (0, 100)
    assert steps[:-2].min() > -0.1
    assert np.abs(lightness - np.linspace(0, 100, 256)).max() < 4


def test_heat_is_of_a_map_alone_whatever_its_scale() -> None:
    values = RNG.random((20, 30)) ** 4
    np.testing.assert_array_equal(heat(values), heat(values * 2.0**40))


def test_heat_lets_no_outlier_darken_the_rest() -> None:
    values = np.ones((40, 40))
    values[0, 0] = 1e6
    assert (heat(values) == 255).all()


def test_heat_of_nothing_is_black() -> None:
    assert not heat(np.zeros((4, 4))).any()
