"""Names of other libraries (TrainingArguments, PEFT, W&B's examples, Ray, Optuna), each with its meaning in hpo.

Source of docs/names.md. Names are compared without case, dashes and underscores, so each is listed once. To add one,
add it to the table of its kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Alias:
    """Name or value with the same meaning as one in hpo."""

    ours: str | None
    but: str = ""
    """Small difference in meaning, added to the note."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Setting of a training script that hpo ignores."""

    what: str


@dataclass(frozen=True, slots=True)
class GivenElsewhere:
    """Name of the model or the data, which hpo takes from other keys."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Name or value that hpo refuses, because it would train something else; with a remedy."""

    how: str
    unless: tuple[str | bool, ...] = ()
    """Values that have no effect, and are ignored instead."""


@dataclass(frozen=True, slots=True)
class CountAlias:
    """Count of steps, epochs or examples, for which hpo has a share."""

    of: str
    """`warmup_steps`, `warmup_epochs`, `steps` or `texts`."""
    share: str
    """Hyperparameter for the share."""


Meaning = Alias | Ignored | GivenElsewhere | Unsupported | CountAlias

_BITS = "its 8-bit state is not there; write `adamw`"
_PROJECTED = "is not there"

Entry = TypeVar("Entry")


def by_name(*rows: tuple[str, Entry]) -> dict[str, Entry]:
    """Return name -> entry, from rows of names, separated by spaces, and the entry that they have in common."""
    return {name: entry for names, entry in rows for name in names.split()}


OF_LORA = (
    "adapter", "adapter_config", "lora", "lora_args", "lora_config", "lora_parameters", "peft", "peft_args",
    "peft_config",
)  # fmt: skip
"""Prefixes of LoRA's hyperparameters, as in `peft_config.r`."""
PREFIXES = (
    *OF_LORA, "args", "cfg", "config", "data", "dataset", "hparams", "hp", "hyperparameters", "hyperparams",
    "lr_scheduler", "model", "opt", "optim", "optimizer", "parameters", "params", "scheduler", "tokenizer", "train",
    "trainer", "trainer_args", "training", "training_args", "training_arguments",
)  # fmt: skip
"""Prefixes that do not change the meaning of a hyperparameter, as in `training.lr`."""

ACCUMULATION = Alias("batch_size", "times the batch on the device, as batch_size is the examples of one optimizer step")
"""Gradient accumulation, which is multiplied into the batch size."""

