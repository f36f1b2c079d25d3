"""A stand-in for Dataflow: its API as Beam's client asks it, and workers that run what was staged.

Beam's own client for it makes the request, stages the pipeline and asks for the job's state. What
only Google has is left out: images, machines, quotas.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.gcs import BUCKET, TOKEN, Answer, Server

JOB = "2026-01-02_03_04_05-6789"
_JOBS = re.compile(r"/sandbox/v1b3/projects/lab/locations/([^/]+)/jobs(/[^/]+)?(/messages)?")
"""Beam speaks HTTP with addresses of sandboxes alone, and gRPC with others."""
_WORK = "from tests.dataflow import work; work()"


@dataclass(kw_only=True)
class Google(Server):
    """Google's side of a job: accounts, a bucket, and Dataflow.

    Attributes:
        ends: What becomes of a job: `run`, or the state that it gets without any work.
        refusal: What is answered to who makes a job, if none is made.
        requests: The jobs that were asked for, as they came.
        region: The one that there is.
        messages: What is told of the job.
        state: Of the job; of one that is not run, the next ones are told one after another.
    """

    ends: str = "run"
    refusal: Answer | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    region: str = "mars1"
    messages: list[str] = field(default_factory=list)
    state: str = "PENDING"
    next_states: list[str] = field(default_factory=list)

    @property
    def flags(self) -> tuple[str, ...]:
        """What leads a command here."""
        place = ("--project", "lab", "--region", self.region, "--temp_location", f"{self.url}/tmp")
        image = ("--sdk_container_image", "registry/image:1", "--sdk_location", "container")
        here = ("--dataflow_endpoint", f"{self.endpoint}/sandbox")
        return ("--runner", "DataflowRunner", *place, *image, *here)

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        """Returns what a request is answered."""
        found = _JOBS.fullmatch(urlsplit(url).path)
        if found is None:
            return super().answer(method, url, headers, body)
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, "Request had invalid authentication credentials."
        if found[1] != self.region:
            return 404, f"The region {found[1]} is unreachable or does not exist."
        if found[3]:
            told = {"time": "2026-01-02T03:04:06Z", "messageImportance": "JOB_MESSAGE_ERROR"}
            messages = [
                {"id": str(n), "messageText": m, **told} for n, m in enumerate(self.messages)
            ]
            return 200, {"jobMessages": messages}
        if method == "POST" and self.refusal is not None:
            return self.refusal
        if method == "POST":
            self.requests.append(json.loads(body))
            self.state = "PENDING"
        elif self.next_states:
            self.state = self.next_states.pop(0)
        about = {"id": JOB, "projectId": "lab", "location": found[1], "type": "JOB_TYPE_BATCH"}
        told = {**about, "currentState": f"JOB_STATE_{self.state}"}
        if method == "POST":
            self._begin()
        return 200, told

    def staged(self) -> bytes:
        """Returns the pipeline of the last job, as its client staged it."""
        options = self.requests[-1]["environment"]["sdkPipelineOptions"]["options"]
        return self.objects[options["pipelineUrl"].removeprefix(f"gs://{BUCKET}/")][0]

    def _begin(self) -> None:
        if self.ends == "run":
            threading.Thread(target=self._run, daemon=True).start()
        else:
            self.next_states = [*["RUNNING"] * 6, self.ends]

    def _run(self) -> None:
        self.state = "RUNNING"
        done = subprocess.run(
            [sys.executable, "-c", _WORK],
            input=self.staged(),
            capture_output=True,
            cwd=Path(__file__).parent.parent,
        )
        self.messages = [done.stderr.decode()] if done.returncode else []
        self.state = "FAILED" if done.returncode else "DONE"


def work() -> None:
    """Runs the pipeline of the standard input, in this process in place of its image."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import EmbeddedPythonEnvironment

    pipeline = beam_runner_api_pb2.Pipeline.FromString(sys.stdin.buffer.read())
    here = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in pipeline.components.environments.values():
        environment.CopyFrom(here)
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions()).wait_until_finish()
