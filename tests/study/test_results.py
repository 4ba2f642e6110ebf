"""What a study concludes of the records of its cells: tables, intervals, figures."""

import numpy as np
import pytest
from scipy import stats

from didicm_jax import evaluation
from didicm_jax.study import coordinates, results
from didicm_jax.study.coordinates import in_order
from didicm_jax.study.rows import MATCHED, SHOWN, best_of, gain_of, rows_of


def record(method, seed, top1, nll, validation=0.5, passes=1.0, left_out=True, **place):
    """A cell with two samplers, the second better on the test split."""

    def sampler(number):
        metrics = dict.fromkeys(
            ("top5", "ece", "ece_equal_mass", "brier", "entropy", "nll_scaled", "ece_scaled"), 0.1
        )
        worth = {"top1": top1 + 0.1 * number, "nll": nll - 0.1 * number}
        found = {
            "sampler": "cp",
            "integrator": "euler",
            "label": f"sampler {number}",
            "steps": 1,
            "temperature": 1.0,
            "megaflops": 1.0,
            "plain_passes": passes + number,
            "test": metrics | worth,
            "validation": metrics | worth | {"nll": validation - 0.1 * number},
        }
        if left_out:  # as if each of four parts of the examples were an example
            keys = ("top1", "nll", "ece", "nll_scaled", "ece_scaled")
            found["left_out"] = {key: [[0.1, 0.2, 0.1, 0.2]] for key in keys}
            found["left_out"]["top1"] = [[top1 + 0.01, top1 + 0.01, top1 - 0.01, top1 - 0.01]]
        return found

    training = dict.fromkeys(
        ("gigaflops", "step_in_plain_steps", "steps", "images", "skipped_steps"), 1
    ) | {"exploding_share": 0.0, "largest_grad_norm": 1.0}
    return {
        "values": {"resolution": 8} | place | {"method": method, "seed": seed},
        "parameters": 10,
        "training": training,
        "samplers": [sampler(0), sampler(1)][: 1 if method in CLASSIFIERS else 2],
    }


CLASSIFIERS = ("softmax", "smoothed", "unmatched", "unmatched_weak")


def table(text, number):
    """The rows of a table of a page, by method; a row is by the title of its column."""
    header, _, *rows = text.split("\n\n")[number].splitlines()
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    found = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    named = [dict(zip(titles, row, strict=True)) for row in found]
    return {row["method"]: row for row in named}


def test_numbers_stand_in_order_whichever_was_asked_for_first():
    def places(*values):
        return [(("resolution", r), ("data_ratio", d)) for r, d in values]

    given = places((8, 0.05), (8, 1.0), (8, 0.25), (16, 0.25), (16, 0.05))
    assert in_order(given) == places((8, 0.05), (8, 0.25), (8, 1.0), (16, 0.05), (16, 0.25))
    assert in_order(places((28, 0.1), (14, 0.1), (7, 0.1)))[-1] == places((7, 0.1))[0]
    names = [(("model.name", name),) for name in ("vit", "resnet", "a")]
    assert in_order(names) == names
    mixed = [(("model.init_from", value),) for value in (8, "vit", 2)]
    assert in_order(mixed) == mixed
    lengths = [(("train.duration", f"{n} examples"),) for n in (40_000, 500_000, 100_000)]
    assert in_order(lengths) == [lengths[0], lengths[2], lengths[1]]
    assert in_order([()]) == [()]


def test_differences_are_paired_and_samplers_chosen_without_the_test_split(tmp_path):
    records = [
        record("smoothed", 0, 0.50, 1.0),
        record("smoothed", 1, 0.60, 1.2),
        record("softmax", 0, 0.40, 0.8),
        record("softmax", 1, 0.40, 0.8),
        record("unmatched", 0, 0.30, 1.0),
        record("unmatched_weak", 0, 0.20, 0.9),
        record("head", 0, 0.52, 0.7),
        record("head", 1, 0.63, 0.7),
        record("paper", 0, 0.5, 0.7),
    ]
    written = results.write(records, tmp_path)
    assert all(path.exists() for path in written)
    assert "difficulty.png" in {path.name for path in written}
    text = (tmp_path / "results.md").read_text()
    means, gaps = table(text, 0), table(text, 2)
    # head may choose: its second sampler, within two passes, is better on the held-out examples.
    assert means["**head**"]["sampler"] == "sampler 1, 1"
    assert means["**head**"]["top-1 %"] == "67.50 ± 5.50"
    # The paper's is reported by its first sampler, and beside it by the one that it would choose.
    assert means["paper"]["sampler"] == "sampler 0, 1"
    assert means["paper, chosen"]["sampler"] == "sampler 1, 1"
    # Against smoothed, the better classifier in top-1: +12 and +13 points, so 0.5 of error, and
    # on the examples they vary alike; Student's quantile for two seeds is 12.706.
    assert gaps["**head**"]["top-1 %, matched"] == "+12.50 ± 6.35"
    # Against softmax, the better one in NLL.
    assert gaps["**head**"]["NLL, matched"] == "-0.200 ± 0.000"
    assert gaps["smoothed"]["top-1 %, matched"] == ""
    assert gaps["paper"]["top-1 %, matched"] == "+0.00 ± 0.00"
    # Against the better of the paper's two, on the one seed that it has.
    assert gaps["**head**"]["top-1 %, paper's"] == "+32.00 ± 0.00"
    assert gaps["paper"]["NLL, paper's"] == "-0.200 ± 0.000"
    assert gaps["smoothed"]["NLL, paper's"] == "+0.100 ± 0.000"
    # The second sampler costs more than two passes.
    dear = [record("head", seed, 0.5, 0.7, passes=1.5) for seed in (0, 1)]
    results.write(dear, tmp_path)
    assert table((tmp_path / "results.md").read_text(), 0)["**head**"]["sampler"] == "sampler 0, 1"


