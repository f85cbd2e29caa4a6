"""From the user's texts to batches of tokens.

`locations` finds a source: files, which `formats` reads by their ending (`delimited`, `json_lines`, `arrow`, opened by
`archives`), or a data set that `hub` loads. Each becomes a `table`; `columns` finds text and label in it, `sources`
cleans the rows. `splits` makes training, validation and test, kept `apart`, `groups` whole, or `folds`; `tokenization`
turns texts into tokens once, `augmentation` varies them, `batching` lays rows side by side.

To add a file format: a function from a path to a `Table`, its ending in `formats.FORMATS`, and how the hostile table
is written in it in `KNOWN_ANSWERS` of `tests/data/test_data_formats.py`.
"""
