"""The synchronous client against a real server."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import oracle
import weft
from conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Server

STARS = {"runtime": "op", "op": {"op": "counteq", "imm": 42}}


def test_a_job_is_submitted_waited_for_and_read(client: weft.Client) -> None:
    job = client.submit(STARS, name="stars", tasks=[b"*a*", b"", {"data": "Kg=="}], wait=30)
    assert (job.state, job.name, job.runtime) == ("succeeded", "stars", "op")
    assert (job.tasks.total, job.tasks.completed, job.tasks.finished) == (3, 3, 3)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    assert [result.value for result in client.results(job, order="task")] == [2, 0, 1]
    assert sorted(result.task for result in client.results(job.id)) == [0, 1, 2]
    assert client.result(job, 2).result == {"op": "counteq", "count": 1, "bytes": 1}
    with pytest.raises(weft.NotFoundError, match="no task 3"):
        client.result(job, 3)
    assert client.wait(job.id).id == job.id
    assert client.job(job.id) == client.job(job)
    assert job.id in [listed.id for listed in client.jobs()]
    assert [task.state for task in client.tasks(job)] == ["completed"] * 3
    assert list(client.tasks(job, state="failed")) == []
    assert client.explain(job).summary.startswith("3 of 3 tasks completed")


def test_the_same_key_is_the_same_job_in_both_forms(client: weft.Client) -> None:
    keys = [str(random.random()) for _ in range(2)]
    first = [
        client.submit(STARS, tasks=[b"*"], idempotency_key=keys[0]),
        client.submit(STARS, tasks=iter([b"*"]), idempotency_key=keys[1]),
    ]
    again = [
        client.submit(STARS, tasks=[b"*"], idempotency_key=keys[0]),
        client.submit(STARS, tasks=iter([b"*"]), idempotency_key=keys[1]),
    ]
    assert [job.id for job in first] == [job.id for job in again]
    assert first[0].id != first[1].id


def test_map_gives_results_in_the_order_of_the_inputs(client: weft.Client) -> None:
    inputs = [random.randbytes(random.randrange(50)) for _ in range(2_500)]
    values = [result.value for result in client.map("crc32c", inputs, batch=100)]
    assert values == [oracle.crc32c(data) for data in inputs]
    values = [result.value for result in client.map({"op": "fnv64"}, iter(inputs))]
    assert values == [oracle.fnv64(data) for data in inputs]
    both = {"ops": [{"op": "crc32c"}, {"op": "fnv64", "offset": 1, "length": 2}]}
    [result] = client.map(both, [b"abcd"])
    assert result.value == [oracle.crc32c(b"abcd"), oracle.fnv64(b"bc")]
    assert list(client.map("crc32c", [])) == []


def test_map_asks_for_few_inputs_ahead(client: weft.Client) -> None:
    asked = 0

    def inputs() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"*"

    results = client.map(STARS, inputs(), batch=10)
    assert [next(results).value for _ in range(25)] == [1] * 25
    assert asked <= 80
    results.close()


def test_large_lists_are_streamed(client: weft.Client) -> None:
    job = client.submit(STARS, tasks=[b"*" * (1 << 20)] * 40)
    [results] = client.gather(job)
    assert [result.value for result in results] == [1 << 20] * 40


def test_http2_does_the_same(shared: Server) -> None:
    with weft.Client.from_admin(shared.data_dir, http2=True) as client:
        inputs = [b"*" * n for n in range(500)]
        assert [result.value for result in client.map(STARS, inputs, batch=50)] == list(range(500))
        job = client.submit(STARS, tasks=iter(inputs))
        assert len(list(client.results(job))) == 500


def test_gather_gives_the_results_of_each_job(client: weft.Client) -> None:
    jobs = [client.submit(STARS, tasks=[b"*" * n, b"*"]) for n in range(3)]
    found = client.gather(*jobs, wait=30)
    assert [[result.value for result in results] for results in found] == [[0, 1], [1, 1], [2, 1]]
    assert [result.job for result in found[2]] == [jobs[2].id] * 2


def test_a_process_shows_its_output_and_exit_code(client: weft.Client) -> None:
    command = {"command": ["sh", "-c", "cat; echo oops >&2; printf '\\377'; exit $1", "sh", "0"]}
    job = client.submit(runtime="process", process=command, tasks=[b"in"])
    result = client.result(job, wait=60)
    assert (result.exit_code, result.value) == (0, b"in\xff")
    assert result.stderr is not None
    assert result.stderr.data == b"oops\n"
    command["command"][-1] = "3"
    job = client.submit(runtime="process", process=command, retry={"attempts": 1})
    with pytest.raises(weft.TaskFailedError) as caught:
        client.gather(job)
    assert caught.value.reason == "nonzero-exit"
    assert caught.value.result.exit_code == 3
    [[result]] = client.gather(job, raises=False)
    assert not result.ok
    assert result.value is None
    assert result.why is not None
    assert result.why.class_ == "user"
    failed = client.job(job)
    assert failed.state == "failed"
    assert failed.why is not None
    assert client.retry(job).state in {"queued", "running", "failed"}
    assert client.wait(job).tasks.failed == 1
    client.forget(job)
    with pytest.raises(weft.NotFoundError):
        client.job(job)


def test_a_failed_task_ends_a_map_and_cancels_the_rest(server: Server) -> None:
    inputs = [{"args": ["true"]}, {"args": ["false"]}] + [{"args": ["sleep", "600"]}] * 20
    work = {"runtime": "process", "process": {"command": ["true"]}, "retry": {"attempts": 1}}
    with server.client() as client:
        results = client.map(work, inputs, batch=2)
        assert next(results).ok
        with pytest.raises(weft.TaskFailedError):
            next(results)
        assert all(client.wait(job, 30).is_final for job in client.jobs())


def test_refusals_have_the_words_of_the_problem_document(client: weft.Client) -> None:
    with pytest.raises(weft.WeftError) as caught:
        client.submit(STARS, priorty=1)
    error = caught.value
    assert (error.status, error.reason) == (400, "invalid-spec")
    assert error.kind == "urn:weft:problem:invalid-request"
    assert error.errors[0].path == "priorty"
    assert "priority" in error.errors[0].message
    assert error.next
    assert error.next in str(error)
    with pytest.raises(weft.WeftError) as caught:
        client.submit(STARS, tasks=iter([{}, {"data": "***"}]))
    assert caught.value.errors[0].path == "tasks[1].data"
    with pytest.raises(weft.NotFoundError) as missing:
        client.job("job-0000000000000")
    assert missing.value.status == 404
    with pytest.raises(weft.NotFoundError):
        list(client.results("../nodes"))
    with pytest.raises(weft.WeftError, match="neither"):
        raise weft.WeftError("neither")


@pytest.mark.parametrize(
    ("bad", "words"),
    [("text", "encode text"), (7, "not int"), (None, "not NoneType")],
)
def test_inputs_that_are_none_are_refused_before_anything_is_sent(
    client: weft.Client, bad: object, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        client.submit(STARS, tasks=[bad])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=words):
        list(client.map(STARS, [bad]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no tasks"):
        client.submit(STARS, tasks=[])
    with pytest.raises(ValueError, match="inputs"):
        client.map({**STARS, "inputs": {"array": 3}}, [])
    with pytest.raises(ValueError, match="finish"):
        client.results("job", order="random")


def test_wrong_credentials_are_not_tried_again(shared: Server, tmp_path: Path) -> None:
    admin = weft.Endpoint.from_admin(shared.data_dir)
    with (
        weft.Client(admin.server, "weftapi1-nothing", admin.ca) as client,
        pytest.raises(weft.NotAllowedError) as refused,
    ):
        list(client.nodes())
    assert (refused.value.status, refused.value.reason) == (401, "permission-denied")
    with weft.Client(admin.server, admin.token, admin.ca) as client:
        assert len(list(client.nodes())) == 2
    # A server that is not the cluster's is not trusted, and that does not mend itself.
    with (
        weft.Client(admin.server, admin.token) as client,
        pytest.raises(weft.UnreachableError, match="certificate") as untrusted,
    ):
        client.health()
    assert untrusted.value.is_final
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(weft.ConfigError, match=r"ca\.pem"):
        weft.Client(admin.server, admin.token, tmp_path / "ca.pem")


def test_cancelling_is_final_and_may_be_done_twice(idle: Server) -> None:
    with idle.client() as client:
        job = client.submit(STARS, inputs={"array": 5})
        assert job.state == "queued"
        with pytest.raises(weft.WaitOverError) as over:
            client.wait(job, 0.2)
        assert over.value.job == job.id
        with pytest.raises(TimeoutError):
            client.result(job, wait=0.1)
        with pytest.raises(weft.WaitOverError):
            client.gather(job, wait=0.1)
        assert list(client.results(job, wait=0)) == []
        explanation = client.explain(job)
        assert explanation.why is not None
        assert explanation.why.reason in {"no-candidate", "insufficient-resources"}
        for _ in range(2):
            assert client.cancel(job).state == "cancelled"
        [results] = client.gather(job, raises=False)
        assert [result.state for result in results] == ["cancelled"] * 5
        with pytest.raises(weft.TaskFailedError) as caught:
            client.result(job, 3)
        assert caught.value.reason == "cancelled"


def test_events_are_read_from_a_number_on(server: Server) -> None:
    with server.client() as client:
        known = list(client.events(follow=False))
        numbers = [event.seq for event in known]
        assert numbers
        assert all(before < after for before, after in zip(numbers, numbers[1:])), numbers
        # A machine that stands still makes nodes suspect for a while.
        assert {event.type for event in client.events(follow=False, type="node")} <= {
            "weft.node.joined",
            "weft.node.healthy",
            "weft.node.suspect",
        }
        job = client.submit(STARS, tasks=[b"*", b""], wait=30)
        event = next(iter(client.events(known[-1].seq, subject=job.id)))
        assert (event.type, event.subject) == ("weft.job.ended", job.id)
        assert event.data["state"] == "succeeded"


def test_nodes_say_what_they_offer(client: weft.Client) -> None:
    def offers(node: weft.Node) -> bool:
        return "op" in node.capacity.runtimes and node.usage.free_disk_bytes > 0

    def all_offer() -> bool:
        nodes = list(client.nodes())
        healthy = [node.state for node in nodes] == ["healthy", "healthy"]
        return healthy and all(offers(node) for node in nodes)

    # Usage comes with a report after the node has joined, and a busy machine delays reports.
    eventually(all_offer)
    assert client.health().status == "ok"


def test_artifacts_go_up_and_come_back(client: weft.Client, tmp_path: Path) -> None:
    data = random.randbytes(3 << 20)
    (tmp_path / "in").write_bytes(data)
    artifact = client.upload(tmp_path / "in")
    assert artifact.size == len(data)
    assert client.upload(data) == artifact
    client.download(artifact.blob, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    [result] = client.map("crc32c", [artifact])
    assert result.value == oracle.crc32c(data)
    assert client.upload(b"").size == 0
    with pytest.raises(weft.NotFoundError):
        client.download("0" * 64, tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_namespace_goes_with_every_job(shared: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_NAMESPACE", "lab")
    with shared.client() as client:
        assert client.submit(STARS, tasks=[b""]).namespace == "lab"
        assert client.submit(STARS, tasks=[b""], namespace="other").namespace == "other"
