"""Process of the command `hpo`: how it begins and ends, whatever the command does."""

import atexit
import os
import sys


def console() -> None:
    """Run the command in a process of its own, which ends without Python freeing each object.

    Where PyTorch was imported, that takes a second or two, and beside other programs took minutes.
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
