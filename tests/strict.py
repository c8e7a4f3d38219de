"""Python for a test's own process: warnings are errors there too."""

import sys

OF_FAISS = "builtin type"  # how a warning starts of which faiss before 1.12 dies as an error
OF_TORCH = "Implicitly cleaning up"  # a folder, says PyTorch 2.6 at its end
PYTHON = [sys.executable, "-W", "error"]
PYTHON += ["-W", f"ignore:{OF_FAISS}:DeprecationWarning"]
PYTHON += ["-W", f"ignore:{OF_TORCH}:ResourceWarning"]
