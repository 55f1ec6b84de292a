"""Reading checkpoints of the TRM reference implementation, so that public weights can be used."""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml
from torch import Tensor

from augment.errors import InputError
from augment.grid import shorten
from solver.kinds import outline
from solver.model import Model
from solver.settings import ModelSettings
from solver.trm import TRM

_ROWS = "inner.puzzle_emb.weights"
_PREFIXES = ("_orig_mod.", "model.")
_CONFIG_FILE = "all_config.yaml"
_LARGEST_CONFIG = 2**17  # bytes; the reference writes some thousand
_LARGEST_SETTING = 2**31

# Ours, and the reference's, in the order in which they are replaced.
_PARTS = (
    ("y_start", "inner.H_init"),
    ("z_start", "inner.L_init"),
    ("token_embedding", "inner.embed_tokens.embedding_weight"),
    ("output_head.", "inner.lm_head."),
    ("halt_head.", "inner.q_head."),
    ("net.layers.", "inner.L_level.layers."),
    (".attention.qkv.", ".self_attn.qkv_proj."),
    (".attention.output.", ".self_attn.o_proj."),
    (".position_mlp.", ".mlp_t."),
    (".gate_up.", ".gate_up_proj."),
    (".down.", ".down_proj."),
)

# Ours, the reference's, and the reference's default where its files may leave it out.
_SETTINGS = (
    ("dim", "hidden_size", None),
    ("num_heads", "num_heads", None),
    ("num_layers", "L_layers", None),
    ("expansion", "expansion", None),
    ("num_cycles", "H_cycles", None),
    ("num_latent_steps", "L_cycles", None),
    ("max_supervision_steps", "halt_max_steps", None),
    ("prefix_length", "puzzle_emb_len", 16),
    ("norm_eps", "rms_norm_eps", 1e-5),
    ("rotary_base", "rope_theta", 10000.0),
)


class _Loader(yaml.SafeLoader):
    """YAML without merged mappings, which can double in size with every line."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing, so that a key to merge is an error."""


def reference_names(model: Model) -> dict[str, str]:
    """Return the reference's name of every tensor of ``model``, with ours behind it."""
    names = {}
    for ours in model.state_dict():
        theirs = ours
        for part, reference_part in _PARTS:
            theirs = theirs.replace(part, reference_part)
        names[theirs] = ours
    return names


def convert_reference(
    tensors: Mapping[str, Tensor], config: Mapping[str, object]
) -> tuple[TRM, Tensor]:
    """Return the model and its puzzle rows (N, D) from the reference's tensors and settings.

    Names may carry the prefixes that compiling and wrapping add. Raises :class:`InputError` when
    settings or tensors are missing, left over, of another shape or not finite numbers; no memory is
    taken before.
    """
    pattern = re.compile("^(?:" + "|".join(map(re.escape, _PREFIXES)) + ")+")
    named = {
        pattern.sub("", name): tensor
        for name, tensor in tensors.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    settings = _convert_settings(config)
    expected = outline(settings)
    names, own = reference_names(expected), expected.state_dict()
    missing = sorted((names.keys() | {_ROWS}) - named.keys())
    surplus = sorted(named.keys() - names.keys() - {_ROWS})
    if missing or surplus:
        raise InputError(
            f"reference checkpoint: missing {shorten(missing)}, not known {shorten(surplus)}"
        )
    for theirs, ours in names.items():
        if own[ours].shape != named[theirs].shape:
            raise InputError(
                f"reference checkpoint: {theirs} is {tuple(named[theirs].shape)}, its settings "
                f"ask for {tuple(own[ours].shape)}"
            )
    rows = named[_ROWS]
    if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != settings.dim:
        raise InputError(f"reference checkpoint: {_ROWS} is {tuple(rows.shape)}")
    state = {ours: _as_float(theirs, named[theirs]) for theirs, ours in names.items()}
    rows = _as_float(_ROWS, rows)
    model = TRM(settings)
    model.load_state_dict(state)
    return model, rows


def _as_float(name: str, tensor: Tensor) -> Tensor:
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not tensor.is_floating_point() or not is_plain or not tensor.is_contiguous():
        raise InputError(f"reference checkpoint: {name} is no plain tensor of decimal numbers")
    values = tensor.detach().float()
    if not values.isfinite().all():
        raise InputError(f"reference checkpoint: {name} has a number that is not finite")
    return values


def _convert_settings(config: Mapping[str, object]) -> ModelSettings:
    values, hints = {}, get_type_hints(ModelSettings)
    for ours, theirs, default in _SETTINGS:
        value = config.get(theirs, default)
        # The value is not shown: with aliases a few lines of YAML can be text without end.
        if type(value) not in ((int, float) if hints[ours] is float else (int,)):
            raise InputError(f"reference checkpoint: setting {theirs} is no such number")
        if not abs(value) < _LARGEST_SETTING:  # type: ignore[arg-type]
            raise InputError(f"reference checkpoint: setting {theirs} is out of range")
        values[ours] = value
    seq_len = config.get("seq_len", 900)
    side = math.isqrt(seq_len) if type(seq_len) is int and seq_len > 0 else 0
    if side**2 != seq_len:
        raise InputError("reference checkpoint: seq_len is not a square")
    variant = "mlp" if config.get("mlp_t") else "attention"
    return ModelSettings(variant=variant, canvas_side=side, **values)  # type: ignore[arg-type]


def read_reference(path: Path) -> tuple[TRM, Tensor]:
    """Return model and puzzle rows of a reference ``step_N`` file, ``all_config.yaml`` beside it.

    Nothing in the file is executed: only tensors are read from it.
    """
    config = _read_config(path.with_name(_CONFIG_FILE))
    tensors = _load_tensors(path)
    try:
        return convert_reference(tensors, {**config, **config["arch"]})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= _LARGEST_CONFIG):
            raise InputError(f"{path}: not a file of at most {_LARGEST_CONFIG:,} bytes")
        config = yaml.load(path.read_text(), _Loader)  # noqa: S506  # a safe one
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # whatever text that is no such YAML makes its constructors raise
        raise InputError(f"{path}: not YAML ({type(error).__name__})") from None
    if not isinstance(config, dict) or not isinstance(config.get("arch"), dict):
        raise InputError(f"{path}: no section 'arch' with the model's settings")
    return config


def _load_tensors(path: Path) -> dict[Any, Any]:
    """Return what ``torch.save`` wrote; together the tensors are not larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed, which torch.save does not do")
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no checkpoint makes zipfile or torch raise
        # torch's own text would advise to load the file unsafely.
        raise InputError(f"{path}: not a reference checkpoint ({type(error).__name__})") from None
    if not isinstance(tensors, dict):
        raise InputError(f"{path}: not a reference checkpoint (no table of tensors)")
    return tensors
