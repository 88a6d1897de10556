"""Orders, each once, with Powertools for AWS Lambda.

JOB=pure checks the orders; JOB=transaction also writes them to the table ORDERS_TABLE. The order's rules are those of the
function process-orders.
"""

import json
import os

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig, idempotent_function
from botocore.config import Config

JOBS = ("pure", "transaction")
JOB = os.environ["JOB"]
if JOB not in JOBS:
    raise ValueError(f"JOB: expected one of {', '.join(JOBS)}, found {JOB!r}")
ORDERS_TABLE = os.environ["ORDERS_TABLE"] if JOB == "transaction" else None

ID_BYTES_MAX = 128
LINES_MAX = 1_000
U64_MAX = 2**64 - 1

# What Unicode calls white space; str.strip() without it also takes some control characters.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f"
    "\u3000"
)

# The active codes of ISO 4217, as process-orders has them.
CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
    COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR
    ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK
    MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF
    SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU
    UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    """.split()
)

# One client for the records and the orders: its connections are kept open and used again.
dynamodb = boto3.client("dynamodb", config=Config(tcp_keepalive=True))
persistence = DynamoDBPersistenceLayer(table_name=os.environ["IDEMPOTENCY_TABLE"], boto3_client=dynamodb)
config = IdempotencyConfig(event_key_jmespath="order_id", payload_validation_jmespath="@")

# One record at a time: boto3 blocks, so that AsyncBatchProcessor would not be faster.
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


class InvalidOrder(ValueError):
    """The order is invalid, and stays so."""


def handler(event, context):
    config.register_lambda_context(context)
    return process_partial_response(event=event, record_handler=handle_record, processor=processor, context=context)


def handle_record(record):
    # The body as it came, with what an order does not name: a second body under a used id must not pass for the first.
    return process_order(order=parse_order(record.body))


@idempotent_function(data_keyword_argument="order", config=config, persistence_store=persistence)
def process_order(order):
    validate(order)
    if ORDERS_TABLE is not None:
        dynamodb.put_item(
            TableName=ORDERS_TABLE,
            Item=order_item(order),
            ConditionExpression="attribute_not_exists(order_id)",
        )
    return {"order_id": order["order_id"], "total_minor": order["total_minor"], "currency": order["currency"]}


def parse_order(body):
    """The order in a message's body, whose fields have the right types."""
    order = json.loads(body)
    if not isinstance(order, dict):
        raise InvalidOrder("the body is no object")
    for name in ("order_id", "customer_id", "currency"):
        expect_text(order, name)
    if order.get("amends") is not None:
        expect_text(order, "amends")
    expect_u64(order, "total_minor")
    lines = order.get("lines")
    if not isinstance(lines, list):
        raise InvalidOrder("lines is no list")
    for line in lines:
        if not isinstance(line, dict):
            raise InvalidOrder("a line is no object")
        expect_text(line, "sku")
        expect_u64(line, "quantity")
        expect_u64(line, "unit_price_minor")
    return order


def expect_text(fields, name):
    if not isinstance(fields.get(name), str):
        raise InvalidOrder(f"{name} is no text")


def expect_u64(fields, name):
    value = fields.get(name)
    # A bool is an int, too.
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise InvalidOrder(f"{name} is no whole number of 64 bits")


def validate(order):
    check_id("order_id", order["order_id"])
    check_id("customer_id", order["customer_id"])
    amends = order.get("amends")
    if amends is not None:
        check_id("amends", amends)
        if amends == order["order_id"]:
            raise InvalidOrder("amends names the order itself")
    if order["currency"] not in CURRENCIES:
        raise InvalidOrder("currency is no active ISO 4217 code")
    lines = order["lines"]
    if not lines:
        raise InvalidOrder("lines is empty")
    if len(lines) > LINES_MAX:
        raise InvalidOrder(f"there are {len(lines)} lines")
    total_minor = 0
    for index, line in enumerate(lines):
        check_id("lines[].sku", line["sku"])
        if line["quantity"] == 0:
            raise InvalidOrder(f"line {index} has quantity 0")
        total_minor += line["quantity"] * line["unit_price_minor"]
        if total_minor > U64_MAX:
            raise InvalidOrder(f"the amounts up to line {index} exceed 64 bits")
    if total_minor != order["total_minor"]:
        raise InvalidOrder("total_minor is not the sum of the lines")


def check_id(field, value):
    if not value.strip(WHITE_SPACE):
        raise InvalidOrder(f"{field} is blank")
    if len(value.encode()) > ID_BYTES_MAX:
        raise InvalidOrder(f"{field} is too long")


def order_item(order):
    """The order as process-orders writes it."""
    item = {
        "order_id": {"S": order["order_id"]},
        "customer_id": {"S": order["customer_id"]},
        "currency": {"S": order["currency"]},
        "lines": {"L": [line_attribute(line) for line in order["lines"]]},
        "total_minor": {"N": str(order["total_minor"])},
    }
    if order.get("amends") is not None:
        item["amends"] = {"S": order["amends"]}
    return item


def line_attribute(line):
    return {
        "M": {
            "sku": {"S": line["sku"]},
            "quantity": {"N": str(line["quantity"])},
            "unit_price_minor": {"N": str(line["unit_price_minor"])},
        }
    }
