// Mistakes, each made by small edits of the good template. Shared by the tests of the command and of its fixes.

/// The template that has no mistake.
pub const GOOD: &str = include_str!("good.yaml");

/// A mistake: the rule that finds it and nothing else does, how bad it is, where, and the edits that make it.
pub struct Seed {
    pub rule: &'static str,
    pub severity: &'static str,
    pub resource: &'static str,
    pub edits: &'static [(&'static str, &'static str)],
}

impl Seed {
    /// The template with the mistake. Each edit must hit one place.
    pub fn template(&self) -> String {
        self.edits.iter().fold(GOOD.to_owned(), |template, (from, to)| {
            assert_eq!(template.matches(from).count(), 1, "{}: {from:?} must stand once in the template", self.rule);
            template.replacen(from, to, 1)
        })
    }
}

const fn error(rule: &'static str, resource: &'static str, edits: &'static [(&'static str, &'static str)]) -> Seed {
    Seed { rule, severity: "error", resource, edits }
}

const fn warning(rule: &'static str, resource: &'static str, edits: &'static [(&'static str, &'static str)]) -> Seed {
    Seed { rule, severity: "warning", resource, edits }
}

const ORDERS_VARIABLE: &str = "MICROBATCH_NAMESPACE: orders\n";
const LEDGER_VARIABLE: &str = "MICROBATCH_NAMESPACE: ledger\n";
const ORDERS_PROPERTY: &str = "MemorySize: 512 # orders\n";
const ORDERS_MAPPING: &str = "FunctionResponseTypes: [ReportBatchItemFailures] # orders\n";
const LEDGER_MAPPING: &str = "FunctionResponseTypes: [ReportBatchItemFailures] # ledger\n";
const LEDGER_POLICY: &str = "- DynamoDBCrudPolicy: { TableName: !Ref IdempotencyTable }\n";
const ORDERS_VISIBILITY: &str = "Orders: 181";

