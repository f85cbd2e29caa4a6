"""Export: `hpo export` writes the recommended configuration for hpo, for people, and for other trainers."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from hpo.cli import options
from hpo.errors import ConfigurationError

ENDINGS = {
    "yaml": (".yaml", ".yml"), "json": (".json",), "training-arguments": (".json",), "python": (".py",),
    "peft": (".py",),
}  # fmt: skip
"""Format -> endings of its files."""
BY_ENDING = {"": "yaml", ".json": "json"} | {one: name for name in ("yaml", "python") for one in ENDINGS[name]}
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH=VALUE]...", help="Places of model and examples on this machine: data.train=FILE."),
]
Trial = Annotated[
    int | None,
    typer.Option("--trial", min=0, help="A completed trial; default: the recommended one, or else the best."),
]
Format = Annotated[str | None, options.choice("--format", tuple(ENDINGS), "Default: by the ending of --output.")]


class _File(NamedTuple):
    """A file to write."""

    text: str
    begins: str
    """Text that every file of this kind begins with."""
    ending: str = ""
    """Ending that replaces that of --output; empty to keep it."""


def export(
    overrides: Overrides = None,
    study: options.Study = None,
    store: options.Store = None,
    trial: Trial = None,
    format_: Format = None,
    output: options.Output = None,
) -> None:
    """Write the recommended configuration to a file, or to standard output without --output."""
    from hpo.config.loading import apply_override
    from hpo.config.parsing import read_model
    from hpo.export.configs import configuration_of, stored_verdict
    from hpo.export.exported_file import MOVABLE, Exported
    from hpo.export.writing import check_writable, write_text
    from hpo.store.results import read_search

    format_ = _format(output, format_)
    with options.opened(store) as database:
        results = read_search(database, study)
    content = configuration_of(results, stored_verdict(results), trial)
    for override in overrides or ():
        apply_override(content, override, MOVABLE)
    if overrides:
        read_model(Exported, content, "the configuration")
    files, notes = _files(content, format_)
    if output is None:
        typer.echo(files[0].text, nl=False)
    else:
        paths = [output.with_suffix(file.ending) if file.ending else output for file in files]
        for path, file in zip(paths, files, strict=True):
            check_writable(path, file.begins, store or options.DEFAULT_STORE)
        for path, file in zip(paths, files, strict=True):
            write_text(path, file.text, file.begins)
            typer.echo(f"Wrote {path}.", err=True)
    for sentence in notes:
        typer.echo(sentence, err=True)


def _format(output: Path | None, format_: str | None) -> str:
    """Return the format to write: `--format`, or the format of the file's ending, or YAML.

    Raises:
        ConfigurationError: the ending is unknown or belongs to another format, or a script has no file name.
    """
    ending = output.suffix.lower() if output else ""
    if format_ is None and ending not in BY_ENDING:
        raise ConfigurationError(
            f"{output} does not say in which format to write; end it .yaml, .json or .py, or name one with --format: "
            f"{', '.join(ENDINGS)}."
        )
    format_ = format_ or BY_ENDING[ending]
    if ending in BY_ENDING and ending not in ("", *ENDINGS[format_]):
        raise ConfigurationError(
            f"{output} ends as a file of {BY_ENDING[ending]} does, but --format is {format_}; end it "
            f"{ENDINGS[format_][0]}."
        )
    if format_ in ("python", "peft") and ending != ".py":
        raise ConfigurationError(
            "A script reads the .json file beside it, so it needs a file name; give one, such as --output train.py."
        )
    return format_


def _files(content: dict[str, Any], format_: str) -> tuple[list[_File], list[str]]:
    """Return the files of a configuration in a format, and notes on how to use them."""
    from hpo.export import configs

    if format_ == "yaml":
        return [_File(configs.to_yaml(content), configs.MARK)], []
    if format_ == "json":
        return [_File(configs.to_json(content), configs.JSON_MARK)], []
    from hpo.config.parsing import read_model
    from hpo.config.study_file import ComputeConfig
    from hpo.export import python_script, training_arguments
    from hpo.export.exported_file import Exported

    exported = read_model(Exported, content, "the configuration")
    if format_ == "python":
        read = configs.to_json(python_script.content_of_script(exported))
        files = [_File(python_script.script(exported), python_script.MARK), _File(read, configs.JSON_MARK, ".json")]
        return files, [f"The script reads the other file, and needs {python_script.needed(exported)}."]
    if format_ == "peft":
        from hpo.export import peft_script, retraining

        _, splits = retraining.study_and_splits(exported, ComputeConfig())
        text, rows = peft_script.peft_script(exported, splits), peft_script.rows_json(exported, splits)
        files = [_File(text, peft_script.MARK), _File(rows, peft_script.ROWS_MARK, ".json")]
        return files, [f"The script reads the rows in the other file, and needs {peft_script.needs(exported)}."]
    text = configs.to_json(training_arguments.to_training_arguments(exported))
    return [_File(text, training_arguments.MARK)], training_arguments.left_to_do(exported)
