"""The reader of compiled programs, against numbers counted by hand."""

import pytest

from didicm_jax.preflight import execution, origin, traffic
from didicm_jax.preflight.hlo import Frame, Program
from tests.preflight.recorded import GPU, TPU


def runs(text):
    program = Program(text)
    return program, {run.instruction.name: run for run in execution.executions(program)}


def wrapped(body, *computations):
    return "\n".join([*computations, "ENTRY %main (a: f32[8]) -> f32[8] {", body, "}"])


def test_the_rounds_of_loops_as_xla_writes_them_and_as_they_follow_on_tpus():
    """Five rounds: for the TPU no count is written, and it follows from i = 0, i < 5, i + 1."""
    assert "known_trip_count" not in TPU
    assert runs(TPU)[1]["fusion.9"].times == 5
    assert all(run.known for run in runs(TPU)[1].values())
    assert runs(GPU)[1]["loop_add_fusion"].times == 5
    # Without the count nothing is guessed of a condition that is a fusion.
    unknown = runs(GPU.replace("known_trip_count", "count"))[1]["loop_add_fusion"]
    assert (unknown.times, unknown.known) == (1, False)


def test_the_rounds_of_a_loop_whose_counter_is_copied():
    """As XLA does for TPUs where a loop carries so much that its counter changes its place."""
    counter = "%get-tuple-element.48"
    copied = f"  %copy.1 = s32[]{{:T(128)}} copy({counter})\n  %add.50 ="
    text = TPU.replace("  %add.50 =", copied).replace(f"add({counter}, ", "add(%copy.1, ")
    assert text.count("%copy.1,") == 1
    assert (runs(text)[1]["fusion.9"].times, runs(text)[1]["fusion.9"].known) == (5, True)
    # Where it grows by something else nothing is guessed.
    by_two = text.replace("sunk = s32[]{:T(128)} constant(1)", "sunk = s32[]{:T(128)} constant(2)")
    assert not runs(by_two)[1]["fusion.9"].known


def test_what_stands_in_a_branch_is_marked():
    branch = "\n".join(
        [
            "%{0} (p: f32[8]) -> f32[8] {{",
            "  %p = f32[8] parameter(0)",
            "  ROOT %{0}.1 = f32[8] negate(%p)",
            "}}",
        ]
    )
    body = "\n".join(
        [
            "  %a = f32[8] parameter(0)",
            "  %which = pred[] custom-call()",
            "  ROOT %c = f32[8] conditional(%which, %a, %a), true_computation=%yes, "
            "false_computation=%no",
        ]
    )
    found = runs(wrapped(body, branch.format("yes"), branch.format("no")))[1]
    assert {name: run.chosen for name, run in found.items()} == {
        "which": False,
        "yes.1": True,
        "no.1": True,
    }


def test_the_bytes_that_each_kernel_reads_and_writes():
    program, found = runs(GPU)
    assert {name: traffic.moved(program, run) for name, run in found.items()} == {
        "copy.14": 4 + 4,
        "copy.13": 2 * 64 * 128 * 2,
        "loop_add_fusion.1": 4 + 4,
        # c, w and the product in bfloat16; the 32 MiB that cuBLAS may scribble on are left out.
        "custom-call.1": 2 * (64 * 128 + 128 * 128 + 64 * 128),
        "loop_add_fusion": 2 * 3 * 64 * 128,
        # y and the indices; the sums, and what was gathered.
        "input_reduce_select_fusion": 2 * 64 * 128 + 4 * 64 * 128 + 2 * 128 + 2 * 8192,
        "input_reduce_fusion": 2 * 8192 + 2,
        "loop_add_fusion.2": 2 * 128 + 2 + 2 * 128,
        "all-reduce-start": 2 * 2 * 128,
        "all-reduce-done": 0,
    }


