"""What a run keeps in its folder: files of one process at a time, and records of what each stage was made from."""
