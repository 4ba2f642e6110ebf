"""What `main.py` does besides training, one module a mode."""