def test_estimated_cycles_of_the_entry_and_of_loops():
    found = runs(TPU)[1]
    cycles = {n: r.instruction.estimated_cycles for n, r in found.items()}
    assert cycles["fusion.9"] == 2138
    assert cycles["copy.15"] == 1886
    assert cycles["gather_fusion"] is None
    once = 2527 + 1888 + 2008 + 1917 + 1825
    total = sum((cycles[name] or 0) * run.times for name, run in found.items())
    assert total == 5 * (2138 + 1886) + once


@pytest.mark.parametrize(("text", "name"), [(GPU, "all-reduce-start"), (TPU, "psum.7")])
def test_collectives_their_groups_and_bytes(text, name):
    found = runs(text)[1]
    assert [n for n, run in found.items() if run.instruction.collective] == [name]
    assert found[name].instruction.collective == "all-reduce"
    assert found[name].instruction.groups == ((0, 1, 2, 3),)
    assert traffic.read(found[name]) == 128 * 2


def test_groups_that_are_written_as_a_grid():
    text = wrapped(
        "  %a = f32[8] parameter(0)\n"
        "  ROOT %r = f32[8]{0} all-reduce(%a), replica_groups=[2,4]<=[8], to_apply=%add"
    )
    assert runs(text)[1]["r"].instruction.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    transposed = text.replace("[2,4]<=[8]", "[2,4]<=[4,2]T(1,0)")
    assert runs(transposed)[1]["r"].instruction.groups == ()


@pytest.mark.parametrize(
    ("text", "name"), [(GPU, "input_reduce_select_fusion"), (TPU, "gather_fusion")]
)
def test_elements_that_are_gathered_one_by_one(text, name):
    program, found = runs(text)
    counts = {n: traffic.single_elements(program, run) for n, run in found.items()}
    assert {n: count for n, count in counts.items() if count} == {name: 64 * 128}


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        ("gather(%a, %i), offset_dims={1}, slice_sizes={4}", 5 * 4),
        ("gather(%a, %i), offset_dims={1}, slice_sizes={1,128}", 0),
        ("scatter(%a, %i, %u), update_window_dims={}, to_apply=%add", 6),
        ("scatter(%a, %i, %v), update_window_dims={1}, to_apply=%add", 0),
    ],
)
def test_rows_are_no_single_elements(operation, count):
    text = wrapped(
        "  %a = f32[640] parameter(0)\n  %i = s32[6,1] parameter(1)\n  %u = f32[6] parameter(2)\n"
        f"  %v = f32[6,128] parameter(3)\n  ROOT %r = f32[5,4]{{1,0}} {operation}"
    )
    program, found = runs(text)
    assert traffic.single_elements(program, found["r"]) == count


def test_slices_that_are_read_and_updates_in_place_count_for_themselves():
    part = (
        "%part (p: f32[1000], i: s32[]) -> f32[10] {\n"
        "  %p = f32[1000]{0} parameter(0)\n  %i = s32[] parameter(1)\n"
        "  ROOT %s = f32[10]{0} dynamic-slice(%p, %i), dynamic_slice_sizes={10}\n}"
    )
    update = (
        "%update (q: f32[1000], u: f32[10], j: s32[]) -> f32[1000] {\n"
        "  %q = f32[1000]{0} parameter(0)\n  %u = f32[10]{0} parameter(1)\n"
        "  %j = s32[] parameter(2)\n"
        "  ROOT %d = f32[1000]{0} dynamic-update-slice(%q, %u, %j)\n}"
    )
    text = wrapped(
        "  %a = f32[1000]{0} parameter(0)\n  %i = s32[] parameter(1)\n"
        "  %x = f32[10]{0} fusion(%a, %i), kind=kLoop, calls=%part\n"
        "  ROOT %y = f32[1000]{0} fusion(%a, %x, %i), kind=kLoop, calls=%update",
        part,
        update,
    )
    program, found = runs(text)
    assert traffic.moved(program, found["x"]) == 4 * (10 + 1 + 10)
    assert traffic.moved(program, found["y"]) == 4 * (10 + 1 + 10)


