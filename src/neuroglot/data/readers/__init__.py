"""Readers: each turns one published layout into examples.

A reader yields, as it goes, where a record is and an example, or what is wrong with the record. The place is the line
of a file that is read line by line, the number of the record otherwise (over all files, where there are several; the
reason then begins with file and line). It never falls, and all examples of one record share it: those of several
languages, or of several tasks. Nothing of a record that is wrong is yielded. What is wrong with a source as a whole is
raised: a missing file, files that are not aligned, a missing column.

Memory does not grow with the source. Images are not opened; `check_records` does that. What a reader changed in a text
is kept in the example's `meta`, and `neuroglot data check` shows it.
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
