"""What the service answers, as its OpenAPI description has it."""

from pydantic import BaseModel, Field

from pml_hashing.search.store import Value


class ImageAnswer(BaseModel):
    """An image of the collection."""

    id: str = Field(description="Names the image in addresses of this service.")
    name: str = Field(description="Its path in the collection.")
    label: str | None = Field(description="Its labels, separated by commas, if it has any.")
    metadata: dict[str, Value] = Field(description="Its value in each column.")


class MatchAnswer(BaseModel):
    """An image that was found."""

    image: ImageAnswer
    distance: float = Field(description="Hamming distance to the query, in bits.")


class SearchAnswer(BaseModel):
    """The nearest images, the nearest first."""

    matches: list[MatchAnswer]
    size: int = Field(description="How many images were searched.")
    search_ms: float = Field(description="Time of the search in milliseconds.")
    encode_ms: float | None = Field(description="Time to read and encode the query, if it was new.")


class LabelAnswer(BaseModel):
    """A label, and how many images have it."""

    value: str
    count: int


class CollectionAnswer(BaseModel):
    """What is searched."""

    name: str
    size: int
    code_length: int = Field(description="Number of bits of a code.")
    columns: list[str] = Field(description="Columns of metadata, which `where` may name.")
    labels: list[LabelAnswer]
    writable: bool = Field(description="Whether images can be added and removed here.")


class ImagesAnswer(BaseModel):
    """Some images of the collection, in the order of their names."""

    images: list[ImageAnswer]
    size: int = Field(description="How many there are in all.")


class GroupAnswer(BaseModel):
    """Images that look alike."""

    images: list[ImageAnswer]
    keep: str = Field(description="The id of the one to keep: the largest.")


class DuplicatesAnswer(BaseModel):
    """Groups of images that look alike, the largest groups first."""

    groups: list[GroupAnswer]
    num_groups: int
    num_images: int


class HealthAnswer(BaseModel):
    """Whether the service answers, and what it searches."""

    status: str
    size: int
