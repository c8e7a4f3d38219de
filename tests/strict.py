"""Python for a test's own process: warnings are errors there too."""

import sys

OF_FAISS = "builtin type"  # how a warning starts of which faiss before 1.12 dies as an error
PYTHON = [sys.executable, "-W", "error", "-W", f"ignore:{OF_FAISS}:DeprecationWarning"]
