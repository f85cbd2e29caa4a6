"""Hub models: the config.json of one, and the refusal of one that the hub lacks or that cannot be reached."""

from pathlib import Path

from hpo.errors import ModelError

SECONDS = 10.0
"""Longest time to wait for the hub; its client would wait and try again for most of a minute."""


def config_on_hub(name: str, revision: str | None) -> Path:
    """Return the config.json of a hub model, fetched if this machine has no copy yet.

    Raises:
        ModelError: as in `refuse_absent`.
        OSError: the model has no config.json.
    """
    import huggingface_hub as hub

    if isinstance(kept := hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return Path(kept)
    refuse_absent(name, revision)
    return Path(hub.hf_hub_download(name, "config.json", revision=revision))


def refuse_absent(name: str, revision: str | None, file: str = "config.json") -> None:
    """Refuse a model that the hub does not have, or for which it cannot be reached now.

    A model of which this machine has a copy is not asked for, nor is the hub judged by its own errors, which pass.

    Raises:
        ModelError: there is no such model or revision, this user may not read it, or the hub does not answer.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    missing = f"There is no folder {name}, and the hub"
    try:
        if isinstance(hub.try_to_load_from_cache(name, file, revision=revision), str):
            return
        # Read by the client at each request, so telemetry stays off even if it was imported earlier.
        hub.constants.HF_HUB_DISABLE_TELEMETRY = True
        hub.get_hf_file_metadata(hub.hf_hub_url(name, file, revision=revision), timeout=SECONDS)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"{missing} gives no such model: {_first_line(error)}.") from error
    except HfHubHTTPError:
        return
    except Exception as error:  # of whatever library its client asks through
        raise ModelError(
            f"{missing} cannot be reached ({_first_line(error)}); name a folder that holds a model, or try again once "
            f"{hub.constants.ENDPOINT} answers."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
