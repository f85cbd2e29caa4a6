"""What other libraries call the metrics, and the keys and values of a study file; see `other_names`."""

from collections.abc import Mapping

METRICS: Mapping[str, str] = {
    **dict.fromkeys(("acc", "accuracy_score", "eval_acc"), "accuracy"),
    **dict.fromkeys(("balanced_acc", "balanced_accuracy_score", "bal_acc"), "balanced_accuracy"),
    **dict.fromkeys(("f1", "f1_score", "f_score"), "auto"),
    **dict.fromkeys(("f1_binary", "binary_f1"), "f1"),
    **dict.fromkeys(("f1_macro", "f1_score_macro", "macro_f1_score", "macro_avg_f1", "macro_avg_f1_score"), "macro_f1"),
    **dict.fromkeys(("f1_micro", "f1_score_micro", "micro_f1_score", "micro_avg_f1"), "micro_f1"),
    **dict.fromkeys(
        ("f1_weighted", "f1_score_weighted", "weighted_f1_score", "weighted_avg_f1", "weighted_avg_f1_score"),
        "weighted_f1",
    ),
    **dict.fromkeys(("precision_macro", "macro_avg_precision"), "macro_precision"),
    **dict.fromkeys(("recall_macro", "macro_avg_recall"), "macro_recall"),
    **dict.fromkeys(("precision_weighted", "weighted_avg_precision"), "weighted_precision"),
    **dict.fromkeys(("recall_weighted", "weighted_avg_recall"), "weighted_recall"),
    **dict.fromkeys(("precision_micro",), "micro_precision"),
    **dict.fromkeys(("recall_micro",), "micro_recall"),
    **dict.fromkeys(("mcc", "matthews_corrcoef", "matthews_correlation"), "matthews"),
    **dict.fromkeys(("auc", "auroc", "rocauc", "auc_roc", "roc_auc_score"), "roc_auc"),
    **dict.fromkeys(("ap", "auprc", "pr_auc", "average_precision_score"), "average_precision"),
    **dict.fromkeys(("prec", "precision_score"), "precision"),
    **dict.fromkeys(("rec", "recall_score"), "recall"),
    **dict.fromkeys(("pearsonr", "pearson_correlation"), "pearson"),
    **dict.fromkeys(("spearmanr", "spearman_correlation"), "spearman"),
    **dict.fromkeys(("r2_score", "r_squared"), "r2"),
}
"""Metrics, after what says on which part of the data. `auto` is F1 of two classes, and macro F1 of more."""

LOSSES: Mapping[str, str] = {
    **dict.fromkeys(
        ("loss", "log_loss", "cross_entropy", "cross_entropy_loss", "ce_loss", "nll", "nll_loss"), "neg_log_loss"
    ),
    **dict.fromkeys(("rmse", "root_mean_squared_error", "mse", "mean_squared_error"), "neg_rmse"),
    **dict.fromkeys(("mae", "mean_absolute_error"), "neg_mae"),
    **dict.fromkeys(("ece", "calibration_error", "expected_calibration_error"), "neg_calibration_error"),
}
"""What is to be minimised -> the metric that is maximised instead."""

STUDY_KEYS: Mapping[str, str] = {
    **dict.fromkeys(("n_trials", "num_trials", "max_trials", "num_samples", "run_cap"), "budget.trials"),
    **dict.fromkeys(("timeout", "time_limit", "max_time", "time_budget"), "budget.time"),
    **dict.fromkeys(("model_name", "model_name_or_path", "pretrained_model_name_or_path"), "model.name"),
    **dict.fromkeys(("train_file", "training_file", "train_path"), "data.train"),
    **dict.fromkeys(("validation_file", "valid_file", "eval_file", "dev_file"), "data.validation"),
    **dict.fromkeys(("test_file",), "data.test"),
    **dict.fromkeys(("text_column_name", "text_field"), "data.text_column"),
    **dict.fromkeys(("label_column_name", "label_field", "target_column"), "data.label_column"),
    **dict.fromkeys(("metric_for_best_model", "objective"), "task.metric"),
    **dict.fromkeys(("study_name", "experiment_name"), "study"),
    **dict.fromkeys(("search_space", "hyperparameters_space", "parameters_space"), "space"),
    **dict.fromkeys(("storage", "storage_url"), "store.url"),
    **dict.fromkeys(("random_seed", "random_state"), "seed"),
    **dict.fromkeys(("n_jobs", "max_concurrent_trials"), "compute.workers"),
}
"""Keys of a study file, as Optuna, Ray and the scripts of transformers name them."""

STUDY_VALUES: Mapping[str, Mapping[str, str]] = {
    "compute.device": {**dict.fromkeys(("gpu", "nvidia"), "cuda")},
    "compute.precision": {
        **dict.fromkeys(("bfloat16", "bf16-mixed"), "bf16"),
        **dict.fromkeys(("float32", "32-true"), "fp32"),
    },
    "search.sampler": {
        **dict.fromkeys(("bayes", "bayesian", "TPESampler"), "tpe"),
        **dict.fromkeys(("random_search", "RandomSampler"), "random"),
        **dict.fromkeys(("grid_search", "GridSampler"), "grid"),
        "GPSampler": "gp",
        **dict.fromkeys(("cma", "cma-es", "CmaEsSampler"), "cmaes"),
        **dict.fromkeys(("sobol", "QMCSampler"), "qmc"),
    },
    "search.pruner": {
        **dict.fromkeys(("asha", "sha", "SuccessiveHalvingPruner"), "successive_halving"),
        **dict.fromkeys(("MedianPruner", "median_stopping"), "median"),
        **dict.fromkeys(("HyperbandPruner",), "hyperband"),
        **dict.fromkeys(("NopPruner", "nop", "off"), "none"),
    },
    "compute.runner": {"ray": "ray_tune"},
}
"""Values of a study file, likewise."""
