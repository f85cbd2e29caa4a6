"""Embeddings of the tokens that occur in a study's texts: only their rows are trained, updated and saved.

All other rows get no gradient, and no score depends on them. So trials give the same results as with all rows, but the
backward pass, the optimizer and the checkpoints skip most of the matrix if the texts are few or the vocabulary is that
of many languages.
"""

import torch
from torch import Tensor, nn

MOST_USED = 0.8
"""Share of the vocabulary in use above which all rows are trained."""


class EmbeddingRows(nn.Embedding):
    """Embedding of some tokens of a vocabulary; it must be given no others."""

    def __init__(self, whole: nn.Embedding, tokens: Tensor) -> None:
        """Copy the rows of `tokens` from the embedding of all tokens, which does not change.

        Args:
            whole: embedding of all tokens.
            tokens: ids that occur, in rising order, each once; shape (tokens,).
        """
        # Tokenizers may have special tokens that the model has not.
        tokens = tokens[tokens < whole.num_embeddings].to(whole.weight.device)
        padding = next((row for row, token in enumerate(tokens.tolist()) if token == whole.padding_idx), None)
        super().__init__(
            len(tokens), whole.embedding_dim, padding_idx=padding, _weight=whole.weight.detach()[tokens].clone()
        )
        self.tokens = tokens
        """Token of each row; shape (rows,)."""
        # Past the end for all others, so that one of them is an error.
        self._rows = torch.full((whole.num_embeddings,), len(tokens), device=tokens.device)
        self._rows[tokens] = torch.arange(len(tokens), device=tokens.device)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the embeddings of token ids of any shape."""
        return super().forward(self._rows[input])


def trained_rows(network: nn.Module, tokens: Tensor) -> dict[str, EmbeddingRows]:
    """Return path -> embedding of these tokens, for a network that trains its embedding of input tokens.

    Empty if the network's embedding is frozen, is computed in another way than by a lookup, shares its weights with
    another module, may also give the output embeddings, or if almost all of its rows are used.
    """
    whole = network.get_input_embeddings()  # type: ignore[operator]
    output = network.get_output_embeddings()  # type: ignore[operator]
    if output is not None and (output.weight is whole.weight or len(output.weight) != whole.num_embeddings):
        # A language-model head without a matrix for the vocabulary, such as DeBERTa's with `legacy: false`, multiplies
        # by the input embeddings.
        return {}
    if type(whole) is not nn.Embedding or whole.max_norm is not None or whole.scale_grad_by_freq or whole.sparse:
        return {}
    names = [name for name, weight in network.named_parameters(remove_duplicate=False) if weight is whole.weight]
    if len(names) != 1 or not whole.weight.requires_grad or len(tokens) > MOST_USED * whole.num_embeddings:
        return {}
    return {names[0].removesuffix(".weight"): EmbeddingRows(whole, tokens)}
