"""Which update rule a trial steps by: torch's own optimizers, never with their own weight decay.

Regularisation is `regularization.py`'s, the same for every optimizer. Hence `adam` and `adamw` take the same step here;
what tells them apart is the form of L2 they come with (`l2_form`): coupled and decoupled.
"""

from collections.abc import Callable, Iterable

from torch import nn, optim

from hpo.config.hyperparameters import Hyperparameters

Parameters = Iterable[nn.Parameter]


# `fused` is one pass over the weights, on CPU too: ten times faster there than torch's default loop for AdamW.


def sgd(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build plain gradient descent."""
    return optim.SGD(parameters, lr=hyperparameters.learning_rate, fused=True)


def momentum(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build heavy-ball gradient descent (Polyak 1964, in torch's form: the rate scales the whole velocity)."""
    heaviness = _given(hyperparameters.momentum, 0.9)
    return optim.SGD(parameters, lr=hyperparameters.learning_rate, momentum=heaviness, fused=True)


def adam(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adam (Kingma and Ba 2015)."""
    return optim.Adam(
        parameters,
        lr=hyperparameters.learning_rate,
        betas=(_given(hyperparameters.beta1, 0.9), _given(hyperparameters.beta2, 0.999)),
        eps=_given(hyperparameters.epsilon, 1e-8),
        fused=True,
    )


def adamw(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter 2019) less its decay, which `l2_form: decoupled` applies."""
    return optim.AdamW(
        parameters,
        lr=hyperparameters.learning_rate,
        betas=(_given(hyperparameters.beta1, 0.9), _given(hyperparameters.beta2, 0.999)),
        eps=_given(hyperparameters.epsilon, 1e-8),
        weight_decay=0.0,
        fused=True,
    )


def rmsprop(parameters: Parameters, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build RMSprop (Tieleman and Hinton 2012)."""
    return optim.RMSprop(
        parameters,
        lr=hyperparameters.learning_rate,
        alpha=_given(hyperparameters.alpha, 0.99),
        eps=_given(hyperparameters.epsilon, 1e-8),
        momentum=_given(hyperparameters.momentum, 0.0),
    )


OPTIMIZERS: dict[str, Callable[[Parameters, Hyperparameters], optim.Optimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
}


def _given(value: float | None, usual: float) -> float:
    return usual if value is None else value
