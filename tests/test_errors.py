"""What a user reads of a mistake."""

from didicm_jax.errors import UserError


def test_a_message_is_one_line_whatever_it_quotes():
    error = UserError("run\nA: expected a folder,\r\nfound a  file", about="work\ndir")
    assert str(error) == "work dir: run A: expected a folder, found a  file"
    assert error.message == "run A: expected a folder, found a  file"
