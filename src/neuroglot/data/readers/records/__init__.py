"""Layouts that hold one record a line, an array element, or a row of a table."""
