"""What tests of the modes look at."""

import csv

from PIL import Image


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_picture(path):
    with Image.open(path) as image:
        image.load()
        return min(image.size) > 200


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said
