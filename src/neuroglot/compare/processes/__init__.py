"""Cells in processes of their own."""
