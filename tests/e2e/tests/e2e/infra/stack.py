"""Asks about a stack for the tests, and prints the answer as JSON.

    stack.py describe STACK                   what its outputs name: queues, tables, functions; mappings and log groups
    stack.py update STACK {NAME: VALUE}...    the errors of updates, each with these parameters, or null if it is accepted
"""

import json
import sys

import boto3
from botocore.exceptions import ClientError

cloudformation, sqs, dynamodb, functions, logs = (
    boto3.client(name) for name in ("cloudformation", "sqs", "dynamodb", "lambda", "logs")
)


def outputs(stack):
    found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
    return {output["OutputKey"]: output["OutputValue"] for output in found}


def describe(stack):
    def each(suffix, describe):
        return {name: describe(value) for name, value in outputs(stack).items() if name.endswith(suffix)}

    return {
        "outputs": outputs(stack),
        "queues": each(
            "QueueUrl", lambda url: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        ),
        "tables": each("TableName", lambda name: dynamodb.describe_table(TableName=name)["Table"]),
        "functions": each("FunctionName", lambda name: functions.get_function_configuration(FunctionName=name)),
        "mappings": each(
            "FunctionName",
            lambda name: functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"],
        ),
        "log_groups": logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{stack}-")["logGroups"],
    }


def update(stack, *cases):
    return [update_with(stack, json.loads(case)) for case in cases]


def update_with(stack, parameters):
    try:
        cloudformation.update_stack(
            StackName=stack,
            UsePreviousTemplate=True,
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        )
    except ClientError as error:
        return error.response["Error"]["Message"]
    return None


print(json.dumps({"describe": describe, "update": update}[sys.argv[1]](*sys.argv[2:]), default=str))
