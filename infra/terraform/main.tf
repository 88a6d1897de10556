# process-orders, as ../template.yaml has it, with what it needs. Why each setting is as it is stands there.

terraform {
  # 1.9: a validation may look at other variables.
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

locals {
  function = "${var.name}-process-orders"

  # In seconds. A record outlives every way that its message can still come back: queue, dead-letter queue, queue again.
  queue_retention_s       = 345600
  dead_letter_retention_s = 1209600
  record_retention_s      = 2 * local.queue_retention_s + local.dead_letter_retention_s

  # "Creating and configuring an Amazon SQS event source mapping": six times the function's timeout, and the window.
  visibility_timeout_s = 6 * var.timeout_s + var.batch_window_s
}

data "aws_region" "current" {}

# ── Queues ────────────────────────────────────────────────────────────────────────────────────────────────────────────

resource "aws_sqs_queue" "dead_letters" {
  name                      = "${local.function}-dlq"
  message_retention_seconds = local.dead_letter_retention_s
  sqs_managed_sse_enabled   = var.kms_key_arn == null ? true : null
  kms_master_key_id         = var.kms_key_arn
}

resource "aws_sqs_queue" "orders" {
  name                       = local.function
  message_retention_seconds  = local.queue_retention_s
  visibility_timeout_seconds = local.visibility_timeout_s
  sqs_managed_sse_enabled    = var.kms_key_arn == null ? true : null
  kms_master_key_id          = var.kms_key_arn

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = var.max_receive_count
  })
}

resource "aws_sqs_queue_redrive_allow_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.url

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.orders.arn]
  })
}

resource "aws_sqs_queue_policy" "only_tls" {
  for_each = {
    orders       = aws_sqs_queue.orders
    dead_letters = aws_sqs_queue.dead_letters
  }

  queue_url = each.value.url

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = each.value.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

# ── Tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────

resource "aws_dynamodb_table" "idempotency" {
  #checkov:skip=CKV_AWS_119:Encrypted with DynamoDB's own key; kms_key_arn sets one of the account
  name                        = "${var.name}-idempotency"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "id"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "id"
    type = "S"
  }

  # Only tidies up: the function compares expiry itself.
  ttl {
    attribute_name = "expiration"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    # Not enabled means DynamoDB's own key, not none.
    enabled     = var.kms_key_arn != null
    kms_key_arn = var.kms_key_arn
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_dynamodb_table" "orders" {
  #checkov:skip=CKV_AWS_119:Encrypted with DynamoDB's own key; kms_key_arn sets one of the account
  name                        = "${var.name}-orders"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "order_id"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "order_id"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled     = var.kms_key_arn != null
    kms_key_arn = var.kms_key_arn
  }

  lifecycle {
    prevent_destroy = true
  }
}

# ── Function ──────────────────────────────────────────────────────────────────────────────────────────────────────────

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:Logs hold no payloads to audit; log_retention_days keeps them longer where that is asked for
  name              = "/aws/lambda/${local.function}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_iam_role" "function" {
  name_prefix = "${substr(local.function, 0, 37)}-"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

# The statements of ../policies, each with what its placeholders stand for.
locals {
  policies = merge({
    "lambda-itself" = {
      QueueArn    = aws_sqs_queue.orders.arn
      LogGroupArn = aws_cloudwatch_log_group.function.arn
    }
    "tracing"           = {}
    "idempotency-table" = { IdempotencyTableArn = aws_dynamodb_table.idempotency.arn }
    "backoff"           = { QueueArn = aws_sqs_queue.orders.arn }
    "park-queue"        = { ParkQueueArn = aws_sqs_queue.dead_letters.arn }
    "process-orders"    = { OrdersTableArn = aws_dynamodb_table.orders.arn }
    }, var.kms_key_arn == null ? {} : {
    "kms" = { KmsKeyArn = var.kms_key_arn, Region = data.aws_region.current.region }
  })
}

resource "aws_iam_role_policy" "function" {
  for_each = local.policies

  name   = each.key
  role   = aws_iam_role.function.id
  policy = templatefile("${path.module}/../policies/${each.key}.json", each.value)
}

resource "aws_lambda_function" "process_orders" {
  #checkov:skip=CKV_AWS_115:Reserved concurrency makes dead letters of unseen messages; the mapping's limit does not
  #checkov:skip=CKV_AWS_116:It is for asynchronous invocations; the dead-letter queue is the source queue's
  #checkov:skip=CKV_AWS_117:It calls nothing but SQS and DynamoDB; neither needs a VPC
  #checkov:skip=CKV_AWS_272:Who may deploy is left to the account; signing needs a profile that an example cannot bring
  function_name = local.function
  role          = aws_iam_role.function.arn
  runtime       = "provided.al2023"
  handler       = "bootstrap"
  architectures = [var.architecture]
  memory_size   = 512
  timeout       = var.timeout_s
  kms_key_arn   = var.kms_key_arn

  filename         = var.package
  source_code_hash = filebase64sha256(var.package)

  tracing_config {
    mode = "Active"
  }

  logging_config {
    log_format            = "JSON"
    application_log_level = "INFO"
    log_group             = aws_cloudwatch_log_group.function.name
  }

  environment {
    variables = {
      MICROBATCH_TABLE             = aws_dynamodb_table.idempotency.name
      MICROBATCH_NAMESPACE         = "process-orders"
      MICROBATCH_QUEUE_URL         = aws_sqs_queue.orders.url
      MICROBATCH_PARK_QUEUE_URL    = aws_sqs_queue.dead_letters.url
      MICROBATCH_BACKOFF           = "on"
      MICROBATCH_MAX_RECEIVE_COUNT = tostring(var.max_receive_count)
      MICROBATCH_OUTAGE_BUDGET_S   = tostring(var.outage_budget_s)
      MICROBATCH_RETENTION_S       = tostring(local.record_retention_s)
      ORDERS_TABLE                 = aws_dynamodb_table.orders.name
    }
  }
}

resource "aws_lambda_event_source_mapping" "orders" {
  event_source_arn                   = aws_sqs_queue.orders.arn
  function_name                      = aws_lambda_function.process_orders.arn
  batch_size                         = var.batch_size
  maximum_batching_window_in_seconds = var.batch_window_s
  # Without it Lambda ignores which messages failed, and deletes them.
  function_response_types = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.maximum_concurrency
  }

  metrics_config {
    metrics = ["EventCount"]
  }

  # Lambda looks whether the role may poll when the mapping is made.
  depends_on = [aws_iam_role_policy.function]
}
