"""`launch/convert.py --hub` and `--pretrained`: a run to a bundle, and a bundle to a run."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from absl import flags

from didicm_jax import files
from didicm_jax.cli.beginning import Beginning
from didicm_jax.errors import UserError
from didicm_jax.run import RunFolder

if TYPE_CHECKING:
    from didicm_jax.inference.network import Network


def read(values: flags.FlagValues) -> None:
    """Makes a run of a bundle.

    Raises:
      UserError: the run's folder holds something, or there is no such bundle.
    """
    from didicm_jax.inference import network
    from didicm_jax.parallel import one_device
    from didicm_jax.pytorch import importing
    from didicm_jax.run import bundle

    folder = files.local(values.workdir, "run folder")
    files.check_new(folder, about="run folder")
    # As for predicting, so that arrays of another network are refused.
    run = network.load(bundle.find(values.pretrained), "latest", one_device())
    # At step 0 it has seen nothing, and may be trained on any images of its classes.
    described = replace(run.description, trained_on="", judged_on="")
    importing.write(folder, run.config, described, run.variables)
    print(f"made {folder}; evaluate, predict with or train it with launch/main.py")


def write(
    values: flags.FlagValues,
    folder: RunFolder,
    run: "Network",
    began: Beginning | None,
) -> None:
    """Makes a bundle of a run's network.

    Args:
      values: the flags.
      folder: of the run.
      run: its network, with the sampler to predict with.
      began: how, if the card is to say it.

    Raises:
      UserError: the folder to write holds something or cannot be written, or the run's
        `evaluation.json` is damaged.
    """
    import jax

    from didicm_jax.cli import card
    from didicm_jax.run import bundle

    path = files.resolved(files.local(values.hub, "hub"))
    facts = card.Facts(
        folder=path,
        dtype=values.dtype,
        checkpoint=values.checkpoint,
        evaluation=_evaluation(values, folder, run.step),
        license=values.license,
        dataset=values.dataset,
        began=began,
    )
    made = bundle.Bundle(run.config, run.description, jax.device_get(run.variables), run.step)
    try:
        text = card.write(made, facts)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder.evaluation_file}: expected the record of an evaluation, found another "
            f"({type(error).__name__}: {error}); evaluate the run again"
        ) from error
    bundle.write(path, made, text, dtype=values.dtype)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(f"wrote {path}, {size / 1e6:.1f} MB; read its README.md before you give it away")


def _evaluation(values: flags.FlagValues, folder: RunFolder, step: int) -> dict[str, Any] | None:
    """What `evaluation.json` says of the checkpoint of a step, if it does."""
    if folder.evaluation_file.exists():
        found = files.read_json(folder.evaluation_file)
        if found.get("step") == step:
            return found
    print(
        f"no figures in the model card: {folder.path} has no evaluation.json of step {step}; "
        f"launch/main.py --mode=evaluate --checkpoint={values.checkpoint} writes one"
    )
    return None
