"""Dashboard over a study store: optuna-dashboard, read-only by default, with notes, figures and pictures of hpo.

To add a note, extend `study_page.py`; to add a figure, add an entry to its `FIGURES_SHOWN`.
"""
