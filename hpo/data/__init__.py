"""Data: from rows of a source to batches: source -> table -> columns -> examples -> splits -> tokens -> batches.

`readers.locations` finds a source and reads it into a table; `columns` finds text and label in it, and `sources` makes
clean examples of its rows. `labels` says what a label means in each task. `splits` makes training, validation
and test, and folds: `label_checks` drops, merges or refuses, `stratify` divides, `groups` keeps rows together and
splits apart. `tokenization` makes tokens of texts once, `augmentation` varies them, and
`batching` pads rows to batches.

To add a file format: a function from a path to a `Table`, its ending in `readers.formats.FORMATS`, and how the hostile
table is written in it in `KNOWN_ANSWERS` of `tests/data/test_data_formats.py`.
"""
