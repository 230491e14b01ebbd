"""Runs modules of tests and prints a line for each test, in the form that `run.py` adds up.

    ok    test_boto3.Stream.test_a_bare_picture (0.4 s)
    FAIL  test_boto3.Stream.test_a_bare_picture (0.4 s)
"""

import sys
import time
import traceback
import unittest


class Tally:
    """How many passed and failed."""

    def __init__(self):
        self.passed = self.failed = 0

    def count(self, line):
        """Counts a line of a suite's output."""
        self.passed += line.startswith("ok    ")
        self.failed += line.startswith("FAIL  ")

    def check(self, name, actual, expected):
        """A test of `run.py` itself."""
        word = "ok  " if actual == expected else "FAIL"
        line = f"{word}  {name}" + ("" if actual == expected else f": {actual}, not {expected}")
        self.count(line)
        print(line, flush=True)


class Lines(unittest.TestResult):
    """Prints each result as it comes."""

    def startTest(self, test):
        super().startTest(test)
        self.started, self.sound = time.monotonic(), True

    def stopTest(self, test):
        super().stopTest(test)
        if self.sound:
            self.say("ok  ", test)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            self.broken(subtest, error)

    def addError(self, test, error):
        super().addError(test, error)
        self.broken(test, error)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.broken(test, error)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.sound = False
        print(f"skip  {name_of(test)}: {reason}", flush=True)

    def broken(self, test, error):
        self.sound = False
        self.say("FAIL", test)
        trace = "".join(traceback.format_exception(*error))
        print("      " + trace.rstrip().replace("\n", "\n      "), flush=True)

    def say(self, word, test):
        seconds = time.monotonic() - getattr(self, "started", time.monotonic())
        print(f"{word}  {name_of(test)} ({seconds:.1f} s)", flush=True)


def name_of(test):
    return test.id().removeprefix("bedrock.")


def main(modules):
    loader, result = unittest.defaultTestLoader, Lines()
    loader.loadTestsFromNames([module if "." in module else f"bedrock.{module}" for module in modules]).run(result)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
