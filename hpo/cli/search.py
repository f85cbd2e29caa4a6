"""Search verbs: `hpo demo`, `hpo run` and `hpo confirm`, with a display of their progress."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli import options
from hpo.cli.study_arguments import describes_study, nested, study_of_store, study_of_words
from hpo.errors import ConfigurationError, Mistakes, NoResultError

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig
    from hpo.store.results import StudyResults

INTERRUPTED = 130
NEEDS = """hpo run needs a model and labelled examples:

    hpo run --model PATH_OR_HUB_ID --train texts.csv --trials 40

or a study file, with overrides by dotted path:

    hpo run study.yaml budget.trials=40 space.learning_rate.max=10

For an example search on a real model and real headlines, without an account: hpo demo"""

DEMO_DATA = Path("hpo-files", "demo-data")
DEMO: dict[str, Any] = {
    "study": "demo",
    "space": "quickstart",
    "budget.trials": 30,
    "confirmation.finalists": 1,
    "confirmation.share": 0.5,
    "confirmation.validation_share": 0.5,
}


DEMO_OF_LLM: dict[str, Any] = {
    "study": "llm",
    "space": "decoder_lora",
    "task.head": "label_words",
    "budget.trials": 12,
    "budget.time": "14m",
    "confirmation.finalists": 1,
    "confirmation.seeds": 3,
}


@options.with_study_options(without=options.OF_DATA)
def demo(
    given: Mapping[str, Any],
    output: options.Output = None,
    as_json: options.Json = False,
    llm: Annotated[bool, typer.Option("--llm", help="Tune LoRA for SmolLM2-135M: seven minutes.")] = False,
) -> None:
    """Run an example search on a real model and real headlines. Needs no hub or account; takes about four minutes."""
    from hpo.config.loading import load_study
    from hpo.data.demo import demo_decoder, demo_model_folder, write_demo_data

    written = write_demo_data(DEMO_DATA, small=llm)
    model = demo_decoder() if llm else {"name": str(demo_model_folder())}
    values = {f"data.{part}": path for part, path in written.items()} | {f"model.{key}": model[key] for key in model}
    values = nested((DEMO_OF_LLM if llm else DEMO) | values | dict(given))
    config, _ = load_study(values=values, checks=partial(_gather_mistakes, output))
    _search(config, output, as_json)


@options.with_study_options()
def run(
    given: Mapping[str, Any],
    words: options.StudyWords = None,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """Search for the best configuration to fine-tune a model on your texts, or resume a search."""
    if not words and not given:
        typer.echo(NEEDS)
        raise typer.Exit(2)
    config, notes = study_of_words(words, given, "hpo run", partial(_gather_mistakes, output))
    _search(config, output, as_json, notes)


@options.with_study_options(without=("gpu_hours", "keep_weights", "warm_start"))
def confirm(
    given: Mapping[str, Any],
    words: options.StudyWords = None,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """Train the best trials and the default again on fresh seeds, and recommend one, as hpo run does at its end.

    Without a study file or --model, hpo reads the study and its settings, except --notify, from the store.
    """
    notes: Sequence[str] = ()
    checks = partial(_gather_mistakes, output)
    if describes_study(words, given, "hpo confirm"):
        config, notes = study_of_words(words, given, "hpo confirm", checks)
    else:
        config = study_of_store(words, given, checks)
    if not config.confirmation.finalists:
        raise ConfigurationError("confirmation.finalists is 0, so nothing would be confirmed; give 1 or more.")
    _search(config, output, as_json, notes, searches=False)


def _gather_mistakes(output: Path | None, config: "StudyConfig", mistakes: Mistakes) -> None:
    """Add the mistakes of a study, of its output and of its recipients to those that are known."""
    from hpo.cli.notifications import recipients_of
    from hpo.export.configs import MARK, default_output
    from hpo.export.writing import check_writable
    from hpo.runners.start_checks import gather_mistakes

    gather_mistakes(config, mistakes)
    with mistakes.gathered():
        check_writable(output or default_output(config.study, ""), MARK, config.store.url)
    with mistakes.gathered():
        recipients_of(config.notify)


def _search(
    config: "StudyConfig", output: Path | None, as_json: bool, notes: Sequence[str] = (), *, searches: bool = True
) -> None:
    """Run a search that has passed all checks, show `notes` and then its progress, and write its result."""
    from hpo.cli.live import callback_for
    from hpo.cli.log import log_path, logged_to
    from hpo.cli.notifications import Notifier, recipients_of
    from hpo.cli.signals import ending_tidily
    from hpo.config.naming import with_translations_joined
    from hpo.runners.callbacks import SearchCallbacks
    from hpo.runners.run import run_checked

    recipients = recipients_of(config.notify)
    stop = Event()
    try:
        with (
            ending_tidily(stop, config.compute.grace_seconds) as signals,
            callback_for(sys.stderr if as_json else sys.stdout) as screen,
            logged_to(log_path(config.store.url, config.study), screen) as log,
            Notifier(config.study, recipients, SearchCallbacks(screen, log).note) as notifier,
        ):
            callback = SearchCallbacks(screen, log, notifier)
            for sentence in with_translations_joined(notes):
                callback.note(sentence)
            results = run_checked(config, callback, stop, searches=searches)
            signals.end_timer()
            notifier.finished(interrupted=signals.came)
    except KeyboardInterrupt:
        typer.echo("hpo: stopped at once; the same command resumes the search.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _show_results(config, results, output, as_json, interrupted=signals.came)
    if signals.came:
        raise typer.Exit(INTERRUPTED)
    if not results.leaderboard:
        raise typer.Exit(NoResultError.exit_code)


def _show_results(
    config: "StudyConfig", results: "StudyResults", output: Path | None, as_json: bool, *, interrupted: bool
) -> None:
    """Print the result of the search, and write the recommended configuration."""
    from hpo.cli.tables import print_leaderboard, print_summary
    from hpo.export import configs
    from hpo.export.writing import write_text

    verdict = configs.stored_verdict(results)
    taken = configs.configuration_of(results, verdict) if results.leaderboard else None
    # Computed again: another search may have written best.yaml meanwhile.
    path = output or configs.default_output(config.study, results.uid)
    unwritten = None
    if taken is not None:
        try:
            write_text(path, configs.to_yaml(taken), configs.MARK)
        except ConfigurationError as error:
            unwritten = error  # Raised at the end, after the result is printed.
    written = None if taken is None or unwritten else path
    if as_json:
        content = configs.study_to_plain(results, verdict, output=written, interrupted=interrupted)
        typer.echo(configs.to_json(content), nl=False)
    else:
        print_leaderboard(results, verdict)
        if output is None and taken is not None and path.name != "best.yaml":
            typer.echo("best.yaml in this folder belongs to another study, and was not changed.")
        print_summary(results, verdict, config.store.url, written, interrupted=interrupted)
    if unwritten is not None:
        raise unwritten
