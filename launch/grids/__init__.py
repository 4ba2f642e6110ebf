"""The parts of `launch/grid.py`."""
