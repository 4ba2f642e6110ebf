"""The images that the repository holds: each is named with its licence, none is large."""

from pathlib import Path

import pytest
from PIL import Image

from didicm_jax.data import idx

HERE = Path(__file__).parent


@pytest.mark.parametrize("folder", ["photos", "fashion"])
def test_every_image_is_small_and_named_with_its_licence(folder):
    said = (HERE / folder / "README.md").read_text()
    files = {path.name for path in (HERE / folder).iterdir()} - {"README.md"}
    assert files == {line.split("`")[1] for line in said.splitlines() if line.startswith("| `")}
    for name in files:
        path = HERE / folder / name
        assert path.stat().st_size < 30_000
        with Image.open(path) as image:
            assert max(image.size) <= 256
            image.load()


def test_there_is_one_garment_of_each_class():
    paths = sorted((HERE / "fashion").glob("*.png"))
    names = [path.stem[2:] for path in paths]
    classes = [name.lower() for name in idx.FASHION_MNIST_CLASSES]
    assert names == [name.replace("/", "-").replace(" ", "-") for name in classes]
    for path in paths:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (28, 28))
