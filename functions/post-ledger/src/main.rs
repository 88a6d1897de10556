//! Wiring only: the environment and the Lambda host. What is done with an entry is in `process.rs`.

use microbatch_aws::lambda::{self, BoxError};
use post_ledger::{config::Config, process::pipeline};

fn main() -> Result<(), BoxError> {
    lambda::main(async {
        let config = Config::from_lookup(|name| std::env::var(name).ok())?;
        Ok(pipeline(config))
    })
}
