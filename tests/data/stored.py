"""Sets that are stored, as the tests open and change them."""

import json

from didicm_jax import data


def load(name, folder, **options):
    """A set of photos in a data_dir, of few pixels."""
    return data.load(name, data_dir=str(folder), **{"resolution": 32, **options})


def birds(folder):
    """Where the files of the set `birds` are."""
    return folder / "birds" / "1.0.0"


def rewrite_info(folder, change):
    """Has `change` change what the set `birds` says of itself."""
    path = birds(folder) / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
