"""Where in a training step something of a compiled program comes from."""

from collections.abc import Sequence

from didicm_jax.preflight.hlo import Frame, Instruction

PARTS = ("augmentation", "forward", "backward", "exchange", "optimizer", "other")
# Rooms and libraries whose functions say where in a step one is, and wrappers that do not.
_WHERE = ("didicm_jax/models/", "didicm_jax/augment/", "didicm_jax/diffusion/", "flax/nnx/nn/")
_WRAPPERS = ("didicm_jax/models/convolution.py", "ScoreModel.score")


def module_of(frames: Sequence[Frame]) -> str:
    """Where in the networks, the augmentation or the loss something is, outermost first.

    `DiDiRN.output/Block.branches/Conv (resnet_layers.py:131)`: the functions on the way, and the
    innermost line of this package's own. Of what is in none of them the innermost function.
    """
    named = [
        frame
        for frame in frames
        if any(room in frame.file for room in _WHERE)
        and not any(each in f"{frame.file} {frame.function}" for each in _WRAPPERS)
    ] or list(frames[:1])
    if not named:
        return ""
    words = [frame.function.split(".<locals>")[0].removesuffix(".__call__") for frame in named]
    own = next((frame for frame in named if "didicm_jax/" in frame.file), named[0])
    path = "/".join(dict.fromkeys(reversed(words)))
    return f"{path} ({own.file.rpartition('/')[2]}:{own.line})"


def part_of(instruction: Instruction, op_name: str, frames: Sequence[Frame]) -> str:
    """The part of a training step (`training/step.py`): one of `PARTS`.

    The exchange has what is done for it too: the means, and the arrays laid side by side.
    """
    functions = [frame.function for frame in frames]
    within = any("per_device" in function for function in functions) or "shard_map" in op_name
    if instruction.collective or "/psum" in op_name:
        return "exchange"
    if any("didicm_jax/augment/" in frame.file for frame in frames):
        return "augmentation"
    if "transpose(" in op_name:
        return "backward"
    if "jvp(" in op_name:
        return "forward"
    if functions and "per_device" in functions[0]:
        return "exchange"
    if not within and any("train_step" in function for function in functions):
        return "optimizer"
    return "other"
