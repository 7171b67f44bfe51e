"""Layouts of several files whose lines belong together: line 7 of one translates line 7 of the other."""