def test_types_of_all_kinds():
    text = wrapped(
        "  %a = f32[8] parameter(0)\n"
        "  %t = (bf16[3,5]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[7], s4[3], f8e4m3fn[9], "
        "token[], f64[2]) custom-call(%a)\n"
        "  ROOT %r = f32[8] copy(%a)"
    )
    instruction = runs(text)[1]["t"].instruction
    assert [x.bytes for x in instruction.arrays] == [30, 7, 2, 9, 0, 16]


def test_branches_run_all_and_once():
    branch = (
        "%{0} ({0}.p: f32[8]) -> f32[8] {{\n  %{0}.p = f32[8] parameter(0)\n"
        "  ROOT %{0}.r = f32[8] negate(%{0}.p)\n}}"
    )
    text = wrapped(
        "  %a = f32[8] parameter(0)\n  %n = s32[] parameter(1)\n"
        "  ROOT %c = f32[8] conditional(%n, %a, %a), branch_computations={%b0, %b1}",
        branch.format("b0"),
        branch.format("b1"),
    )
    assert [(name, run.times) for name, run in runs(text)[1].items()] == [("b0.r", 1), ("b1.r", 1)]


def test_what_is_no_compiled_program():
    with pytest.raises(ValueError, match="no entry"):
        Program("module @jit_f {}")


def test_the_lines_of_python_behind_an_instruction():
    program, found = runs(GPU)
    frames = program.frames(found["custom-call.1"].instruction)
    assert [(frame.function, frame.line) for frame in frames[:2]] == [
        ("f.<locals>.body", 10),
        ("f.<locals>.dev", 12),
    ]
    assert frames[0].file == "didicm_jax/models/small.py"


STEP = Frame("didicm_jax/training/step.py", "make_train_step.<locals>.train_step", 160)
DEVICE = Frame("didicm_jax/training/step.py", "make_train_step.<locals>.per_device", 142)
BLOCK = Frame("/lib/didicm_jax/models/resnet_layers.py", "Block.branches", 131)
NETWORK = [
    Frame("/lib/didicm_jax/models/convolution.py", "convolve.<locals>.convolution", 97),
    Frame("/lib/flax/nnx/nn/linear.py", "Conv.__call__", 889),
    BLOCK,
    Frame("/lib/didicm_jax/models/resnet.py", "DiDiRN.output", 186),
    Frame("/lib/didicm_jax/models/base.py", "ScoreModel.score", 62),
    DEVICE,
    STEP,
]


def test_the_module_that_an_operation_comes_from():
    assert origin.module_of(NETWORK) == "DiDiRN.output/Block.branches/Conv (resnet_layers.py:131)"
    assert origin.module_of([STEP]) == "make_train_step (step.py:160)"
    assert origin.module_of([]) == ""


@pytest.mark.parametrize(
    ("op_name", "frames", "part"),
    [
        ("jit(train_step)/shard_map/jvp()/conv_general_dilated", NETWORK, "forward"),
        ("jit(train_step)/shard_map/transpose(jvp())/conv_general_dilated", NETWORK, "backward"),
        ("jit(train_step)/shard_map/gather", [
            Frame("/lib/didicm_jax/augment/mix.py", "mix", 149), DEVICE, STEP], "augmentation"),
        ("jit(train_step)/jit(_where)/select_n", [STEP], "optimizer"),
        ("jit(train_step)/shard_map/div", [DEVICE, STEP], "exchange"),
        ("jit(train_step)/shard_map/psum_invariant", [DEVICE, STEP], "exchange"),
        ("", [], "other"),
    ],
)  # fmt: skip
def test_the_part_of_a_step_that_an_operation_is_of(op_name, frames, part):
    instruction = runs(GPU)[1]["loop_add_fusion"].instruction
    assert origin.part_of(instruction, op_name, frames) == part
    reduce = runs(GPU)[1]["all-reduce-start"].instruction
    assert origin.part_of(reduce, op_name, frames) == "exchange"
