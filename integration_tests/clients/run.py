"""Runs the tests beside it: python run.py REPORT. The report counts them as the project's other test runner does."""

import json
import sys
import unittest
import warnings
from pathlib import Path

# Of what the clients need themselves, such as the age of this Python.
warnings.simplefilter("ignore", FutureWarning)

suite = unittest.defaultTestLoader.discover(str(Path(__file__).parent))
result = unittest.TextTestRunner(verbosity=2, warnings="ignore").run(suite)
# A test of many parts may fail in several of them.
failed = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
counts = {
    "numPassedTests": max(0, result.testsRun - len(failed) - len(result.skipped)),
    "numFailedTests": len(failed),
    "numPendingTests": len(result.skipped),
}
Path(sys.argv[1]).write_text(json.dumps(counts))
sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
