"""What `benchmarks/retrieval.py` is made of: data, protocols, methods, cells, results, tables."""
