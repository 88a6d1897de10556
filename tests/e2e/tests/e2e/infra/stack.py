"""Asks about a stack for the tests, and prints the answer as JSON.

    stack.py describe STACK                   what its outputs name: queues, tables, functions; mappings and log groups
    stack.py update STACK {NAME: VALUE}...    the errors of updates, each with these parameters, or null if it is accepted
    stack.py dashboards STACK                 the bodies of the dashboards whose names begin with the stack's, by their names
    stack.py alarms {...}                     makes the `metric` and the `composite` alarms, and gives for each of the `cases`, which
                                              are lists of alarms that go off, the composite alarms that then do
"""

import json
import sys

import boto3
from botocore.exceptions import ClientError

cloudformation, sqs, dynamodb, functions, logs, cloudwatch = (
    boto3.client(name) for name in ("cloudformation", "sqs", "dynamodb", "lambda", "logs", "cloudwatch")
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


def dashboards(stack):
    found = cloudwatch.list_dashboards(DashboardNamePrefix=f"{stack}-")["DashboardEntries"]
    names = [entry["DashboardName"] for entry in found]
    return {name: cloudwatch.get_dashboard(DashboardName=name)["DashboardBody"] for name in names}


def alarms(given):
    given = json.loads(given)
    for alarm in given["metric"]:
        # A template may hold a number as text.
        numbers = {"Threshold": float, "Period": int, "EvaluationPeriods": int, "DatapointsToAlarm": int}
        cloudwatch.put_metric_alarm(**alarm | {name: of(alarm[name]) for name, of in numbers.items() if name in alarm})
    for alarm in given["composite"]:
        cloudwatch.put_composite_alarm(**alarm)
    return [go_off(given["metric"], case) for case in given["cases"]]


def go_off(metric, names):
    for alarm in metric:
        state = "ALARM" if alarm["AlarmName"] in names else "OK"
        cloudwatch.set_alarm_state(AlarmName=alarm["AlarmName"], StateValue=state, StateReason="a test")
    found = cloudwatch.describe_alarms(AlarmTypes=["CompositeAlarm"], StateValue="ALARM")["CompositeAlarms"]
    return sorted(alarm["AlarmName"] for alarm in found)


COMMANDS = {"describe": describe, "update": update, "dashboards": dashboards, "alarms": alarms}
print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:]), default=str))
