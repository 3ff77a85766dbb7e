"""What Ray has to say about its workers does not get among the results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# A worker dies in the middle of its task once, is replaced, and the task is done again: Ray tells of it twice.
PROGRAM = """
import os, sys, time
from pathlib import Path
from pipelines.session import ray_session

with ray_session(workers=1):
    import ray

    @ray.remote(max_restarts=1, max_task_retries=1)
    class Worker:
        def work(self, died: str) -> str:
            if not os.path.exists(died):
                Path(died).touch()
                os._exit(1)
            return "result"

    print(ray.get(Worker.remote().work.remote(sys.argv[1])))
    time.sleep(2)
"""


def test_lost_worker_is_not_told_on_standard_output(tmp_path: Path) -> None:
    died = tmp_path / "died"
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(died)], capture_output=True, text=True, timeout=240, check=False
    )
    assert died.is_file()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "result\n", "")
