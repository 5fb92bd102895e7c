"""The parts, one by one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft import _calls as calls
from weft._errors import from_answer
from weft._retry import Attempts, Retry
from weft._streams import EventStream, Lines, ResultStream
from weft._tasks import BATCH_BYTES, TaskStream, batches, map_workload

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = {"runtime": "op", "op": {"op": "crc32c"}}
LOST = weft.UnreachableError("lost", was_sent=True)


def test_backoff_is_exponential_jittered_capped_and_ends() -> None:
    attempts = Attempts(Retry(deadline=60, base=0.1, cap=2))

    def delay(random: float, now: float) -> float:
        return attempts.delay(LOST, safe=True, now=now, random=lambda: random)

    assert [delay(1, 0) for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2])
    assert delay(0, 0) == 0
    assert delay(0.5, 58.9) == 1
    with pytest.raises(weft.UnreachableError):
        delay(1, 58.1)
    attempts.progress()
    assert delay(1, 1000) == pytest.approx(0.1)


def test_only_what_is_safe_is_sent_again() -> None:
    def retried(error: weft.WeftError, *, safe: bool) -> bool:
        try:
            Attempts(Retry()).delay(error, safe=safe, now=0, random=lambda: 0)
        except weft.WeftError:
            return False
        return True

    never_sent = weft.UnreachableError("refused", was_sent=False)
    untrusted = weft.UnreachableError("certificate", was_sent=False, is_final=True)
    full = from_answer(429, b"{}", "2")
    away = from_answer(503, b"", None)
    assert retried(LOST, safe=True)
    assert not retried(LOST, safe=False)
    assert retried(never_sent, safe=False)
    assert not retried(untrusted, safe=True)
    assert retried(full, safe=False)
    assert retried(away, safe=True)
    assert not retried(away, safe=False)
    assert not retried(from_answer(500, b"", None), safe=True)
    assert not retried(from_answer(400, b"", None), safe=True)
    wait = Attempts(Retry()).delay(full, safe=False, now=0, random=lambda: 0)
    assert wait == 2, "Retry-After is the least"


def test_every_submission_has_a_key() -> None:
    for tasks in (None, [b""], iter([b""])):
        call = calls.submit(JOB, tasks, None, 0)
        assert len(call.headers["idempotency-key"]) == 32
        assert call.safe
    assert calls.submit(JOB, None, "mine", 0).headers["idempotency-key"] == "mine"
    assert not calls.retry("job").safe
    assert not calls.forget("job").safe


def test_batches_are_bounded_in_number_and_size() -> None:
    made = list(batches(JOB, [b"x"] * 25, 10))
    assert [len(json.loads(body)["tasks"]) for body in made] == [10, 10, 5]
    assert json.loads(made[0])["op"] == {"op": "crc32c"}
    big = list(batches(JOB, [bytes(BATCH_BYTES // 2)] * 4, 10_000))
    assert [len(json.loads(body)["tasks"]) for body in big] == [2, 2]
    assert list(batches(JOB, [])) == []


def test_a_streamed_body_is_the_same_every_time_and_asks_for_inputs_once() -> None:
    asked = 0

    def inputs() -> Iterator[bytes]:
        nonlocal asked
        for number in range(60_000):
            asked += 1
            yield b"%020d" % number

    stream = TaskStream(JOB, inputs())
    first = iter(stream)
    begun = [next(first) for _ in range(3)]
    assert asked < 60_000
    whole = b"".join(stream)
    assert whole.startswith(b"".join(begun))
    assert b"".join(stream) == whole
    assert asked == 60_000
    lines = whole.splitlines()
    assert json.loads(lines[0]) == JOB
    assert len(lines) == 60_001
    stream.close()


def test_inputs_that_break_off_never_look_like_inputs_that_ended() -> None:
    def inputs() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the disk is gone")

    stream = TaskStream(JOB, inputs())
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            list(stream)


def test_the_package_has_the_version_of_the_server_it_comes_with(client: weft.Client) -> None:
    assert client.health().version == weft.__version__


def test_work_is_a_name_a_program_or_a_workload() -> None:
    assert map_workload("crc32c", {}) == JOB
    assert map_workload(weft.op("counteq", 42), {"name": "n"}) == {
        "runtime": "op",
        "op": {"op": "counteq", "imm": 42},
        "name": "n",
    }
    several = {"ops": [weft.op("crc32c"), weft.op("xor", 1, offset=2, length=3)]}
    assert map_workload(several, {})["op"] == several
    assert map_workload({"runtime": "wasm"}, {}) == {"runtime": "wasm"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_do_not_depend_on_how_they_arrive(size: int) -> None:
    text = b"one\n\ntwo two\r\nthree\nrest"
    lines = Lines()
    found = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
    assert found == [b"one", b"", b"two two\r", b"three"]
    assert lines.is_within_a_line


def line(task: object, **more: Any) -> bytes:
    return json.dumps({"task": task, "state": "completed", "attempts": 1, **more}).encode() + b"\n"


def test_a_straggler_does_not_bring_everything_back_every_time() -> None:
    stream = ResultStream("job", 100, in_order=False, until=None)
    now, waits = 0.0, []
    for _ in range(8):
        call = stream.call(now)
        assert call is not None
        assert call.params["from"] == "0"
        waits.append(call.patience)
        stream.feed(b"".join(line(task) for task in range(1, 100)))
        now += call.patience
        stream.ended(now)
    assert waits == [20, 40, 80, 160, 320, 600, 600, 600]


def asked(stream: ResultStream) -> int:
    call = stream.call(0)
    assert call is not None
    return int(call.params["from"])


def test_results_as_they_end_go_on_without_doubles() -> None:
    stream = ResultStream("job", 5, in_order=False, until=None)
    assert asked(stream) == 0
    assert [r.task for r in stream.feed(line(3) + line(0) + line(1) + line(4)[:9])] == [3, 0, 1]
    # The connection broke within a line: it is asked for again, and so are some that are known.
    assert asked(stream) == 2
    assert [r.task for r in stream.feed(line(3) + line(4))] == [4]
    stream.feed(b"{")
    with pytest.raises(weft.UnreachableError):
        stream.ended(1)
    assert asked(stream) == 2
    assert [r.task for r in stream.feed(line(2))] == [2]
    assert stream.is_complete
    stream.ended(1)
    assert stream.call(1) is None


def test_results_in_order_go_on_at_the_next_one() -> None:
    stream = ResultStream("job", 3, in_order=True, until=10)
    assert asked(stream) == 0
    assert [r.task for r in stream.feed(line(0) + line(1))] == [0, 1]
    assert asked(stream) == 2
    with pytest.raises(weft.UnreachableError):
        stream.ended(1)
    assert asked(stream) == 2
    stream.ended(11)
    assert stream.call(11) is None
    assert not stream.is_complete


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        line(9),
        line(-1),
        line(2),
        line("0"),
        line(0, state=7),
        line(0, result=[]),
        line(0, stdout="%%%", stdout_encoding="base64"),
        line(0, files=[7]),
        line(0, reason="internal"),
    ],
)
def test_results_that_are_none_are_an_error_of_ours(garbage: bytes) -> None:
    stream = ResultStream("job", 3, in_order=True, until=None)
    stream.call(0)
    with pytest.raises(weft.GarbledError):
        stream.feed(garbage)


def event(seq: int) -> bytes:
    fields = {"type": "weft.x", "subject": "s", "source": "weft://w", "data": {}}
    data = json.dumps({"seq": seq, "time": "2026-01-02T03:04:05.678Z", **fields}).encode()
    return b"id: %d\nevent: weft.x\ndata: %s\n\n" % (seq, data)


def test_events_go_on_after_the_last_one() -> None:
    stream = EventStream(4, follow=True, kind=None, subject=None)
    call = stream.call(0)
    assert call is not None
    assert call.params["since"] == "4"
    assert [e.seq for e in stream.feed(b": alive\n\n" + event(5) + event(6)[:-1])] == [5]
    with pytest.raises(weft.UnreachableError):
        stream.ended(0)
    call = stream.call(0)
    assert call is not None
    assert call.params["since"] == "5"
    [found] = stream.feed(event(5) + event(6))
    assert (found.seq, found.time.isoformat()) == (6, "2026-01-02T03:04:05.678000+00:00")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "status 418"),
        (b"<html>", "status 418"),
        (b"[1]", "status 418"),
        (b"[" * 100_000, "status 418"),
        (b'{"detail": 7, "errors": {"a": 1}, "next": []}', "status 418"),
        (b'{"detail": "tea", "errors": [7, {"path": "pot"}]}', "tea"),
    ],
)
def test_any_answer_makes_an_error(body: bytes, detail: str) -> None:
    error = from_answer(418, body, "soon")
    assert detail in error.detail
    assert (error.status, error.retry_after) == (418, None)
    assert all(isinstance(field.path, str) for field in error.errors)
