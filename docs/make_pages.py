"""Writes the pages that say what the code says, vocabulary.md and study-file.md: `python docs/make_pages.py`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpo.cli.curves import curve_line
from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.config.study_file import SearchConfig, StudyConfig
from hpo.data.archives import COMPRESSIONS
from hpo.data.formats import FORMATS
from hpo.metrics.classification import METRICS
from hpo.search.pruners import PRUNERS
from hpo.search.samplers import SAMPLERS
from hpo.space.domains import spelled
from hpo.space.parameters import Parameter
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces
from hpo.training.methods import METHODS
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.schedules import SCHEDULES

FOLDER = Path(__file__).parent
STUDY_FILE_HEAD = """\
# Study files

Every key of a study file and what it is where it is left out. Any of them can also be given on the command line by its
dotted path, `hpo run study.yaml budget.trials=80`. This page is made by `make docs` from `hpo/config/study_file.py`.

"""
HEAD = """\
# Vocabulary

Everything that can be searched or chosen, by the names that study files and search spaces use. This page is made by
`make docs` from the registries in the code and the shipped spaces; a test compares them.
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
            "`optimizer`; never with a weight decay of their own, which is `l2_strength`'s. The rates are peaks, "
            f"those of the space `{ALL_OPTIMIZERS}`, of which `python benchmarks/base_rates.py` is the source.",
        ),
        _table(("name", "what it is", "rates", "own parameters", "source"), _optimizers(spaces[ALL_OPTIMIZERS])),
        _section("Schedules", "`schedule`; the curves begin with a warm-up of a tenth, and end at `final_rate_ratio`."),
        _table(("name", "rate", "what it is", "own parameters", "source"), _schedules()),
        _section("Methods", "`method`: which weights train."),
        _table(("name", "what it is", "own parameters", "source"), _entries(METHODS, "method")),
        _section("Hyperparameters", "Every field, its default, its ranges in the shipped spaces and their source."),
        _table(("name", "what it is", "default", "ranges"), _hyperparameters(spaces)),
        _section("Samplers", "`search.sampler` in a study file."),
        _table(("name", "what it is", "settings under `search`", "source"), _with_settings(SAMPLERS)),
        _section("Pruners", "`search.pruner` in a study file."),
        _table(("name", "what it is", "settings under `search`", "source"), _with_settings(PRUNERS)),
        _section("Metrics", "`task.metric` in a study file, always maximised; formulas in [metrics.md](metrics.md)."),
        _table(("name", "what it is", "source"), _plain(METRICS)),
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
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _plain(registry: Mapping[str, Any]) -> list[Row]:
    return [(f"`{name}`", entry.description, entry.source) for name, entry in registry.items()]


def _entries(registry: Mapping[str, Any], field: str) -> list[Row]:
    return [(f"`{name}`", entry.description, _own(field, name), entry.source) for name, entry in registry.items()]


def _optimizers(space: SearchSpace) -> list[Row]:
    (rate,) = (one for one in space.parameters if one.name == "learning_rate")
    low, high, bases = rate.domain.minimum(), rate.domain.maximum(), rate.relative_to["optimizer"]
    assert low is not None
    assert high is not None
    rates = {name: f"{low * base:.0e} … {high * base:.0e}" for name, base in bases.items()}
    return [(name, what, rates[name.strip("`")], *rest) for name, what, *rest in _entries(OPTIMIZERS, "optimizer")]


def _with_settings(registry: Mapping[str, Any]) -> list[Row]:
    return [(f"`{name}`", entry.description, _settings(name), entry.source) for name, entry in registry.items()]


def _settings(name: str) -> str:
    """Return the settings of a search whose description names this entry, with the default of each."""
    settings = {key: field for key, field in SearchConfig.model_fields.items() if key not in CHOICES}
    own = (key for key, field in settings.items() if f"`{name}`" in (field.description or ""))
    return ", ".join(f"`{key}` {spelled(settings[key].default)}" for key in own)


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
    return ", ".join(f"`{key}` {value:g}" for key, value in own.items())


def _hyperparameters(spaces: Mapping[str, SearchSpace]) -> Iterable[Row]:
    for name, field in Hyperparameters.model_fields.items():
        found = {space.name: one for space in spaces.values() for one in space.parameters if one.name == name}
        ranges = "<br>".join(f"{space}: {_range(one)}" for space, one in found.items())
        yield f"`{name}`", " ".join((field.description or "").split()), _default(name, field.default), ranges


def _default(name: str, default: Any) -> str:
    if name in APPLIES_TO:
        other, _ = APPLIES_TO[name]
        return f"by `{other}`"
    return "by `optimizer`" if default is PydanticUndefined else spelled(default)


def _range(parameter: Parameter) -> str:
    source = f" ({parameter.source})" if parameter.source else ""
    return parameter.domain.describe() + source


def study_file_page() -> str:
    """Return the page on the keys of a study file as Markdown."""
    return STUDY_FILE_HEAD + "".join(_keys(StudyConfig, ""))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Return a table of the single keys of `model`, and then a section for each key that has keys of its own."""
    inner = {key: kind for key, field in model.model_fields.items() if (kind := _section_kind(field.annotation))}
    single = {key: field for key, field in model.model_fields.items() if key not in inner}
    rows = [
        (f"`{prefix}{key}`", " ".join((field.description or "").split()), _default_of(field))
        for key, field in single.items()
    ]
    yield _table(("key", "what it is", "default"), rows)
    for key, kind in inner.items():
        yield _section(key, " ".join((kind.__doc__ or "").split()))
        yield from _keys(kind, f"{prefix}{key}.")


def _section_kind(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _default_of(field: FieldInfo) -> str:
    return "must be given" if field.is_required() else spelled(field.default)


PAGES: Mapping[Path, Callable[[], str]] = {
    FOLDER / "vocabulary.md": page,
    FOLDER / "study-file.md": study_file_page,
}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make(), encoding="utf-8")
        print(f"Wrote {path.name}.")
