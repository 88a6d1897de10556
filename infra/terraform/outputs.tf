output "queue_url" {
  value = aws_sqs_queue.orders.url
}

output "dead_letter_queue_url" {
  value = aws_sqs_queue.dead_letters.url
}

output "function_name" {
  value = aws_lambda_function.process_orders.function_name
}

output "idempotency_table_name" {
  value = aws_dynamodb_table.idempotency.name
}

output "orders_table_name" {
  value = aws_dynamodb_table.orders.name
}
