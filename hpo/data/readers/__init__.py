"""Readers of data files: location and format of a source, and its rows as a table of columns."""
