"""Bring a collection in step with a folder: by name and content, at the cost of what changed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from pml_hashing.collection.encoding import CollectionEncoder, EncodedFile, FilesToEncode
from pml_hashing.collection.files import FileState, digest_of, read_state_and_bytes
from pml_hashing.collection.journal import Encoded, Journal
from pml_hashing.collection.labels import Labels, Metadata, Row, rows_of
from pml_hashing.collection.snapshot import Files, Snapshot, Unreadable, commit, remove_old
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
    """An image with its code."""

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
    """

    snapshot: Snapshot
    encoder: CollectionEncoder
    root: Path
    options: SyncOptions
    entries: dict[str, Entry] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    num_encoded: int = 0

    def run(self, labels: Labels, source: str | None) -> tuple[Snapshot, SyncReport]:
        """Return the new state, and what was done.

        Args:
            labels: Where metadata come from. They stay as they are if `None`.
            source: The same, as it is remembered.
        """
        listing = list_images(self.root)
        journal = Journal(self.snapshot.folder / JOURNAL, self.snapshot.manifest.model)
        old = self._old_entries()
        suspects = self._keep_unchanged(listing.names, old)
        known = {entry.encoded.content.digest: entry.encoded for entry in old.values()}
        known |= {encoded.content.digest: encoded for encoded in journal.read()}
        rest = self._take_known(suspects, known)
        if rest:
            with journal:
                self._encode(rest, journal)
        given, unmatched = rows_of(labels, self.root, sorted(self.entries))
        report = self._report(old, listing.ignored, unmatched)
        replaced = source is not None
        metadata = self._metadata(given, {} if replaced else self._rows(dict(report.renamed)))
        snapshot = self._commit(old, metadata, source, listing.ignored)
        journal.remove()
        return snapshot, report

    def _old_entries(self) -> dict[str, Entry]:
        snapshot = self.snapshot
        files = snapshot.files
        rows = zip(snapshot.names, files.states, files.contents, snapshot.codes(), strict=True)
        return {
            name: Entry(state, Encoded(content, code.tobytes()))
            for name, state, content, code in rows
        }

    def _keep_unchanged(self, names: list[str], old: dict[str, Entry]) -> dict[str, FileState]:
        """Take over what is as it was, and return all else with its state."""
        bad = {each.name: each for each in self.snapshot.files.unreadable}
        suspects = {}
        for name in names:
            state = FileState.of(self.root / name)
            if name in old and old[name].state.is_same(state):
                self.entries[name] = old[name]
            elif name in bad and bad[name].state.is_same(state):
                self.unreadable[name] = bad[name]
            else:
                suspects[name] = state
        return suspects

    def _take_known(
        self, suspects: dict[str, FileState], known: dict[bytes, Encoded]
    ) -> dict[str, FileState]:
        """Take codes of contents that are known, and return the other files.

        Only a file of the size of a known content can be known, and is read.

        Args:
            suspects: Files that are new or changed.
            known: Codes by the digest of what they are of.
        """
        sizes = {encoded.content.size for encoded in known.values()}
        rest = {}
        for name, state in self._bar(suspects, "compare"):
            if state.size not in sizes:
                rest[name] = state
                continue
            try:
                read, content = read_state_and_bytes(self.root / name, self._within)
            except UnreadableImageError as error:
                self.unreadable[name] = Unreadable(name, state, str(error))
                continue
            encoded = known.get(digest_of(content))
            if encoded is None:
                rest[name] = state
            else:
                self.entries[name] = Entry(read, encoded)
        return rest

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
            self._add(names, files)
            for error in errors:
                name = names[error.index]
                self.unreadable[name] = Unreadable(name, suspects[name], str(error))

    def _add(self, names: list[str], files: list[EncodedFile]) -> None:
        for file in files:
            self.entries[names[file.place]] = Entry(file.state, file.encoded)
        self.num_encoded += len(files)

    def _report(
        self, old: dict[str, Entry], ignored: dict[str, int], unmatched: list[str]
    ) -> SyncReport:
        gone = {name for name in old if name not in self.entries}
        new = sorted(name for name in self.entries if name not in old)
        renamed = list(_renames(gone, new, old, self.entries))
        sources, targets = ({pair[side] for pair in renamed} for side in (0, 1))
        kept = sorted(name for name in self.entries if name in old)
        changed = [
            name
            for name in kept
            if self.entries[name].encoded.content.digest != old[name].encoded.content.digest
        ]
        errors = [
            UnreadableImageError(each.message, path=str(self.root / each.name))
            for _, each in sorted(self.unreadable.items())
        ]
        return SyncReport(
            added=[name for name in new if name not in targets],
            changed=changed,
            renamed=renamed,
            removed=sorted(gone - sources),
            unchanged=len(kept) - len(changed),
            encoded=self.num_encoded,
            unreadable=errors,
            ignored=ignored,
            unmatched=unmatched,
        )

    def _rows(self, renamed: dict[str, str]) -> dict[str, int]:
        """Return where the metadata of images stand so far, by their present names."""
        old_name = {new: old for old, new in renamed.items()}
        rows = ((name, self.snapshot.row_of.get(old_name.get(name, name))) for name in self.entries)
        return {name: row for name, row in rows if row is not None}

    def _metadata(self, given: dict[str, Row], rows: dict[str, int]) -> Metadata:
        """Return the metadata of all images: what is given, or else what there was."""
        names, held = sorted(self.entries), self.snapshot.columns if rows else {}
        columns: Metadata = {
            column: [values[rows[name]] if name in rows else None for name in names]
            for column, values in held.items()
        }
        for place, name in enumerate(names):
            for column, value in given.get(name, {}).items():
                columns.setdefault(column, [None] * len(names))[place] = value
        return columns

    def _commit(
        self, old: dict[str, Entry], metadata: Metadata, source: str | None, ignored: dict[str, int]
    ) -> Snapshot:
        names = sorted(self.entries)
        entries = [self.entries[name] for name in names]
        bad = [each for _, each in sorted(self.unreadable.items())]
        files = Files(
            [entry.state for entry in entries], [entry.encoded.content for entry in entries], bad
        )
        snapshot = self.snapshot
        to = {"images": str(self.root), "labels": source, "ignored": ignored}
        manifest = snapshot.manifest
        is_same = (names, metadata, files) == (snapshot.names, snapshot.columns, snapshot.files)
        if is_same and all(getattr(manifest, key) == value for key, value in to.items()):
            remove_old(snapshot.folder, manifest)
            return snapshot
        codes = snapshot.to_rows([entry.encoded.code for entry in entries])
        return commit(snapshot, names, codes, metadata, files, **to)

    @property
    def _within(self) -> Path | None:
        return None if self.options.allow_outside else self.root

    def _bar(self, suspects: dict[str, FileState], what: str) -> Iterator[tuple[str, FileState]]:
        hidden: Any = {} if self.options.progress else {"disable": True}  # or as TQDM_DISABLE says
        return iter(tqdm(suspects.items(), desc=what, unit="file", **hidden))


def _renames(
    gone: set[str], new: list[str], old: dict[str, Entry], entries: dict[str, Entry]
) -> Iterator[tuple[str, str]]:
    """Yield names that are gone and names that are new of the same content, in order."""
    by_digest: dict[bytes, list[str]] = {}
    for name in sorted(gone, reverse=True):
        by_digest.setdefault(old[name].encoded.content.digest, []).append(name)
    for name in new:
        found = by_digest.get(entries[name].encoded.content.digest)
        if found:
            yield found.pop(), name
