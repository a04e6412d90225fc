"""An S3 server that enforces permissions: moto, with those rules of AWS added that it leaves out.

Prints {"endpoint": …} once it serves, then carries out what it reads, a JSON object a line, and answers each with one:
{"user": NAME, "policy": POLICY} makes a user, or gives one another policy (none: no rights), and answers with its keys;
{"keys": true} and {"head": KEY} look as the administrator. It ends with its input.
"""

import fnmatch
import json
import logging
import sys
import threading
from urllib.parse import parse_qs, urlparse

import boto3
import requests
import xmltodict
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.access_control import IAMPolicyStatement, PermissionResult, S3IAMRequest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
BUCKET = "company-data"
asked = threading.local()
is_action_permitted = IAMPolicyStatement.is_action_permitted
check_action_permitted = S3IAMRequest.check_action_permitted


def condition_holds(operator, key, wanted):
    wanted = wanted if isinstance(wanted, list) else [wanted]
    match (operator, key):
        case ("StringLike", "s3:prefix"):
            return asked.prefix is not None and any(
                fnmatch.fnmatchcase(asked.prefix, one) for one in wanted
            )
        case ("Null", "s3:if-none-match"):
            return [str(asked.if_none_match is None).lower()] == wanted
        case ("Bool", "s3:ObjectCreationOperation"):
            return [str(asked.creates).lower()] == wanted
    raise AssertionError(f"a condition that this server does not know: {operator} {key}")


def statement_permits(statement, action, resource="*", principal=None, values=None):
    """Moto knows no conditions of S3, and takes one that does not hold for a denial."""
    for operator, keys in statement._statement.get("Condition", {}).items():
        for key, wanted in keys.items():
            if not condition_holds(operator, key, wanted):
                return PermissionResult.NEUTRAL
    bare = {name: part for name, part in statement._statement.items() if name != "Condition"}
    return is_action_permitted(IAMPolicyStatement(bare), action, resource, principal, values)


def request_permitted(request, resource):
    query = parse_qs(urlparse(request._path).query, keep_blank_values=True)
    asked.prefix = query.get("prefix", [""])[0]
    asked.if_none_match = request._headers.get("If-None-Match")
    asked.creates = "uploads" not in query and "partNumber" not in query
    if request._action == "s3:DeleteObject" and "delete" in query:
        # A batch needs the right for each of its keys, and not one to the bucket.
        objects = xmltodict.parse(request._body)["Delete"]["Object"]
        for one in objects if isinstance(objects, list) else [objects]:
            check_action_permitted(request, f"{resource}/{one['Key']}")
        return
    check_action_permitted(request, resource)
    if request._action == "s3:GetObject":
        # Whether an object is missing is told to those alone who may list the whole bucket.
        bucket, key = resource.removeprefix("arn:aws:s3:::").split("/", 1)
        if s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket, key) is None:
            asked.prefix, request._action = None, "s3:ListBucket"
            check_action_permitted(request, f"arn:aws:s3:::{bucket}")


IAMPolicyStatement.is_action_permitted = statement_permits
S3IAMRequest.check_action_permitted = request_permitted

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(service, access_key="setup", secret_key="setup"):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )


EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
known = {}


def user(iam, name, policy):
    if name not in known:
        iam.create_user(UserName=name)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        known[name] = {"access": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
    if policy is not None:
        iam.put_user_policy(UserName=name, PolicyName="it", PolicyDocument=json.dumps(policy))
    elif iam.list_user_policies(UserName=name)["PolicyNames"]:
        iam.delete_user_policy(UserName=name, PolicyName="it")
    return known[name]


admin = user(client("iam"), "admin", EVERYTHING)
client("s3").create_bucket(Bucket=BUCKET)
iam = client("iam", admin["access"], admin["secret"])
s3 = client("s3", admin["access"], admin["secret"])
told = requests.post(f"{endpoint}/moto-api/reset-auth", data="0", headers={"Content-Type": "text/plain"})
assert told.ok, told.text


def carry_out(order):
    if "user" in order:
        return user(iam, order["user"], order.get("policy"))
    if "head" in order:
        return s3.head_object(Bucket=BUCKET, Key=order["head"])
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def answer(value):
    print(json.dumps(value, default=str), flush=True)


answer({"endpoint": endpoint, "bucket": BUCKET})
for line in sys.stdin:
    answer(carry_out(json.loads(line)))
