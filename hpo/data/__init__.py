"""From the user's files to batches of tokens.

`formats` reads a file into columns, `columns` finds text and label among them, `sources` cleans the rows,
`splits` makes training, validation and test, `tokenization` turns texts into tokens once, `batching` lays
rows side by side.

To add a file format: a reader in `formats.py` that returns a `Table`, its ending in `FORMATS`, and a hostile
file of that format in `tests/data/test_data_formats.py`.
"""
