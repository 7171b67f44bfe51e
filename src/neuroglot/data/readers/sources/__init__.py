"""Sources of records, whatever they are of: files of text, tables, several files as one."""
