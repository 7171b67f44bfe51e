"""The second task: words with two readings, the pictures that decide, and the examples made of both."""
