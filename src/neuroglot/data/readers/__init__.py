"""Readers: each turns one published layout into examples.

A reader yields the position of a record, and an example or the record's error. The position is the line of a file that
is read line by line, otherwise the number of the record (counted over all files if there are several; the error then
begins with file and line). It never falls, and all examples of one record share it, of several languages or tasks. A
record with an error yields no example. An error of the whole source is raised: a missing file, files that are not
aligned, a missing column.

Memory does not grow with the source. Images are not opened; `check_records` does that. A reader's changes to a text
are noted in the example's `meta`, and `neuroglot data check` shows them.
"""

from __future__ import annotations

from neuroglot.data.readers.checked import Bad, allow, check_records
from neuroglot.data.readers.layout import Layout, Reader, Record
from neuroglot.data.readers.records import read_jsonl, read_records
from neuroglot.data.readers.registry import READERS, guess_format, read_source

__all__ = [
    "READERS",
    "Bad",
    "Layout",
    "Reader",
    "Record",
    "allow",
    "check_records",
    "guess_format",
    "read_jsonl",
    "read_records",
    "read_source",
]
