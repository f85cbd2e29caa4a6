"""Space files: what is read, what is refused, and that every shipped file and every documented example works."""

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import parse_yaml
from hpo.errors import ConfigurationError, SpaceError
from hpo.space import space_file
from hpo.space.portfolio import PORTFOLIO
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, read_space, shipped_spaces, space_description, space_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "search-spaces.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
SHIPPED = sorted(shipped_spaces())


def test_a_file_is_read_as_written_and_named_by_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: a line\nparameters:\n  dropout: {min: 0, max: 1e-1}\n  epochs: {min: 1, max: 5}\n")
    assert read_space(str(path)) == {"dropout": {"min": 0, "max": 0.1}, "epochs": {"min": 1, "max": 5}}
    assert space_description(str(path)) == "a line"
    assert load_space(str(path)).name == "mine"


def test_a_study_names_its_space_or_spells_it_out() -> None:
    assert space_of("quickstart") == load_space("quickstart")
    assert space_of(read_space("quickstart")).parameters == load_space("quickstart").parameters
    with pytest.raises(SpaceError, match="Space of the study, epochs"):
        space_of({"epochs": {"value": 0}})
    with pytest.raises(SpaceError, match="right below `space:`; take `parameters:` out"):
        space_of({"parameters": {"epochs": {"value": 1}}})


def test_a_file_without_a_description_has_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("parameters: {epochs: {value: 1}}")
    assert space_description(str(path)) == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: {value: 1}", "under `parameters:`, but starts with 'epochs'; indent the parameters below it"),
        ("description: only", "must hold the hyperparameters to search under `parameters:`."),
        ("parameters: [epochs]", "parameters must map hyperparameters to their values, but is ['epochs']"),
        ("parameters:", "parameters must map hyperparameters to their values, but is None"),
        ("{parameters: {}, descripton: x}", "unknown key 'descripton'. Did you mean 'description'?"),
        ("{method: bayes, parameters: {}}", "take 'method' out, it belongs under `search: {sampler: ...}`"),
        ("{metric: {name: f1}, parameters: {}}", "take 'metric' out, it belongs under `task: {metric: ...}`"),
        ("{early_terminate: {}, parameters: {}}", "it belongs under `search: {pruner: ...}`"),
        ("{run_cap: 3, parameters: {}}", "it belongs under `budget: {trials: ...}`"),
        ("{name: x, parameters: {}}", "take 'name' out: a space is called by its file's name"),
        ("{program: train.py, parameters: {}}", "take 'program' out: hpo itself trains"),
        ("{command: [x], parameters: {}}", "take 'command' out: hpo itself trains"),
    ],
)
def test_a_file_with_anything_else_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SpaceError) as caught:
        read_space(str(path))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_parameter_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("parameters:\n  epochs: {value: 1}\n  epochs: {value: 2}\n")
    with pytest.raises(ConfigurationError, match="not valid YAML: line 3"):
        read_space(str(path))


def test_an_unknown_name_is_told_the_shipped_ones() -> None:
    with pytest.raises(SpaceError, match=r"No search space 'encodr'.*Did you mean 'encoder'.*encoder_small"):
        read_space("encodr")


def test_a_folder_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="neither a shipped one nor a file"):
        read_space(str(tmp_path))


def test_installed_spaces_come_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hpo"
    for folder, name in [(tmp_path / "search_spaces", "beside"), (package / "search_spaces", "inside")]:
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text("parameters: {epochs: {value: 1}}")
    monkeypatch.setattr(space_file, "_PACKAGE", package)
    assert list(shipped_spaces()) == ["inside"]


def test_the_shipped_spaces_are_these() -> None:
    assert {"decoder_lora", "encoder", "encoder_lora", "encoder_small", "quickstart"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_space_gives_valid_configurations_in_200_draws(name: str) -> None:
    shipped = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        trial = study.ask()
        values = shipped.suggest(trial)
        assert shipped.suggest(optuna.trial.FixedTrial(trial.params)) == values
        assert 1e-7 < shipped.hyperparameters(values).learning_rate < 10
    assert SearchSpace.from_mapping(shipped.to_mapping(), name=name) == shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_space_says_when_to_use_it_where_it_is_from_and_what_its_default_is(name: str) -> None:
    head = shipped_spaces()[name].read_text(encoding="utf-8").split("description:")[0]
    assert head.startswith(("# For ", "# Every "))
    description = space_description(name)
    assert description.endswith(".")
    assert "\n" not in description
    specs = {key: spec for key, spec in read_space(name).items() if key != PORTFOLIO}
    for parameter, spec in specs.items():
        assert "value" in spec or "default" in spec, parameter
        assert "min" not in spec or spec.get("source"), parameter


@pytest.mark.parametrize(
    ("name", "rate", "smallest", "largest"),
    [
        ("encoder", 3e-5, 5e-6, 2e-4),
        ("encoder_small", 5e-5, 5e-6, 5e-4),
        ("quickstart", 3e-5, 1e-5, 5e-4),
        ("decoder_lora", 2e-4, 2e-5, 2e-3),
        ("encoder_lora", 4e-4, 5e-5, 4e-3),
    ],
)
def test_a_shipped_space_spans_the_adamw_rates_that_work(
    name: str, rate: float, smallest: float, largest: float
) -> None:
    shipped = load_space(name)
    values = shipped.default_values()
    assert shipped.hyperparameters(values).learning_rate == rate
    domain = next(parameter.domain for parameter in shipped.parameters if parameter.name == "learning_rate")
    low, high = domain.ends()
    assert low * rate <= smallest
    assert high * rate >= largest


@pytest.mark.parametrize(
    ("name", "ranks", "alpha", "epochs"),
    [("decoder_lora", (4, 64), 32.0, (1, 5)), ("encoder_lora", (4, 32), 16.0, (2, 10))],
)
def test_a_space_of_lora_is_of_lora_alone(
    name: str, ranks: tuple[int, int], alpha: float, epochs: tuple[int, int]
) -> None:
    shipped = load_space(name)
    ends = {one.name: one.domain.ends() for one in shipped.parameters}
    assert (ends["lora_rank"], ends["epochs"], ends["lora_dropout"]) == (ranks, epochs, (0.0, 0.1))
    default = shipped.hyperparameters(shipped.default_values())
    assert (default.method, default.optimizer, default.lora_alpha) == ("lora", "adamw", alpha)
    assert (default.lora_targets, default.lora_scaling) == ("all-linear", "standard")


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_document_is_a_space(example: str) -> None:
    content = parse_yaml(example, "the example")
    example_space = SearchSpace.from_mapping(content.get("parameters", content), name="example")
    assert example_space.hyperparameters(example_space.default_values())


def test_the_document_has_an_example_of_every_key_and_names_every_shipped_space() -> None:
    everything = "\n".join(EXAMPLES)
    for word in (
        "value:",
        "values:",
        "min:",
        "max:",
        "q:",
        "default:",
        "when:",
        "relative_to:",
        "distribution:",
        "source:",
    ):
        assert word in everything
    document = DOCUMENT.read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 6
    assert [name for name in SHIPPED if f"| `{name}` |" not in document] == []


def test_the_python_example_of_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(DOCUMENT), "exec"), {})
    assert str(Hyperparameters()) in capsys.readouterr().out


def test_reading_a_space_imports_neither_optuna_nor_torch() -> None:
    code = (
        "import sys; from hpo.space.space_file import load_space; load_space('encoder'); "
        "print(sorted({'optuna', 'torch', 'transformers', 'sqlalchemy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
