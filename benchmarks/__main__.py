"""``python -m benchmarks``: every part, one after the other. ``python -m benchmarks.teacher`` runs one alone."""

import subprocess
import sys

PARTS = ("teacher", "student")


def main() -> int:
    """Run the parts; the first failure ends it."""
    for part in PARTS:
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *sys.argv[1:]], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