@pytest.mark.parametrize(
    ("axis", "values", "drawn"),
    [
        ("duration", ["1e3 examples", "4000 examples", "200 examples"], True),
        ("label_noise", [0.0, 0.2, 0.4], True),
        ("label_noise", [0.0, 0.2], False),
        ("duration", ["10 steps", "1 epoch", "3 epochs"], False),
        ("parameterization", ["ratio", "bounded", "posterior"], False),
    ],
)
def test_curves_are_over_the_last_axis_if_it_is_one_of_numbers(tmp_path, axis, values, drawn):
    found = [record(m, 0, 0.4, 0.8, **{axis: v}) for v in values for m in ("softmax", "late")]
    written = {path.name for path in results.write(found, tmp_path)}
    assert ("curves.png" in written) == drawn


def test_what_is_stopped_is_held_against_what_is_stopped(tmp_path):
    records = [record("softmax", 0, 0.40, 0.9), record("paper", 0, 0.45, 0.8)]
    earlier = [record("softmax", 0, 0.44, 0.6), record("paper", 0, 0.43, 0.75)]
    for last, best in zip(records, earlier, strict=True):
        last["stopped"] = {"step": 2, "samplers": best["samplers"]}
    results.write([*records, record("unmatched", 0, 0.3, 1.0)], tmp_path)
    text = (tmp_path / "results.md").read_text()
    means, gaps = table(text, 0), table(text, 2)
    assert list(means) == [
        *("softmax", "softmax, stopped", "unmatched"),
        *("paper", "paper, chosen", "paper, stopped"),
    ]
    # The second sampler, at the earlier checkpoint.
    assert means["paper, stopped"]["sampler"] == "sampler 1, 1"
    assert means["paper, stopped"]["NLL"] == "0.650"
    assert gaps["paper"]["NLL, matched"].startswith("-0.100")
    assert gaps["paper"]["NLL, stopped"].startswith("+0.200")
    assert gaps["paper, stopped"]["NLL, stopped"].startswith("+0.050")
    assert gaps["softmax"]["top-1 %, stopped"].startswith("-4.00")
    assert gaps["softmax, stopped"]["top-1 %, stopped"] == ""
    results.write([record("softmax", 0, 0.40, 0.9)], tmp_path)
    assert "stopped" not in (tmp_path / "results.md").read_text().lower()


def test_every_sampler_stands_in_a_table(tmp_path):
    results.write([record("paper", 0, 0.5, 0.7), record("softmax", 0, 0.4, 0.8)], tmp_path)
    lines = (tmp_path / "samplers.md").read_text().splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[1:3] for row in found] == [
        ["softmax", "sampler 0"],
        ["paper", "sampler 0"],
        ["paper", "sampler 1"],
    ]
    assert found[2][5:7] == ["60.00", "0.600"]


def test_one_seed_has_the_error_of_its_test_examples(tmp_path):
    """Of 400 examples of which a model has 60 and the other 40 alone right, in 25 parts."""
    random = np.random.default_rng(0)
    ours, theirs = np.zeros((2, 400), bool)
    picked = random.permutation(400)[:100]
    ours[picked[:60]], theirs[picked[60:]] = True, True
    found = []
    for method, right in (("paper", ours), ("softmax", theirs)):
        probs = np.where(right[:, None], [0.8, 0.2], [0.3, 0.7]).astype(np.float32)
        scored = evaluation.outcomes(probs, np.zeros(400, np.int32))
        made = record(method, 0, right.mean(), 0.5)
        for sampler in made["samplers"]:
            sampler["test"]["top1"] = right.mean()
            sampler["left_out"] = evaluation.left_out(scored, 2)
        found.append(made)
    results.write(found, tmp_path)
    shown = table((tmp_path / "results.md").read_text(), 2)["paper"]["top-1 %, matched"]
    value, half = map(float, shown.split(" ± "))
    assert value == 5.0
    # The variance of a difference of paired shares: ((b + c)/n - ((b - c)/n)^2) / n.
    exact = 100 * stats.t.ppf(0.975, 24) * np.sqrt((0.25 - 0.05**2) / 400)
    assert abs(half / exact - 1) < 0.35  # 25 parts tell it to a seventh


