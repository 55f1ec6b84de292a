"""Reading checkpoints of the TRM reference implementation, so that public weights can be used."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # only what torch.load raises, nothing is unpickled

import torch
import yaml
from torch import Tensor

from augment.errors import InputError
from solver.model import TRM
from solver.settings import ModelSettings

_ROWS = "inner.puzzle_emb.weights"
_PREFIXES = ("_orig_mod.", "model.")
_CONFIG_FILE = "all_config.yaml"

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


def reference_names(model: TRM) -> dict[str, str]:
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
    settings or tensors are missing, left over or of another shape.
    """
    pattern = re.compile("^(?:" + "|".join(map(re.escape, _PREFIXES)) + ")+")
    named = {
        pattern.sub("", str(name)): tensor.float()
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    }
    model = TRM(_convert_settings(config))
    names = reference_names(model)
    missing = sorted((names.keys() | {_ROWS}) - named.keys())
    surplus = sorted(named.keys() - names.keys() - {_ROWS})
    if missing or surplus:
        raise InputError(f"reference checkpoint: missing {missing}, not known {surplus}")
    own = model.state_dict()
    for theirs, ours in names.items():
        if own[ours].shape != named[theirs].shape:
            raise InputError(
                f"reference checkpoint: {theirs} is {tuple(named[theirs].shape)}, its settings "
                f"ask for {tuple(own[ours].shape)}"
            )
    rows = named[_ROWS]
    if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != model.settings.dim:
        raise InputError(f"reference checkpoint: {_ROWS} is {tuple(rows.shape)}")
    model.load_state_dict({ours: named[theirs] for theirs, ours in names.items()})
    return model, rows


def _convert_settings(config: Mapping[str, object]) -> ModelSettings:
    values = {}
    for ours, theirs, default in _SETTINGS:
        value = config.get(theirs, default)
        if not isinstance(value, int | float):
            raise InputError(f"reference checkpoint: setting {theirs} is {value!r}, not a number")
        values[ours] = value
    seq_len = config.get("seq_len", 900)
    side = math.isqrt(seq_len) if isinstance(seq_len, int) and seq_len > 0 else 0
    if side**2 != seq_len:
        raise InputError(f"reference checkpoint: seq_len is {seq_len!r}, not a square")
    variant = "mlp" if config.get("mlp_t") else "attention"
    return ModelSettings(variant=variant, canvas_side=side, **values)  # type: ignore[arg-type]


def read_reference(path: Path) -> tuple[TRM, Tensor]:
    """Return model and puzzle rows of a reference ``step_N`` file, ``all_config.yaml`` beside it.

    Nothing in the file is executed: only tensors are read from it.
    """
    config_path = path.with_name(_CONFIG_FILE)
    try:
        config = yaml.safe_load(config_path.read_text())
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnpicklingError, RuntimeError, LookupError, ValueError, EOFError) as e:
        # torch's own text would advise to load the file unsafely.
        raise InputError(f"{path}: not a reference checkpoint ({type(e).__name__})") from None
    if not isinstance(config, dict) or not isinstance(config.get("arch"), dict):
        raise InputError(f"{config_path}: no section 'arch' with the model's settings")
    if not isinstance(tensors, dict):
        raise InputError(f"{path}: not a reference checkpoint (no table of tensors)")
    try:
        return convert_reference(tensors, {**config, **config["arch"]})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
