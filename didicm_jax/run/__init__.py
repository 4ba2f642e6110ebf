"""A folder of a run: its config, its checkpoints, its journal."""
