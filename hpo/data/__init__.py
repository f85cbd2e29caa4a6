"""Data: from rows of a source to batches: source -> table -> columns -> examples -> splits -> tokens -> batches.

`readers.locations` finds a source and reads it into a table; `columns` finds its text and label columns, and `sources`
turns its rows into clean examples. `labels` defines the labels of each task. `splits` makes training, validation and
test splits, and folds, with the help of `label_checks` (rare labels), `stratify` (stratification) and `groups` (rows
that stay together). `tokenization` tokenizes the texts once, `augmentation` changes training rows, and `batching` pads
rows to batches.

To add a file format, write a function from a path to a `Table`, register its ending in `readers.formats.FORMATS`, and
add the hostile table in that format to `KNOWN_ANSWERS` of `tests/data/test_data_formats.py`.
"""
