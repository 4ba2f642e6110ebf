"""The one exception that speaks to the user rather than to the programmer."""


class UserError(ValueError):
    """A mistake in what the user gave: a config value, a file, a folder, a flag.

    Its message is a single line that says what was expected, what was found and what to do.
    `launch/` prints that line and exits non-zero; a caller of the library can catch it as a
    `ValueError`.
    """
