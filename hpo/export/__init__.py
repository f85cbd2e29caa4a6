"""The best configuration as a file that people and other programs read.

To add a format: one function from the content to text, how all such texts begin, both in `hpo.cli.export`, and a test
that the target reads it back.
"""