NAMES: Mapping[str, Meaning] = by_name(
    ("lr lrate init_lr initial_lr initial_learning_rate base_lr base_learning_rate max_lr max_learning_rate peak_lr "
     "peak_learning_rate", Alias("learning_rate")),
    ("weight_decay wd weight_decay_rate l2 l2_reg l2_regularization", Alias("l2_strength")),
    ("l1 l1_reg l1_regularization", Alias("l1_strength")),
    ("bs batch train_bs train_batch train_batch_size per_device_train_batch_size mini_batch_size "
     "per_gpu_train_batch_size per_device_batch_size micro_batch_size training_batch_size", Alias("batch_size")),
    ("total_batch_size total_train_batch_size effective_batch_size global_batch_size",
     Alias("batch_size", "all of it, whatever is accumulated")),
    ("gradient_accumulation_steps gradient_accumulation grad_accumulation grad_accumulation_steps grad_accum "
     "grad_accum_steps accumulation_steps accumulate_grad_batches gas", ACCUMULATION),
    ("num_epochs n_epochs nb_epochs no_epochs max_epochs num_train_epochs train_epochs training_epochs total_epochs "
     "number_of_epochs", Alias("epochs")),
    ("max_len max_seq_len max_seq_length max_sequence_length max_token_length max_tokens seq_len seq_length "
     "sequence_length model_max_length cutoff_len", Alias("max_length")),
    ("optim opt optimizer_name optimizer_type optim_name optim_type", Alias("optimizer")),
    ("scheduler scheduler_name scheduler_type schedule_type lr_schedule lr_scheduler lr_policy lr_scheduler_type "
     "lr_scheduler_name lr_decay_schedule lr_decay_type learning_rate_scheduler learning_rate_schedule "
     "learning_rate_decay_schedule", Alias("schedule")),
    ("warmup_proportion warmup_fraction warmup_frac warmup_prop lr_warmup_ratio", Alias("warmup_ratio")),
    ("warmup warmup_steps num_warmup_steps n_warmup_steps lr_warmup_steps", CountAlias("warmup_steps", "warmup_ratio")),
    ("warmup_epochs num_warmup_epochs", CountAlias("warmup_epochs", "warmup_ratio")),
    ("max_steps num_steps n_steps total_steps train_steps num_train_steps num_training_steps max_train_steps",
     CountAlias("steps", "epochs")),
    ("max_train_samples num_train_samples n_train train_samples", CountAlias("texts", "data_fraction")),
    ("min_lr_ratio min_lr_rate", Alias("final_rate_ratio")),
    ("min_lr lr_end final_lr end_lr", Unsupported("write `final_rate_ratio`, the rate at the end over the peak")),
    ("num_cycles", Alias("cycles")),
    ("max_norm clip_norm grad_clip grad_clip_norm clip_grad clip_grad_norm gradient_clip gradient_clipping "
     "gradient_clip_val gradient_clip_norm max_gradient_norm", Alias("max_grad_norm")),
    ("label_smoothing_factor smoothing label_smooth", Alias("label_smoothing")),
    ("adam_beta1 adam_b1", Alias("beta1")),
    ("adam_beta2 adam_b2", Alias("beta2")),
    ("adam_epsilon adam_eps eps", Alias("epsilon")),
    ("betas adam_betas", Unsupported("write `beta1` and `beta2`, each with its own values")),
    ("sgd_momentum optimizer_momentum", Alias("momentum")),
    ("nesterov", Unsupported("write `optimizer: {value: nesterov}`")),
    ("amsgrad", Unsupported("AMSGrad is not there; leave it out")),
    ("adafactor", Unsupported("write `optimizer: {value: adafactor}`")),
    ("layerwise_lr_decay layerwise_learning_rate_decay layerwise_decay layer_decay lr_layer_decay llrd",
     Alias("layerwise_rate_decay")),
    ("hidden_dropout_prob hidden_dropout dropout_rate dropout_prob dropout_p",
     Alias("dropout", "which also holds for the attention weights where attention_dropout is not given")),
    ("attention_probs_dropout_prob attention_dropout_prob attn_dropout attn_pdrop", Alias("attention_dropout")),
    ("classifier_dropout cls_dropout head_dropout seq_classif_dropout",
     Unsupported("write `dropout`, which is that of every layer and of the head")),
    ("num_hidden_layers num_layers n_layers", Alias("kept_layers")),
    ("freeze_layers frozen_layers num_frozen_layers n_freeze unfreeze_layers unfrozen_layers",
     Unsupported("write `method: {value: top_layers}` and `trained_layers`, counted from the head")),
    ("freeze freeze_encoder freeze_base freeze_backbone freeze_bert",
     Unsupported("write `method: {values: [full, head]}`; `head` trains the head alone")),
    ("use_class_weights class_weight weighted_loss", Alias("class_weights")),
    ("early_stop_patience early_stopping_rounds", Alias("early_stopping_patience")),
    ("patience", Unsupported("write `early_stopping_patience`, or `plateau_patience` of reduce_on_plateau")),
    ("lr_decay gamma lr_gamma", Unsupported("write `decay_factor` of the schedule `step`")),
    ("step_size lr_step_size", Unsupported("write `decay_every` of the schedule `step`, a share")),
    ("head_lr classifier_lr lr_head encoder_lr bert_lr",
     Unsupported("write `learning_rate` for all, and `head_rate`, by which that of the head is multiplied")),
    ("random_seed random_state manual_seed", Alias("seed")),
    ("r lora_r lora_dim lora_attn_dim", Alias("lora_rank")),
    ("target_modules lora_target_modules lora_target lora_modules lora_target_linear", Alias("lora_targets")),
    ("use_rslora peft_use_rslora lora_use_rslora rslora", Alias("lora_scaling")),
    ("lora peft use_lora use_peft adapter adapter_type peft_type peft_method finetuning_type", Alias("method")),
    ("dora use_dora peft_use_dora lora_use_dora use_qalora use_bdlora velora_config monteclora_config kasa_config "
     "arrow_config alora_invocation_tokens",
     Unsupported("DoRA and other variants of LoRA are not there; leave it out, and LoRA trains")),
    ("bias lora_bias", Unsupported("no biases train beside LoRA; leave it out")),
    ("modules_to_save lora_modules_to_save additional_target",
     Unsupported("beside LoRA the head trains, and nothing else; leave it out", unless=("classifier", "score"))),
    ("init_lora_weights loftq_config eva_config corda_config lora_ga_config pissa_init",
     Unsupported("LoRA begins at no change, with PEFT's usual numbers; leave it out", unless=(True,))),
    ("rank_pattern alpha_pattern layers_to_transform layers_pattern layer_replication exclude_modules "
     "target_parameters trainable_token_indices lora_attn_modules apply_lora_to_mlp apply_lora_to_output",
     Unsupported("adapted modules are all alike; name them by `lora_targets`")),
    ("loraplus_lr_ratio loraplus_lr_embedding", Unsupported("LoRA+ is not there; leave it out")),
    ("dpo dpo_beta dpo_alpha dpo_loss dpo_loss_type kto_beta orpo_beta orpo_alpha cpo_alpha rpo_alpha simpo_gamma "
     "pref_beta pref_loss ref_model ref_model_name_or_path reference_free sync_ref_model max_prompt_length "
     "max_completion_length num_generations kl_coef init_kl_coef cliprange ppo_epochs reward_model",
     Unsupported("preference tuning, such as DPO, and reinforcement learning are not there; leave it out, and labelled "
             "texts train")),
    ("load_in_8bit load_in_4bit bnb_4bit_quant_type quantization",
     Unsupported("it is not searched; write `model: {quantization: nf4}` in the study file, or leave it out")),
    ("lr_scheduler_kwargs",
     Unsupported("write each as a hyperparameter: num_cycles is `cycles`, min_lr_rate is `final_rate_ratio`, "
             "power is `power`")),
    ("optim_args", Unsupported("write each as a hyperparameter, such as `momentum` or `epsilon`")),
    ("optim_target_modules", Unsupported("projected optimizers such as GaLore are not there; leave it out")),
    ("neftune_noise_alpha", Unsupported("noise on embeddings is not there; leave it out, or take `token_masking`")),
    # Settings of the script: all of TrainingArguments, also of earlier versions, that do not affect the result.
    ("output_dir overwrite_output_dir logging_dir log_dir save_dir checkpoint_dir results_dir cache_dir out_dir",
     Ignored("paths")),
    ("logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter "
     "include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project project_name "
     "wandb_project entity tags notes trackio_space_id trackio_bucket_id trackio_static_space_id skip_memory_metrics "
     "debug verbose log_interval log_every log_steps", Ignored("logging")),
    ("bf16 fp16 bf16_full_eval fp16_full_eval tf32 fp16_opt_level fp16_backend amp use_amp half_precision_backend "
     "mixed_precision precision torch_dtype dtype", Ignored("precision, which is `compute.precision`")),
    ("save_strategy save_steps save_total_limit save_only_model save_on_each_node save_safetensors "
     "enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push "
     "hub_revision resume_from_checkpoint ignore_data_skip save_model restore_callback_states_from_checkpoint",
     Ignored("saving")),
    ("eval_strategy evaluation_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps "
     "eval_do_concat_batches eval_use_gather_object per_device_eval_batch_size per_gpu_eval_batch_size eval_batch_size "
     "valid_batch_size val_batch_size test_batch_size prediction_loss_only include_for_metrics "
     "include_inputs_for_metrics batch_eval_metrics load_best_model_at_end metric_for_best_model greater_is_better "
     "eval_every max_eval_samples max_predict_samples",
     Ignored("evaluation, which is `evaluation.full_reports` and `task.metric`")),
    ("average_tokens_across_devices use_cpu no_cuda use_mps_device local_rank accelerator_config parallelism_config "
     "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp "
     "fsdp_config deepspeed device n_gpu gpus num_gpus dispatch_batches split_batches ray_scope tpu_num_cores "
     "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap sharded_ddp xpu_backend distributed",
     Ignored("devices, which are under `compute`")),
    ("activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing torch_compile "
     "gradient_checkpointing_kwargs torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config "
     "use_cache torch_empty_cache_steps auto_find_batch_size jit_mode_eval use_ipex torchdynamo",
     Ignored("memory and speed; a batch is split as memory needs it")),
    ("dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
     "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order num_workers "
     "remove_unused_columns label_names train_sampling_strategy length_column_name group_by_length pad_to_max_length "
     "padding truncation preprocessing_num_workers overwrite_cache num_labels use_fast_tokenizer pin_memory",
     Ignored("loading of the data")),
    ("task_type inference_mode fan_in_fan_out auto_mapping peft_version runtime_config lora_task_type "
     "megatron_config megatron_core qalora_group_size ensure_weight_tying",
     Ignored("of a PEFT model")),
    ("do_train do_eval do_predict full_determinism data_seed past_index mp_parameters use_auth_token token "
     "use_legacy_prediction_loop", Ignored("the script's course")),
    ("model model_name model_name_or_path model_path model_id model_type model_checkpoint pretrained_model "
     "pretrained_model_name pretrained_model_name_or_path base_model base_model_name_or_path checkpoint config_name "
     "tokenizer tokenizer_name revision model_revision trust_remote_code architecture backbone", GivenElsewhere()),
    ("data dataset dataset_name dataset_config_name task_name task train_file validation_file test_file data_dir "
     "data_path text_column_name label_column_name dataset_path train_path text_column label_column data_file",
     GivenElsewhere()),
)  # fmt: skip
"""Name of a hyperparameter in sweeps and scripts -> its meaning."""

