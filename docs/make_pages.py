"""Writes the pages that say what the code says, such as vocabulary.md: `python docs/make_pages.py`."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpo.cli.schedule_charts import curve_line
from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.config.other_names import (
    DISTRIBUTIONS,
    LOSSES,
    METRICS,
    NAMES,
    PREFIXES,
    SPEC_KEYS,
    STUDY_KEYS,
    STUDY_VALUES,
    VALUES,
    Alias,
    CountAlias,
    GivenElsewhere,
    Ignored,
    Meaning,
    Unsupported,
)
from hpo.config.parsing import section
from hpo.config.study_file import SearchConfig, StudyConfig
from hpo.data.readers.formats import FORMATS
from hpo.data.readers.text_files import COMPRESSIONS
from hpo.metrics.registry import METRICS as SCORES
from hpo.model.methods import METHODS
from hpo.search.pruners import PRUNERS
from hpo.search.samplers import SAMPLERS
from hpo.space.domains import as_yaml
from hpo.space.parameters import Parameter
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.schedules import SCHEDULES

FOLDER = Path(__file__).parent
SOURCE = FOLDER.parent / "hpo"
MODULES = re.compile(r"(<!-- modules: made by make docs -->\n).*(<!-- end of modules -->)", re.DOTALL)
STUDY_FILE_HEAD = """\
# Study files

Every key of a study file, with its default. Each can also be set on the command line by its dotted path, as in
`hpo run study.yaml budget.trials=80`. This page is made by `make docs` from `hpo/config/study_file.py`.

"""
HEAD = """\
# Vocabulary

Everything that can be searched or chosen, under the names that study files and search spaces use. This page is made by
`make docs` from the registries in the code and the shipped spaces; a test compares them.
"""
NAMES_HEAD = """\
# Names of other libraries

Names used by W&B sweeps, transformers, PEFT, Ray and Optuna that hpo accepts in study files, search spaces, sweeps and
overrides, and what they mean here. Case, dashes, underscores and a prefix common to all names of a file are ignored.
hpo prints a line with the names that it translates and one with those that it leaves out because they belong to the
training script. It refuses names that would train something else. This page is made by `make docs` from
`hpo/config/other_names.py`.
"""
WIDTH = 24
ALL_OPTIMIZERS = "optimizers_and_schedules"

CHOICES = ("sampler", "pruner")

Row = Sequence[str]


def page() -> str:
    """Return the page as Markdown."""
    spaces = {name: load_space(name) for name in shipped_spaces()}
    parts = [
        HEAD,
        _section(
            "Optimizers",
            "`optimizer`. Weight decay is always set by `l2_strength`. The rates are the ranges of the peak learning "
            f"rate in the space `{ALL_OPTIMIZERS}`; `python benchmarks/base_rates.py` is their source.",
        ),
        _table(("name", "what it is", "rates", "own parameters", "source"), _optimizers(spaces[ALL_OPTIMIZERS])),
        _section("Schedules", "`schedule`. The curves have `warmup_ratio` 0.1 and end at `final_rate_ratio`."),
        _table(("name", "rate", "what it is", "own parameters", "source"), _schedules()),
        _section("Methods", "`method`: which weights train."),
        _table(("name", "what it is", "own parameters", "source"), _entries(METHODS, "method")),
        _section("Hyperparameters", "Each with its default, and its ranges in the shipped spaces with their sources."),
        _table(("name", "what it is", "default", "ranges"), _hyperparameters(spaces)),
        _section("Samplers", "`search.sampler` in a study file."),
        _table(("name", "what it is", "settings under `search`", "source"), _with_settings(SAMPLERS)),
        _section("Pruners", "`search.pruner` in a study file."),
        _table(("name", "what it is", "settings under `search`", "source"), _with_settings(PRUNERS)),
        _section("Metrics", "`task.metric` in a study file, always maximised; formulas in [metrics.md](metrics.md)."),
        *(
            part
            for task, metrics in SCORES.items()
            for part in (
                f"For `task.name: {task}`:\n\n",
                _table(("name", "what it is", "source"), _plain(metrics)),
                "\n",
            )
        ),
        _section("Data formats", "By the ending of `data.train`, `data.validation` and `data.test`."),
        _table(("ending", "what it is", "source"), _plain(FORMATS)),
        _section("Compression", "After the ending of a text format, as in `texts.csv.gz`."),
        _table(("ending", "what it is", "source"), _plain(COMPRESSIONS)),
    ]
    return "".join(parts)


def _section(title: str, sentence: str) -> str:
    return f"\n## {title}\n\n{sentence}\n\n"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Return the text of a cell; without the backslash, a pipe would end it, in code too."""
    return text.replace("|", r"\|")


