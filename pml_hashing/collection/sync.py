"""Bring a collection in step with a folder: by name and content, at the cost of what changed."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pml_hashing.collection.comparison import Comparison
from pml_hashing.collection.encoding import CollectionEncoder, FilesToEncode
from pml_hashing.collection.file_records import Files, Unreadable
from pml_hashing.collection.files import FileState, digest_of, read_state_and_bytes
from pml_hashing.collection.journal import Encoded, Journal
from pml_hashing.collection.labels import Labels, Metadata, Row, rows_of
from pml_hashing.collection.snapshot import Snapshot, commit, remove_old
from pml_hashing.datasets import UnreadableImageError, list_images

JOURNAL = "encoded.journal"


@dataclass(frozen=True)
class SyncReport:
    """What a sync found and did, by the names of the images.

    Attributes:
        added: New ones.
        changed: Those whose content is another.
        renamed: Old and new names of those that were moved.
        removed: Those that are gone, or cannot be read any more.
        unchanged: How many stayed as they were.
        encoded: How many were run through the model. The content of all others was known.
        unreadable: Images without a code, each with an error that says why.
        ignored: How many files are no images, by their endings.
        unmatched: Names of which a table or mapping of labels tells, and which are not there.
    """

    added: list[str]
    changed: list[str]
    renamed: list[tuple[str, str]]
    removed: list[str]
    unchanged: int
    encoded: int
    unreadable: list[UnreadableImageError]
    ignored: dict[str, int]
    unmatched: list[str]

    def __str__(self) -> str:
        counts = {
            "added": len(self.added),
            "changed": len(self.changed),
            "renamed": len(self.renamed),
            "removed": len(self.removed),
            "unchanged": self.unchanged,
            "encoded": self.encoded,
            "unreadable": len(self.unreadable),
            "ignored": sum(self.ignored.values()),
        }
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())


@dataclass(frozen=True)
class SyncOptions:
    """How a sync is run. `Collection.sync` documents them."""

    batch_size: int
    num_workers: int
    allow_outside: bool
    progress: bool


class Entry(NamedTuple):
    """A file that is new or changed, with its code."""

    state: FileState
    encoded: Encoded


@dataclass
class Sync:
    """One run: finds what changed, encodes it, and commits.

    Attributes:
        snapshot: What the collection holds.
        encoder: Makes codes.
        root: The folder of the images, without links.
        options: How it is run.
        learned: Codes that were made of some files when the model was learned, by their digests.
        entries: What is new or changed, and can be read.
        unreadable: What cannot be read.
        num_encoded: How many files were run through the model.
    """

    snapshot: Snapshot
    encoder: CollectionEncoder
    root: Path
    options: SyncOptions
    learned: Mapping[bytes, Encoded] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    num_encoded: int = 0

    def run(self, labels: Labels, source: str | None) -> tuple[Snapshot, SyncReport]:
        """Return the new state, and what was done.

        Args:
            labels: Where metadata come from. They stay as they are if `None`.
            source: The same, as it is remembered.
        """
        snapshot = self.snapshot
        listing = list_images(self.root, without=snapshot.folder)
        journal = Journal(snapshot.folder / JOURNAL, snapshot.manifest.model)
        found = Comparison.of(listing.names, self.root, snapshot)
        rest = self._take_known(self._without_bad(found.suspects()), journal)
        if rest:
            with journal:
                self._encode(rest, journal)
        found = found.with_codes(self.entries)
        given, unmatched = rows_of(labels, self.root, found.names)
        report = self._report(found, listing.ignored, unmatched)
        metadata = {} if source is not None else self._held_metadata(found, report.renamed)
        _fill(metadata, given, found.names)
        to = {"images": str(self.root), "labels": source, "ignored": listing.ignored}
        state = self._commit(found, metadata, to)
        journal.remove()
        return state, report

    def _without_bad(self, suspects: dict[str, FileState]) -> dict[str, FileState]:
        """Take over what could not be read and is as it was, and return all else."""
        bad = {each.name: each for each in self.snapshot.files.unreadable}
        self.unreadable = {
            name: bad[name]
            for name, state in suspects.items()
            if name in bad and bad[name].state.is_same(state)
        }
        return {name: state for name, state in suspects.items() if name not in self.unreadable}

    def _take_known(self, suspects: dict[str, FileState], journal: Journal) -> dict[str, FileState]:
        """Take codes of contents that are known, and return the other files.

        Only a file of the size of a known content can be known, and is read.
        """
        known = self._known({state.size for state in suspects.values()}, journal)
        sizes, rest = {encoded.content.size for encoded in known.values()}, {}
        for name, state in self._bar(suspects, "compare"):
            if state.size not in sizes:
                rest[name] = state
                continue
            try:
                read, content = read_state_and_bytes(self.root / name, self._within)
            except UnreadableImageError as error:
                self.unreadable[name] = Unreadable(name, state, str(error))
                continue
            digest = digest_of(content)
            if digest in known:
                self.entries[name] = Entry(read, known[digest])
                self.num_encoded += digest in self.learned
            else:
                rest[name] = state
        return rest

    def _known(self, sizes: set[int], journal: Journal) -> dict[bytes, Encoded]:
        """Return the codes of all contents of some sizes, by their digests."""
        if not sizes:
            return {}
        files, codes = self.snapshot.files, self.snapshot.codes()
        rows = np.flatnonzero(np.isin(files.sizes[:, 0], list(sizes))).tolist()
        held = (Encoded(files.contents[row], codes[row].tobytes()) for row in rows)
        found = chain(held, journal.read(), self.learned.values())
        return {each.content.digest: each for each in found}

    def _encode(self, suspects: dict[str, FileState], journal: Journal) -> None:
        names, options = list(suspects), self.options
        dataset = FilesToEncode(self.root, names, self.encoder.transform, options.allow_outside)
        batches = self.encoder.files(
            dataset,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            progress=options.progress,
        )
        for files, errors in batches:
            journal.append([file.encoded for file in files])
            for file in files:
                self.entries[names[file.place]] = Entry(file.state, file.encoded)
            self.num_encoded += len(files)
            for error in errors:
                name = names[error.index]
                self.unreadable[name] = Unreadable(name, suspects[name], str(error))

    def _report(
        self, found: Comparison, ignored: dict[str, int], unmatched: list[str]
    ) -> SyncReport:
        held, names = self.snapshot.row_of, self.snapshot.names
        is_gone = np.ones(len(names), dtype=bool)
        is_gone[found.rows[found.rows >= 0]] = False
        gone = [names[row] for row in np.flatnonzero(is_gone).tolist()]
        new = sorted(name for name in self.entries if name not in held)
        changed = sorted(name for name in self.entries if name in held and self._is_other(name))
        renamed = list(self._renames(gone, new))
        sources, targets = ({pair[side] for pair in renamed} for side in (0, 1))
        errors = [
            UnreadableImageError(each.message, path=str(self.root / each.name))
            for _, each in sorted(self.unreadable.items())
        ]
        return SyncReport(
            added=[name for name in new if name not in targets],
            changed=changed,
            renamed=renamed,
            removed=[name for name in gone if name not in sources],
            unchanged=len(found.names) - len(new) - len(changed),
            encoded=self.num_encoded,
            unreadable=errors,
            ignored=ignored,
            unmatched=unmatched,
        )

    def _is_other(self, name: str) -> bool:
        """Return whether the content of an image is another than is held."""
        return self.entries[name].encoded.content.digest != self._held_digest(name)

    def _held_digest(self, name: str) -> bytes:
        return self.snapshot.files.contents[self.snapshot.row(name)].digest

    def _renames(self, gone: list[str], new: list[str]) -> Iterator[tuple[str, str]]:
        """Yield names that are gone and names that are new of the same content, in order."""
        by_digest: dict[bytes, list[str]] = {}
        for name in reversed(gone):
            by_digest.setdefault(self._held_digest(name), []).append(name)
        for name in new:
            found = by_digest.get(self.entries[name].encoded.content.digest)
            if found:
                yield found.pop(), name

    def _held_metadata(self, found: Comparison, renamed: list[tuple[str, str]]) -> Metadata:
        """Return what there was of all images, also of those that have another name now."""
        rows = found.rows.copy()
        for old, new in renamed:
            rows[bisect_left(found.names, new)] = self.snapshot.row(old)
        # The last one is that of -1.
        held = {column: [*values, None] for column, values in self.snapshot.columns.items()}
        places = rows.tolist()
        return {column: [values[row] for row in places] for column, values in held.items()}

    def _commit(self, found: Comparison, metadata: Metadata, to: dict[str, Any]) -> Snapshot:
        snapshot, manifest = self.snapshot, self.snapshot.manifest
        files = Files.empty(len(found.names), [each for _, each in sorted(self.unreadable.items())])
        kept, rows = np.flatnonzero(found.is_kept), found.rows[found.is_kept]
        entries = [self.entries[found.names[place]] for place in found.others]
        states, encoded = [each.state for each in entries], [each.encoded for each in entries]
        files.copy_rows(kept, snapshot.files, rows)
        files.put(found.others, states, [each.content for each in encoded])
        is_same = found.names == snapshot.names and metadata == snapshot.columns
        if (
            is_same
            and files.is_same(snapshot.files)
            and all(getattr(manifest, key) == value for key, value in to.items())
        ):
            remove_old(snapshot.folder, manifest)
            return snapshot
        new_codes, held_codes = snapshot.to_rows([each.code for each in encoded]), snapshot.codes()
        codes = np.empty((len(found.names), new_codes.shape[1]), new_codes.dtype)
        codes[kept], codes[found.others] = held_codes[rows], new_codes
        return commit(snapshot, found.names, codes, metadata, files, **to)

    @property
    def _within(self) -> Path | None:
        return None if self.options.allow_outside else self.root

    def _bar(self, suspects: dict[str, FileState], what: str) -> Iterator[tuple[str, FileState]]:
        hidden: Any = {} if self.options.progress else {"disable": True}  # or as TQDM_DISABLE says
        return iter(tqdm(suspects.items(), desc=what, unit="file", **hidden))


def _fill(metadata: Metadata, given: Mapping[str, Row], names: list[str]) -> None:
    """Put the values that are given for some images into the columns of all of them."""
    for place, name in enumerate(names if given else ()):
        for column, value in given.get(name, {}).items():
            metadata.setdefault(column, [None] * len(names))[place] = value
