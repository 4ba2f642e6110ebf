"""A run to a folder for the Hub, and what can be done with that."""

import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml
from absl import flags
from safetensors.numpy import load_file

from didicm_jax import config as configuration
from didicm_jax.cli import command_line
from didicm_jax.cli import convert as entry_point
from didicm_jax.cli.beginning import Beginning
from didicm_jax.cli.card import Facts, write
from didicm_jax.inference import sweep
from didicm_jax.inference.predictor import Predictor
from didicm_jax.run import Description, RunFolder, bundle
from tests.cli.looking import one_line, table
from tests.cli.running import DIGITS, ROOT, SMALL


@pytest.fixture(scope="module")
def convert():
    """`launch/convert.py`'s `main` without the program's name."""
    return lambda *arguments: entry_point.main(["convert.py", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(convert, run, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "tiny"
    given = ["--license=apache-2.0", "--dataset=somebody/digits", DIGITS, *SMALL[:2]]
    assert convert(f"--workdir={run}", f"--hub={path}", *given) == 0
    return path


def card(folder):
    """Metadata and text."""
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def commands(text):
    """The words of each command of a card, without what starts it."""
    found = re.findall(r"```sh\npython launch/main\.py (.*?)\n```", text, re.DOTALL)
    return [shlex.split(each.replace("\\\n", "")) for each in found]


def config_of(words):
    """What the words of a training command give, as `launch/main.py` reads them."""
    words = ["main.py", *words]
    values = command_line.new_flags(words, "")
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    found = command_line.parse(values, words)
    assert values.workdir == "RUN"
    return found


def figures_of(made, evaluation, trained=None):
    """Metadata and text of the card with another record of an evaluation."""
    facts = Facts(made, "float32", "latest", evaluation, None, None, None)
    _, metadata, text = write(trained or bundle.find(made), facts).split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_card_says_what_the_run_knows(made, run):
    metadata, text = card(made)
    evaluated = json.loads((run / "evaluation.json").read_text())
    assert metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == ["somebody/digits"]
    assert metadata["library_name"] == "didicm-jax"
    assert metadata["pipeline_tag"] == "image-classification"
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(evaluated["top1"], 4)
    low, high = evaluated["intervals"]["top1"]
    figures = f"{100 * evaluated['top1']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    assert figures in text
    assert "On 360 images of `somebody/digits`, part `test`, with" in text
    assert "--mode=evaluate --pretrained=tiny\n" in text  # digits are in no folder
    assert "chosen by its top-1" not in text


def test_the_command_of_the_card_gives_the_config_of_the_run(made, run):
    """What it begins with, and what differs from that: together all that was given."""
    assert {*commands(card(made)[1])[0]} == {*SMALL, DIGITS, "--workdir=RUN"}


@pytest.mark.parametrize(
    "given",
    [
        ["--config", DIGITS.removeprefix("--config=")],
        [DIGITS.removeprefix("-")],
        [DIGITS, "--noconfig.diffusion.stratified", "--config.train.duration", "60 steps"],
    ],
    ids=["two words", "one dash", "a switch and a value in two words"],
)
def test_the_command_of_the_card_is_whole_however_the_config_is_named(
    convert, run, tmp_path, given
):
    assert convert(f"--workdir={run}", f"--hub={tmp_path / 'net'}", *given) == 0
    found = config_of(commands(card(tmp_path / "net")[1])[0])
    assert configuration.differences(found, RunFolder.open(run).config) == {}


@pytest.mark.parametrize("name", bundle.names())
def test_the_training_command_of_a_packaged_card_is_true(name, monkeypatch):
    """It is accepted, gives the config of the network, and has all that is written today."""
    monkeypatch.chdir(ROOT)  # where config files are named from
    words = commands(card(bundle.PRETRAINED / name)[1])[0]
    found, trained = config_of(words), bundle.find(name)
    configuration.validate(found)
    assert [*configuration.differences(found, trained.config)] == ["data.data_dir"]
    assert found.data.data_dir == "DATA"
    start = words[0].removeprefix("--config=")
    began = Beginning(start, config_of([words[0], "--workdir=RUN"]))
    text = write(trained, Facts(trained.path, "bfloat16", "latest", None, None, None, began))
    assert {*commands(text)[0]} <= {*words}  # defaults have changed since


def test_the_hubs_own_library_reads_the_card(made):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(made / "README.md").data
    assert [each.metric_type for each in data.eval_results] == ["accuracy", "nll", "ece"]
    assert (data.model_name, data.license) == ("tiny", "apache-2.0")


def test_prediction_without_a_run(main, made, run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [f"--images={folder / 'digit0.png'}", "--max_figures=0"]
    assert main("--mode=predict", f"--pretrained={made}", *given) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions"]
    (row,) = table(tmp_path / "predictions" / "predictions.csv")
    expected = Predictor.from_workdir(run)([folder / "digit0.png"])
    np.testing.assert_array_equal(
        np.float32([row[name] for name in map(str, range(10))]), expected.probs[0]
    )


def test_the_figures_of_the_card_are_found_again(main, made, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("--mode=evaluate", f"--pretrained={made}") == 0
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    wanted = json.loads((run / "evaluation.json").read_text())
    assert (found["top1"], found["step"]) == (wanted["top1"], wanted["step"])
    np.testing.assert_allclose(found["nll"], wanted["nll"], rtol=1e-5)


def test_a_run_is_made_of_it(convert, made, run, tmp_path):
    workdir = tmp_path / "again"
    assert convert(f"--pretrained={made}", f"--workdir={workdir}") == 0
    ours, theirs = (RunFolder.open(folder) for folder in (workdir, run))
    unknown = {"trained_on": "", "judged_on": ""}
    assert ours.description == dataclasses.replace(theirs.description, **unknown)
    # To train on with other images of these classes.
    mine = dataclasses.replace(theirs.description, trained_on="the digest of others")
    assert RunFolder.claim(workdir, ours.config, mine).description == mine
    path = tmp_path / "net"
    assert convert(f"--workdir={workdir}", f"--hub={path}") == 0
    for name, array in load_file(made / "model.safetensors").items():
        np.testing.assert_array_equal(load_file(path / "model.safetensors")[name], array)
    metadata, text = card(path)
    assert "model-index" not in metadata  # the new run was not evaluated
    assert "license" not in metadata
    assert "have not been evaluated" in text
    assert "how they were trained is not known here" in text


def test_sampler_and_dtype_are_chosen(convert, run, tmp_path):
    """What was measured with another sampler comes with the flags that give it."""
    path = tmp_path / "net"
    given = ["--sampler=one_shot", "--dtype=bfloat16"]
    assert convert(f"--workdir={run}", f"--hub={path}", *given) == 0
    stored = json.loads((path / "config.json").read_text())["config"]["sampler"]
    assert (stored["name"], stored["steps"]) == ("one_shot", 8)  # which it does not read
    dtypes = {array.dtype.name for array in load_file(path / "model.safetensors").values()}
    assert dtypes == {"float32", "bfloat16"}
    command = re.search(r"--mode=evaluate .*", card(path)[1])[0].split()
    assert {"--sampler=cp", "--integrator=exact", "--query=min", "--steps=2"} <= {*command}
    assert "before the kernels became bfloat16" in card(path)[1]


def test_the_command_of_a_classifiers_card_finds_its_figures(
    main, convert, classifier, tmp_path, monkeypatch
):
    """It has no sampler to name."""
    monkeypatch.chdir(tmp_path)
    assert convert(f"--workdir={classifier}", "--hub=net") == 0
    (words,) = commands(card(tmp_path / "net")[1])
    assert words == ["--mode=evaluate", "--pretrained=net"]
    assert main(*words) == 0
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert found["top1"] == json.loads((classifier / "evaluation.json").read_text())["top1"]


def test_the_card_tells_samplers_apart(made, run):
    record = json.loads((run / "evaluation.json").read_text())
    config = bundle.find(made).config
    found = sweep.variations(config, {"temperature": [1.0, 1.75], "steps": [2]})
    plain, scaled = (
        record["samplers"][0] | sweep.describe(each) | {"label": sweep.label(each), "top1": top1}
        for each, top1 in zip(found, (0.25, 0.5), strict=True)
    )
    metadata, text = figures_of(made, record | scaled | {"samplers": [plain, scaled]})
    assert "\n| cp exact                  | 2 " in text
    assert "\n| cp exact temperature 1.75 | 2 " in text
    assert "The last row is found again by" in text
    assert commands(text)[0][2:] == ["--temperature=1.75"]
    # Programs get the figures of the network as it is, or are told of what else they are.
    (top1, *_) = metadata["model-index"][0]["results"][0]["metrics"]
    assert (top1["value"], top1["name"]) == (0.25, "top-1 accuracy")
    metadata, text = figures_of(made, record | scaled | {"samplers": [scaled]})
    (top1, *_) = metadata["model-index"][0]["results"][0]["metrics"]
    said = "top-1 accuracy, by cp exact temperature 1.75 in 2 steps"
    assert (top1["value"], top1["name"]) == (0.5, said)
    assert "\n\nFound again by\n" in text


def test_the_card_says_which_images_its_figures_are_of(made, run):
    record = json.loads((run / "evaluation.json").read_text())
    images = {"dataset": "digits", "split": "train", "examples": 60, "num_examples": 60}
    metadata, text = figures_of(made, record | images)
    assert "On 60 images of `digits`, part `train`, of which 60 were asked for, with" in text
    assert commands(text)[0][2:] == ["--split=train", "--examples=60"]
    dataset = metadata["model-index"][0]["results"][0]["dataset"]
    assert (dataset["split"], dataset["args"]) == ("train", {"examples": 60})
    # What is evaluated on anyway need not be named.
    assert commands(figures_of(made, record | {"split": "test"})[1])[0][2:] == []
    # The part that a stored set has for it is the one without a name.
    other = {"dataset": "birds", "split": ""}
    assert commands(figures_of(made, record | other)[1])[0][2:] == [
        *("--dataset=birds", "--data_dir=DATA")
    ]


def test_the_command_of_a_card_finds_the_images_again(main, convert, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = shutil.copytree(run, "run", ignore=shutil.ignore_patterns("compilation_cache"))
    given = ["--split=train", "--examples=60"]
    assert main("--mode=evaluate", f"--workdir={workdir}", *given) == 0
    assert convert(f"--workdir={workdir}", "--hub=net") == 0
    (words,) = commands(card(tmp_path / "net")[1])
    assert main(*words) == 0
    ours, theirs = (
        np.load(folder / "predictions.npz")["ids"].tolist()
        for folder in (tmp_path / "run", tmp_path / "evaluation")
    )
    assert ours == theirs
    assert len(ours) == 60
    metadata, _ = card(tmp_path / "net")
    assert metadata["model-index"][0]["results"][0]["dataset"]["split"] == "train"


def test_the_card_of_a_former_versions_record(made, run):
    """Which knows neither the part of the data nor the name of the sampler."""
    record = json.loads((run / "evaluation.json").read_text())
    younger = ("split", "examples", "label", "views", "temperature")
    record = {key: value for key, value in record.items() if key not in younger}
    record["samplers"] = [
        {key: value for key, value in each.items() if key not in younger}
        for each in record["samplers"]
    ]
    metadata, text = figures_of(made, record)
    assert "On 360 images of `digits`, with bootstrap" in text
    assert "\n| cp exact  | 2 " in text
    result = metadata["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "digits", "name": "digits"}
    assert result["metrics"][0]["name"] == "top-1 accuracy"


def test_the_card_of_weights_from_elsewhere_claims_no_training(made, run):
    """A run that was made of them stands at step 0, with settings that nobody has trained by."""
    trained = dataclasses.replace(bundle.find(made), step=0)
    evaluated = json.loads((run / "evaluation.json").read_text()) | {"step": 0}
    base = Beginning("configs/digits.py", configuration.default())
    facts = Facts(made, "float32", "latest", evaluated, None, None, base)
    text = write(trained, facts)
    assert "how they were trained is not known here" in text
    for claim in ("trained on its part", "of a training of", "the training is", "one training"):
        assert claim not in text
        assert claim in write(dataclasses.replace(trained, step=1), facts)
    assert len(commands(text)) == 1  # that of the evaluation
    unknown = dataclasses.replace(trained, step=1)  # its config file is not, as in older runs
    assert "config.model.width=0.0625\n" in write(unknown, facts._replace(began=None))


def test_the_card_of_photos_of_many_classes(made, run):
    trained = bundle.find(made)
    described = Description(tuple(map(str, range(1000))), (224, 224, 3))
    config = trained.config.copy_and_resolve_references()
    config.data.update({"name": "imagenet2012", "train_examples": 0, "data_ratio": 0.25})
    facts = Facts(
        folder=bundle.PRETRAINED / "photos",
        dtype="float32",
        checkpoint="best",
        evaluation=json.loads((run / "evaluation.json").read_text()) | {"dataset": "other"},
        license=None,
        dataset="somebody/photos",
        began=None,
    )
    text = write(dataclasses.replace(trained, config=config, description=described), facts)
    assert "18, 19, and 980 more (`config.json`)." in text
    assert "part `train`, 0.25 of its images" in text
    assert "--pretrained=photos --dataset=other --data_dir=DATA --split=test\n" in text
    assert 'from_pretrained("photos")  # comes with the package' in text
    assert "chosen by its top-1" in text
    assert "type: other\n      name: other" in text  # figures of another data set
    assert "float32" not in text


def test_the_card_shows_names_of_classes_as_they_are():
    """In Markdown `_silence_` is slanted, without its dashes, and `<unknown>` nothing at all."""
    trained = bundle.find("cifar10")
    described = Description(("_silence_", "<unknown>", "T-shirt/top"), (32, 32, 3))
    facts = Facts(trained.path, "float32", "latest", None, None, None, None)
    text = write(dataclasses.replace(trained, description=described), facts)
    assert r"Classes: \_silence\_, \<unknown>, T-shirt/top." in text


def test_the_card_names_no_folder_of_the_machine(made):
    trained = bundle.find(made)
    config = trained.config.copy_and_resolve_references()
    config.model.init_from = "/home/somebody/run"
    config.evaluation.sets = ("a=test", "b=test of idx in /home/somebody")
    trained = dataclasses.replace(trained, config=config)
    for began in (None, Beginning("configs/digits.py", configuration.default())):
        text = write(trained, Facts(made, "float32", "latest", None, None, None, began))
        assert "somebody" not in text
        assert "config.evaluation.sets=('a=test',)" in text.replace("'\"'\"'", "'")
        assert ", seed 0, from the weights of another network. " in text


def test_the_card_of_a_namesake_of_a_packaged_network(made, run):
    """Its commands are of the folder beside them."""
    record = json.loads((run / "evaluation.json").read_text())
    for folder, source in ((made.with_name("cifar10"), "./cifar10"), (made, "tiny")):
        _, text = figures_of(folder, record, bundle.find(made))
        assert f"\n# {folder.name}\n" in text
        assert f'from_pretrained("{source}")' in text
        assert commands(text)[0][:2] == ["--mode=evaluate", f"--pretrained={source}"]


def test_mistakes_are_one_line_and_leave_nothing(
    main, convert, made, run, folder, tmp_path, capsys
):
    new = tmp_path / "new"
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged, ignore=shutil.ignore_patterns("compilation_cache"))
    record = json.loads((run / "evaluation.json").read_text())
    (damaged / "evaluation.json").write_text(json.dumps({"step": record["step"]}))
    converted = [
        ([f"--workdir={run}", f"--hub={made}"], "--hub: expected a new folder"),
        ([f"--workdir={run}", f"--hub={new}", "--steps=1,2"], "--hub: expected one sampler"),
        ([f"--workdir={run}", f"--hub={new}", "--weights=raw"], "--weights: expected with --torch"),
        ([f"--workdir={run}", f"--hub={new}", "--torch=x"], "found --torch and --hub; give one"),
        ([f"--workdir={damaged}", f"--hub={new}"], "expected the record of an evaluation"),
        ([f"--pretrained={made}", f"--workdir={run}"], "--workdir: expected a new folder"),
        ([f"--pretrained={tmp_path / 'no'}", f"--workdir={new}"], "--pretrained: expected a net"),
        ([f"--pretrained={made}", f"--workdir={new}", "--dtype=float32"], "--dtype: expected with"),
    ]
    for given, message in converted:
        assert convert(*given) == 2
        assert message in one_line(capsys)
    images = "--images=x.png"
    called = [
        (["--mode=predict", "--pretrained=no", images], "--pretrained: expected a network of this"),
        (["--mode=train", f"--pretrained={made}"], "with --mode=evaluate or predict, found"),
        (["--mode=predict", f"--pretrained={made}", f"--workdir={run}"], "--workdir: expected wi"),
        (["--mode=predict", f"--pretrained={made}", "--checkpoint=best"], "--checkpoint: expect"),
        (
            ["--mode=predict", f"--pretrained={made}", f"--images={folder}", "--steps=1,2"],
            "one sampler",
        ),
        (["--mode=predict", f"--pretrained={made}", DIGITS], "--config: expected without"),
        (["--mode=predict", f"--workdir={made}", images], f"--workdir: expected a run in {made},"),
        (["--mode=predict", f"--pretrained={run}", images], "--pretrained: expected a network wi"),
        (["--mode=evaluate", f"--pretrained={made}", "--data_dir=x"], "--data_dir: expected its"),
    ]
    for given, message in called:
        assert main(*given) == 2
        assert message in one_line(capsys)
    assert not new.exists()
