# As the parameters of ../template.yaml. What that refuses by rules is refused by validations here.

variable "name" {
  description = "What the names of all resources begin with."
  type        = string
  default     = "microbatch"

  validation {
    condition     = can(regex("^[A-Za-z0-9-]{1,47}$", var.name))
    error_message = "Expected 1 to 47 letters, digits and hyphens: queues and functions append their own names."
  }
}

variable "package" {
  description = "The zip that `cargo lambda build --release --output-format zip --package process-orders` makes."
  type        = string
  default     = "../../target/lambda/process-orders/bootstrap.zip"
}

variable "architecture" {
  description = "The processor that the package is built for."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "Expected x86_64 or arm64."
  }
}

variable "timeout_s" {
  description = "Seconds that an invocation may take."
  type        = number
  default     = 30

  validation {
    condition     = var.timeout_s >= 10 && var.timeout_s <= 900
    error_message = "Expected 10 to 900 s."
  }
}

variable "batch_size" {
  description = "Most orders in a batch."
  type        = number
  default     = 100

  validation {
    condition     = var.batch_size >= 1 && var.batch_size <= 10000
    error_message = "Expected 1 to 10,000."
  }
}

variable "batch_window_s" {
  description = "Seconds that a batch waits to be filled."
  type        = number
  default     = 1

  validation {
    condition     = var.batch_window_s >= 0 && var.batch_window_s <= 300
    error_message = "Expected 0 to 300 s."
  }
  validation {
    condition     = var.batch_size <= 10 || var.batch_window_s >= 1
    error_message = "A batch of more than 10 needs a window of 1 s or more."
  }
}

variable "maximum_concurrency" {
  description = "Most batches at once."
  type        = number
  default     = 50

  validation {
    condition     = var.maximum_concurrency >= 2 && var.maximum_concurrency <= 1000
    error_message = "Expected 2 to 1,000."
  }
}

variable "max_receive_count" {
  description = "Deliveries of a message before it goes to the dead-letter queue."
  type        = number
  default     = 10

  validation {
    condition     = var.max_receive_count >= 5 && var.max_receive_count <= 60
    error_message = "Expected 5 to 60: fewer turn throttling into dead letters; more outlast the retention at the longest visibility timeout."
  }
}

variable "outage_budget_s" {
  description = "How long a dependency may be down without a healthy message becoming a dead letter."
  type        = number
  default     = 3600

  validation {
    condition     = var.outage_budget_s >= 1 && var.outage_budget_s <= min(345600, (var.max_receive_count - 1) * 28000)
    error_message = "Expected 1 to 345,600 s, and at most 28,000 s for each delivery after the first."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
}

variable "deletion_protection" {
  description = "Whether the tables refuse to be deleted."
  type        = bool
  default     = true
}

variable "kms_key_arn" {
  description = "A key of this account and region that encrypts queues, tables, logs and variables. Null for the services' own keys."
  type        = string
  default     = null
}
