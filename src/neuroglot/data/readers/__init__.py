"""Readers: each turns one published layout into examples."""

from neuroglot.data.readers.checked import Bad, allow, check_records
from neuroglot.data.readers.jsonl import read_jsonl, read_records

__all__ = ["Bad", "allow", "check_records", "read_jsonl", "read_records"]