VALUES: Mapping[str, Mapping[str, Alias | Unsupported]] = {
    "method": by_name(
        ("true peft", Alias("lora")),
        ("false none null", Alias("full")),
        ("qlora", Unsupported("write `lora`, and `model: {quantization: nf4}` in the study file")),
        ("freeze", Unsupported("write `top_layers` and `trained_layers`, counted from the head")),
        (
            "dora adalora ia3 loha lokr oft boft vera prompt_tuning prefix_tuning p_tuning",
            Unsupported("it is not there; write `lora`, which trains plain low-rank adapters"),
        ),
    ),
    "lora_targets": by_name(("true all", Alias("all-linear"))),
    "lora_scaling": by_name(("true", Alias("rslora")), ("false none null", Alias("standard"))),
    "optimizer": by_name(
        ("adamw_torch adamw_torch_fused adamw_hf adamw_torch_xla adamw_torch_npu_fused fused_adamw adamw_apex_fused "
         "paged_adamw paged_adamw_32bit torch.optim.AdamW", Alias("adamw")),
        ("lion_32bit paged_lion paged_lion_32bit", Alias("lion")),
        ("rmsprop_bnb rmsprop_bnb_32bit torch.optim.RMSprop", Alias("rmsprop")),
        ("torch.optim.SGD", Alias("sgd")),
        ("torch.optim.Adam", Alias("adam")),
        ("sgd_momentum", Alias("momentum")),
        ("sgd_nesterov", Alias("nesterov")),
        ("schedulefree adamw_schedule_free", Alias("schedule_free_adamw")),
        ("adamw_8bit adamw_bnb_8bit paged_adamw_8bit adamw_torch_8bit adamw_torch_4bit adamw_anyprecision",
         Unsupported(_BITS)),
        ("lion_8bit paged_lion_8bit", Unsupported("its 8-bit state is not there; write `lion`")),
        ("rmsprop_bnb_8bit", Unsupported("its 8-bit state is not there; write `rmsprop`")),
        ("nadamw", Unsupported("write `nadam` with `l2_form: {value: decoupled}`")),
        ("radamw", Unsupported("write `radam` with `l2_form: {value: decoupled}`")),
        ("adan adabelief adabound ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit galore_adamw "
         "galore_adamw_8bit galore_adafactor galore_adamw_layerwise galore_adamw_8bit_layerwise "
         "galore_adafactor_layerwise lomo adalomo grokadamw lamb lars schedule_free_radam schedule_free_sgd "
         "apollo_adamw apollo_adamw_layerwise stable_adamw sophia shampoo soap prodigy dadaptation",
         Unsupported(_PROJECTED)),
    ),
    "schedule": by_name(
        ("constant_with_warmup constant_schedule_with_warmup", Alias("constant", "with the warm-up of warmup_ratio")),
        ("linear_with_warmup linear_schedule_with_warmup get_linear_schedule_with_warmup", Alias("linear")),
        ("cosine_with_warmup cosine_schedule_with_warmup get_cosine_schedule_with_warmup cosine_annealing "
         "CosineAnnealingLR", Alias("cosine")),
        ("cosine_with_restarts cosine_with_hard_restarts cosine_with_hard_restarts_schedule_with_warmup "
         "cosine_annealing_warm_restarts",
         Alias("cosine_restarts", "which falls `cycles` times, twice where that is not given")),
        ("polynomial_decay polynomial_decay_schedule_with_warmup", Alias("polynomial")),
        ("reduce_lr_on_plateau plateau", Alias("reduce_on_plateau")),
        ("OneCycleLR", Alias("one_cycle")),
        ("StepLR", Alias("step")),
        ("ExponentialLR exponential_decay", Alias("exponential")),
        ("inverse_square_root rsqrt", Alias("inverse_sqrt")),
        ("wsd", Alias("warmup_stable_decay")),
        ("none", Alias("constant")),
        ("cosine_with_min_lr cosine_warmup_with_min_lr",
         Unsupported("write `cosine` and `final_rate_ratio`, the rate at the end over the peak")),
        ("greedy", Unsupported(_PROJECTED)),
    ),
    "max_grad_norm": {"0": Alias(None, "no clipping")},
    "class_weights": by_name(
        ("true auto", Alias("balanced")),
        ("false none null uniform", Alias("equal")),
    ),
}  # fmt: skip
"""Hyperparameter -> other names of its values -> their meaning."""

