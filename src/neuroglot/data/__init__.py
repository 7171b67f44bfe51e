"""Examples: read, generated, rendered, turned into batches."""