def _plain(registry: Mapping[str, Any]) -> list[Row]:
    return [(f"`{name}`", entry.description, entry.source) for name, entry in registry.items()]


def _entries(registry: Mapping[str, Any], field: str) -> list[Row]:
    return [(f"`{name}`", entry.description, _own(field, name), entry.source) for name, entry in registry.items()]


def _optimizers(space: SearchSpace) -> list[Row]:
    (rate,) = (one for one in space.parameters if one.name == "learning_rate")
    ends, bases = rate.domain.ends(), rate.relative_to["optimizer"]
    assert ends is not None
    low, high = ends
    rates = {name: f"{low * base:.0e} … {high * base:.0e}" for name, base in bases.items()}
    return [(name, what, rates[name.strip("`")], *rest) for name, what, *rest in _entries(OPTIMIZERS, "optimizer")]


def _with_settings(registry: Mapping[str, Any]) -> list[Row]:
    return [(f"`{name}`", entry.description, _settings(name), entry.source) for name, entry in registry.items()]


def _settings(name: str) -> str:
    """Return the settings of a search whose description names this entry, with the default of each."""
    settings = {key: field for key, field in SearchConfig.model_fields.items() if key not in CHOICES}
    own = (key for key, field in settings.items() if f"`{name}`" in (field.description or ""))
    return ", ".join(f"`{key}` {as_yaml(settings[key].default)}" for key in own)


def _schedules() -> list[Row]:
    return [
        (f"`{name}`", f"`{_curve(name)}`", entry.description, _own("schedule", name), entry.source)
        for name, entry in SCHEDULES.items()
    ]


def _curve(name: str) -> str:
    values: dict[str, Any] = {"schedule": name, "warmup_ratio": 0.1}
    return curve_line(Hyperparameters(**values), WIDTH)


def _own(field: str, name: str) -> str:
    """Return the fields that mean something only for this entry, with the usual value of each."""
    own = {key: usual[name] for key, (other, usual) in APPLIES_TO.items() if other == field and name in usual}
    return ", ".join(f"`{key}` {value if isinstance(value, str) else f'{value:g}'}" for key, value in own.items())


def _hyperparameters(spaces: Mapping[str, SearchSpace]) -> Iterable[Row]:
    for name, field in Hyperparameters.model_fields.items():
        found = {space.name: one for space in spaces.values() for one in space.parameters if one.name == name}
        ranges = "<br>".join(f"{space}: {_range(one)}" for space, one in found.items())
        yield f"`{name}`", " ".join((field.description or "").split()), _default(name, field.default), ranges


def _default(name: str, default: Any) -> str:
    if name in APPLIES_TO:
        other, _ = APPLIES_TO[name]
        return f"by `{other}`"
    return "by `optimizer`" if default is PydanticUndefined else as_yaml(default)


def _range(parameter: Parameter) -> str:
    source = f" ({parameter.source})" if parameter.source else ""
    return parameter.domain.describe() + source


