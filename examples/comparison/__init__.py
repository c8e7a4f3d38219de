"""What `compare_methods.py` is made of: data, protocols, methods, cells, results, tables."""