def test_an_interval_over_seeds_and_examples_is_that_of_welch(tmp_path):
    """Two variances of few degrees of freedom are added, as those of his two samples are."""
    gaps, parts = [0.01, 0.03, 0.08], np.array([0.1, 0.104, 0.098, 0.1])
    found = []
    for seed, gap in enumerate(gaps):
        ours, theirs = record("paper", seed, 0.4 + gap, 1.0), record("softmax", seed, 0.4, 1.0)
        theirs["samplers"][0]["left_out"]["top1"] = [[0.0] * 4]
        for sampler in ours["samplers"]:
            sampler["left_out"]["top1"] = [list(parts)]
        found += [ours, theirs]
    results.write(found, tmp_path)
    shown = table((tmp_path / "results.md").read_text(), 2)["paper"]["top-1 %, matched"]
    # A jackknife's values, times one less than their number, are as a sample.
    welch = stats.ttest_ind(gaps, 3 * parts, equal_var=False).confidence_interval()
    assert shown == f"+4.00 ± {100 * (welch.high - welch.low) / 2:.2f}"


def test_a_gain_in_per_cent_knows_that_its_baseline_is_measured_too():
    """What scatters alike in both leaves their ratio as it is."""
    found = []
    for seed, nll in enumerate((1.0, 1.5, 1.1)):
        for method, share in (("paper", 0.8), ("softmax", 1.0)):
            made = record(method, seed, 0.4, share * nll)
            for sampler in made["samplers"]:
                sampler["test"]["nll"] = share * nll
                sampler["left_out"]["nll"] = [[share * x for x in (1.0, 1.2, 1.1, 1.3)]]
            found.append(made)
    softmax, paper = (row for row in rows_of(found, ()) if not row.free)
    gain = gain_of(paper, softmax, SHOWN[1])
    assert gain.value == pytest.approx(20)
    assert gain.half == pytest.approx(0, abs=1e-6)


def test_over_a_baseline_that_is_certain_and_right_there_is_no_gain_in_per_cent():
    found = [record("softmax", 0, 1.0, 0.0), record("late", 0, 0.9, 0.1)]
    softmax, late = rows_of(found, ())
    assert gain_of(late, softmax, SHOWN[1]) is None
    assert gain_of(late, softmax, SHOWN[0]).value == pytest.approx(0)


def test_a_gain_is_over_the_seeds_that_both_have(tmp_path):
    """Of a study that is cut short: the other seeds of a classifier neither divide nor choose."""
    found = [record("softmax", 0, 0.4, 1.0), record("softmax", 1, 0.4, 3.0)]
    found += [record("smoothed", 0, 0.4, 1.5), record("smoothed", 1, 0.4, 1.5)]
    found += [record("paper", 0, 0.4, 0.5)]
    rows = rows_of(found, ())
    (ours,) = (row for row in rows if row.method == "paper" and not row.free)
    nll = SHOWN[1]
    best = best_of(rows, ours.place, nll, MATCHED, ours.chosen)
    assert (best.method, list(best.chosen)) == ("softmax", [0])
    assert gain_of(ours, best, nll).value == pytest.approx(50)
    softmax = next(row for row in rows if row.method == "softmax")
    assert gain_of(ours, softmax, nll).value == pytest.approx(50)


def test_records_of_earlier_versions_have_the_error_of_their_seeds(tmp_path):
    pairs = [("softmax", 0.4), ("paper", 0.5)]
    old = [record(m, s, t + 0.01 * s * (m == "paper"), 1.0, left_out=False)
           for m, t in pairs for s in (0, 1)]  # fmt: skip
    results.write(old, tmp_path)
    gaps = table((tmp_path / "results.md").read_text(), 2)
    assert gaps["paper"]["top-1 %, matched"] == "+10.50 ± 6.35"
    results.write(old[::2], tmp_path)
    gaps = table((tmp_path / "results.md").read_text(), 2)
    assert gaps["paper"]["top-1 %, matched"] == "+10.00"


def test_an_axis_that_goes_with_another_is_no_coordinate(tmp_path):
    found = [
        record("softmax", 0, 0.4, 0.8, **{"resolution": size, "model.stem": stem, "data_ratio": r})
        for size, stem in ((8, "fine"), (16, "small"))
        for r in (1.0, 0.5)
    ]
    places = [coordinates.of(each["values"]) for each in found]
    assert coordinates.following(places) == {"model.stem"}
    assert coordinates.following(places[:2]) == set()
    results.write(found, tmp_path, coordinates.following(places))
    header = (tmp_path / "results.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[1:4]] == [
        *("resolution", "data_ratio", "method"),
    ]
    assert "model.stem" in (tmp_path / "results.csv").read_text()
