"""What other libraries call the metrics, and the keys and values of a study file; see `other_names`."""

from collections.abc import Mapping

from hpo.config.other_names import by_name

METRICS: Mapping[str, str] = by_name(
    ("acc accuracy_score eval_acc", "accuracy"),
    ("balanced_acc balanced_accuracy_score bal_acc", "balanced_accuracy"),
    ("f1 f1_score f_score", "auto"),
    ("f1_binary binary_f1", "f1"),
    ("f1_macro f1_score_macro macro_f1_score macro_avg_f1 macro_avg_f1_score", "macro_f1"),
    ("f1_micro f1_score_micro micro_f1_score micro_avg_f1", "micro_f1"),
    ("f1_weighted f1_score_weighted weighted_f1_score weighted_avg_f1 weighted_avg_f1_score", "weighted_f1"),
    ("precision_macro macro_avg_precision", "macro_precision"),
    ("recall_macro macro_avg_recall", "macro_recall"),
    ("precision_weighted weighted_avg_precision", "weighted_precision"),
    ("recall_weighted weighted_avg_recall", "weighted_recall"),
    ("precision_micro", "micro_precision"),
    ("recall_micro", "micro_recall"),
    ("mcc matthews_corrcoef matthews_correlation", "matthews"),
    ("auc auroc rocauc auc_roc roc_auc_score", "roc_auc"),
    ("ap auprc pr_auc average_precision_score", "average_precision"),
    ("prec precision_score", "precision"),
    ("rec recall_score", "recall"),
    ("pearsonr pearson_correlation", "pearson"),
    ("spearmanr spearman_correlation", "spearman"),
    ("r2_score r_squared", "r2"),
)
"""Metrics, after what says on which part of the data. `auto` is F1 of two classes, and macro F1 of more."""

LOSSES: Mapping[str, str] = by_name(
    ("loss log_loss cross_entropy cross_entropy_loss ce_loss nll nll_loss", "neg_log_loss"),
    ("rmse root_mean_squared_error mse mean_squared_error", "neg_rmse"),
    ("mae mean_absolute_error", "neg_mae"),
    ("ece calibration_error expected_calibration_error", "neg_calibration_error"),
)
"""What is to be minimised -> the metric that is maximised instead."""

STUDY_KEYS: Mapping[str, str] = by_name(
    ("n_trials num_trials max_trials num_samples run_cap", "budget.trials"),
    ("timeout time_limit max_time time_budget", "budget.time"),
    ("model_name model_name_or_path pretrained_model_name_or_path", "model.name"),
    ("train_file training_file train_path", "data.train"),
    ("validation_file valid_file eval_file dev_file", "data.validation"),
    ("test_file", "data.test"),
    ("text_column_name text_field", "data.text_column"),
    ("label_column_name label_field target_column", "data.label_column"),
    ("metric_for_best_model objective", "task.metric"),
    ("study_name experiment_name", "study"),
    ("search_space hyperparameters_space parameters_space", "space"),
    ("storage storage_url", "store.url"),
    ("random_seed random_state", "seed"),
    ("n_jobs max_concurrent_trials", "compute.workers"),
)
"""Keys of a study file, as Optuna, Ray and the scripts of transformers name them."""

STUDY_VALUES: Mapping[str, Mapping[str, str]] = {
    "compute.device": by_name(
        ("gpu nvidia", "cuda"),
    ),
    "compute.precision": by_name(
        ("bfloat16 bf16-mixed", "bf16"),
        ("float32 32-true", "fp32"),
    ),
    "search.sampler": by_name(
        ("bayes bayesian TPESampler", "tpe"),
        ("random_search RandomSampler", "random"),
        ("grid_search GridSampler", "grid"),
        ("GPSampler", "gp"),
        ("cma cma-es CmaEsSampler", "cmaes"),
        ("sobol QMCSampler", "qmc"),
    ),
    "search.pruner": by_name(
        ("asha sha SuccessiveHalvingPruner", "successive_halving"),
        ("MedianPruner median_stopping", "median"),
        ("HyperbandPruner", "hyperband"),
        ("NopPruner nop off", "none"),
    ),
    "compute.runner": {"ray": "ray_tune"},
}
"""Values of a study file, likewise."""
