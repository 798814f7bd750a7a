"""What makes a run repeatable: sources of random numbers, and arrays in files."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

PathLike = str | os.PathLike[str]


def as_rng(rng: Any = None) -> Any:
    """Make a source of random numbers with the methods ``random``, ``standard_normal`` and ``choice``.

    Parameters
    ----------
    rng : None, int, numpy.random.Generator or numpy.random.RandomState
        None is the book's way: the global ``numpy.random``, so that ``np.random.seed`` rules.
        An int seeds a new Generator; a generator is returned as it is.

    Raises
    ------
    TypeError
        If `rng` is none of these.
    """
    if rng is None:
        return np.random  # the module offers the methods of the global RandomState as functions
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(rng)
    raise TypeError(f"rng must be None, an int seed or a numpy Generator, got {type(rng).__name__}")


def rng_state(rng: Any) -> str:
    """Return the state of a source of random numbers as JSON (None: the global ``numpy.random``)."""
    import json  # here, because `import npconv` shall stay quick

    rng = as_rng(rng)
    state = rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng.get_state(legacy=False)
    return json.dumps(state, default=lambda array: array.tolist())


def set_rng_state(rng: Any, state: str) -> None:
    """Put a source of random numbers back into a state that `rng_state` returned."""
    import json

    rng = as_rng(rng)
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = json.loads(state)
    else:
        rng.set_state(json.loads(state))


def write_file(path: PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: under a temporary name in the same folder, then renamed."""
    path = os.path.realpath(path)  # a link stays one
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {folder} to write to", path)
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")  # another one for every process and thread
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C, too, shall leave no rubbish
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def write_npz(path: PathLike, arrays: Mapping[str, Any]) -> None:
    """Write named arrays (numbers and strings, too) as an uncompressed ``.npz``, whole or not at all."""
    write_file(path, lambda file: np.savez(file, **arrays))


def read_npz(path: PathLike) -> dict[str, NDArray[Any]]:
    """Read a whole ``.npz``; nothing in it is ever executed (no pickle).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ``.npz`` file, is damaged or holds Python objects; names the file.
    """
    try:
        # opened here: where np.load fails, it does not always close what it opened
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own for a damaged file
        reason = str(error)
        if "pickle" in reason:  # NumPy's advice would be to load it all the same
            reason = "it holds Python objects, or is a pickle, which is never loaded; write arrays with numpy.savez"
        raise ValueError(f"{os.fspath(path)} is not a readable .npz file: {reason}") from error


def check_params(source: str, found: Mapping[str, NDArray[Any]], needed: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless `found` has a number array of the same shape for each name in `needed`."""
    if found.keys() != needed.keys():
        raise ValueError(f"{source} has parameters {sorted(found)}, needed are {sorted(needed)}")
    for name, param in needed.items():
        array = found[name]
        if array.shape != param.shape or not np.can_cast(array.dtype, param.dtype, "same_kind"):
            raise ValueError(
                f"{source}: parameter {name!r} has shape {array.shape} and dtype {array.dtype}, "
                f"needed are {param.shape} and {param.dtype}"
            )
