"""Python for a test's own process: warnings are errors there too."""

import sys

OF_FAISS = "ignore:builtin type:DeprecationWarning"  # before 1.12 it dies of this error
PYTHON = [sys.executable, "-W", "error", "-W", OF_FAISS]
