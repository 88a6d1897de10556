/**
 * Orders, each once, with Powertools for AWS Lambda.
 *
 * JOB=pure checks the orders; JOB=transaction also writes them to the table ORDERS_TABLE. The order's rules are those of
 * the function process-orders.
 */
import { BatchProcessor, EventType, processPartialResponse } from '@aws-lambda-powertools/batch';
import { IdempotencyConfig, makeIdempotent } from '@aws-lambda-powertools/idempotency';
import { DynamoDBPersistenceLayer } from '@aws-lambda-powertools/idempotency/dynamodb';
import { type AttributeValue, DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb';
import type { Context, SQSBatchResponse, SQSEvent, SQSRecord } from 'aws-lambda';

type Line = { sku: string; quantity: number; unit_price_minor: number };

type Order = {
  order_id: string;
  customer_id: string;
  currency: string;
  lines: Line[];
  total_minor: number;
  amends?: string | null;
};

type Receipt = { order_id: string; total_minor: number; currency: string };

const ID_BYTES_MAX = 128;
const LINES_MAX = 1_000;

/** A character that is not what Unicode calls white space; `trim` has a list of its own. */
const VISIBLE = /\P{White_Space}/u;

/** The active codes of ISO 4217, as process-orders has them. */
const CURRENCIES = new Set(
  `
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
    COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR
    ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK
    MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF
    SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU
    UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
  `
    .trim()
    .split(/\s+/),
);

const ordersTable = tableOfJob(variable('JOB'));

// One client for the records and the orders. All records of a batch run at once, each on a connection that is kept open
// and used again.
const agent = { keepAlive: true, maxSockets: 64 };
const dynamodb = new DynamoDBClient({ requestHandler: { httpAgent: agent, httpsAgent: agent } });

const config = new IdempotencyConfig({ eventKeyJmesPath: 'order_id', payloadValidationJmesPath: '@' });
const persistenceStore = new DynamoDBPersistenceLayer({
  tableName: variable('IDEMPOTENCY_TABLE'),
  awsSdkV3Client: dynamodb,
});
const processor = new BatchProcessor(EventType.SQS);

/** The order is invalid, and stays so. */
class InvalidOrder extends Error {}

export const handler = async (event: SQSEvent, context: Context): Promise<SQSBatchResponse> => {
  config.registerLambdaContext(context);
  return processPartialResponse(event, handleRecord, processor, { context, throwOnFullBatchFailure: false });
};

// The body as it came, with what an order does not name: a second body under a used id must not pass for the first.
const handleRecord = async (record: SQSRecord): Promise<Receipt> => processOrder(parseOrder(record.body));

const processOrder = makeIdempotent(
  async function processOrder(order: Order): Promise<Receipt> {
    validate(order);
    if (ordersTable !== undefined) {
      await dynamodb.send(
        new PutItemCommand({
          TableName: ordersTable,
          Item: orderItem(order),
          ConditionExpression: 'attribute_not_exists(order_id)',
        }),
      );
    }
    return { order_id: order.order_id, total_minor: order.total_minor, currency: order.currency };
  },
  { config, persistenceStore },
);

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) {
    throw new Error(`${name} is not set`);
  }
  return value;
}

function tableOfJob(job: string): string | undefined {
  switch (job) {
    case 'pure':
      return undefined;
    case 'transaction':
      return variable('ORDERS_TABLE');
    default:
      throw new Error(`JOB: expected pure or transaction, found ${job}`);
  }
}

/** The order in a message's body, whose fields have the right types. */
function parseOrder(body: string): Order {
  const order: unknown = JSON.parse(body);
  if (!isObject(order)) {
    throw new InvalidOrder('the body is no object');
  }
  expectText(order, 'order_id');
  expectText(order, 'customer_id');
  expectText(order, 'currency');
  if (order.amends !== undefined && order.amends !== null) {
    expectText(order, 'amends');
  }
  expectWhole(order, 'total_minor');
  if (!Array.isArray(order.lines)) {
    throw new InvalidOrder('lines is no list');
  }
  for (const line of order.lines) {
    if (!isObject(line)) {
      throw new InvalidOrder('a line is no object');
    }
    expectText(line, 'sku');
    expectWhole(line, 'quantity');
    expectWhole(line, 'unit_price_minor');
  }
  return order as unknown as Order;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function expectText(fields: Record<string, unknown>, name: string): void {
  if (typeof fields[name] !== 'string') {
    throw new InvalidOrder(`${name} is no text`);
  }
}

/** Whole numbers up to 2^53 - 1: JSON.parse rounds larger ones, which must not pass for what was sent. */
function expectWhole(fields: Record<string, unknown>, name: string): void {
  const value = fields[name];
  if (!Number.isSafeInteger(value) || (value as number) < 0) {
    throw new InvalidOrder(`${name} is no whole number of 53 bits`);
  }
}

function validate(order: Order): void {
  const { amends, lines } = order;
  checkId('order_id', order.order_id);
  checkId('customer_id', order.customer_id);
  if (amends !== undefined && amends !== null) {
    checkId('amends', amends);
    if (amends === order.order_id) {
      throw new InvalidOrder('amends names the order itself');
    }
  }
  if (!CURRENCIES.has(order.currency)) {
    throw new InvalidOrder('currency is no active ISO 4217 code');
  }
  if (lines.length === 0) {
    throw new InvalidOrder('lines is empty');
  }
  if (lines.length > LINES_MAX) {
    throw new InvalidOrder(`there are ${lines.length} lines`);
  }
  let totalMinor = 0;
  for (const [index, line] of lines.entries()) {
    checkId('lines[].sku', line.sku);
    if (line.quantity === 0) {
      throw new InvalidOrder(`line ${index} has quantity 0`);
    }
    totalMinor += line.quantity * line.unit_price_minor;
    if (!Number.isSafeInteger(totalMinor)) {
      throw new InvalidOrder(`the amounts up to line ${index} exceed 53 bits`);
    }
  }
  if (totalMinor !== order.total_minor) {
    throw new InvalidOrder('total_minor is not the sum of the lines');
  }
}

function checkId(field: string, id: string): void {
  if (!VISIBLE.test(id)) {
    throw new InvalidOrder(`${field} is blank`);
  }
  if (Buffer.byteLength(id) > ID_BYTES_MAX) {
    throw new InvalidOrder(`${field} is too long`);
  }
}

/** The order as process-orders writes it. */
function orderItem(order: Order): Record<string, AttributeValue> {
  const item: Record<string, AttributeValue> = {
    order_id: { S: order.order_id },
    customer_id: { S: order.customer_id },
    currency: { S: order.currency },
    lines: { L: order.lines.map(lineAttribute) },
    total_minor: { N: String(order.total_minor) },
  };
  if (order.amends !== undefined && order.amends !== null) {
    item.amends = { S: order.amends };
  }
  return item;
}

function lineAttribute(line: Line): AttributeValue {
  return {
    M: {
      sku: { S: line.sku },
      quantity: { N: String(line.quantity) },
      unit_price_minor: { N: String(line.unit_price_minor) },
    },
  };
}
