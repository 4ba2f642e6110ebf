"""What README and docs show is what happens."""

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from didicm_jax import config as configuration
from tests import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md")))]


class Line(NamedTuple):
    """A line of code: the command in `launch/` that it starts, if any, and what stands behind."""

    command: str | None
    text: str


def lines(text):
    """The lines of code blocks, broken ones joined and chained ones apart, and code in sentences.

    A sentence such as `launch/bench.py` alone is a line of that command without arguments; one
    that begins with a flag is a line of some command. All else, such as `pip`, is not ours.
    """
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    result = []
    for piece in (piece.strip() for line in found for piece in re.split(r"&&|\|\||;\s", line)):
        piece = re.split(r"\s#\s", piece)[0]
        match = re.search(r"launch/(\w+)\.(?:py|sh|sbatch)\b|-m didicm_jax\b", piece)
        if match:
            name = match[1] if match[1] in commands.NAMES else "main"
            result.append(Line(name, piece[match.end() :]))
        elif piece.startswith("--"):
            result.append(Line(None, piece))
    return result


def flags(text):
    """Those outside of quotes; of `--config.section.key` the whole."""
    return re.findall(r"(?:^|\s)--((?:no)?config\.[\w.]*\w|\w+)", re.sub(r"\".*?\"", "", text))


def test_the_kernel_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, scope)
    assert scope["loss"].shape == (4,)
    assert scope["sample"].trajectory.shape == (4, 9, 10)


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_is_named_exists(page):
    """Among the flags of the command on its line, or of any where the line names none."""
    known = set().union(*map(commands.flags, commands.NAMES))
    checked = 0
    for command, text in lines((ROOT / page).read_text()):
        for flag in flags(text):
            checked += 1
            if "config." not in flag:
                of_this = commands.flags(command) if command else known
                assert {flag, flag.removeprefix("no")} & of_this, (command, flag)
    assert checked or page != "README.md"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_is_named_exists(page):
    """`--config.section.key` stands for any; a section alone, as in `--config.data.*`, is one."""
    keys = configuration.flatten(configuration.default())
    known = {*keys, *(key.rpartition(".")[0] for key in keys), "section.key"}
    text = (ROOT / page).read_text()
    assert set(re.findall(r"--(?:no)?config\.([\w.]*\w)", text)) <= known


def sections(text):
    """What GitHub calls the headings of a page in links."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_section_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    places = r"(?<![\w/.])(?:launch|configs|didicm_jax|tests|docs|\.ci|\.github)/[\w/.-]*\w"
    for path in re.findall(places, text):
        assert (ROOT / path).exists(), path
    for link, section in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", text):
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), link
        if section:
            assert section in sections(target.read_text()), f"{link}#{section}"


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_a_config_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    for name, options in set(re.findall(r"configs/(\w+)\.py:([\w=,.]*\w)", text)):
        configuration.validate(importlib.import_module(name).get_config(options))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "```sh\npython launch/main.py --mode=x \\\n    --gif\n```",
            [("main", "mode"), ("main", "gif")],
        ),
        ('```sh\na && launch/study.py --axes="--x"\n```', [("study", "axes")]),
        ("with `--nogif` or `gcsfuse --rename-dir-limit=1`", [(None, "nogif")]),
        ("`python -m didicm_jax --config.seed=1 --a`", [("main", "config.seed"), ("main", "a")]),
        ("`sbatch launch/slurm.sbatch --config=a.py`", [("main", "config")]),
    ],
)
def test_flags_are_found_in_code_and_in_sentences(text, found):
    assert [(line.command, flag) for line in lines(text) for flag in flags(line.text)] == found
