"""What a bad disk does to a file, and a full one to whoever writes."""

import errno


def flip(path):
    """Changes one bit amid a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    """Leaves half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def full(*arguments, **options):
    """Stands in for whatever writes."""
    raise OSError(errno.ENOSPC, "No space left on device")
