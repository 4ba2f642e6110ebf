"""The table of settings, for people: the page `docs/settings.md`, and what `--help` prints."""

import itertools
from typing import Any

from didicm_jax.config.setting import Setting
from didicm_jax.config.table import SETTINGS

COMMAND = "python -m didicm_jax.config > docs/settings.md"

_HEAD = f"""# Settings

Every setting of a run, generated from the table in `didicm_jax/config/table.py` by

    {COMMAND}

A config file in `configs/` changes some of the defaults, and the command line changes any of them:
`--config.section.key=value`. A setting is *read* where its condition holds; changed elsewhere, it
is an error. *May change* says whether a run may be started again, or evaluated, with another value
than it was first started with.

A duration is a number and a unit: `60 epochs`, `500 steps`, `1e6 examples`.
"""


def page() -> str:
    """The reference page, in Markdown."""
    parts = [_HEAD]
    for section, settings in itertools.groupby(SETTINGS, lambda setting: setting.section):
        parts.append(f"## {section or 'The run'}\n")
        parts.append("| setting | default | what it is | values | read with | may change |")
        parts.append("|---|---|---|---|---|---|")
        parts += [_row(setting) for setting in settings]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def listing() -> str:
    """One line or two for each setting, for a terminal."""
    lines = ["Settings of the config, --config.NAME=VALUE, with their defaults:"]
    for setting in SETTINGS:
        lines.append(f"  {setting.key}={_shown(setting.default)}")
        lines.append(f"    {setting.help}")
    return "\n".join(lines)


def _row(setting: Setting) -> str:
    read = ", ".join(map(str, setting.read)) or "always"
    cells = (
        f"`{setting.key}`",
        f"`{_shown(setting.default)}`",
        setting.help,
        setting.check.words,
        read,
        setting.change.value,
    )
    return f"| {' | '.join(cells)} |"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(f'{x:.6g}' for x in value)})"
    return repr(value) if value == "" else str(value)
