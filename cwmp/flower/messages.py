"""Flower's messages: what of ours is in which record.

    query   server → node     nothing
            node → server     node       ConfigRecord   partition-id
    train   server → client   task       ConfigRecord   JSON of a Task
                              weights    ArrayRecord    one array of bytes, a full update
            client → server   answer     ConfigRecord   JSON of an Answer
                              update     ArrayRecord    one array of bytes, the coded update
                              figures    MetricRecord   a few numbers of the answer, for Flower's own tools
            or                refusal    ConfigRecord   JSON of a Refusal

One array, whatever the number of tensors, travels as few objects. Its type is our own, so that no averaging
of Flower's could take it for an array of numbers.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ValidationError

from calibration_data import UsageError
from calibration_data.files import describe_validation_error
from cwmp.flower.protocol import Answer, Refusal, Task

Model = TypeVar("Model", bound=BaseModel)

STYPE = "calijoule/update/1"
KEY = "bytes"
PARTITION = "partition-id"


def node_content(partition: object) -> RecordDict:
    """Which client a node is; nothing where its config does not say."""
    if isinstance(partition, int) and not isinstance(partition, bool):
        return RecordDict({"node": ConfigRecord({PARTITION: partition})})
    return RecordDict({"node": ConfigRecord()})


def partition_of(content: RecordDict) -> int | None:
    """Which client a node says it is; None where it does not."""
    record = content.get("node")
    partition = record.get(PARTITION) if isinstance(record, ConfigRecord) else None
    return partition if isinstance(partition, int) and not isinstance(partition, bool) else None


def task_content(task: Task, weights: ArrayRecord) -> RecordDict:
    """What a client is asked for; ``weights`` from ``as_array``, one for all clients."""
    return RecordDict({"task": _config(task), "weights": weights})


def read_task(content: RecordDict) -> tuple[Task, bytes]:
    """Task and coded weights.

    Raises:
        UsageError: the content is none of ours.
    """
    return _model(content, "task", Task), _bytes(content, "weights")


def answer_content(answer: Answer, message: bytes) -> RecordDict:
    """What a client has done."""
    report, account = answer.report, answer.account
    figures: dict[str, Any] = {
        "samples": report.samples,
        "kept": report.kept,
        "payload-bytes": report.payload_bytes,
        "predicted-j": report.predicted_j,
        "startup-s": account.startup_s,
        **{
            f"{phase}-measured-j": energy.measured_j
            for phase, energy in report.energy.items()
            if energy.measured_j is not None
        },
    }
    return RecordDict(
        {"answer": _config(answer), "update": as_array(message), "figures": MetricRecord(figures)}
    )


def refusal_content(refusal: Refusal) -> RecordDict:
    """Why a client has no update."""
    return RecordDict({"refusal": _config(refusal)})


def read_answer(content: RecordDict) -> tuple[str, bytes] | Refusal:
    """JSON of the answer, not looked at yet, and the bytes of its update.

    Raises:
        UsageError: the content is none of ours.
    """
    if "refusal" in content:
        return _model(content, "refusal", Refusal)
    return _json(content, "answer"), _bytes(content, "update")


def as_array(data: bytes) -> ArrayRecord:
    """Bytes as Flower carries them."""
    return ArrayRecord({KEY: Array("uint8", (len(data),), STYPE, data)})


def _config(model: BaseModel) -> ConfigRecord:
    return ConfigRecord({"json": model.model_dump_json()})


def _json(content: RecordDict, name: str) -> str:
    record = content.get(name)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise UsageError(f"The message has no {name}.")
    return text


def _model(content: RecordDict, name: str, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(_json(content, name))
    except ValidationError as error:
        raise UsageError(f"Its {name} is not valid: {describe_validation_error(error)}.") from error


def _bytes(content: RecordDict, name: str) -> bytes:
    record = content.get(name)
    array = record.get(KEY) if isinstance(record, ArrayRecord) else None
    if array is None or array.stype != STYPE or not isinstance(array.data, bytes):
        raise UsageError(f"The message has no {name}.")
    return array.data
