"""Compares the commands of the AWS CLI in pages with AWS's own models of its services, and prints what is wrong as JSON.

    commands.py PAGE...
"""

import json
import re
import shlex
import sys

from botocore import xform_name
from botocore.session import get_session

# Options of every command, with whether a value follows.
GLOBAL = {"query": True, "output": True, "region": True, "no-cli-pager": False}
# Commands that the CLI adds to the services' own, with their options.
ADDED = {
    ("logs", "tail"): {"since", "format", "follow", "filter-pattern"},
    ("cloudformation", "deploy"): {"template-file", "stack-name", "parameter-overrides"},
    ("dynamodb", "wait"): {"table-name"},
}

session = get_session()


def kebab(name):
    return xform_name(name, "-")


def commands(text):
    """The commands in blocks of code, each a line after `$ `, and in spans of code; and those within others by `$(...)`."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    lines = [line.strip()[2:] for block in blocks for line in block.splitlines() if line.strip().startswith("$ ")]
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose) if span.startswith("aws ")]
    for line in lines + spans:
        while True:
            inner = re.search(r"\$\(([^()]*)\)", line)
            if not inner:
                break
            yield from parts(inner.group(1))
            line = line[: inner.start()] + "VALUE" + line[inner.end() :]
        yield from parts(line)


def parts(line):
    words, part = shlex.split(line), []
    for word in [*words, "|"]:
        if word in ("|", "&&", ";", ">"):
            while part and part[0] == "export":
                part = part[1:]
            if part and part[0] == "aws":
                yield part
            part = []
        else:
            part.append(word)


def problem(words):
    service, operation, *rest = words[1:]
    if (service, operation) in ADDED:
        known = ADDED[service, operation]
        flags, required = set(), set()
    else:
        model = session.get_service_model({"deploy": "codedeploy"}.get(service, service))
        names = {kebab(name): name for name in model.operation_names}
        if operation not in names:
            return f"no such operation: {service} {operation}"
        shape = model.operation_model(names[operation]).input_shape
        members = shape.members if shape else {}
        known = {kebab(name) for name in members}
        flags = {kebab(name) for name, member in members.items() if member.type_name == "boolean"}
        required = {kebab(name) for name in (shape.required_members if shape else [])}
    given = set()
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            # A log group, or what is waited for.
            if (service, operation) in ADDED:
                continue
            return f"a value without an option: {word}"
        option = word[2:]
        name = option[3:] if option.startswith("no-") and option[3:] in flags else option
        if name not in known and name not in GLOBAL:
            return f"no such option: {option}"
        given.add(name)
        if name in flags or not GLOBAL.get(name, True):
            continue
        if not rest or rest[0].startswith("--"):
            return f"no value: {option}"
        while rest and not rest[0].startswith("--"):
            rest.pop(0)
    missing = sorted(required - given)
    return f"missing: {', '.join(missing)}" if missing else None


checked, problems = 0, []
for page in sys.argv[1:]:
    with open(page) as file:
        for words in commands(file.read()):
            checked += 1
            found = problem(words)
            if found:
                problems.append(f"{page}: {' '.join(words)}: {found}")
print(json.dumps({"checked": checked, "problems": problems}))
