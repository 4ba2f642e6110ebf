"""The one exception that speaks to the user rather than to the programmer."""


class UserError(ValueError):
    """A mistake in what the user gave: a config value, a file, a folder, a flag.

    Its message is a single line that says what was expected, what was found and what to do. A
    command prints that line and exits non-zero; a caller of the library can catch it as a
    `ValueError`.
    """

    def __init__(self, message: str, *, about: str = "") -> None:
        """Takes the message, and the name of the thing or the argument that it is `about`.

        The name stands before the message. It is kept apart because a command line puts the flag in
        its place (`cli.command_line.flagged`).
        """
        # Names of files and errors of libraries, which it may quote, have line breaks.
        self.message, self.about = (" ".join(each.splitlines()) for each in (message, about))
        super().__init__(f"{self.about}: {self.message}" if about else self.message)


def first_line(error: BaseException) -> str:
    """What an error of another library says, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
