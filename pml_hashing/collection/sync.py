"""Bring a collection in step with a folder: by name and content, at the cost of what changed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from pml_hashing._progress import progress_bar
from pml_hashing.collection.comparison import Comparison
from pml_hashing.collection.encoded import CodesInMemory, KnownCodes
from pml_hashing.collection.encoding import CollectionEncoder, FilesToEncode
from pml_hashing.collection.file_records import Unreadable
from pml_hashing.collection.files import Content, FileState, digest_of, read_state_and_bytes
from pml_hashing.collection.labels import Labels, Row, columns_of, rows_of
from pml_hashing.collection.next_state import Entry, NextState
from pml_hashing.collection.state import State
from pml_hashing.collection.storage import Journal, Storage
from pml_hashing.datasets import UnreadableImageError, list_images

BLOCK = 2**12  # files whose contents are looked up together


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


@dataclass
class Sync:
    """One run: finds what changed, encodes it, and commits.

    Attributes:
        storage: Where the collection is.
        state: What it holds.
        encoder: Makes codes.
        root: The folder of the images, without links.
        options: How it is run.
        learned: Codes that were made of some files when the model was learned.
        entries: What is new or may have changed, and can be read.
        unreadable: What cannot be read.
        num_encoded: How many files were run through the model.
    """

    storage: Storage
    state: State
    encoder: CollectionEncoder
    root: Path
    options: SyncOptions
    learned: CodesInMemory = field(default_factory=CodesInMemory)
    entries: dict[str, Entry] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    num_encoded: int = 0

    def run(self, labels: Labels, source: str | None) -> tuple[State, SyncReport]:
        """Return the new state, and what was done.

        Args:
            labels: Where metadata come from. They stay as they are if `None`.
            source: The same, as it is remembered.
        """
        state = self.state
        listing = list_images(self.root, without=self.storage.folder)
        journal = self.storage.journal(state.manifest)
        given, unmatched = self._labels(labels, listing.names, is_anew=source is not None)
        found = Comparison.of(listing.names, self.root, state)
        rest = self._take_known(self._without_bad(found.suspects()), journal)
        if rest:
            with journal:
                self._encode(rest, journal)
        found = found.with_codes(self.entries)
        report, sources = self._report(found, listing.ignored, unmatched)
        to = {"images": str(self.root), "labels": source, "ignored": listing.ignored}
        made = NextState(
            state,
            found,
            self.entries,
            [each for _, each in sorted(self.unreadable.items())],
            self._known_codes(journal),
            given,
            sources,
            replace(state.manifest, **to),
        )
        if made.is_same:
            self.storage.tidy(state)
        else:
            state = self.storage.commit(state, made.change())
        journal.remove()
        return state, report

    def _labels(
        self, labels: Labels, names: list[str], *, is_anew: bool
    ) -> tuple[dict[str, Row], list[str]]:
        """Return `rows_of` labels. What is wrong with them is told before anything is encoded."""
        given, unmatched = rows_of(labels, self.root, names)
        columns_of({} if is_anew else self.state.columns, given, names)
        return given, unmatched

    def _known_codes(self, journal: Journal) -> tuple[KnownCodes, ...]:
        return self.learned, journal, self.state

    def _without_bad(self, suspects: dict[str, FileState]) -> dict[str, FileState]:
        """Take over what could not be read and is as it was, and return all else."""
        bad = {each.name: each for each in self.state.unreadable}
        self.unreadable = {
            name: bad[name]
            for name, state in suspects.items()
            if name in bad and bad[name].state.is_same(state)
        }
        return {name: state for name, state in suspects.items() if name not in self.unreadable}

    def _take_known(self, suspects: dict[str, FileState], journal: Journal) -> dict[str, FileState]:
        """Take over files whose contents are known, and return the others.

        Only a file of the size of a known content can be known, and is read.
        """
        known, rest = self._known_codes(journal), dict[str, FileState]()
        shown = self.options.progress
        files = iter(progress_bar(suspects.items(), "compare", shown=shown, unit="file"))
        while block := list(islice(files, BLOCK)):
            wanted = {state.size for _, state in block}
            sizes = set[int]().union(*(codes.sizes_among(wanted) for codes in known))
            read = self._read([pair for pair in block if pair[1].size in sizes])
            digests = {digest for _, digest in read.values()}
            contents = _contents(known, digests)
            for name, state in block:
                if name in self.unreadable:
                    continue
                own, digest = read.get(name, (state, b""))
                if digest in contents:
                    self.entries[name] = Entry(own, contents[digest])
                    self.num_encoded += digest in self.learned
                else:
                    rest[name] = state
        return rest

    def _read(self, files: Sequence[tuple[str, FileState]]) -> dict[str, tuple[FileState, bytes]]:
        """Return states and digests of the files that can be read."""
        read = {}
        for name, state in files:
            try:
                own, content = read_state_and_bytes(self.root / name, self._within)
            except UnreadableImageError as error:
                self.unreadable[name] = Unreadable(name, state, str(error))
            else:
                read[name] = own, digest_of(content)
        return read

    def _encode(self, suspects: dict[str, FileState], journal: Journal) -> None:
        names, options = list(suspects), self.options
        dataset = FilesToEncode(self.root, names, self.encoder.transform, options.allow_outside)
        batches = self.encoder.files(
            dataset,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            progress=options.progress,
        )
        with closing(batches):
            for files, errors in batches:
                journal.append([file.encoded for file in files])
                for file in files:
                    self.entries[names[file.place]] = Entry(file.state, file.encoded.content)
                self.num_encoded += len(files)
                for error in errors:
                    name = names[error.index]
                    self.unreadable[name] = Unreadable(name, suspects[name], str(error))

    def _report(
        self, found: Comparison, ignored: dict[str, int], unmatched: list[str]
    ) -> tuple[SyncReport, dict[str, int]]:
        """Return what was done, and for images that were renamed the rows of their old names."""
        gone = found.gone(len(self.state))
        gone_names = self.state.names(gone)
        rows = {name: found.row(name) for name in sorted(self.entries)}
        new = [name for name, row in rows.items() if row < 0]
        changed = self._changed({name: row for name, row in rows.items() if row >= 0})
        old_name = dict(zip(gone, gone_names, strict=True))
        sources = dict(self._renames(gone, new))
        moved = {old_name[row] for row in sources.values()}
        errors = [
            UnreadableImageError(each.message, path=str(self.root / each.name))
            for _, each in sorted(self.unreadable.items())
        ]
        report = SyncReport(
            added=[name for name in new if name not in sources],
            changed=changed,
            renamed=[(old_name[row], name) for name, row in sources.items()],
            removed=[name for name in gone_names if name not in moved],
            unchanged=len(found.names) - len(new) - len(changed),
            encoded=self.num_encoded,
            unreadable=errors,
            ignored=ignored,
            unmatched=unmatched,
        )
        return report, sources

    def _changed(self, rows: Mapping[str, int]) -> list[str]:
        """Return the names of images whose content is another than is held."""
        held = self.state.contents(list(rows.values()))
        pairs = zip(rows, held, strict=True)
        return [name for name, content in pairs if self._digest(name) != content.digest]

    def _renames(self, gone: list[int], new: list[str]) -> Iterator[tuple[str, int]]:
        """Yield names that are new, and rows that are gone, of the same content, in order."""
        if not new:
            return
        by_digest: dict[bytes, list[int]] = {}
        contents = self.state.contents(gone)
        for row, content in zip(reversed(gone), reversed(contents), strict=True):
            by_digest.setdefault(content.digest, []).append(row)
        for name in new:
            found = by_digest.get(self._digest(name))
            if found:
                yield name, found.pop()

    def _digest(self, name: str) -> bytes:
        return self.entries[name].content.digest

    @property
    def _within(self) -> Path | None:
        return None if self.options.allow_outside else self.root


def _contents(known: Sequence[KnownCodes], digests: Collection[bytes]) -> dict[bytes, Content]:
    """Return the known ones of some contents, by their digests."""
    if not digests:
        return {}
    return {
        digest: encoded.content
        for codes in known
        for digest, encoded in codes.known(digests).items()
    }
