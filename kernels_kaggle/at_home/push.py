"""Uploads a package as a data set and pushes its notebook, which Kaggle then runs."""

from dataclasses import replace

from augment.errors import InputError
from augment.files import read_bytes
from kernels_kaggle.at_home.client import Client, DatasetState, KaggleError
from kernels_kaggle.at_home.credentials import read_secrets
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.guard import find_secret, refuse_unpublishable
from kernels_kaggle.at_home.metadata import NotebookMetadata
from kernels_kaggle.at_home.pushed import PushedState
from kernels_kaggle.exchange import Manifest, read_digest
from pipeline.console import say
from pipeline.recipes import load_recipe

_SECONDS_BETWEEN_LOOKS = 20.0
_LOOKS_AT_DATASET = 90  # half an hour in all


def push(folder: PackageFolder, client: Client) -> None:
    """Upload the package unless Kaggle has it, wait until it is ready, and push the notebook.

    A notebook that pretrains, and was pushed before, gets its own last output as an input.
    """
    manifest = _read_publishable(folder)
    digest = read_digest(folder.dataset)
    metadata = NotebookMetadata.read(folder.notebook)
    notebook, (dataset,) = metadata.id, metadata.dataset_sources
    state = PushedState.read(folder)
    if manifest.stage == "predict" and state.package == digest and state.is_checked:
        raise InputError(
            f"{state.notebook}: version {state.version} holds this package and was seen to work; "
            f"{folder.command('submit')}, or {folder.command('package')} with other settings"
        )
    dataset_version = state.dataset_version
    on_kaggle = client.get_dataset_state(dataset)
    if state.package == digest and on_kaggle == ("ready", dataset_version):
        say(f"{dataset}: Kaggle has this package already")
    else:
        dataset_version = _upload(folder, dataset, on_kaggle, client)
    state = state.uploaded(digest, dataset_version)
    state.write(folder)  # until the notebook is pushed there is nothing to submit
    if manifest.stage == "pretrain" and notebook in state.notebooks:
        metadata = replace(metadata, kernel_sources=(notebook,))
    metadata.write(folder.notebook)  # what was checked, and nothing that it left out
    version = client.push_notebook(folder.notebook, metadata.machine_shape)
    state.pushed(notebook, version, metadata.competition_sources).write(folder)
    say(f"{notebook}: version {version} runs on Kaggle, at kaggle.com/code/{notebook}")
    say(f"next: {folder.command('status')}")


def _read_publishable(folder: PackageFolder) -> Manifest:
    """Return the manifest of a package that can be pushed as it is.

    It is an InputError when a file is missing, damaged or may not be published, and when the
    notebook holds credentials or was made for another package.
    """
    if not folder.dataset.exists():
        raise InputError(f"{folder.dataset}: no package; {folder.command('package')} comes first")
    try:
        manifest = Manifest.read(folder.dataset)
    except InputError as error:
        raise InputError(f"{error}; {folder.command('package')} makes it again") from None
    refuse_unpublishable(folder.dataset, load_recipe(manifest.recipe, manifest.changes))
    code = folder.notebook / NotebookMetadata.read(folder.notebook).code_file
    content = read_bytes(code)
    if secret := find_secret(content, read_secrets()):
        raise InputError(f"{code}: refused: {secret}")
    if read_digest(folder.dataset).encode() not in content:
        raise InputError(f"{code}: made for another package; {folder.command('package')} again")
    return manifest


def _upload(
    folder: PackageFolder, dataset: str, on_kaggle: DatasetState | None, client: Client
) -> int:
    """Create the data set or a new version of it; return the version once it can be used."""
    if on_kaggle is None:
        client.create_dataset(folder.dataset)
    else:
        client.add_version(folder.dataset, f"manifest {read_digest(folder.dataset)[:12]}")
    expected = 1 if on_kaggle is None else on_kaggle.version + 1
    shown = ""
    for _ in range(_LOOKS_AT_DATASET):
        status, version = client.get_dataset_state(dataset) or ("not to be seen yet", 0)
        if status != shown:
            say(f"{dataset}: {status}")
            shown = status
        if status in ("failed", "deleted"):
            raise KaggleError(f"{dataset}: {status} on Kaggle; look at it there, then push again")
        if status == "ready" and version >= expected:
            return version
        client.pause(_SECONDS_BETWEEN_LOOKS)
    raise KaggleError(f"{dataset}: still {shown} after half an hour; push again later")
