"""What may fail when a training begins, and what the other processes then do."""

import digits as digits_config
import pytest

from didicm_jax.errors import UserError
from didicm_jax.parallel import processes
from didicm_jax.run import RunFolder, journal
from didicm_jax.training import loop, plan


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Trains a ViT of one block, up to its reports."""
    config = digits_config.get_config()
    config.model.update(name="didivit_ti4", width=0.3333, depth=1, stem="didirn")
    config.data.train_examples = 100
    config.train.update(batch_size=16, duration="1 step")
    config.optimizer.warmup = "0 steps"
    run = plan.make_plan(config)
    folder = RunFolder.claim(tmp_path / "run", config, run.description)
    monkeypatch.setattr(plan.Plan, "new_state", lambda self: None)  # which nothing asks for yet
    return lambda: loop.train(run, folder)


def test_reports_that_cannot_begin_leave_no_other_process_waiting(begin, told, monkeypatch):
    """Process 0 alone asks Weights & Biases, which may not know it."""

    def refuse(*arguments, **more):
        raise UserError("expected Weights & Biases to begin, found no API key")

    monkeypatch.setattr(journal, "Reporter", refuse)
    with pytest.raises(UserError, match="no API key"):
        begin()
    assert told[-1]


def test_a_process_that_reports_nothing_does_not_train_without_the_one_that_does(
    begin, monkeypatch
):
    def reported(*arguments, **more):
        # What process 0 tells this one from here on.
        monkeypatch.setattr(processes, "any_process", lambda flag: True)
        return real(*arguments, **more)

    real = journal.Reporter
    monkeypatch.setattr(journal, "Reporter", reported)
    with pytest.raises(UserError, match="expected process 0 to do its part, found that it failed"):
        begin()
