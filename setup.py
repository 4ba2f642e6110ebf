"""Packaging; the settings of the tools are in `pyproject.toml`."""

from setuptools import find_packages, setup

setup(
    name="didicm-jax",
    packages=find_packages(include=["didicm_jax", "didicm_jax.*"]),
)
