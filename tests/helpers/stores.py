"""An object store in memory that epath reaches under s3://, as it reaches s3fs."""

import contextlib

import fsspec
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry


class Store(MemoryFileSystem):
    """Files by their whole name. What an object store cannot do raises an error."""

    protocol = "s3"
    store = {}
    pseudo_dirs = [""]
    written = []  # names, in the order of writing
    broken = False

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("s3://").strip("/")

    def _open(self, path, mode="rb", *more, **options):
        if self.broken:
            raise OSError("the store does not answer")
        if mode not in ("rb", "wb"):
            raise ValueError(f"an object store has no mode {mode}")
        if mode == "wb":
            self.written.append(self._strip_protocol(path))
        return super()._open(path, mode, *more, **options)

    def mv(self, *names, **options):
        raise ValueError("an object store renames nothing")

    rename = move = mv

    @classmethod
    def names(cls):
        """Return the names of all files."""
        return sorted(cls.store)


@contextlib.contextmanager
def object_store():
    """Put an empty Store behind s3://."""
    Store.store.clear()
    Store.pseudo_dirs[:] = [""]
    Store.written.clear()
    Store.broken = False
    fsspec.register_implementation("s3", Store, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    try:
        yield Store
    finally:
        backend.fsspec_backend._get_filesystem.cache_clear()
        _registry.pop("s3", None)
