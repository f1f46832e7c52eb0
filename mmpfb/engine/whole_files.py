"""Files that are never seen half written."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

BACKEND = 'mmpfb.whole_files'
SUFFIX = '.partial'


class WholeFileBackend(LocalBackend):
    """Writes a file beside its place and moves it there when it is complete.

    A process that is killed while it writes leaves the former file as it was.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file, whole or not at all."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + SUFFIX)
        try:
            with partial.open('wb') as file:
                file.write(obj)
                file.flush()
                # A machine that stops could otherwise have moved a file that is still to be filled.
                os.fsync(file.fileno())
        except OSError:
            # The disk is full, and what is on it is of no use.
            partial.unlink(missing_ok=True)
            raise
        os.replace(partial, path)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file, whole or not at all."""
        self.put(obj.encode(encoding), filepath)


register_backend(BACKEND, WholeFileBackend, force=True)


def remove_partial_files(folder: str | Path, pattern: str = '*') -> None:
    """Remove what a process that was killed had begun to write into a folder."""
    for partial in Path(folder).glob(pattern + SUFFIX):
        partial.unlink()
