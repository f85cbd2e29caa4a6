from tests.object_store import store
from tests.training.conftest import bert, one_thread, study, task, texts, tiny_bert, tiny_llama

__all__ = ["bert", "one_thread", "store", "study", "task", "texts", "tiny_bert", "tiny_llama"]
