//! The memory store obeys the protocol, whatever it takes in one call.

use std::{num::NonZeroUsize, sync::Arc};

use microbatch::MemoryStore;
use microbatch_testkit::conformance::{self, Histories};

#[tokio::test(flavor = "multi_thread")]
async fn one_request_a_call() {
    obeys(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_five_requests_a_call() {
    obeys(25).await;
}

async fn obeys(chunk_size: usize) {
    let chunk_size = NonZeroUsize::new(chunk_size).expect("not zero");
    let store = Arc::new(MemoryStore::with_chunk_size(chunk_size));
    conformance::check(&store).await.expect("the rules hold");
    conformance::check_peer_records(&store, &*store).await.expect("peers' records are read");
    conformance::check_resolutions(&store).await.expect("an operator's word counts");
    conformance::check_histories(&store, Histories::random(2_000, 40)).await.expect("histories equal the model");
}
