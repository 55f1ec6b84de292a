"""What Kaggle's client reads beside the files: who owns a data set or notebook, and what it is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from augment.files import read_object, write_json
from kernels_kaggle.exchange import Stage, parse_record
from pipeline.settings import KaggleSettings

DATASET_METADATA = "dataset-metadata.json"
"""Read by Kaggle's client in the folder of a data set, and not uploaded."""

_NOTEBOOK_METADATA = "kernel-metadata.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookMetadata:
    """``kernel-metadata.json``: what shall run on Kaggle and with what; all names are Kaggle's.

    It is an InputError to read one of a notebook that is public or has the internet.
    """

    id: str
    title: str
    code_file: str
    language: str = "python"
    kernel_type: str = "notebook"
    is_private: Literal[True] = True
    enable_gpu: bool
    enable_tpu: bool = False
    enable_internet: Literal[False] = False
    machine_shape: str = ""
    dataset_sources: tuple[str]
    competition_sources: tuple[()] | tuple[str]
    kernel_sources: tuple[str, ...] = ()
    model_sources: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, name: str, stage: Stage, dataset: str, settings: KaggleSettings
    ) -> "NotebookMetadata":
        """Return the metadata of the notebook ``name``, which gets ``dataset`` as an input."""
        return cls(
            id=name,
            title=_title(name),
            code_file=f"{stage}.ipynb",
            enable_gpu=bool(settings.machine_shape),
            machine_shape=settings.machine_shape,
            dataset_sources=(dataset,),
            competition_sources=(settings.competition,) if stage == "predict" else (),
        )

    @classmethod
    def read(cls, folder: Path) -> "NotebookMetadata":
        """Return the metadata in the folder of a notebook."""
        path = folder / _NOTEBOOK_METADATA
        return parse_record(cls, read_object(path), path)

    def write(self, folder: Path) -> None:
        """Write the metadata into the folder of a notebook."""
        fields = asdict(self)
        if not self.machine_shape:
            del fields["machine_shape"]
        write_json(folder / _NOTEBOOK_METADATA, fields)


def write_dataset_metadata(folder: Path, name: str, settings: KaggleSettings) -> None:
    """Write ``dataset-metadata.json`` into the folder of the data set ``name``."""
    fields = {
        "id": name,
        "title": _title(name),
        "licenses": [{"name": settings.licence}],
        "description": "Made by arc-trm; manifest.json lists the files.",
    }
    write_json(folder / DATASET_METADATA, fields)


def _title(name: str) -> str:
    """Return the title of which Kaggle makes the slug in the name ``OWNER/SLUG``."""
    return name.partition("/")[2].replace("-", " ")