def study_file_page() -> str:
    """Return the page on the keys of a study file as Markdown."""
    return STUDY_FILE_HEAD + "".join(_keys(StudyConfig, ""))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Return a table of the single keys of `model`, and then a section for each key that has keys of its own."""
    inner = {key: kind for key, field in model.model_fields.items() if (kind := section(field.annotation))}
    single = {key: field for key, field in model.model_fields.items() if key not in inner}
    rows = [
        (f"`{prefix}{key}`", " ".join((field.description or "").split()), _default_of(field))
        for key, field in single.items()
    ]
    yield _table(("key", "what it is", "default"), rows)
    for key, kind in inner.items():
        yield _section(key, " ".join((kind.__doc__ or "").split()))
        yield from _keys(kind, f"{prefix}{key}.")


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    return "[]" if default == () else as_yaml(default)


def names_page() -> str:
    """Return the page on the names of other libraries as Markdown."""
    values = "".join(
        f"\n### {field}\n\n" + _table(("name", "here"), _meanings(table)) for field, table in VALUES.items()
    )
    words = "".join(
        f"\n### {path}\n\n" + _table(("name", "here"), _words(table)) for path, table in STUDY_VALUES.items()
    )
    return "".join(
        [
            NAMES_HEAD,
            _section("Hyperparameters", f"Also after one of the words {', '.join(f'`{word}.`' for word in PREFIXES)}."),
            _table(("name", "here"), _meanings(NAMES)),
            _section("Values", "Of hyperparameters.").rstrip("\n") + "\n",
            values,
            _section("Keys of a parameter", "In a space, a sweep or an override."),
            _table(("name", "here"), _words(SPEC_KEYS)),
            _section("Distributions", "The upper end of `randint` is left out, as there. A list alone is `values`."),
            _table(("name", "here"), _words(DISTRIBUTIONS)),
            _section(
                "Metrics",
                "After `best_`, and `eval_`, `val_`, `dev_` or the like. `auto` is F1 of two classes, else macro F1.",
            ),
            _table(("name", "here"), _words(METRICS)),
            _section("Losses", "With `goal: minimize` in a sweep."),
            _table(("name", "here"), _words(LOSSES)),
            _section("Keys of a study file", "Also of an override."),
            _table(("name", "here"), _words(STUDY_KEYS)),
            _section("Values of a study file", "Also of an override.").rstrip("\n") + "\n",
            words,
        ]
    )


def _meanings(table: Mapping[str, Meaning]) -> Iterator[Row]:
    for entry in dict.fromkeys(table.values()):
        yield _together(name for name, one in table.items() if one == entry), _meaning(entry)


def _words(table: Mapping[str, str]) -> Iterator[Row]:
    for ours in dict.fromkeys(table.values()):
        yield _together(name for name, one in table.items() if one == ours), f"`{ours}`"


def _together(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _meaning(entry: Meaning) -> str:
    match entry:
        case Alias():
            return f"`{as_yaml(entry.ours)}`" + (f", {entry.but}" if entry.but else "")
        case Ignored():
            return f"left out: {entry.what}"
        case GivenElsewhere():
            return "left out: the model and the texts are those of `--model` and `--train`"
        case Unsupported():
            usual = ", ".join(f"`{as_yaml(value)}`" for value in entry.unless)
            return f"refused: {entry.how}" + (f"; {usual} alone is left out" if usual else "")
        case CountAlias():
            taken = "; a share, below 1, is taken" if entry.of == "warmup_steps" else ""
            return f"refused, with what it is as `{entry.share}` on these texts{taken}"


def architecture_page() -> str:
    """Return the page on the architecture with its list of modules as they are now."""
    text = (FOLDER / "architecture.md").read_text(encoding="utf-8")
    return MODULES.sub(lambda found: f"{found[1]}\n{_modules()}\n{found[2]}", text)


def _modules() -> str:
    """Return a list of all modules, folder by folder, each with the first sentence of its docstring."""
    folders = [SOURCE, *sorted(path.parent for path in SOURCE.rglob("*/__init__.py"))]
    return "\n".join(
        f"{_section_of(folder)}{_table(('module', 'what it is'), _modules_in(folder))}" for folder in folders
    )


def _section_of(folder: Path) -> str:
    return f"### {folder.relative_to(SOURCE.parent)}\n\n{_purpose(folder / '__init__.py')}\n\n"


def _modules_in(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.glob("*.py")):
        if path.stem != "__init__":
            yield f"`{path.name}`", _purpose(path)


def _purpose(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


PAGES: Mapping[Path, Callable[[], str]] = {
    FOLDER / "architecture.md": architecture_page,
    FOLDER / "vocabulary.md": page,
    FOLDER / "study-file.md": study_file_page,
    FOLDER / "names.md": names_page,
}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make(), encoding="utf-8")
        print(f"Wrote {path.name}.")
