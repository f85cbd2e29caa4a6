"""Exports: the recommended configuration as a file for people and other programs.

To add a format: a module with a function from the content to text and a MARK, how all such texts begin; its name in
`hpo.cli.export`; and a test that the target reads it back.
"""