SPEC_KEYS: Mapping[str, str] = by_name(
    ("low lower minimum lower_bound", "min"),
    ("high upper maximum upper_bound", "max"),
    ("choices options categories", "values"),
    ("step quantum", "q"),
    ("type dist", "distribution"),
)
"""Key of a parameter's spec in Optuna and others -> hpo's key."""

DISTRIBUTIONS: Mapping[str, str] = by_name(
    ("loguniform log-uniform log_uniform_value reciprocal logfloat", "log_uniform_values"),
    ("choice choose category discrete", "categorical"),
    ("int integer uniform_int int-uniform", "int_uniform"),
    ("float double real", "uniform"),
    ("quniform discrete_uniform qrandint", "q_uniform"),
    ("const fixed", "constant"),
    ("randint", "int_uniform"),
)
"""Name of a distribution in Ray and Optuna -> hpo's. Without W&B's `log_uniform`, whose bounds are exponents."""

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
"""Name of a metric, without a prefix or suffix for the split -> hpo's. `auto` is F1 for two classes, else macro F1."""

LOSSES: Mapping[str, str] = by_name(
    ("loss log_loss cross_entropy cross_entropy_loss ce_loss nll nll_loss", "neg_log_loss"),
    ("rmse root_mean_squared_error mse mean_squared_error", "neg_rmse"),
    ("mae mean_absolute_error", "neg_mae"),
    ("ece calibration_error expected_calibration_error", "neg_calibration_error"),
)
"""Loss that would be minimised -> metric that is maximised instead."""

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
"""Name in Optuna, Ray and transformers' scripts -> key of a study file."""

STUDY_VALUES: Mapping[str, Mapping[str, str]] = {
    "compute.device": by_name(("gpu nvidia", "cuda")),
    "compute.precision": by_name(("bfloat16 bf16-mixed", "bf16"), ("float32 32-true", "fp32")),
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
"""Key of a study file -> other names of its values -> hpo's."""
