"""Powertools' side of the interop tests: one JSON command a line on stdin, one JSON answer a line on stdout.

Every command goes through Powertools' public decorators and its own persistence layer. A spy notes the key and the
payload's hash that the layer is about to store, and passes the call on.
"""

import json
import sys

import boto3
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent,
    idempotent_function,
)


# Takes a while to make, and is shared as in a function.
CLIENT = boto3.client("dynamodb")


class Killed(BaseException):
    """No Exception: Powertools does not clean up after it, as it cannot when the process is killed."""


class SpyingLayer(DynamoDBPersistenceLayer):
    stored = None

    def _put_record(self, data_record):
        self.stored = {"key": data_record.idempotency_key, "validation": data_record.payload_hash}
        super()._put_record(data_record)


class Context:
    """What Powertools reads of a Lambda context."""

    def __init__(self, remaining_ms):
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self):
        return self.remaining_ms


def answer(**fields):
    print(json.dumps(fields), flush=True)


def act(how, result):
    """The handler's work. It may hold until the next line says how it ends."""
    if how == "hold":
        answer(outcome="started")
        how = json.loads(sys.stdin.readline())["act"]
    if how == "fail":
        raise ValueError("on purpose")
    if how == "die":
        raise Killed()
    return result


def handler_of(command, layer, config, runs):
    """The decorated function: a handler of the payload itself, or of an SQS record that holds it."""

    def handler(event, context):
        runs.append(event)
        return act(command.get("act"), command.get("result"))

    # As of a function at the top of a module: {function}.{module}.{qualname} is interop.__main__.handler.
    handler.__qualname__ = "handler"
    if command.get("recipe"):

        def record_handler(record, context=None):
            return handler(record, context)

        decorated = idempotent_function(
            record_handler,
            data_keyword_argument="record",
            persistence_store=layer,
            config=config,
            key_prefix=command["recipe"],
        )
        return lambda text, context: decorated(record=SQSRecord({"messageId": "m-0", "body": text}))
    decorated = idempotent(handler, persistence_store=layer, config=config)
    return lambda text, context: decorated(json.loads(text), context)


def handle(command):
    layer = SpyingLayer(table_name=command["table"], boto3_client=CLIENT, **command.get("layout", {}))
    context = Context(command.get("remaining_ms", 30_000))
    config = IdempotencyConfig(
        event_key_jmespath=command["key"],
        payload_validation_jmespath=command.get("validation") or "",
        lambda_context=context,
    )
    runs = []
    handler = handler_of(command, layer, config, runs)
    for text in command["bodies"]:
        runs.clear()
        layer.stored = None
        result, outcome = None, None
        try:
            result = handler(text, context)
        except (Exception, Killed) as error:
            outcome = type(error).__name__
        yield {
            "outcome": outcome or ("ran" if runs else "replayed"),
            "runs": len(runs),
            "result": result,
            "stored": layer.stored,
        }


for line in sys.stdin:
    answer(outcome="done", handled=list(handle(json.loads(line))))
