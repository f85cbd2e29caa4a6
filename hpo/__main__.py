"""Entry point of the command `hpo`: start and exit of its process."""

import atexit
import os
import sys


def console() -> None:
    """Run the command in its own process, and exit without letting Python free every object.

    With PyTorch imported, that takes a second or two, and took minutes on a busy machine.
    """
    codes: list[int] = []

    def leave() -> None:
        if codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    atexit.register(leave)  # Registered before what the command imports, it comes last.
    try:
        # Within, so that Ctrl-C while it is imported ends it like any other.
        from hpo.cli.main import main

        main()
    except KeyboardInterrupt:
        sys.stderr.write("hpo: stopped.\n")
        codes.append(130)
        sys.exit(130)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        codes.append(end.code)


if __name__ == "__main__":
    console()
