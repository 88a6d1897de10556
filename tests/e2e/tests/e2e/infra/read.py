"""Reads templates for the tests, and prints them as JSON.

    read.py template FILE                     a SAM template, its short intrinsic functions as long ones
    read.py transform FILE [NAME=VALUE...]    the same after the SAM transform, with these parameters
    read.py hcl FILE...                       Terraform files, merged
    read.py toml FILE                         a TOML file
"""

import json
import sys
from types import SimpleNamespace

import hcl2
import tomlkit
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


def template(path):
    with open(path) as file:
        return yaml_parse(file.read())


def transformed(path, *parameters):
    read = template(path)
    for resource in read["Resources"].values():
        # The transform takes code that is uploaded already.
        if "CodeUri" in resource.get("Properties", {}):
            resource["Properties"]["CodeUri"] = "s3://bucket/code.zip"
    values = dict(parameter.split("=", 1) for parameter in parameters)
    return transform(read, values, SimpleNamespace(load=lambda: {}))


def hcl(*paths):
    blocks = {}
    for path in paths:
        with open(path) as file:
            for kind, found in hcl2.load(file).items():
                blocks.setdefault(kind, []).extend(found)
    return blocks


def toml(path):
    with open(path) as file:
        return tomlkit.load(file).unwrap()


COMMANDS = {"template": template, "transform": transformed, "hcl": hcl, "toml": toml}
print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
