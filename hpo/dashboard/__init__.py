"""Dashboard over a study store: optuna-dashboard, read-only by default, with notes, figures and pictures of hpo.

To add a note: `study_page.py`; a figure: an entry of `FIGURES_SHOWN` in it.
"""
