"""The parts of `benchmarks/retrieval.py`: data, protocols, methods, cells, results, tables."""
