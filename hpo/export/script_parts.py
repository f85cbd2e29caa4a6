"""What a script of transformers' Trainer says of each optimizer, schedule, method and metric: lines of Python."""

from collections.abc import Callable, Mapping

from hpo.config.hyperparameters import Hyperparameters

Line = Callable[[Hyperparameters], str]

OF_ADAM = "lr=LEARNING_RATE, betas=({h.beta1}, {h.beta2}), eps={h.epsilon}"
OPTIMIZERS: Mapping[tuple[str, str], str] = {
    ("sgd", "coupled"): "torch.optim.SGD(groups, lr=LEARNING_RATE)",
    ("momentum", "coupled"): "torch.optim.SGD(groups, lr=LEARNING_RATE, momentum={h.momentum})",
    ("nesterov", "coupled"): (
        "torch.optim.SGD(groups, lr=LEARNING_RATE, momentum={h.momentum}, nesterov={h.momentum} > 0)"
    ),
    ("adam", "coupled"): f"torch.optim.Adam(groups, {OF_ADAM})",
    ("adam", "decoupled"): f"torch.optim.AdamW(groups, {OF_ADAM})",
    ("adamw", "coupled"): f"torch.optim.Adam(groups, {OF_ADAM})",
    ("adamw", "decoupled"): f"torch.optim.AdamW(groups, {OF_ADAM})",
    ("nadam", "coupled"): f"torch.optim.NAdam(groups, {OF_ADAM}, momentum_decay={{h.momentum_decay}})",
    ("radam", "coupled"): f"torch.optim.RAdam(groups, {OF_ADAM})",
    ("adamax", "coupled"): f"torch.optim.Adamax(groups, {OF_ADAM})",
    ("adagrad", "coupled"): "torch.optim.Adagrad(groups, lr=LEARNING_RATE, eps={h.epsilon})",
    ("adadelta", "coupled"): "torch.optim.Adadelta(groups, lr=LEARNING_RATE, rho={h.rho}, eps={h.epsilon})",
    ("adafactor", "decoupled"): (
        "torch.optim.Adafactor(groups, lr=LEARNING_RATE, beta2_decay={h.decay_rate}, d={h.clip_threshold})"
    ),
    ("rmsprop", "coupled"): (
        "torch.optim.RMSprop(groups, lr=LEARNING_RATE, alpha={h.alpha}, eps={h.epsilon}, momentum={h.momentum})"
    ),
}
"""(optimizer, form of L2) -> torch's optimizer whose `weight_decay` is of that form."""

COSINE = "{h.final_rate_ratio} + (1 - {h.final_rate_ratio}) * 0.5 * (1 + math.cos(math.pi * {progress}))"
SCHEDULES: Mapping[str, str] = {
    "constant": "1.0",
    "linear": "{h.final_rate_ratio} + (1 - {h.final_rate_ratio}) * (1 - progress)",
    "polynomial": "{h.final_rate_ratio} + (1 - {h.final_rate_ratio}) * (1 - progress) ** {h.power}",
    "exponential": "{h.final_rate_ratio} ** progress",
    "inverse_sqrt": (
        "{h.final_rate_ratio} / math.hypot({h.final_rate_ratio}, math.sqrt(progress * (1 - {h.final_rate_ratio} ** 2)))"
    ),
    "cosine": COSINE.replace("{progress}", "progress"),
    "cosine_restarts": COSINE.replace("{progress}", "({h.cycles} * progress % 1.0 if progress < 1 else 1.0)"),
    "step": "max({h.decay_factor} ** math.floor(progress / {h.decay_every} + 1e-9), {h.final_rate_ratio})",
    "one_cycle": COSINE.replace("{progress}", "progress"),
    "warmup_stable_decay": (
        "{h.final_rate_ratio} + (1 - {h.final_rate_ratio}) * min(1.0, (1 - progress) / {h.decay_fraction})"
    ),
}
"""Schedule -> what the peak rate is multiplied by at a `progress` of 0 to 1 after warm-up."""

RISES: Mapping[str, str] = {
    "one_cycle": "{h.initial_rate_ratio} + (1 - {h.initial_rate_ratio}) * 0.5 * (1 - math.cos(math.pi * rising))",
}
"""Schedule -> the same during warm-up, at a `rising` of 0 to 1; of the others a straight line."""

METHODS: Mapping[str, str] = {
    "full": "",
    "head": """\
    base = f"{model.base_model_prefix}."
    for name, weight in model.named_parameters():
        fresh = name in found["missing_keys"] or not name.startswith(base)
        weight.requires_grad = fresh or "pooler" in name.split(".")
""",
    "top_layers": """\
    stacks = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    name, layers = max(stacks, key=lambda stack: len(stack[1]))
    lowest, reached = f"{name}.{len(layers) - TRAINED_LAYERS}.", False
    for name, weight in model.named_parameters():
        reached = reached or name.startswith(lowest)
        weight.requires_grad = reached and "embed" not in name
""",
}
"""Method -> lines that freeze what it does not train."""

DROPOUT = """\
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
"""

EQUAL = "    return nn.functional.cross_entropy(outputs.logits.float(), labels, label_smoothing=LABEL_SMOOTHING)"
BALANCED = """\
    of_rows = nn.functional.cross_entropy(
        outputs.logits.float(), labels, label_smoothing=LABEL_SMOOTHING, reduction="none"
    )
    return (torch.tensor(CLASS_WEIGHTS, device=labels.device)[labels] * of_rows).mean()"""
LOSSES: Mapping[str, str] = {"equal": EQUAL, "balanced": BALANCED}

ALL = "labels=range(len(LABELS)), zero_division=0"
SCORES: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy_score", "accuracy_score(true, predicted)"),
    "balanced_accuracy": ("balanced_accuracy_score", "balanced_accuracy_score(true, predicted)"),
    "matthews": ("matthews_corrcoef", "matthews_corrcoef(true, predicted)"),
    **{
        name: (f"{name}_score", f"{name}_score(true, predicted, pos_label=POSITIVE, zero_division=0)")
        for name in ("f1", "precision", "recall")
    },
    **{
        f"{mean}_{name}": (f"{name}_score", f'{name}_score(true, predicted, average="{mean}", {ALL})')
        for mean in ("macro", "micro", "weighted")
        for name in ("f1", "precision", "recall")
    },
}
"""Metric -> the function of sklearn.metrics, and the call of it."""

CALLBACK = '''
class EvaluateAfter(TrainerCallback):
    """Evaluates where the search did."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = state.global_step in EVALUATE_AFTER
        return control

'''
BY_EPOCH = """\
        eval_strategy="epoch",
        save_strategy="epoch","""
BY_STEP = """\
        eval_strategy="steps",  # EvaluateAfter says at which
        eval_steps=10**9,
        save_strategy="steps",
        save_steps=10**9,"""
