"""A search page and a JSON API over a collection: `pip install pml-hashing[serve]`."""

from pml_hashing.serve.app import create_app

__all__ = ["create_app"]
