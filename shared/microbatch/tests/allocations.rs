//! What an item costs in allocations on its way through the pipeline, against a fixed budget.
//!
//! The pipeline runs with the memory store and a processor that does nothing, whose item keeps nothing of its body. The
//! cost an item is what a batch of 1,000 allocates more than one of 100, divided by the 900 items between them, so that
//! what a batch costs as a whole does not count. All is under the test's control (clock, randomness, one thread), so that
//! the figures are the same in every run.
//!
//! It is a binary of its own, with one test: the counting allocator counts for the whole process.

use std::{num::NonZeroUsize, sync::Arc};

use dhat::{HeapStats, Profiler};
use microbatch::{
    Done, ItemContext, MemoryStore, NoWrites, Pipeline, PipelineBuilder, ProcessError, Processor, pipeline::Host,
};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    events::{Envelope, EventSpec, generate},
    recorder::ProcessedCount,
};
use serde::de::IgnoredAny;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// As many records as DynamoDB takes in one call.
const CHUNK_SIZE: NonZeroUsize = NonZeroUsize::new(25).expect("not zero");

const FEW: usize = 100;
const MANY: usize = 1_000;

/// The most that an item may cost. A reallocation counts as an allocation of all its bytes, as `dhat` has it.
struct Budget {
    blocks: f64,
    bytes: f64,
}

/// With a key of a path.
const KEYED: Budget = Budget { blocks: 7.7, bytes: 3_240.0 };
/// With a fingerprint of the whole body as well.
const FINGERPRINTED: Budget = Budget { blocks: 14.2, bytes: 4_250.0 };

/// How much more an item of the larger batch may cost than one of the smaller, all of the batch's costs divided among its
/// items. Tables that double as they grow are not equally full at each size.
const GROWTH_MAX: f64 = 1.1;

#[test]
fn an_item_stays_within_its_budget_of_allocations() {
    let keyed = || Pipeline::builder(Empty).key("order_id");
    check("keyed", &KEYED, keyed);
    check("fingerprinted", &FINGERPRINTED, || keyed().fingerprint_body());
}

fn check(name: &str, budget: &Budget, builder: impl Fn() -> PipelineBuilder<Empty>) {
    let few = allocated(builder(), FEW);
    let many = allocated(builder(), MANY);
    let an_item = |of_many: u64, of_few: u64| (float(of_many) - float(of_few)) / (many.items - few.items);
    let blocks = an_item(many.blocks, few.blocks);
    let bytes = an_item(many.bytes, few.bytes);
    assert!(
        blocks <= budget.blocks,
        "{name}: found {blocks:.3} allocations an item, over the budget of {}",
        budget.blocks
    );
    assert!(
        bytes <= budget.bytes,
        "{name}: found {bytes:.1} bytes allocated an item, over the budget of {}",
        budget.bytes
    );
    for (what, of_many, of_few) in [("allocations", many.blocks, few.blocks), ("bytes", many.bytes, few.bytes)] {
        let (of_many, of_few) = (float(of_many) / many.items, float(of_few) / few.items);
        assert!(
            of_many <= of_few * GROWTH_MAX,
            "{name}: found {of_many:.3} {what} an item in a batch of {MANY}, {of_few:.3} in one of {FEW}: over {GROWTH_MAX} \
             times as many"
        );
    }
}

/// What a batch has allocated.
struct Allocated {
    items: f64,
    blocks: u64,
    bytes: u64,
}

/// Runs a batch of new keys, and counts from the event's text to the response.
fn allocated(builder: PipelineBuilder<Empty>, records: usize) -> Allocated {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let event = event(records);
    let processed = ProcessedCount::default();
    let host = Host {
        store: MemoryStore::with_chunk_size(CHUNK_SIZE),
        clock: runtime.block_on(async { Arc::new(TokioClock::default()) }),
        random: Arc::new(SeededRandom::new(1)),
        recorder: Arc::new(processed.clone()),
        queue: None,
    };
    let builder = builder.options(|options| "test".clone_into(&mut options.namespace));
    let pipeline = builder.build(host).expect("the settings are right");

    let profiler = Profiler::builder().testing().build();
    let response = runtime.block_on(pipeline.run(&event, "batch", None));
    let stats = HeapStats::get();
    drop(profiler);

    assert!(response.expect("all is done").failed_ids().is_empty());
    assert_eq!(processed.get(), records);
    Allocated { items: float(records as u64), blocks: stats.total_blocks, bytes: stats.total_bytes }
}

fn event(records: usize) -> String {
    let records = NonZeroUsize::new(records).expect("not zero");
    let spec = EventSpec {
        records,
        envelope: Envelope::Short,
        body_bytes: 0,
        seed: 1,
        fifo_groups: None,
        first_order: 100_000,
    };
    generate(&spec).expect("short records fit an event")
}

fn float(count: u64) -> f64 {
    u32::try_from(count).map(f64::from).expect("a batch allocates less than 4 GB")
}

/// A processor that does nothing.
struct Empty;

impl Processor for Empty {
    type Item = IgnoredAny;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _item: IgnoredAny, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        Ok(().into())
    }
}
