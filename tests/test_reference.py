"""Checkpoints of the TRM reference are read, and refused where they do not fit."""

import pytest
import torch
import yaml

from augment.errors import InputError
from solver.model import TRM
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
    model = TRM(ModelSettings(dim=32, num_heads=2, num_cycles=2, num_latent_steps=3), seed=7)
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
    with pytest.raises(InputError, match=r"not a reference checkpoint|no section"):
        read_reference(path)
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_reference(path)
