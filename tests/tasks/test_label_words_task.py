"""Label words: scores are the log-probabilities that one pass a label over the written text gives, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hpo.config.tasks import TaskConfig
from hpo.data.batching import Batch, collate
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.errors import ConfigurationError, DataError, ModelError
from hpo.model.backbone import Backbone
from hpo.model.trial_model import TrialModel
from hpo.tasks.label_words import PROMPT, LabelWords, Untuned, with_prompt
from hpo.tasks.word_head import WordTree
from hpo.training.gradients import Gradients, SlotBatch
from tests.data.tokenizers_of_pieces import InPython, byte_level
from tests.models import row_of, tiny_hyperparameters
from tests.tasks.language_models import byte_tokenizer, decoder, masked_model, word_tokenizer

CPU = torch.device("cpu")
CUE = "Text: {text}\nLabel:"
TEXTS = ["goal", "the team wins a goal!", "bank", "a b c d e f", "price of the market, and the tax"]
WORDS: dict[str, dict[str, str]] = {
    "one token": {"x": "goal", "y": "a"},
    "several tokens": {"x": "goals", "y": "tax law", "z": "team"},
    "one begins another": {"x": "te", "y": "team", "z": "teams"},
}


def task(words: Mapping[str, str], prompt: str = CUE) -> LabelWords:
    config = TaskConfig(head="label_words", prompt=prompt, label_words=dict(words))
    return LabelWords.of(config, list(words) or ["x", "y"])


def backbone(of: LabelWords, network: Any, tokenizer: Any) -> Backbone:
    return Backbone(network, tokenizer, frozenset(), CPU, None, head=of.head_for(network, tokenizer))


def batch(model: Backbone, texts: Sequence[str] = TEXTS, max_length: int = 128) -> Batch:
    tokens = tokenize(texts, None, model.tokenizer, max_length, model.head.prompt)
    split = TokenizedSplit(tokens=tokens, targets=np.arange(len(texts)) % 2)
    return collate(split, range(len(texts)), model.pad_id)


def written(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, split_special_tokens=False)["input_ids"])


def plainly(network: Any, tokenizer: Any, prompt: str, words: Mapping[str, str], texts: Sequence[str]) -> Tensor:
    """Return the scores by one pass a label and text, over what a person would write."""
    end = "</s>" if words is WORDS["one begins another"] else ""
    rows = []
    for text in texts:
        asked = prompt.replace("{text}", text)
        begin = len(written(tokenizer, asked))
        scores = []
        for word in words.values():
            ids = torch.tensor([written(tokenizer, f"{asked} {word}{end}")])
            said = network(input_ids=ids).logits[0].log_softmax(-1)
            scores.append(sum(said[place - 1, ids[0, place]] for place in range(begin, ids.shape[1])))
        rows.append(torch.stack(scores))
    return torch.stack(rows)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gpt2"])
def test_scores_are_those_of_one_pass_a_label(name: str, words: dict[str, str]) -> None:
    """In padded batches of texts of all lengths, words of one token and of several, also where one begins another."""
    tokenizer = byte_tokenizer()
    model = backbone(task(words), decoder(name), tokenizer)
    expected = plainly(model.network, tokenizer, CUE, words, TEXTS)
    torch.testing.assert_close(model.logits(batch(model), "fp32"), expected, rtol=1e-5, atol=1e-5)
    for text, alone in zip(TEXTS, expected, strict=True):
        torch.testing.assert_close(model.logits(batch(model, [text]), "fp32")[0], alone, rtol=1e-5, atol=1e-5)


def test_attention_that_adds_its_mask_gives_the_same_scores() -> None:
    words, tokenizer = WORDS["several tokens"], byte_tokenizer()
    model = backbone(task(words), decoder("llama", attn_implementation="eager"), tokenizer)
    assert model.network.config._attn_implementation == "eager"
    expected = plainly(model.network, tokenizer, CUE, words, TEXTS)
    torch.testing.assert_close(model.logits(batch(model), "fp32"), expected, rtol=1e-5, atol=1e-5)


def test_another_word_leaves_the_scores_of_the_others_as_they_are() -> None:
    words = WORDS["several tokens"]
    scores = [
        model.logits(batch(model), "fp32")
        for y in ("tax law", "a loan of the bank")
        for model in [backbone(task(words | {"y": y}), decoder("gpt2"), byte_tokenizer())]
    ]
    torch.testing.assert_close(scores[0][:, [0, 2]], scores[1][:, [0, 2]], rtol=1e-5, atol=1e-5)
    assert (scores[0][:, 1] - scores[1][:, 1]).abs().min() > 1


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_gradients_are_those_of_one_pass_a_label(words: dict[str, str]) -> None:
    """Of a batch that goes through in parts by length, smaller ones where memory is short."""
    tokenizer, of = byte_tokenizer(), task(words)
    model = backbone(of, decoder("llama"), tokenizer)
    for rows in (8, 2):
        trial = TrialModel(model, of, tiny_hyperparameters(), seed=0)
        gradients = Gradients()
        gradients.micro_batch(trial.hyperparameters).lower(rows)
        loss = gradients.of(trial, batch(model))
        found = {name: parameter.grad.clone() for name, parameter in trial.parameters.items()}
        model.reset(0)
        scores = plainly(model.network, tokenizer, CUE, words, TEXTS)
        expected = torch.nn.functional.cross_entropy(scores, torch.arange(len(TEXTS)) % 2)
        expected.backward()
        torch.testing.assert_close(loss, expected.detach())
        for name, parameter in trial.parameters.items():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_adapters_of_several_trials_are_asked_side_by_side() -> None:
    """Their gradients are those of each alone, and nothing else of the network trains."""
    of = task(WORDS["several tokens"])
    model = backbone(of, decoder("llama"), byte_tokenizer())
    trials = [
        TrialModel(model, of, tiny_hyperparameters(method="lora", lora_rank=rank), seed=rank, shares=True)
        for rank in (2, 4)
    ]
    assert all("lora" in name for trial in trials for name in trial.parameters)
    batches = [batch(model, TEXTS[:3]), batch(model, TEXTS[2:])]
    found = []
    for waiting in ([0, 1], [0], [1]):
        Gradients().of_slots([SlotBatch(model=trials[i], batch=batches[i], units=3) for i in waiting])
        found.append([p.grad.clone() for i in waiting for p in trials[i].parameters.values()])
        for trial in trials:
            trial.forget_gradients()
    together, *alone = found
    for one, other in zip(together, [*alone[0], *alone[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in together)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_masked_model_is_asked_at_its_mask(name: str) -> None:
    tokenizer, words = word_tokenizer(framed=True), {"x": "sport", "y": "money"}
    network = masked_model(name)
    model = backbone(task(words), network, tokenizer)
    texts = ["goal", "the bank of the league", "a trade"]
    found = model.logits(batch(model, texts), "fp32")
    for text, scores in zip(texts, found, strict=True):
        ids = torch.tensor([written(tokenizer, f"Text: {text}\nLabel: <mask>.")])
        said = network(input_ids=ids).logits[0].log_softmax(-1)
        place = int((ids[0] == tokenizer.mask_token_id).nonzero())
        expected = said[place, tokenizer.convert_tokens_to_ids(["sport", "money"])]
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_the_text_is_cut_and_never_the_prompt_or_the_words() -> None:
    model = backbone(task(WORDS["several tokens"]), decoder("llama"), byte_tokenizer())
    assert model.head.prompt is not None
    fixed = len(model.head.prompt.ids)
    tokens = tokenize(["a b c d e f g"], None, model.tokenizer, fixed + 3, model.head.prompt)
    row = row_of(tokens, 0).tolist()
    assert len(row) == fixed + 3
    assert model.tokenizer.decode(row).startswith("Text: a b\nLabel:")
    with pytest.raises(DataError, match=f"max_length is {fixed}, but each row has {fixed} tokens beside its text"):
        tokenize(["a"], None, model.tokenizer, fixed, model.head.prompt)


def test_special_tokens_are_special_in_the_prompt_and_text_in_a_text() -> None:
    prompt = "<s>Text: {text}</s> Label:"
    model = backbone(task({"x": "a", "y": "goal"}, prompt), decoder("llama"), byte_level())
    ids = row_of(tokenize(["</s>"], None, model.tokenizer, 64, model.head.prompt), 0)
    # Those that this tokenizer adds, at both ends, and those of the prompt.
    assert (ids == model.tokenizer.bos_token_id).sum() == 2
    assert (ids == model.tokenizer.eos_token_id).sum() == 1


def test_pairs_have_places_of_their_own() -> None:
    prompt = "Second: {pair} First: {text}\nLabel:"
    model = backbone(task({"x": "a", "y": "goal"}, prompt), decoder("llama"), byte_tokenizer())
    tokens = tokenize(["one"], ["two"], model.tokenizer, 64, model.head.prompt)
    assert model.tokenizer.decode(row_of(tokens, 0)) == "Second: two First: one\nLabel:"
    plain = TaskConfig(head="label_words")
    assert "{pair}" in str(with_prompt(plain, pairs=True).prompt)
    assert with_prompt(plain, pairs=False).prompt == PROMPT
    with pytest.raises(ConfigurationError, match=r"task.prompt has no {pair}, but each row has a second text"):
        with_prompt(TaskConfig(head="label_words", prompt=CUE), pairs=True)
    with pytest.raises(ConfigurationError, match=r"rows have no second text"):
        with_prompt(TaskConfig(head="label_words", prompt=prompt), pairs=False)


def test_bf16_does_not_tie_scores() -> None:
    model = backbone(task(WORDS["one token"]), decoder("qwen2"), byte_tokenizer())
    scores = model.logits(batch(model), "bf16")
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


class LargestInFp32(TorchDispatchMode):
    """Counts the numbers of the largest tensor in fp32 that is made."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, _types: Any, inputs: Any = (), named: Any = None) -> Any:
        made = function(*inputs, **(named or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float32:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_output_embeddings_of_bf16_are_in_fp32_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scores and gradients are those of the whole, computed in fp32."""
    monkeypatch.setattr("hpo.model.backbone.NUMBERS_IN_FP32", 100 * 16)
    model = backbone(task(WORDS["several tokens"]), decoder("qwen2").bfloat16(), byte_tokenizer())
    words = model.network.lm_head.requires_grad_(False)
    assert words.weight.numel() == 280 * 16
    states = torch.randn(2, 3, 16, dtype=torch.bfloat16, requires_grad=True)
    with LargestInFp32() as largest:
        found = words(states)
        found.square().sum().backward()
    assert largest.numbers == 2 * 3 * 280 < words.weight.numel()
    of_states, states.grad = states.grad, None
    expected = torch.nn.functional.linear(states.float(), words.weight.float())
    expected.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(of_states, states.grad)


# The words that are made of labels


def spelled_by(labels: Sequence[str], tokenizer: Any, network: Any, prompt: str | None = None) -> dict[str, str]:
    of = LabelWords.of(with_prompt(TaskConfig(head="label_words", prompt=prompt), pairs=False), labels)
    head = of.head_for(network, tokenizer)
    return {"prompt": head.template, **head.words}


def test_labels_are_their_own_words() -> None:
    labels, tokenizer, network = ["goal", "a_goal"], byte_tokenizer(), decoder("llama")
    found = spelled_by(labels, tokenizer, network)
    assert found == {"prompt": PROMPT, "a_goal": "a goal", "goal": "goal"}
    found = spelled_by(labels, tokenizer, network, "One of {labels} is: {text}\nLabel:")
    assert found == {"prompt": "One of a goal, goal is: {text}\nLabel:", "a_goal": "a goal", "goal": "goal"}


@pytest.mark.parametrize(
    "labels", [[f"g{number}" for number in range(9)], ["goal", "a name of many tokens"]], ids=["many", "long"]
)
def test_many_labels_and_long_ones_have_letters_that_the_prompt_explains(labels: list[str]) -> None:
    found = spelled_by(labels, byte_tokenizer(), decoder("llama"))
    ordered = sorted(labels)
    assert [found[label] for label in ordered] == [*"ABCDEFGHI"[: len(labels)]]
    assert found["prompt"].startswith(f"Categories: A: {ordered[0]}, B: {ordered[1]}")
    # A prompt that does not list labels cannot explain letters.
    assert spelled_by(labels, byte_tokenizer(), decoder("llama"), CUE)[ordered[0]] == ordered[0]


def test_more_labels_than_letters_have_numbers() -> None:
    found = spelled_by([f"g{number:02}" for number in range(30)], byte_tokenizer(), decoder("llama"))
    assert (found["g00"], found["g29"]) == ("1", "30")


def test_a_masked_model_has_letters_for_labels_of_several_tokens() -> None:
    tokenizer, network = word_tokenizer(framed=True), masked_model("bert")
    assert spelled_by(["sport", "money"], tokenizer, network)["sport"] == "sport"
    assert spelled_by(["sport news", "money"], tokenizer, network)["sport news"] == "B"


def test_a_label_is_no_place_for_a_text() -> None:
    found = spelled_by(["{text}", "goal"], byte_tokenizer(), decoder("llama"), "Of {labels}: {text} is:")
    assert found["prompt"] == "Of A: goal, B: (text): {text} is:"


def test_what_was_learned_asks_the_same_again() -> None:
    network, tokenizer = decoder("llama"), byte_tokenizer()
    of = LabelWords.of(TaskConfig(head="label_words"), [f"g{number}" for number in range(9)])
    first = backbone(of, network, tokenizer)
    again = LabelWords.restored(of.learned() | first.head.learned())
    assert again.label_names == of.label_names
    second = backbone(again, network, tokenizer)
    assert second.head.prompt == first.head.prompt
    assert torch.equal(first.logits(batch(first), "fp32"), second.logits(batch(second), "fp32"))


def test_a_note_says_what_the_model_reads_and_which_tokens_it_is_asked_for() -> None:
    model = backbone(task({"x": "goal", "y": "tax"}), decoder("llama"), byte_tokenizer())
    ids = row_of(tokenize(["the team"], None, model.tokenizer, 64, model.head.prompt), 0).tolist()
    assert model.head.note(ids, model.tokenizer) == (
        "The model reads 'Text: the team\\nLabel:', and is asked for 'x': Ġgoal; 'y': Ġ t a x."
    )


# What cannot be


def refused(words: Mapping[str, str], tokenizer: Any, network: Any, prompt: str = CUE) -> str:
    with pytest.raises((ConfigurationError, ModelError)) as caught:
        task(words, prompt).head_for(network, tokenizer)
    return str(caught.value)


def test_words_that_are_no_words_are_told_at_once() -> None:
    said = refused({"x": "", "y": "goal", "z": " goal"}, byte_tokenizer(), decoder("llama"))
    assert "the word of 'x', '', has no tokens that the model knows; give another." in said
    assert "the word of 'z', ' goal', has the same tokens as that of 'y'; give another." in said
    assert "'football', has no tokens" in refused({"x": "football", "y": "sport"}, word_tokenizer(), decoder("llama"))


def test_a_masked_model_has_room_for_one_token() -> None:
    said = refused({"x": "sport news", "y": "money"}, word_tokenizer(framed=True), masked_model("bert"))
    assert "the word of 'x', 'sport news', has 2 tokens, but a masked model has room for one" in said
    without = word_tokenizer(framed=True, mask_token=None)
    assert "has no mask token" in refused({"x": "sport", "y": "money"}, without, masked_model("bert"))


def test_a_label_without_a_word_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"task.label_words has no word for 'y', 'z'; give one for each label"):
        LabelWords.of(TaskConfig(head="label_words", label_words={"x": "a"}), ["x", "y", "z"])


def test_a_text_that_is_joined_with_the_prompt_is_refused() -> None:
    said = refused({"x": "goal", "y": "a"}, byte_tokenizer(), decoder("llama"), "Text:g{text} Label:")
    assert "joins the text with what is beside it in task.prompt; put a space before {text} there" in said


def test_a_prompt_that_is_longer_than_the_model_reads_is_told_as_that() -> None:
    network = decoder("gpt2")
    longest = network.config.max_position_embeddings
    said = refused(WORDS["several tokens"], byte_tokenizer(), network, f"{'a ' * longest}{CUE}")
    assert f"tokens, but the model reads at most {longest}; give a shorter task.prompt" in said


def test_a_model_without_positions_has_words_of_one_token() -> None:
    network, tokenizer = decoder("bloom"), byte_tokenizer()
    said = refused(WORDS["several tokens"], tokenizer, network)
    assert "BloomForCausalLM cannot score words of several tokens side by side, such as 'tax law'" in said
    words = WORDS["one token"]
    model = backbone(task(words), network, tokenizer)
    expected = plainly(network, tokenizer, CUE, words, TEXTS)
    torch.testing.assert_close(model.logits(batch(model), "fp32"), expected, rtol=1e-5, atol=1e-5)
    # Where words are made of the labels, they are of one token for such a model.
    assert spelled_by(["sport", "money news"], word_tokenizer(), network)["money news"] == "A"


def test_rows_are_no_longer_than_the_window_of_a_model_that_has_one() -> None:
    several = backbone(task(WORDS["several tokens"]), decoder("mistral"), byte_tokenizer())
    several.refuse_length(64)
    with pytest.raises(ModelError, match=r"max_length is 65, but behind 64 tokens this model no longer sees its first"):
        several.refuse_length(65)
    backbone(task(WORDS["one token"]), decoder("mistral"), byte_tokenizer()).refuse_length(65)


def test_a_tokenizer_that_does_not_say_where_a_text_is_is_refused() -> None:
    said = refused({"x": "a", "y": "b"}, InPython(), decoder("llama"))
    assert "InPython does not say which tokens a text has" in said


def test_a_network_that_is_nothing_but_its_head_is_refused() -> None:
    network = decoder("llama")
    network.base_model_prefix = ""
    assert "LlamaForCausalLM has no part below its" in refused({"x": "a", "y": "goal"}, byte_tokenizer(), network)


# Parts of it


def test_a_tree_has_each_beginning_once() -> None:
    tree = WordTree.of([(5, 6, 7), (5, 6, 8), (9,), (5, 2)])
    assert tree.nodes == ((), (5,), (5, 6))
    assert tree.tokens == (5, 6)


def test_calibrated_answers_are_as_frequent_as_labels_are_in_training() -> None:
    answers, targets = np.array([[0.8, 0.2], [0.6, 0.4], [0.7, 0.3], [0.9, 0.1]]), np.array([0, 1, 1, 0])
    found = Untuned(calibrated=True).fit(answers, targets).predict_proba(np.array([[0.75, 0.25], [0.6, 0.4]]))
    # Factors 0.5 / 0.75 and 0.5 / 0.25: where a row is answered as the mean is, labels are as likely as they are often.
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.4 / 1.2, 0.8 / 1.2]]))
    assert Untuned(calibrated=False).fit(answers, targets).predict_proba(answers) == pytest.approx(answers)
