"""The command line: verbs plus a file; hyperparameters are never flags.

Each group of verbs is one thin file that parses arguments, calls the package, and prints. A verb imports what it calls
only when it runs, so that `hpo --help` is fast. To add a verb, add a function to the file of its group, and a line to
`main.py`.
"""
