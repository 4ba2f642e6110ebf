"""What is said of a network."""

import json

from didicm_jax.demo import about
from didicm_jax.run import RunFolder
from didicm_jax.run.bundle import Bundle


def test_a_run_says_what_it_is_and_how_good(network, tmp_path):
    run = network()
    folder = RunFolder(tmp_path / "my run", run.config, run.description)
    folder.path.mkdir()
    first, second = about.sentences(run, folder)
    assert first == (
        "my run: didirn4 (didicm) trained on digits, 5 classes, images of 8x8, step 1,234."
    )
    assert second == "It has not been evaluated."
    record = {"top1": 0.95, "nll": 0.25, "ece": 0.04, "num_examples": 1000, "dataset": "digits"}
    record |= {"sampler": "cp", "integrator": "euler", "steps": 8, "step": 1000}
    folder.evaluation_file.write_text(json.dumps(record))
    assert about.sentences(run, folder)[1] == (
        "top-1 95.0 %, NLL 0.250, ECE 0.040 on 1,000 images of digits by cp euler in 8 steps, "
        "step 1,000."
    )
    # What a former version does not say.
    record |= {"label": "cp euler 4 views", "split": "train[90%:]", "examples": 1000}
    folder.evaluation_file.write_text(json.dumps(record))
    assert about.sentences(run, folder)[1].endswith(
        "on 1,000 images of digits, part train[90%:], of which 1,000 were asked for by cp euler 4 "
        "views in 8 steps, step 1,000."
    )


CARD = """---
model-index:
- name: five
  results:
  - task:
      type: image-classification
    dataset:
      type: digits
      name: digits
    metrics:
    - type: accuracy
      value: 0.9512
      name: top-1 accuracy
    - type: nll
      value: 0.25
      name: negative log-likelihood
---

# five
"""


def test_a_bundle_says_what_its_card_says(network, tmp_path):
    run = network()
    bundle = Bundle(run.config, run.description, run.variables, run.step, tmp_path / "five")
    bundle.path.mkdir()
    assert about.sentences(run, bundle)[1] == "It has not been evaluated."
    card = bundle.path / "README.md"
    card.write_text(CARD)
    first, second = about.sentences(run, bundle)
    assert first.startswith("five: didirn4 ")
    assert second == "top-1 accuracy 0.9512, negative log-likelihood 0.25 on digits."
    card.write_text(CARD.replace("name: digits\n", "name: digits\n      split: train\n"))
    assert about.sentences(run, bundle)[1].endswith("0.25 on digits, part train.")
    for broken in ("", "---\n- [\n---\n", "---\nmodel-index: []\n---\n"):
        card.write_text(broken)
        assert about.sentences(run, bundle)[1] == "It has not been evaluated."
