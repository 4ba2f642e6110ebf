"""Reads model cards."""

import re
import shlex

import yaml


def parts(card):
    """Metadata and text of a card."""
    _, metadata, text = card.split("---\n", 2)
    return yaml.safe_load(metadata), text


def card(folder):
    """Those of the card in a folder."""
    return parts((folder / "README.md").read_text())


def commands(text):
    """The words of each command of a card, without what starts it."""
    found = re.findall(r"```sh\npython launch/main\.py (.*?)\n```", text, re.DOTALL)
    return [shlex.split(each.replace("\\\n", "")) for each in found]
