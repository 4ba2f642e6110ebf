"""Pages and their parts."""

import base64
import io

import jinja2
import numpy as np
import pytest
from PIL import Image

from didicm_jax import pages
from didicm_jax.plots import style
from tests.reading import Page

HOSTILE = '</td><script>alert("1")</script>&amp;\udcff'


def decoded(picture):
    kind, _, content = picture.uri.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return kind, np.asarray(image)


def written(path, **tables):
    figure = pages.Figure("data:image/png;base64,", "curves", 1, 1)
    pages.write(path, "report.html", title=HOSTILE, curves=figure, tables=tables)
    return Page(path.read_text())


@pytest.mark.parametrize(("channels", "seen"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3)])
def test_of_images_that_have_other_channels_the_first_are_seen(channels, seen):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels)).astype(np.uint8)
    expected = image[..., 0] if seen == 1 else image[..., :3]
    np.testing.assert_array_equal(decoded(pages.picture(image))[1], expected)


def test_a_table_that_can_be_sorted(tmp_path):
    cells = [[HOSTILE, pages.Cell("1,000", 1000)], ["b", pages.Cell("", None)]]
    found = written(tmp_path / "page.html", of=pages.Table("T", ["name", "images"], cells, 1))
    first, second = found.root.all("th", scope="col")
    assert (first.attributes["aria-sort"], second.attributes["aria-sort"]) == ("none", "ascending")
    assert [each.only("button").attributes["type"] for each in (first, second)] == ["button"] * 2
    values = [cell.attributes["data-value"] for cell in found.root.all("td")]
    assert values == ["1000", ""]
    # Names are text, whatever they hold; what is no UTF-8 is written out.
    assert found.table("T")[1] == [HOSTILE.replace("\udcff", "\\udcff"), "1,000"]
    assert "alert" not in found.root.only("script").text
    assert not list(found.root.all("input"))


def test_a_long_table_scrolls_and_has_a_filter(tmp_path):
    rows = [[str(k), pages.Cell(str(k), k)] for k in range(1000)]
    found = written(tmp_path / "page.html", of=pages.Table("T", ["name", "k"], rows, 1))
    found.root.only("input", type="search")
    assert found.root.only("div", role="region").attributes["class"] == "wide tall"


def test_a_table_as_it_is(tmp_path):
    rows = [["a", "0.1 [0.0, 0.2]", "[-1, +2]", "a 7"]]
    found = written(tmp_path / "page.html", of=pages.Table("T", ["", "x", "y", "z"], rows))
    assert not list(found.root.all("button"))
    kinds = [cell.attributes.get("class") for cell in found.root.all("td")]
    assert kinds == ["number", "number", None]  # of which the first two are


def test_what_a_template_names_must_be_there(tmp_path):
    with pytest.raises(jinja2.UndefinedError):
        pages.write(tmp_path / "page.html", "report.html", title="no tables")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_few_pixels_stay_as_they_are(channels):
    image = np.random.default_rng(0).integers(256, size=(5, 64, channels), dtype=np.uint8)
    found = pages.picture(image)
    kind, pixels = decoded(found)
    assert (kind, found.small) == ("data:image/png", True)
    np.testing.assert_array_equal(pixels.reshape(image.shape), image)


def test_a_photo_is_shrunk():
    found = pages.picture(np.full((300, 600, 3), 100, np.uint8))
    kind, pixels = decoded(found)
    assert (kind, found.small, pixels.shape) == ("data:image/jpeg", False, (96, 192, 3))


def test_a_figure_is_shown_at_the_size_it_was_drawn_in(tmp_path):
    drawn, _ = style.new(6, 3)
    style.save(drawn, tmp_path / "figure.png")
    found = pages.figure(tmp_path / "figure.png", "words")
    assert (found.width, found.height) == (6 * 96, 3 * 96)
    assert base64.b64decode(found.uri.partition(",")[2]) == (tmp_path / "figure.png").read_bytes()


def test_the_way_of_a_posterior():
    way = np.array([[0.25] * 4, [0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.3, 0.0]], np.float32)
    found = pages.refinement("abcd", way[-1], way)
    assert found.steps == 2
    assert [line.name for line in found.lines] == ["b", "c", "a", "d"]
    width, height = found.box
    points = [tuple(map(float, pair.split(","))) for pair in found.lines[0].points.split()]
    expected = [(0, 0.75 * height), (width / 2, 0.9 * height), (width, 0.4 * height)]
    np.testing.assert_allclose(points, expected, atol=0.06)
    still = pages.refinement("abcd", way[-1])
    assert still.steps is None
    assert {line.points for line in still.lines} == {""}
