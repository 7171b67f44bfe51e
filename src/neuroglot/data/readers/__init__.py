"""Readers: each turns one published layout into examples."""

from neuroglot.data.readers.jsonl import read_jsonl

__all__ = ["read_jsonl"]
