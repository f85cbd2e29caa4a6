"""The command line: verbs plus a file; hyperparameters are never flags.

Each verb group is one thin file that parses, calls and prints; what it calls is imported when it runs, so that
`hpo --help` stays quick. To add a verb: a function in its group's file and its line in `main.py`.
"""
