"""Arrow columns: tables from Parquet files and from data sets of `datasets`."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hpo.data.readers.table import Cells, Table
from hpo.errors import DataError


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; columns that `datasets` wrote as class labels become the names of the labels.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
    """
    pyarrow, parquet = import_optional("pyarrow", str(path)), import_optional("pyarrow.parquet", str(path))
    try:
        with path.open("rb") as stream:
            content = parquet.ParquetFile(stream).read()
    except (OSError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        raise DataError(f"{path} is cut short, damaged or no Parquet file; write or copy it again.") from None
    features = _features(str(path), content.schema)
    return arrow_table(str(path), content.column_names, content.num_rows, content.column, features)


def _features(source: str, schema: Any) -> Mapping[str, Any]:
    """Return the features that `datasets` recorded in the file, if it wrote it."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    try:
        features: Mapping[str, Any] = import_optional("datasets", source).Features.from_arrow_schema(schema)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{source} says of its columns what the installed datasets does not understand ({error}); install the "
            "version that wrote it, or write it again."
        ) from None
    return features


def arrow_table(
    source: str, names: Sequence[str], rows: int, column: Callable[[str], Any], features: Mapping[str, Any]
) -> Table:
    """Make a table of Arrow columns.

    Args:
        source: their source, as the user names it.
        names: of the columns.
        rows: number of rows.
        column: from a name to a `pyarrow.ChunkedArray`.
        features: name -> feature of `datasets`, where known.

    Raises:
        DataError: no rows; or, when cells are read, a column of bytes, images or lists of such.
    """

    def cells(name: str) -> Cells:
        array = column(name)
        _refuse_nested(source, name, array.type)
        written = _cells_of(array)
        feature = features.get(name)
        if inner := getattr(getattr(feature, "feature", None), "names", None):
            return [_class_names(source, name, inner, cell) if isinstance(cell, list) else cell for cell in written]
        classes = getattr(feature, "names", None)
        return _class_names(source, name, classes, written) if classes else written

    return Table(source=source, names=tuple(names), rows=rows, column=cells)


def import_optional(module: str, source: str) -> Any:
    """Import a module of the extra `datasets`.

    Raises:
        DataError: it is not installed, so `source` cannot be read.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise DataError(
            f"Reading {source} needs the package {package!r}, which is not installed; run "
            "`pip install 'llm-hpo[datasets]'`."
        ) from None


def _refuse_nested(source: str, name: str, kind: Any) -> None:
    types = import_module("pyarrow").types
    value = kind.value_type if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) else kind
    allowed = (
        types.is_primitive, types.is_string, types.is_large_string, types.is_string_view, types.is_decimal,
        types.is_null,
    )  # fmt: skip
    if not any(is_such(value) for is_such in allowed):
        raise DataError(
            f"Column {name!r} of {source} holds {kind}; a text, a label or a group is one string or number a row."
        )


def _cells_of(array: Any) -> Cells:
    try:
        cells: Cells = array.to_pylist()
    except UnicodeDecodeError:  # a writer may declare any bytes a string
        bytes_of_cells = array.cast(import_module("pyarrow").large_binary()).to_pylist()
        return [cell if cell is None else cell.decode(errors="surrogateescape") for cell in bytes_of_cells]
    return cells


def _class_names(source: str, name: str, classes: Sequence[str], numbers: Sequence[Any]) -> Cells:
    """Return the name of each class number; -1, as `datasets` writes it, means no label."""
    unnamed = next((number for number in numbers if number is not None and number >= len(classes)), None)
    if unnamed is not None:
        raise DataError(
            f"Column {name!r} of {source} holds class {unnamed}, but names classes 0 to {len(classes) - 1} only; write "
            "it again with a name for each class."
        )
    return [None if number is None or number < 0 else classes[number] for number in numbers]
