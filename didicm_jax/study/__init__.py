"""The parts of `launch/study.py`."""
