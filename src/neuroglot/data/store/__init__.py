"""A source read once: its records where they take no memory, and beside them a few tens of bytes each to choose by.

A record is a line of JSON (and the bytes of its images, where it holds any) in a file that is read at random places.
Of every record an array holds where it is, its line in the source, task and pair, split, and hashes of its item, its
images and its text. What is small stays in memory; what is not goes to a cache folder, `NEUROGLOT_CACHE` or the user's
own, one file a source, which is made again when the source changes.
"""

from __future__ import annotations

from neuroglot.data.store.cache import open_store
from neuroglot.data.store.records import SPLITS, Store, cache_folder
from neuroglot.data.store.view import View, first_of_each, viewed
from neuroglot.data.store.writing import held

__all__ = ["SPLITS", "Store", "View", "cache_folder", "first_of_each", "held", "open_store", "viewed"]
