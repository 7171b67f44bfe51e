"""An adapter's files, apart from any model: read, checked and written, grown by a pair, exported as LoRA."""
