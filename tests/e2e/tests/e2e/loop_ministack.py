"""Makes a function and its event source mapping on an SQS queue, in a Lambda service.

    loop_ministack.py NAME BOOTSTRAP QUEUE_ARN TIMEOUT_S VARIABLES

BOOTSTRAP is a file that becomes the function's only one; VARIABLES is a JSON object.
"""

import io
import json
import sys
import zipfile

import boto3

name, bootstrap, queue_arn, timeout_s, variables = sys.argv[1:]

archive = io.BytesIO()
with zipfile.ZipFile(archive, "w") as code, open(bootstrap, "rb") as file:
    entry = zipfile.ZipInfo("bootstrap")
    entry.external_attr = 0o755 << 16
    code.writestr(entry, file.read())

functions = boto3.client("lambda")
functions.create_function(
    FunctionName=name,
    Runtime="provided.al2023",
    Handler="bootstrap",
    Role="arn:aws:iam::000000000000:role/any",
    Timeout=int(timeout_s),
    MemorySize=512,
    Environment={"Variables": json.loads(variables)},
    Code={"ZipFile": archive.getvalue()},
)
functions.create_event_source_mapping(
    EventSourceArn=queue_arn,
    FunctionName=name,
    BatchSize=10,
    FunctionResponseTypes=["ReportBatchItemFailures"],
)
