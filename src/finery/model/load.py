"""Models and tokenizers from a folder, a hub name or a `.gguf` file, with errors that say the way out. safetensors only.

torch and transformers are imported inside the functions: `check` asks for a context limit without paying for them.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import ModelError

if TYPE_CHECKING:
    import torch

    from finery.config.schema import Config

LIMIT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "*.tiktoken")
SAMPLE_BYTES = 4096  # of each block that a fingerprint reads
SAMPLES = 32  # blocks per weight file


def load_tokenizer(model: str) -> tuple[Any, list[int]]:
    """The tokenizer and the ids that end an answer: those of generation_config.json, config.json and the tokenizer itself.

    ModelError where there is none.
    """
    kind = kind_of(model)
    if kind == "folder" and not any(any(Path(model).glob(pattern)) for pattern in TOKENIZER_FILES):
        raise ModelError(
            "the folder has no tokenizer", model, "put the model's tokenizer.json and tokenizer_config.json into it"
        )
    from transformers import AutoTokenizer

    with quiet(), explained(model):
        tokenizer = AutoTokenizer.from_pretrained(**where(model, kind), trust_remote_code=False)
    stops: list[int] = []
    if kind != "gguf":
        for name in ("generation_config.json", "config.json"):
            stops += _ids((read_json(model, name) or {}).get("eos_token_id"))
        stops += _ids((text_part(read_json(model, "config.json") or {})).get("eos_token_id"))
    stops += _ids(tokenizer.eos_token_id)
    if not stops:
        raise ModelError(
            "the tokenizer has no end-of-text token, so an answer could never end",
            model,
            "name one as `eos_token` in its tokenizer_config.json",
        )
    return tokenizer, list(dict.fromkeys(stops))


def load_model(config: Config) -> tuple[Any, dict[str, Any]]:
    """The model on its device, and `about`: device, dtype, mixed_precision, parameters, and `notes` in plain words.

    ModelError where it is missing, damaged, or not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kind = kind_of(config.model)
    refuse_other_models(config.model, kind)
    device, dtype, about = choose(config)
    # the bar of dequantising goes to stderr, whatever transformers is told
    with quiet(), explained(config.model), contextlib.redirect_stderr(io.StringIO()):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **where(config.model, kind),
            dtype=torch.float32 if kind == "gguf" else dtype,
            trust_remote_code=False,
            use_safetensors=None if kind == "gguf" else True,
            output_loading_info=True,
        )
        model, info = loaded
        if kind == "gguf":
            model = from_gguf(model, config.model)
    refuse_holes(config.model, info)
    model = model.to(device=device, dtype=dtype)
    about["attention"] = model.config._attn_implementation
    about["parameters"] = sum(p.numel() for p in model.parameters())
    if config.adapter.type == "lora" and any(".experts." in f".{name}" and p.ndim == 3 for name, p in model.named_parameters()):
        about["notes"].append("note: the adapter does not cover the experts of this mixture model; they stay as they are")
    return model, about


def model_limit(model: str) -> int | None:
    """The longest sequence in tokens that the model was made for; None where its config doesn't say. Reads no weights."""
    if kind_of(model) == "gguf":
        return gguf_limit(Path(model))
    config = text_part(read_json(model, "config.json") or {})
    found = next((config[key] for key in LIMIT_KEYS if isinstance(config.get(key), int)), None)
    return found if found is None or found > 0 else None


def fingerprint(model: str) -> dict[str, Any]:
    """What tells two base models apart without hashing all of their bytes: headers, sizes and sampled blocks of the weights."""
    kind = kind_of(model)
    if kind == "gguf":
        files = [Path(model)]
    elif kind == "folder":
        files = sorted(Path(model).glob("*.safetensors"))
    else:
        files = cached_weights(model)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        digest.update(sampled(path))
    config = Path(model) / "config.json" if kind == "folder" else None
    if config is not None and config.is_file():
        digest.update(config.read_bytes())
    return {"files": {path.name: path.stat().st_size for path in files}, "sha256_sampled": digest.hexdigest()}


def refuse_other_base(model: str, environment: dict[str, Any], way_out: str) -> None:
    """ModelError unless the base is the one that a run's environment.json names: an adapter says nothing on other weights."""
    was = environment.get("base", {}).get("fingerprint")
    if was is not None and fingerprint(model) != was:
        raise ModelError("the base model is not the one that the run began with (its fingerprint differs)", model, way_out)


