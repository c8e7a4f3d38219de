"""What of the package and of the tests is not collected where an extra is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("fastapi") else ["pml_hashing/serve/*"]
if not find_spec("numba"):
    collect_ignore_glob.append("pml_hashing/evaluation/_numba.py")
if not (find_spec("clickhouse_connect") and find_spec("chdb")):
    collect_ignore_glob += ["pml_hashing/search/*clickhouse*", "tests/clickhouse_bridge.py"]
    collect_ignore_glob += ["pml_hashing/collection/database_*", "pml_hashing/collection/lease.py"]
    collect_ignore_glob.append("tests/search/crashing.py")
