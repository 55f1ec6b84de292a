"""How far a package has come: uploaded, pushed, checked, submitted; kept in ``pushed.json``."""

from dataclasses import asdict, dataclass, replace

from augment.errors import InputError
from augment.files import read_object, write_json
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.exchange import parse_record


@dataclass(frozen=True, slots=True)
class PushedState:
    """What Kaggle has of a package. Each method returns the state that comes next.

    An upload leads back to a state without a notebook: no earlier version holds the new package.
    """

    package: str | None = None
    """The digest of the manifest that the data set on Kaggle holds."""
    dataset_version: int | None = None
    notebooks: tuple[str, ...] = ()
    """Every notebook that was ever pushed from this folder."""
    notebook: str = ""
    """The notebook that was pushed last; empty where none was since the upload."""
    version: int = 0
    """The version that the last push made of it."""
    competition: tuple[()] | tuple[str] = ()
    """The competition that the notebook can be submitted to; none for one that pretrains."""
    is_checked: bool = False
    """Whether this version was seen to end well and its output has come home."""
    was_submitted: bool = False

    @classmethod
    def read(cls, folder: PackageFolder) -> "PushedState":
        """Return the state of a folder, which is a new one where nothing was uploaded yet."""
        path = folder.pushed
        return parse_record(cls, read_object(path), path) if path.exists() else cls()

    @classmethod
    def read_latest(cls, folder: PackageFolder) -> "PushedState":
        """Return the state of a folder whose notebook was pushed, else raise an InputError."""
        state = cls.read(folder)
        if not state.version:
            first = folder.command("push")
            raise InputError(f"{folder.root}: nothing was pushed; {first} comes first")
        return state

    def write(self, folder: PackageFolder) -> None:
        """Keep this state in the folder, without the fields that mean nothing in it yet."""
        fields = asdict(self)
        if not self.was_submitted:
            del fields["was_submitted"]
        if not self.version:
            for name in ("notebook", "version", "competition", "is_checked"):
                del fields[name]
        write_json(folder.pushed, fields)

    def uploaded(self, package: str, dataset_version: int | None) -> "PushedState":
        """Return the state after Kaggle has the package with this digest as a data set."""
        return PushedState(package, dataset_version, self.notebooks)

    def pushed(
        self, notebook: str, version: int, competition: tuple[()] | tuple[str]
    ) -> "PushedState":
        """Return the state after a notebook was pushed, which now runs there."""
        return PushedState(
            self.package,
            self.dataset_version,
            tuple(sorted({*self.notebooks, notebook})),
            notebook,
            version,
            competition,
        )

    def checked(self, ended_well: bool) -> "PushedState":
        """Return the state after this version has ended, well or not."""
        return replace(self, is_checked=ended_well)

    def submitted(self) -> "PushedState":
        """Return the state after this version was, or may have been, submitted."""
        return replace(self, was_submitted=True)