# --- device and number format --------------------------------------------------------------------------------------------


def choose(config: Config) -> tuple[torch.device, torch.dtype, dict[str, Any]]:
    """(device, dtype of the frozen weights, about). Full fine-tuning keeps float32 weights: bfloat16 would lose small steps."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    kind = config.device if config.device != "auto" else "cuda" if cuda else "cpu"
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise ModelError(f"there is no {kind} device that this torch can use", "device", "device=auto, or another torch build")
    why = "as asked" if config.device != "auto" else "the first GPU" if cuda else "no GPU was found"
    if config.dtype == "auto":
        arithmetic = "bfloat16" if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        reason = {"cpu": "exact, and fast on a CPU", "mps": "exact", "cuda": "this GPU has no bfloat16"}[kind]
        reason = "fast on this GPU" if arithmetic == "bfloat16" else reason
    else:
        arithmetic, reason = config.dtype, "as asked"
    weights = "float32" if config.adapter.type == "full" or arithmetic == "float16" else arithmetic
    notes = [f"device {kind} ({why}), arithmetic {arithmetic} ({reason}), weights {weights}"]
    if kind == "cpu" and arithmetic != "float32" and not torch.cpu._is_amx_tile_supported():
        notes.append(f"note: {arithmetic} on this CPU can be a hundred times slower than float32; dtype=float32 is quicker")
    about = {
        "device": kind,
        "dtype": arithmetic,
        "weights_dtype": weights,
        "mixed_precision": {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[arithmetic],
        "notes": notes,
    }
    return torch.device(kind), getattr(torch, weights), about


# --- where a model is ----------------------------------------------------------------------------------------------------


def kind_of(model: str) -> str:
    """`folder`, `gguf` or `hub`. ModelError where nothing can be meant, with the nearest names."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise not_a_model(path)
        return "folder"
    if path.suffix == ".gguf" and path.is_file():
        return "gguf"
    if path.is_file():
        raise ModelError("this file is not a model", model, "name the model's folder, a `.gguf` file, or a hub name")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) and not model.startswith(".") and path.suffix != ".gguf":
        return "hub"
    parent = path.parent if path.parent.is_dir() else Path()
    near = difflib.get_close_matches(path.name, [p.name for p in parent.iterdir()], n=3, cutoff=0.5)
    hint = "did you mean " + " or ".join(str(parent / name) for name in near) + "?" if near else "check the path"
    raise ModelError("there is no such model folder", model, hint)


def where(model: str, kind: str) -> dict[str, str]:
    """The arguments of from_pretrained that say where."""
    if kind == "gguf":
        return {"pretrained_model_name_or_path": str(Path(model).parent), "gguf_file": Path(model).name}
    return {"pretrained_model_name_or_path": model}


def not_a_model(path: Path) -> ModelError:
    names = sorted(p.name for p in path.iterdir())
    holds = f"it holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else "it is empty"
    inside = [p.parent for p in path.glob("*/config.json")]
    ggufs = list(path.glob("*.gguf"))
    if (path / "adapter_config.json").is_file():
        return ModelError("this folder holds an adapter, not a model", str(path), "name the base model as `model`")
    found = [*inside, *ggufs]
    hint = f"did you mean {found[0]}?" if found else "name a folder with config.json, tokenizer.json and *.safetensors"
    return ModelError(f"this folder is not a model: no config.json ({holds})", str(path), hint)


