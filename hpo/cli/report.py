"""Report: `hpo report` writes a study as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli import options
from hpo.errors import ConfigurationError

OTHER_ENDINGS = (".csv", ".db", ".json", ".md", ".pdf", ".png", ".svg", ".txt", ".yaml", ".yml")


def report(
    study: options.Study = None,
    store: options.Store = None,
    output: Annotated[Path, typer.Option("--output", metavar="PATH", help="File to write the report to.")] = Path(
        "report.html"
    ),
) -> None:
    """Write the results of a study to a single HTML file that needs no network."""
    from hpo.config.optional_packages import refuse_missing
    from hpo.export.writing import check_writable, write_text
    from hpo.report.page import MARK, page
    from hpo.report.report_data import read_report_data

    if output.suffix.lower() in OTHER_ENDINGS:
        raise ConfigurationError(f"The report is HTML, but {output} ends in {output.suffix}; end it .html.")
    refuse_missing("plotly", "hpo report")
    check_writable(output, MARK)
    with options.opened(store) as database:
        data = read_report_data(database, study)
    write_text(output, page(data), MARK)
    typer.echo(f"Wrote {output}: {'the search is still running' if data.led_by else 'open it in a browser'}.", err=True)
