"""What a run's folder needs of a bucket of Google Cloud Storage, `gs://bucket/folder`.

The one room that knows the client of the store.
"""

from didicm_jax.bucket.claims import claim
from didicm_jax.bucket.store import (
    COMMITTED,
    Growing,
    holds,
    move,
    place,
    put,
    reachable,
    size,
    spool,
    tree,
    upload,
    writable,
)

__all__ = [
    "COMMITTED",
    "Growing",
    "claim",
    "holds",
    "move",
    "place",
    "put",
    "reachable",
    "size",
    "spool",
    "tree",
    "upload",
    "writable",
]
