"""Files of a study: on a disk with a limit, shared by processes of a machine, or at a URL."""