pub const SEEDS: &[Seed] = &[
    error("MB001", "OrdersQueue", &[(ORDERS_VISIBILITY, "Orders: 20")]),
    error("MB002", "OrdersQueue", &[(ORDERS_VISIBILITY, "Orders: 180")]),
    error("MB002", "OrdersQueue", &[("      VisibilityTimeout: !FindInMap [Visibility, Seconds, Orders]\n", "")]),
    error("MB003", "OrdersQueue", &[(ORDERS_VARIABLE, "MICROBATCH_EFFECT_TIMEOUT_MS: '150000'\n")]),
    error("MB004", "OrdersFunction", &[(ORDERS_VARIABLE, "MICROBATCH_DEADLINE_MARGIN_MS: 29500\n")]),
    error("MB005", "OrdersFunction", &[("Default: 1\n", "Default: 0\n")]),
    error("MB006", "OrdersFunction", &[("BatchSize: 100", "BatchSize: 10001")]),
    error("MB006", "OrdersFunction", &[("BatchSize: 100", "BatchSize: 0")]),
    error(
        "MB007",
        "LedgerFunction",
        &[(LEDGER_MAPPING, "FunctionResponseTypes: [ReportBatchItemFailures]\n            BatchSize: 11\n")],
    ),
    error(
        "MB008",
        "LedgerFunction",
        &[
            (
                LEDGER_MAPPING,
                "FunctionResponseTypes: [ReportBatchItemFailures]\n            MaximumBatchingWindowInSeconds: 1\n",
            ),
            ("Ledger: 180", "Ledger: 181"),
        ],
    ),
    error("MB009", "OrdersFunction", &[("Default: 1\n", "Default: 301\n"), (ORDERS_VISIBILITY, "Orders: 481")]),
    error("MB010", "OrdersFunction", &[(ORDERS_MAPPING, "Enabled: true\n")]),
    error("MB010", "LedgerFunction", &[(LEDGER_MAPPING, "FunctionResponseTypes: []\n")]),
    warning(
        "MB011",
        "OrdersFunction",
        &[(
            "BatchSize: 100",
            "BatchSize: 100\n            FilterCriteria: { Filters: [{ Pattern: '{\"body\":{}}' }] }",
        )],
    ),
    error("MB012", "OrdersFunction", &[("Default: 20", "Default: 1")]),
    error("MB012", "OrdersFunction", &[("Default: 20", "Default: 1001")]),
    error(
        "MB013",
        "OrdersFunction",
        &[("BatchSize: 100", "BatchSize: 100\n            ProvisionedPollerConfig: { MinimumPollers: 2 }")],
    ),
    warning(
        "MB014",
        "OrdersFunction",
        &[("Default: 20", "Default: 0"), (ORDERS_PROPERTY, "MemorySize: 512\n      ReservedConcurrentExecutions: 5\n")],
    ),
    warning(
        "MB014",
        "OrdersFunction",
        &[("Default: 20", "Default: 0"), (ORDERS_PROPERTY, "MemorySize: 512\n      ReservedConcurrentExecutions: 1\n")],
    ),
    warning(
        "MB015",
        "OrdersFunction",
        &[(ORDERS_PROPERTY, "MemorySize: 512\n      ReservedConcurrentExecutions: 5\n")],
    ),
    warning("MB016", "OrdersFunction", &[(ORDERS_PROPERTY, "MemorySize: 128\n")]),
    warning(
        "MB017",
        "OrdersFunction",
        &[(
            ORDERS_PROPERTY,
            "MemorySize: 512\n      DeadLetterQueue: { Type: SQS, TargetArn: !GetAtt OrdersDeadLetters.Arn }\n",
        )],
    ),
    warning(
        "MB017",
        "Destinations",
        &[(
            "  LedgerFunction:\n",
            "  Destinations:\n    Type: AWS::Lambda::EventInvokeConfig\n    Properties:\n      FunctionName: !Ref OrdersFunction\n\
             \x20     DestinationConfig: { OnFailure: { Destination: !GetAtt OrdersDeadLetters.Arn } }\n  LedgerFunction:\n",
        )],
    ),
    error(
        "MB018",
        "OrdersFunction",
        &[(
            "BatchSize: 100",
            "BatchSize: 100\n            DestinationConfig: { OnFailure: { Destination: !GetAtt OrdersDeadLetters.Arn } }",
        )],
    ),
    error(
        "MB019",
        "OrdersFunction",
        &[
            ("Default: 20", "Default: 0"),
            ("BatchSize: 100", "BatchSize: 100\n            ProvisionedPollerConfig: { MinimumPollers: 1 }"),
        ],
    ),
    error(
        "MB019",
        "OrdersFunction",
        &[
            ("Default: 20", "Default: 0"),
            ("BatchSize: 100", "BatchSize: 100\n            ProvisionedPollerConfig: { MinimumPollers: 201 }"),
        ],
    ),
    error(
        "MB019",
        "OrdersFunction",
        &[
            ("Default: 20", "Default: 0"),
            ("BatchSize: 100", "BatchSize: 100\n            ProvisionedPollerConfig: { MaximumPollers: 2001 }"),
        ],
    ),
    error(
        "MB019",
        "OrdersFunction",
        &[
            ("Default: 20", "Default: 0"),
            (
                "BatchSize: 100",
                "BatchSize: 100\n            ProvisionedPollerConfig: { MinimumPollers: 20, MaximumPollers: 19 }",
            ),
        ],
    ),
    error(
        "MB020",
        "OrdersQueue",
        &[(
            "      RedrivePolicy:\n        deadLetterTargetArn: !GetAtt OrdersDeadLetters.Arn\n        maxReceiveCount: 10 # orders\n",
            "",
        )],
    ),
    error(
        "MB021",
        "OrdersQueue",
        &[
            ("maxReceiveCount: 10 # orders", "maxReceiveCount: 4"),
            (ORDERS_VARIABLE, "MICROBATCH_MAX_RECEIVE_COUNT: 4\n"),
        ],
    ),
    error("MB022", "LedgerQueue", &[("FifoQueue: true # dead letters", "FifoQueue: false")]),
    error(
        "MB023",
        "OrdersDeadLetters",
        &[(
            "OrdersDeadLetters:\n    Type: AWS::SQS::Queue\n    Properties:\n      MessageRetentionPeriod: 1209600",
            "OrdersDeadLetters:\n    Type: AWS::SQS::Queue\n    Properties:",
        )],
    ),
    warning(
        "MB024",
        "LedgerDeadLetters",
        &[(
            "      RedriveAllowPolicy:\n        redrivePermission: byQueue\n        sourceQueueArns: [!Sub 'arn:aws:sqs:${AWS::Region}:${AWS::AccountId}:ledger.fifo']\n",
            "",
        )],
    ),
    error("MB025", "LedgerDeadLetters", &[(":ledger.fifo'", ":other.fifo'")]),
    error("MB025", "OrdersDeadLetters", &[("${AWS::StackName}-orders'", "${AWS::StackName}-order'")]),
    warning("MB026", "OrdersQueue", &[("[!Ref OrdersQueue, !Ref OrdersDeadLetters]", "[!Ref OrdersDeadLetters]")]),
    warning(
        "MB026",
        "LedgerQueue",
        &[
            ("Principal: { AWS: ['*'] }", "Principal: { AWS: !Ref AWS::AccountId }"),
            ("Queues: [!Ref LedgerQueue, !Ref LedgerDeadLetters]", "Queues: [!Ref LedgerQueue]"),
            (
                "Queues: [!Ref OrdersQueue, !Ref OrdersDeadLetters]",
                "Queues: [!Ref OrdersQueue, !Ref OrdersDeadLetters, !Ref LedgerDeadLetters]",
            ),
        ],
    ),
    warning("MB027", "OrdersQueue", &[("MessageRetentionPeriod: 345600 # orders", "SqsManagedSseEnabled: false")]),
    error("MB030", "OrdersFunction", &[(ORDERS_VARIABLE, "MICROBATCH_CONCURENCY: '8'\n")]),
    error("MB031", "OrdersFunction", &[(ORDERS_VARIABLE, "MICROBATCH_CONCURRENCY: 0\n")]),
    error("MB031", "OrdersFunction", &[("MICROBATCH_BACKOFF: 'on'", "MICROBATCH_BACKOFF: on")]),
    error(
        "MB031",
        "OrdersFunction",
        &[("MICROBATCH_QUEUE_URL: !Ref OrdersQueue", "MICROBATCH_QUEUE_URL: !GetAtt OrdersQueue.Arn")],
    ),
    error("MB032", "OrdersFunction", &[("          MICROBATCH_QUEUE_URL: !Ref OrdersQueue\n", "")]),
    error(
        "MB032",
        "OrdersFunction",
        &[
            ("        MICROBATCH_TABLE: !Ref IdempotencyTable\n", "        OTHER: 1\n"),
            (LEDGER_VARIABLE, "MICROBATCH_TABLE: !Ref IdempotencyTable\n"),
        ],
    ),
    error("MB033", "OrdersFunction", &[(ORDERS_VARIABLE, "MICROBATCH_OUTAGE_BUDGET_S: '345600'\n")]),
    error("MB034", "OrdersFunction", &[(ORDERS_VARIABLE, "MICROBATCH_MAX_RECEIVE_COUNT: '20'\n")]),
    error("MB034", "OrdersFunction", &[("maxReceiveCount: 10 # orders", "maxReceiveCount: 8")]),
    error("MB035", "OrdersQueue", &[("MessageRetentionPeriod: 345600 # orders", "MessageRetentionPeriod: 3600")]),
    error(
        "MB035",
        "LedgerQueue",
        &[("QueueName: ledger.fifo\n", "QueueName: ledger.fifo\n      MessageRetentionPeriod: 4320\n")],
    ),
    warning("MB036", "LedgerQueue", &[("maxReceiveCount: 25", "maxReceiveCount: 10")]),
    error("MB037", "OrdersFunction", &[(ORDERS_VARIABLE, "MICROBATCH_RETENTION_S: '86400'\n")]),
    error("MB037", "OrdersFunction", &[("MessageRetentionPeriod: 345600 # orders", "MessageRetentionPeriod: 345601")]),
    error(
        "MB038",
        "OrdersFunction",
        &[("MICROBATCH_QUEUE_URL: !Ref OrdersQueue", "MICROBATCH_QUEUE_URL: !Ref LedgerQueue")],
    ),
    error(
        "MB039",
        "OrdersFunction",
        &[("MICROBATCH_PARK_QUEUE_URL: !Ref OrdersDeadLetters", "MICROBATCH_PARK_QUEUE_URL: !Ref OrdersQueue")],
    ),
    error(
        "MB040",
        "OrdersFunction",
        &[
            ("MICROBATCH_PARK_QUEUE_URL: !Ref OrdersDeadLetters", "MICROBATCH_PARK_QUEUE_URL: !Ref LedgerDeadLetters"),
            ("Resource: !GetAtt OrdersDeadLetters.Arn", "Resource: !GetAtt LedgerDeadLetters.Arn"),
        ],
    ),
    warning(
        "MB041",
        "LedgerFunction",
        &[(
            LEDGER_VARIABLE,
            "MICROBATCH_PARK_QUEUE_URL: !Ref LedgerDeadLetters\n          MICROBATCH_QUEUE_URL: !Ref LedgerQueue\n",
        )],
    ),
    error("MB042", "OrdersRole", &[("Action: sqs:ChangeMessageVisibility", "Action: sqs:ReceiveMessage")]),
    error("MB042", "OrdersRole", &[("Resource: !GetAtt OrdersQueue.Arn", "Resource: !GetAtt LedgerQueue.Arn")]),
    error("MB043", "OrdersRole", &[("Action: sqs:SendMessage", "Action: sqs:ReceiveMessage")]),
    error("MB044", "OrdersRole", &[("dynamodb:PartiQL*, ", "dynamodb:PartiQLUpdate, ")]),
    error(
        "MB044",
        "LedgerFunction",
        &[
            ("MICROBATCH_STORE_CALLS: single", "MICROBATCH_STORE_CALLS: batched"),
            (
                LEDGER_POLICY,
                "- Statement: { Effect: Allow, Action: dynamodb:PartiQLUpdate, Resource: !GetAtt IdempotencyTable.Arn }\n\
                 \x20       - DynamoDBCrudPolicy: { TableName: !Ref IdempotencyTable }\n",
            ),
        ],
    ),
    warning("MB045", "OrdersRole", &[("dynamodb:PartiQL*, ", "dynamodb:PartiQLInsert, ")]),
    warning(
        "MB045",
        "LedgerFunction",
        &[
            ("MICROBATCH_STORE_CALLS: single", "MICROBATCH_STORE_CALLS: batched"),
            (
                LEDGER_POLICY,
                "- Statement: { Effect: Allow, Action: dynamodb:PartiQLInsert, Resource: !GetAtt IdempotencyTable.Arn }\n\
                 \x20       - DynamoDBCrudPolicy: { TableName: !Ref IdempotencyTable }\n",
            ),
        ],
    ),
    error(
        "MB050",
        "IdempotencyTable",
        &[
            ("Type: AWS::DynamoDB::Table", "Type: AWS::DynamoDB::GlobalTable"),
            (
                "      PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true }\n",
                "      Replicas:\n\
                 \x20       - { Region: eu-west-1, PointInTimeRecoverySpecification: &pitr { PointInTimeRecoveryEnabled: true } }\n\
                 \x20       - { Region: eu-north-1, PointInTimeRecoverySpecification: *pitr }\n",
            ),
        ],
    ),
    warning("MB051", "IdempotencyTable", &[("Enabled: true }\n      Point", "Enabled: false }\n      Point")]),
    warning("MB051", "IdempotencyTable", &[("AttributeName: expiration", "AttributeName: in_progress_expiration")]),
    error("MB052", "IdempotencyTable", &[("AttributeType: S", "AttributeType: N")]),
    error(
        "MB052",
        "IdempotencyTable",
        &[
            ("AttributeName: id, AttributeType", "AttributeName: key, AttributeType"),
            ("AttributeName: id, KeyType", "AttributeName: key, KeyType"),
        ],
    ),
    warning("MB053", "IdempotencyTable", &[("PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false")]),
    warning(
        "MB053",
        "IdempotencyTable",
        &[
            ("Type: AWS::DynamoDB::Table", "Type: AWS::DynamoDB::GlobalTable"),
            (
                "      PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true }\n",
                "      Replicas: [{ Region: !Ref AWS::Region }]\n",
            ),
        ],
    ),
    error("MB054", "OrdersFunction", &[(LEDGER_VARIABLE, "MICROBATCH_NAMESPACE: orders\n")]),
    error("MB060", "Timeout", &[("    Timeout: 30\n", "    Timeout: 30\n    Timeout: 30\n")]),
];