def read_json(model: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a folder or hub model; None where it has none."""
    if Path(model).is_dir():
        path = Path(model) / name
        if not path.is_file():
            return None
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with explained(model), quiet():
            try:
                path = Path(hf_hub_download(model, name))
            except LocalEntryNotFoundError as error:
                raise unreachable(model, error) from None
            except EntryNotFoundError:
                return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{name} is not valid JSON: {error}", str(path), "get the model again") from None


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config.json: models with images keep it as `text_config`."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config


# --- what is refused -----------------------------------------------------------------------------------------------------


def refuse_other_models(model: str, kind: str) -> None:
    """ModelError unless config.json is that of a causal language model."""
    if kind == "gguf":
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    config = read_json(model, "config.json") or {}
    kinds, names = config.get("model_type"), config.get("architectures") or []
    if config.get("auto_map") and kinds not in CAUSAL:
        raise ModelError(
            f"the model brings its own code ({kinds}), which is never run here",
            model,
            "use a version of the model that transformers knows by itself",
        )
    known = {name for value in CAUSAL.values() for name in ([value] if isinstance(value, str) else value)}
    if kinds not in CAUSAL or (names and not known & set(names)):
        said = ", ".join(names) or f"model_type {kinds}"
        raise ModelError(
            f"this is not a causal language model: its config.json says {said}", model, "name a model that writes text"
        )


def refuse_holes(model: str, info: dict[str, Any]) -> None:
    """ModelError where weights are missing or of another shape: transformers would fill them with random numbers."""
    missing = sorted(info.get("missing_keys") or ())
    wrong = sorted(str(item[0] if isinstance(item, tuple) else item) for item in info.get("mismatched_keys") or ())
    if missing or wrong:
        names = [*wrong, *missing]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        what = "have another shape than config.json says" if wrong else "are missing from its files"
        raise ModelError(
            f"weights of the model {what}: {shown}", model, "get the model again; its folder is incomplete or mixed up"
        )


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Whatever the libraries raise on loading becomes a ModelError with a way out."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
    from safetensors import SafetensorError

    try:
        yield
    except GatedRepoError:
        raise ModelError(
            "the hub gives this model only to those who accepted its terms",
            model,
            "accept them on its page, then `hf auth login`",
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            "the hub has no such model, and there is no such folder",
            model,
            "check the name; private models need `hf auth login`",
        ) from None
    except SafetensorError as error:
        raise ModelError(f"the weights are damaged: {error}", model, "get the model again") from None
    except (OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise unreachable(model, error) from None
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        text = " ".join(str(error).split())
        if not Path(model).exists():
            raise unreachable(model, error) from None
        if "size mismatch" in text or "ismatched" in text:
            raise ModelError(
                "weights of the model have another shape than config.json says", model, "get the model again"
            ) from None
        if "no file named" in text:
            raise ModelError(
                "the folder has no model.safetensors",
                model,
                "get the weights again; pytorch_model.bin is not read, because loading it can run code",
            ) from None
        raise ModelError(f"the model can't be loaded: {text[:300]}", model, "check that the folder is whole") from error


def unreachable(model: str, error: Exception) -> ModelError:
    import os

    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") or os.environ.get("TRANSFORMERS_OFFLINE", "0") not in (
        "",
        "0",
    )
    why = "HF_HUB_OFFLINE is set" if offline else f"the hub can't be reached ({type(error).__name__})"
    return ModelError(
        f"there is no folder {model}, and it is not in the hub's cache on this machine; {why}",
        model,
        "name a model folder or a `.gguf` file, or try again with a network",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, retries and reports of the libraries on the user's terminal."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    level, hub_level, bars = logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


# --- gguf and fingerprints -----------------------------------------------------------------------------------------------


def from_gguf(model: Any, name: str) -> Any:
    """The same model without its GGUF past: transformers refuses `save_pretrained` on one that was loaded from GGUF."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    for key in ("quantization_config", "_pre_quantization_dtype", "_model_name_or_path"):
        if hasattr(model.config, key):
            delattr(model.config, key)
    model.config._name_or_path = name
    with no_init_weights():
        fresh = AutoModelForCausalLM.from_config(model.config)
    fresh.load_state_dict(model.state_dict())
    fresh.tie_weights()
    fresh.generation_config = model.generation_config
    return fresh


def gguf_limit(path: Path) -> int | None:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"this is not a whole GGUF file: {error}", str(path), "get it again") from None
    found = [field for key, field in fields.items() if key.endswith(".context_length")]
    return int(found[0].contents()) if found else None


def cached_weights(model: str) -> list[Path]:
    """The weight files of a hub model in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json")
    return sorted(Path(config).parent.glob("*.safetensors")) if isinstance(config, str) else []


def sampled(path: Path) -> bytes:
    """sha256 of a weight file's size, its head (of safetensors the whole header), and blocks spread over the rest."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if path.suffix == ".safetensors" and len(head) == 8 else SAMPLE_BYTES
        digest.update(head + file.read(min(length, size, 2**26)))
        start = file.tell()
        for number in range(SAMPLES):
            file.seek(start + (size - start) * number // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
        file.seek(max(start, size - SAMPLE_BYTES))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()


def _ids(value: Any) -> list[int]:
    """eos_token_id is a number, a list of them, or nothing."""
    return [int(v) for v in (value if isinstance(value, list) else [] if value is None else [value])]
