"""The launch of Beam jobs: Ctrl-C ends one as an interrupt, in one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner

from latent_store.errors import LatentStoreError
from latent_store.storage.location import CONTROL
from pipelines.jobs.beam_jobs import beam_options, job_teller, run_over_shards
from pipelines.jobs.beam_options import DEFAULT_RUNNER, StoreOptions, read_options
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import encode_args, encoding

OPTIONS = PipelineOptions(["--runner", DEFAULT_RUNNER])
PROCESSES = ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2")


def press_ctrl_c(shard: int) -> int:
    signal.raise_signal(signal.SIGINT)
    return shard


def test_an_interrupt_inside_of_a_shard_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    handler, hook = signal.getsignal(signal.SIGINT), threading.excepthook
    with pytest.raises(KeyboardInterrupt) as found:
        run_over_shards("Press", [0, 1], press_ctrl_c, OPTIONS)
    # Beam's own error, with the traceback of the shard, is neither told nor kept.
    assert found.value.__suppress_context__
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is handler
    assert threading.excepthook is hook
    assert not logging.getLogger("apache_beam").manager.disable


class DataflowResult:
    """What Beam returns of a job on Dataflow; nobody here has an account there."""

    state = "RUNNING"

    def job_id(self) -> str:
        return "2026-1"

    def _get_job_state(self) -> str:
        return self.state


def test_dataflows_job_is_told_with_what_closes_its_store(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--runner", "DataflowRunner", "--project", "lab", "--region", "mars1"]
    options, result = PipelineOptions(words), DataflowResult()
    options.view_as(StoreOptions).store_url = "gs://b/s.zarr"
    tell = job_teller(options)
    for state in ("PENDING", "RUNNING", "RUNNING", "DONE"):
        result.state = state
        tell(result)
    first, *states = capsys.readouterr().err.splitlines()
    assert first.startswith("Dataflow: job 2026-1 is PENDING, this process waits for it: https:")
    assert "https://console.cloud.google.com/dataflow/jobs/mars1/2026-1?project=lab;" in first
    assert first.endswith("latent-store finalize gs://b/s.zarr closes what is whole")
    assert states == ["Dataflow: job 2026-1 is RUNNING", "Dataflow: job 2026-1 is DONE"]


def test_a_store_is_no_flag_of_beams() -> None:
    with pytest.raises(LatentStoreError, match="unknown flag --store_url"):
        read_options("x", ["--store_url", "gs://b/s.zarr"])


def test_hints_reach_the_workers_environment() -> None:
    flags = ("--runner", "portable", "--job_endpoint", "embed", "--environment_type", "LOOPBACK")
    options = beam_options("x", [*flags, "--resource_hints", "min_ram=16GB"])
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | beam.Create([0])
    proto = PortableRunner.get_proto_pipeline(pipeline, options)
    hints = [dict(at.resource_hints) for at in proto.components.environments.values()]
    assert {"beam:resources:min_ram_bytes:v1": b"16000000000"} in hints


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), PROCESSES], ids=["in one process", "in several"])
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    inputs: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    calm, url = tmp_path / "calm.zarr", tmp_path / "s.zarr"
    encoding(inputs)(calm)
    command = [str(Path(sys.executable).with_name("encode-to-store"))]
    args = [*command, *encode_args(inputs, url), *more]
    process = subprocess.Popen(
        args, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    receipts = url / CONTROL / "cityscapes/train/receipts"
    while process.poll() is None and not list(receipts.rglob("*.json")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    line = "encode-to-store: error: interrupted; run the same command again to go on\n"
    assert (process.returncode, errors) == (130, line), said
    assert not list(url.rglob("leases/*.json"))
    encoding(inputs)(url)
    assert contents(url) == contents(calm)


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_a_killed_process_is_taken_up_by_the_same_command(
    inputs: Path, tmp_path: Path, wait: float
) -> None:
    calm, url = tmp_path / "calm.zarr", tmp_path / "s.zarr"
    encoding(inputs)(calm)
    command = [str(Path(sys.executable).with_name("encode-to-store")), *encode_args(inputs, url)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and not url.exists():
        time.sleep(0.001)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    encoding(inputs)(url)
    assert contents(url) == contents(calm)
