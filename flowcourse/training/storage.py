"""Files that are either the old ones or the new ones, whenever the process dies.

Tensors are kept in safetensors and all else in JSON: opening a file runs no code. A file is written
under another name, forced to the disk, and then moved into place in one step.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from flowcourse.training.errors import RunError

__all__ = ["read_checkpoint", "read_json", "read_tensors"]
__all__ += ["write_checkpoint", "write_json", "write_tensors"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON that other readers accept too: NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    _replace(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> Any:
    """Read JSON; RunError names a missing or damaged file."""
    try:
        return json.loads(_existing(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name. Tensors that share memory are written once each."""
    owned = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    _replace(path, lambda temporary: temporary.write_bytes(to_bytes(owned)))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors onto the CPU; RunError names a missing or damaged file."""
    try:
        return load_file(_existing(path))
    except SafetensorError as error:
        raise _damaged(path, error) from error


def write_checkpoint(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replace the checkpoint in a folder.

    `state.json` names the file with the tensors. Moving it into place is the one step that makes
    the new checkpoint count, and both files of the old one are there until then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{state['step']:08d}.safetensors"
    write_tensors(folder / name, tensors)
    write_json(folder / "state.json", {**state, "tensors": name})
    for leftover in folder.iterdir():
        if leftover.name not in (name, "state.json"):
            leftover.unlink()


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The state and the tensors of the last checkpoint, or None where there is none yet."""
    if not (folder / "state.json").exists():
        return None
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or "tensors" not in state:
        raise _damaged(folder / "state.json", "it does not name its tensors")
    return state, read_tensors(folder / state.pop("tensors"))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise RunError(
            f"There is no file {path}: check the path of the run, or train it with "
            "`flowcourse train`."
        )
    return path


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(
        f"{path} is damaged ({reason}): train the run again with --no-resume, or restore the file."
    )


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    _to_disk(temporary)
    os.replace(temporary, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
