"""Readers of data files: where a source lies, in which format, and its rows as a table of columns."""
