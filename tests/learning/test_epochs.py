"""Training for a number of passes over the prompts. The toy has six prompts, rounds of four, updates of 2 of 6 rows."""

import pytest
from toy_training import Toy, run

from lpobench.learning.train import EmptyRounds


@pytest.mark.parametrize(("epochs", "rounds"), [(1, 2), (2, 3), (4, 6)])
def test_training_ends_with_the_round_in_which_the_epochs_end(tmp_path, epochs, rounds):
    """6, 12 and 24 prompts are 2, 3 and 6 rounds of four, each of three updates."""
    result = run(tmp_path, num_updates=100, epochs=epochs).result
    assert (result.rounds, result.updates) == (rounds, 3 * rounds)


def test_updates_that_come_first_end_it(tmp_path):
    assert run(tmp_path, num_updates=4, epochs=2).result.updates == 4


def test_a_finished_training_is_not_resumed(tmp_path):
    first = run(tmp_path, num_updates=100, epochs=1)
    again = run(tmp_path, num_updates=100, epochs=1)
    assert again.result.resumed_from == first.result.updates == 6
    assert again.policy.seen == []


def test_epochs_without_rows_end_with_a_clear_error(tmp_path):
    with pytest.raises(EmptyRounds, match="no round of 2 epochs gave rows to train on"):
        run(tmp_path, Toy(num_rows=0), epochs=2)
