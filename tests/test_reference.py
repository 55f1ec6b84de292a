"""Checkpoints of the TRM reference are read, and refused where they do not fit."""

import math
import os
import re
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml
from commands import ROOT

from augment.errors import InputError
from solver.kinds import new_model
from solver.reference import read_reference, reference_names
from solver.settings import ModelSettings
from solver.weights import load_weights

REFERENCE_CONFIG = {
    "arch": {
        "hidden_size": 32, "num_heads": 2, "L_layers": 2, "expansion": 4, "H_cycles": 2,
        "L_cycles": 3, "halt_max_steps": 5, "puzzle_emb_len": 16, "mlp_t": False,
    },
    "global_batch_size": 768,
}  # fmt: skip


def write_reference(folder, prefix, **changes):
    model = new_model(ModelSettings(dim=32, num_heads=2, num_cycles=2, num_latent_steps=3), seed=7)
    own = model.state_dict()
    tensors = {prefix + theirs: own[ours] for theirs, ours in reference_names(model).items()}
    tensors[prefix + "inner.puzzle_emb.weights"] = torch.arange(5 * 32.0).view(5, 32)
    tensors.update(changes)
    torch.save(tensors, folder / "step_10")
    (folder / "all_config.yaml").write_text(yaml.safe_dump(REFERENCE_CONFIG))
    return model, folder / "step_10"


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.model."])
def test_reference_checkpoints_are_read(tmp_path, prefix):
    expected, path = write_reference(tmp_path, prefix)
    model, table = read_reference(path)
    assert model.settings == ModelSettings(
        dim=32, num_heads=2, num_cycles=2, num_latent_steps=3, max_supervision_steps=5
    )
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert table.shape == (5, 32)
    weights = load_weights(path)
    assert torch.equal(weights.table.mean_row, table[1:].mean(0))
    assert weights.index.task_ids == ()


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_reference_checkpoints_that_do_not_fit_are_refused(tmp_path, capsys):
    _, path = write_reference(tmp_path, "", extra=torch.zeros(1))
    with pytest.raises(InputError, match="not known \\['extra'\\]"):
        read_reference(path)
    _, path = write_reference(tmp_path, "", **{"inner.lm_head.weight": torch.zeros(12, 31)})
    with pytest.raises(InputError, match=r"inner\.lm_head\.weight is \(12, 31\)"):
        read_reference(path)
    torch.save({"inner.lm_head.weight": Evil()}, path)
    with pytest.raises(InputError, match="not a reference checkpoint"):
        read_reference(path)
    assert "executed" not in capsys.readouterr().out
    path.write_bytes(b"no zip file")
    with pytest.raises(InputError, match="not a reference checkpoint"):
        read_reference(path)
    (tmp_path / "all_config.yaml").write_text("arch: 3")
    with pytest.raises(InputError, match="no section"):
        read_reference(path)
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_reference(path)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)
)
CONFIGS = {
    "bomb": BOMB + "arch: {hidden_size: *a19}",
    "bomb of a section": BOMB + "arch: *a19",
    "bomb of a length": BOMB + "seq_len: *a19\n" + yaml.safe_dump(REFERENCE_CONFIG),
    "merges": MERGES + "arch: *a19",
    "itself": "arch: &a\n  hidden_size: *a",
    "deep": "arch: " + "[" * 10_000,
    "large": "arch: 1 #" + "x" * 2**20,
    "no text": b"\xff\xfe\x00",
    "empty": "arch: !!int ''",
    "untrue": "arch: !!bool maybe",
    "timeless": "arch: !!timestamp foo",
    "minus": "arch: !!int '-'",
    "unhashable": "arch: {? [1] : 2}",
    "long": f"arch: {{hidden_size: 0x{'f' * 9999}}}",
}


PROGRAM = """
import sys
from pathlib import Path
from augment.errors import InputError
from solver.weights import load_weights
for folder in sys.argv[1:]:
    try:
        load_weights(Path(folder) / "step_10")
    except InputError as error:
        print(error)
"""


def test_a_config_that_is_none_is_one_line(tmp_path):
    """In a process of its own, as a value that is rendered could take for ever."""
    folders = [tmp_path / name for name in (*CONFIGS, "pipe")]
    for folder in folders:
        folder.mkdir()
        write_reference(folder, "")
        content = CONFIGS.get(folder.name, b"")
        content = content if isinstance(content, bytes) else content.encode()
        (folder / "all_config.yaml").write_bytes(content)
    (tmp_path / "pipe" / "all_config.yaml").unlink()
    os.mkfifo(tmp_path / "pipe" / "all_config.yaml")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"{folder}/") for folder, line in zip(folders, lines, strict=True))
    assert max(map(len, lines)) < 500


@pytest.mark.parametrize(
    "changes",
    [
        {"L_layers": 2**30}, {"L_layers": 2**9}, {"hidden_size": 2**30}, {"hidden_size": 2**15},
        {"hidden_size": -32}, {"num_heads": True}, {"H_cycles": 2.5}, {"expansion": math.nan},
        {"H_cycles": None}, {"L_cycles": 2**30}, {"puzzle_emb_len": 2**20}, {"seq_len": -4},
        {"seq_len": 901}, {"halt_max_steps": "5"},
    ],
)  # fmt: skip
def test_settings_of_other_tensors_are_one_line(tmp_path, changes):
    _, path = write_reference(tmp_path, "")
    config = {**REFERENCE_CONFIG, "arch": {**REFERENCE_CONFIG["arch"], **changes}}
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=f"{path}: ") as caught:
        load_weights(path)
    assert len(str(caught.value).splitlines()) == 1


WEIGHT = "inner.lm_head.weight"
TENSORS = {
    "nan": torch.full((12, 32), math.nan),
    "integers": torch.zeros(12, 32, dtype=torch.int64),
    "complex": torch.zeros(12, 32, dtype=torch.complex64),
    "sparse": torch.zeros(12, 32).to_sparse(),
    "one number": torch.zeros(1, 1).expand(12, 32),
    "overflow": torch.full((12, 32), 1e300, dtype=torch.float64),
    "on no device": torch.zeros(12, 32, device="meta"),
    "a number": 3,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_no_numbers_are_one_line(tmp_path, name):
    _, path = write_reference(tmp_path, "", **{WEIGHT: TENSORS[name]})
    with pytest.raises(InputError, match=f"{path}: .*{re.escape(WEIGHT)}") as caught:
        load_weights(path)
    assert len(str(caught.value).splitlines()) == 1


def test_rows_that_repeat_one_without_end_are_refused(tmp_path):
    rows = torch.zeros(1, 32).expand(2**40, 32)
    _, path = write_reference(tmp_path, "", **{"inner.puzzle_emb.weights": rows})
    with pytest.raises(InputError, match="no plain tensor"):
        load_weights(path)


def test_a_compressed_file_is_refused(tmp_path):
    """Of a few bytes it could ask for all of the memory."""
    _, path = write_reference(tmp_path, "")
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, bytes(len(content)) if "/data/" in part else content)
    with pytest.raises(InputError, match="not a reference checkpoint"):
        load_weights(path)
