"""A run: its stages, what each reads and writes, and what is done again."""
