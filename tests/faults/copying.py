"""``poise`` that copies its run folder after each iteration: ``copying.py COPIES train ...``."""

import shutil
import sys
from pathlib import Path

from poise.cli.main import main
from poise.runs.recorder import Recorder

if __name__ == "__main__":  # processes that environments run in import this file, too
    copies = Path(sys.argv.pop(1))
    record = Recorder.record

    def record_and_copy(self, progress):
        record(self, progress)
        shutil.copytree(self.folder, copies / f"{progress.steps:012d}")

    Recorder.record = record_and_copy
    sys.exit(main())
