"""Pages that need nothing else: one HTML file each, its style, script and pictures inside.

Text is escaped wherever it comes from: names of classes and files may hold anything.
"""

from didicm_jax.pages.page import Cell, Figure, Table, figure, write
from didicm_jax.pages.pictures import Picture, picture
from didicm_jax.pages.refinement import Refinement, refinement

__all__ = [
    "Cell",
    "Figure",
    "Picture",
    "Refinement",
    "Table",
    "figure",
    "picture",
    "refinement",
    "write",
]
