"""`hpo export`: the configuration to take, for hpo itself, for people, and for other trainers."""

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli import options
from hpo.errors import ConfigurationError, nearest

BY_ENDING = {"": "yaml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".py": "python"}
ENDINGS = {"yaml": (".yaml", ".yml"), "json": (".json",), "training-arguments": (".json",), "python": (".py",)}
"""Format -> how a file in it ends."""


def export(
    study: options.Study = None,
    store: options.Store = None,
    trial: Annotated[
        int | None,
        typer.Option("--trial", min=0, help="A completed trial; if not given the verdict's, else the search's best."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="yaml, json, training-arguments or python; by the ending of --output if not given."
        ),
    ] = None,
    output: options.Output = None,
) -> None:
    """Write the configuration to take to a file, or to standard output where no --output is given."""
    from hpo.export.configs import best_configuration
    from hpo.export.writing import write_text
    from hpo.store.results import read_search

    format_ = format_ or _format_of(output)
    if format_ not in ENDINGS:
        raise ConfigurationError(f"--format cannot be {format_!r}. {nearest(format_, ENDINGS)}")
    _refuse_other_ending(output, format_)
    with options.opened(store) as database:
        results = read_search(database, study)
    content = best_configuration(results, trial)
    text, begins, beside = _written(content, format_)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text, begins)
        typer.echo(f"Wrote {output}.", err=True)
    for sentence in beside:
        typer.echo(sentence, err=True)


def _format_of(output: Path | None) -> str:
    """Return the format that the ending of a file asks for; YAML without a file or an ending."""
    ending = output.suffix.lower() if output else ""
    if ending not in BY_ENDING:
        raise ConfigurationError(
            f"{output} does not say in which format to write; end it .yaml, .json or .py, or name one with --format: "
            f"{', '.join(ENDINGS)}."
        )
    return BY_ENDING[ending]


def _refuse_other_ending(output: Path | None, format_: str) -> None:
    """Raise ConfigurationError where a file's ending says one format, and --format another."""
    ending = output.suffix.lower() if output else ""
    if ending in BY_ENDING and ending not in ("", *ENDINGS[format_]):
        raise ConfigurationError(
            f"{output} ends as a file of {BY_ENDING[ending]} does, but --format is {format_}; end it "
            f"{ENDINGS[format_][0]}."
        )


def _written(content: dict[str, object], format_: str) -> tuple[str, str, list[str]]:
    """Return a configuration in a format, how such files begin, and in sentences what else is to be known of it."""
    from hpo.export import configs

    if format_ == "yaml":
        return configs.to_yaml(content), configs.MARK, []
    if format_ == "json":
        return configs.to_json(content), configs.JSON_MARK, []
    from hpo.config.reading import read_model
    from hpo.export.exported import Exported

    exported = read_model(Exported, content, "the configuration")
    if format_ == "python":
        from hpo.export import python_script

        needs = f"The script needs {python_script.needed(exported)}."
        return python_script.to_python(exported), python_script.MARK, [needs]
    from hpo.export import training_arguments

    text = configs.to_json(training_arguments.to_training_arguments(exported))
    return text, training_arguments.MARK, training_arguments.left_to_do(exported)
