//! The policies of when effects start, on scripted time.

mod adaptive;
mod backoff;
mod breaker;
mod governor;
mod rate;
mod support;
