"""Weights of PyTorch: their names, their files, runs made of them."""
