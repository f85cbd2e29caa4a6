"""Which update rule a trial steps by: torch's own optimizers, never with their own weight decay.

Regularisation is `regularization.py`'s, the same for every optimizer. Hence `adam` and `adamw` take the same step here;
what tells them apart is the form of L2 they come with (`l2_form`): coupled and decoupled.
"""

from collections.abc import Callable, Iterable

from torch import nn, optim

from hpo.config.hyperparameters import Hyperparameters

Parameters = Iterable[nn.Parameter]

# `fused=True` below: a step is one pass over all weights, on a CPU too, where torch's default loops over many small
# operations. RMSprop has no such form.


def sgd(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build plain gradient descent."""
    return optim.SGD(parameters, lr=hyperparameters.learning_rate, fused=True)


def momentum(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build heavy-ball gradient descent (Polyak 1964, in torch's form: the rate scales the whole velocity)."""
    heaviness = _applying(hyperparameters.momentum)
    return optim.SGD(parameters, lr=hyperparameters.learning_rate, momentum=heaviness, fused=True)


def adam(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adam (Kingma and Ba 2015)."""
    return optim.Adam(
        parameters,
        lr=hyperparameters.learning_rate,
        betas=(_applying(hyperparameters.beta1), _applying(hyperparameters.beta2)),
        eps=_applying(hyperparameters.epsilon),
        fused=True,
    )


def adamw(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter 2019) less its decay, which `l2_form: decoupled` applies."""
    return optim.AdamW(
        parameters,
        lr=hyperparameters.learning_rate,
        betas=(_applying(hyperparameters.beta1), _applying(hyperparameters.beta2)),
        eps=_applying(hyperparameters.epsilon),
        weight_decay=0.0,
        fused=True,
    )


def rmsprop(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build RMSprop (Tieleman and Hinton 2012)."""
    return optim.RMSprop(
        parameters,
        lr=hyperparameters.learning_rate,
        alpha=_applying(hyperparameters.alpha),
        eps=_applying(hyperparameters.epsilon),
        momentum=_applying(hyperparameters.momentum),
    )


OPTIMIZERS: dict[str, Callable[[Parameters, Hyperparameters], optim.Optimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
}


def _applying(value: float | None) -> float:
    """Return a field that applies to the trial's optimizer, and so is never None."""
    assert value is not None
    return value
