"""Jobs on Dataflow as Beam's own client sends them, to a stand-in that keeps and runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_runner_api_pb2

from latent_store import cli
from latent_store.storage.location import CONTROL, Location
from pipelines import encode
from pipelines.jobs import portable_pipelines, runner_checks
from tests import gcs
from tests.dataflow import JOB, Google
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import NAME, encode_args, encoding, run

pytest.importorskip("google.cloud.dataflow", reason="needs pip install -e '.[test,dataflow]'")

pytestmark = pytest.mark.slow

T4 = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
LINES = ("Dataflow: ", "encode-to-store: error: ")


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Google]:
    from apache_beam.internal.gcp import auth
    from apache_beam.runners.dataflow import dataflow_runner

    # Beam keeps the first account that it finds, and asks every five seconds.
    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
    hurried = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 20))
    monkeypatch.setattr(dataflow_runner, "time", hurried)
    # It takes ports of localhost alone, of which it asks for less.
    monkeypatch.setattr(PipelineOptionsValidator, "validate_endpoint_url", lambda *_: True)
    monkeypatch.setattr(portable_pipelines, "TELL_SECONDS", 0.2)
    google = Google()
    with gcs.serving(monkeypatch, tmp_path, google):
        yield google


@pytest.fixture
def there(google: Google, inputs: Path) -> Callable[..., list[str]]:
    """Puts the pictures into the bucket; returns what makes the words of a command there."""
    at = f"{google.url}/data"
    Location(google.url).fs.put(f"{inputs}/data/", f"{at}/", recursive=True)

    def words(*more: str) -> list[str]:
        own = [w.replace(f"{inputs}/data", at) for w in encode_args(inputs, Path("x"))]
        own[own.index("--store") + 1] = f"{google.url}/s.zarr"
        return [*own, *google.flags, *more]

    return words


@pytest.fixture
def said(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., list[str]]:
    """Runs a command that must end with a status; returns its lines on stderr."""

    def run_to(status: int, words: list[str]) -> list[str]:
        capfd.readouterr()
        assert encode.main(words) == status
        lines = capfd.readouterr().err.splitlines()
        assert [record.getMessage() for record in caplog.records] == []
        assert all(line.startswith(LINES) for line in lines), lines
        return lines

    return run_to


def test_a_job_makes_the_same_store_with_the_image_and_the_hints_that_were_given(
    google: Google,
    there: Callable[..., list[str]],
    said: Callable[..., list[str]],
    inputs: Path,
    tmp_path: Path,
) -> None:
    hints = ("--resource_hints", "min_ram=16GB", "--resource_hints", f"accelerator={T4}")
    first, *states = said(0, there(*hints))
    place = f"dataflow/jobs/mars1/{JOB}?project=lab"
    assert first == (
        f"Dataflow: job {JOB} is PENDING, this process waits for it: "
        f"https://console.cloud.google.com/{place}; if this process ends before the job, "
        "latent-store finalize gs://bucket/s.zarr closes what is whole"
    )
    assert states == [f"Dataflow: job {JOB} is {state}" for state in ("RUNNING", "DONE")]

    (request,) = google.requests
    (pool,) = request["environment"]["workerPools"]
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == pool["workerHarnessContainerImage"] == "registry/image:1"
    proto = beam_runner_api_pb2.Pipeline.FromString(google.staged())
    (step,) = (t for t in proto.components.transforms.values() if t.unique_name == "Encode")
    inner = [proto.components.transforms[name] for name in step.subtransforms] or [step]
    environment = proto.components.environments[inner[-1].environment_id]
    assert dict(environment.resource_hints) == {
        "beam:resources:min_ram_bytes:v1": b"16000000000",
        "beam:resources:accelerator:v1": T4.encode(),
    }

    run(cli.main, "verify", f"{google.url}/s.zarr")
    encoding(inputs)(tmp_path / "calm.zarr")
    location = Location(f"{google.url}/s.zarr")
    for key in location.sizes(""):
        (tmp_path / "copy" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / key).write_bytes(location.read(key))
    assert contents(tmp_path / "copy") == contents(tmp_path / "calm.zarr")


def test_a_job_that_did_nothing_is_told_and_the_same_command_goes_on(
    google: Google, there: Callable[..., list[str]], said: Callable[..., list[str]]
) -> None:
    google.ends = "DONE"
    first, running, done, line = said(1, there())
    assert (first.split()[4], running.split()[-1], done.split()[-1]) == (
        "PENDING,",
        "RUNNING",
        "DONE",
    )
    assert line.startswith(f"encode-to-store: error: {NAME}/")
    assert "3 of 3 shards" in line
    google.ends = "run"
    assert said(0, there())[-1] == f"Dataflow: job {JOB} is DONE"


@pytest.mark.parametrize("ends", ["FAILED", "CANCELLED"])
@pytest.mark.parametrize("message", ["Traceback (most\n  at x\nOSError: no disk\n", ""])
def test_a_job_that_failed_is_one_line_with_the_services_reason(
    google: Google,
    there: Callable[..., list[str]],
    said: Callable[..., list[str]],
    ends: str,
    message: str,
) -> None:
    google.ends, google.messages = ends, [message] if message else []
    *_, state, line = said(1, there())
    assert state == f"Dataflow: job {JOB} is {ends}"
    reason = "OSError: no disk" if message else f"Dataflow pipeline failed. State: {ends}, Error:"
    assert line == (
        f"encode-to-store: error: DataflowRunner could not run the job: {reason}; run the same "
        "command again to go on"
    )
    assert not [key for key in google.objects if re.search("leases/.*json$", key)]


REFUSALS = [
    (403, "Dataflow API has not been used in project lab before or it is disabled."),
    (429, "Quota exceeded for quota metric 'CreateJob requests'."),
    (400, "The workflow could not be created. Causes: no zone has T4."),
]


def test_an_api_that_refuses_is_one_line(
    google: Google, there: Callable[..., list[str]], said: Callable[..., list[str]]
) -> None:
    for google.refusal in REFUSALS:
        (line,) = said(1, there())
        status, text = google.refusal
        start = f"encode-to-store: error: DataflowRunner could not run the job: {status} "
        assert line.startswith(start)
        assert f"{text}; run the same command again to go on" in line
        # What is left is a plan without shards, which the same command goes on with.
        assert google.requests == []
        assert not [key for key in google.objects if f"{CONTROL}/{NAME}/receipts" in key]
        assert not [key for key in google.objects if re.search("leases/.*json$", key)]
    google.refusal = None
    assert said(0, there())[-1] == f"Dataflow: job {JOB} is DONE"


def test_an_unknown_region_is_one_line(
    google: Google, there: Callable[..., list[str]], said: Callable[..., list[str]]
) -> None:
    (line,) = said(1, there("--region", "venus1"))
    assert "404 " in line
    assert "The region venus1 is unreachable or does not exist." in line


def test_what_a_job_writes_whose_command_was_killed_is_closed_by_another(
    google: Google, there: Callable[..., list[str]]
) -> None:
    words = [word.replace("127.0.0.1", "localhost") for word in there()]
    command = [sys.executable, "-m", "pipelines.encode", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "latent-store finalize gs://bucket/s.zarr closes" in process.stderr.readline()
        process.kill()
    waited = time.monotonic() + 60
    while google.state != "DONE":
        assert (google.messages, time.monotonic() < waited) == ([], True)
        time.sleep(0.1)
    run(cli.main, "finalize", f"{google.url}/s.zarr", "--steal_lease")
    run(cli.main, "verify", f"{google.url}/s.zarr")


@pytest.fixture
def refused(
    google: Google, there: Callable[..., list[str]], said: Callable[..., list[str]]
) -> Callable[..., str]:
    """Runs a command that must be refused in ten seconds by one line; no store is begun."""

    def run(*more: str, **changed: str) -> str:
        words = there(*more)
        for name, value in changed.items():
            words[words.index(f"--{name}") + 1] = value
        before, start = dict(google.objects), time.monotonic()
        (line,) = said(2, words)
        assert time.monotonic() - start < 10
        assert (google.objects, google.requests) == (before, [])
        return line

    return run


def test_places_that_workers_cannot_reach_are_refused(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("store", "data_root", "temp_location"):
        line = refused(**{name: str(tmp_path)})
        assert f"--{name} {tmp_path} cannot be reached by Dataflow's workers; copy" in line
    line = refused(temp_location="gs://bucket")
    assert "must be a folder of a bucket, got gs://bucket; give gs://bucket/FOLDER" in line


def test_buckets_that_are_none_or_of_others_are_refused(
    refused: Callable[..., str], google: Google
) -> None:
    line = refused(temp_location="gs://none/tmp")
    assert "gs://none/tmp lies in no bucket that is there" in line
    line = refused("--staging_location", "gs://none/staging")
    assert "gs://none/staging lies in no bucket that is there" in line
    assert "gs://none/s.zarr lies in no bucket that is there" in refused(store="gs://none/s.zarr")
    google.may = ("GET",)
    line = refused()
    assert "--temp_location gs://bucket/tmp cannot be written: Forbidden: " in line
    assert "check its credentials and what they may do, or give another" in line


def test_accounts_that_are_none_or_not_taken_are_refused(
    refused: Callable[..., str],
    google: Google,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    gcsfs = pytest.importorskip("gcsfs").GCSFileSystem
    google.refused = True
    gcsfs.clear_instance_cache()
    assert "gs://bucket/tmp cannot be opened: Invalid Credentials, 401; log in as" in refused()
    google.refused = False
    for value in (None, str(tmp_path / "none.json")):
        gcsfs.clear_instance_cache()
        with monkeypatch.context() as patch:
            patch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
            if value:
                patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", value)
            line = refused()
        assert "--runner DataflowRunner finds no credentials (" in line
        assert "run gcloud auth application-default login" in line


def test_a_search_for_credentials_that_does_not_end_is_ended(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import google.auth

    monkeypatch.setattr(google.auth, "default", lambda: time.sleep(60))
    monkeypatch.setattr(runner_checks, "ACCOUNT_SECONDS", 1)
    assert "finds no credentials (in time); run gcloud" in refused()
