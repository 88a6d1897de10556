//! The adaptive limit against simulated dependencies: it falls, recovers, does not mind noise, does not creep.

use std::{cmp::Reverse, collections::BinaryHeap};

use microbatch::{
    Random,
    control::{AdaptiveLimit, adaptive::Epoch},
};
use proptest::prelude::*;

use crate::support::{Seeded, at_most};

/// How latency varies by itself.
#[derive(Debug, Clone, Copy)]
enum Noise {
    None,
    /// Between half and one and a half.
    Uniform,
    /// About exponential: one more latency for each coin that falls heads.
    Exponential,
    /// 55 of 100 take no time, the others the whole of it: nearly half is above twice the mean.
    TwoKinds,
    /// The inverse of a uniform number: of a mean of 7.5, half is made of one in a hundred.
    HeavyTail,
}

impl Noise {
    const ALL: [Self; 5] = [Self::None, Self::Uniform, Self::Exponential, Self::TwoKinds, Self::HeavyTail];

    fn apply(self, latency_ms: u64, random: &Seeded) -> u64 {
        match self {
            Self::None => latency_ms,
            Self::Uniform => latency_ms / 2 + random.below(latency_ms + 1),
            Self::Exponential => {
                let heads = u64::from(random.next_u128().trailing_ones());
                (latency_ms * heads + random.below(latency_ms + 1)) * 2 / 3
            }
            Self::TwoKinds => {
                if random.chance(55) {
                    0
                } else {
                    latency_ms
                }
            }
            Self::HeavyTail => latency_ms * 1_000 / (random.below(1_000) + 1),
        }
    }
}

/// A dependency that slows down by as much as is asked of it above its capacity, and a process that asks as much as
/// it may.
struct Simulation {
    limit: AdaptiveLimit,
    max: usize,
    random: Seeded,
    now_ms: u64,
    /// End, start and epoch of each call that runs.
    running: BinaryHeap<Reverse<(u64, u64, Epoch)>>,
    base_ms: u64,
    capacity: u64,
    noise: Noise,
    failures_per_10k: u64,
    /// Most items there are to do at once.
    demand: usize,
    /// Items of a batch: the next begins when all of the last have ended.
    batch: usize,
    batch_left: usize,
}

/// What the limit was over a number of results.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    min: usize,
    max: usize,
    mean_percent_of_max: usize,
}

impl Simulation {
    fn new(min: usize, max: usize, noise: Noise, seed: u64) -> Self {
        Self {
            limit: AdaptiveLimit::new(at_most(min), at_most(max)),
            max,
            random: Seeded::new(seed),
            now_ms: 1_000_000,
            running: BinaryHeap::new(),
            base_ms: 50,
            capacity: u64::MAX,
            noise,
            failures_per_10k: 0,
            demand: usize::MAX,
            batch: usize::MAX,
            batch_left: usize::MAX,
        }
    }

    fn limit(&self) -> usize {
        self.limit.limit().get()
    }

    fn start(&mut self) {
        let queued = (self.running.len() as u64 + 1).saturating_sub(self.capacity);
        let loaded_ms = self.base_ms + self.base_ms * queued / self.capacity;
        let end_ms = self.now_ms + self.noise.apply(loaded_ms, &self.random);
        self.running.push(Reverse((end_ms, self.now_ms, self.limit.epoch())));
        self.batch_left -= 1;
    }

    /// Starts what may start, and ends the first of what runs.
    fn step(&mut self) {
        if self.running.is_empty() {
            self.batch_left = self.batch;
        }
        while self.running.len() < self.limit().min(self.demand) && self.batch_left > 0 {
            self.start();
        }
        let in_flight = self.running.len();
        let Reverse((end_ms, start_ms, epoch)) = self.running.pop().expect("one was started");
        self.now_ms = end_ms;
        if self.random.below(10_000) < self.failures_per_10k {
            self.limit.failed(epoch);
        } else {
            self.limit.succeeded(epoch, end_ms - start_ms, in_flight);
        }
    }

    /// Runs until so many results have come.
    fn run(&mut self, results: usize) -> Seen {
        let (mut min, mut max, mut sum) = (usize::MAX, 0, 0);
        for _ in 0..results {
            self.step();
            min = min.min(self.limit());
            max = max.max(self.limit());
            sum += self.limit();
        }
        Seen { min, max, mean_percent_of_max: sum * 100 / results / self.max }
    }

    /// How many results it takes until the limit is back at its maximum.
    fn results_to_max(&mut self) -> usize {
        (0..1_000_000)
            .take_while(|_| {
                self.step();
                self.limit() < self.max
            })
            .count()
    }
}

/// Every noise with every seed.
fn each_noise(mut judge: impl FnMut(Noise, u64)) {
    for noise in Noise::ALL {
        for seed in 0..3 {
            judge(noise, seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn p11_the_limit_stays_within_its_bounds(
        min in 1_usize..50, max in 1_usize..100,
        results in prop::collection::vec((0_u8..8, prop_oneof![0_u64..500, any::<u64>()], 0_usize..200), 1..300),
    ) {
        let mut limit = AdaptiveLimit::new(at_most(min), at_most(max));
        prop_assert_eq!(limit.limit().get(), max, "it starts at the maximum");
        let mut early = limit.epoch();
        for (kind, latency_ms, in_flight) in results {
            match kind {
                0 => limit.failed(early),
                1 => limit.failed(limit.epoch()),
                2 => early = limit.epoch(),
                3 => limit.succeeded(early, latency_ms, in_flight),
                _ => limit.succeeded(limit.epoch(), latency_ms, in_flight),
            }
            prop_assert!((min.min(max)..=max).contains(&limit.limit().get()));
            prop_assert!(min < max || limit.limit().get() == max, "a fixed limit never moves");
        }
    }
}

#[test]
fn a_round_of_failures_is_one_fall() {
    let mut limit = AdaptiveLimit::new(at_most(1), at_most(64));
    let first = limit.epoch();
    for _ in 0..64 {
        limit.failed(first);
    }
    assert_eq!(limit.limit().get(), 48);
    let second = limit.epoch();
    limit.failed(second);
    limit.failed(second);
    limit.failed(first);
    assert_eq!(limit.limit().get(), 36);
}

#[test]
fn p14_it_falls_to_the_minimum_when_everything_fails_and_recovers_when_nothing_does() {
    each_noise(|noise, seed| {
        for min in [1, 8] {
            let mut simulation = Simulation::new(min, 64, noise, seed);
            simulation.run(10_000);
            simulation.failures_per_10k = 10_000;
            simulation.run(400);
            assert_eq!(simulation.limit(), min, "{noise:?}");
            simulation.failures_per_10k = 0;
            let results = simulation.results_to_max();
            assert!(results <= 5_000, "{noise:?}: back after {results}; one a generation takes 2,080");
        }
    });
}

#[test]
fn failures_that_have_nothing_to_do_with_load_leave_it_near_two_over_the_root_of_their_share() {
    for (failures_per_10k, least, most) in [(1, 90, 100), (10, 70, 95), (100, 20, 40), (1_000, 3, 15)] {
        let mut simulation = Simulation::new(1, 64, Noise::Exponential, 1);
        simulation.failures_per_10k = failures_per_10k;
        let seen = simulation.run(100_000);
        assert!((least..=most).contains(&seen.mean_percent_of_max), "{failures_per_10k}: {seen:?}");
    }
}

#[test]
fn latency_that_only_varies_does_not_lower_it() {
    each_noise(|noise, seed| {
        for max in [16, 64, 256] {
            let seen = Simulation::new(1, max, noise, seed).run(100_000);
            assert!(seen.mean_percent_of_max >= 90, "{noise:?}: {seen:?}");
        }
    });
}

#[test]
fn batches_that_end_with_their_slowest_items_do_not_lower_it() {
    each_noise(|noise, seed| {
        for batch in [10, 64, 100, 1_000] {
            let mut simulation = Simulation::new(1, 64, noise, seed);
            simulation.batch = batch;
            let seen = simulation.run(50_000);
            // A limit that is not used does not rise again, so with small batches it is enough that it does not hold
            // them up.
            let enough = if batch < 64 { seen.min >= batch } else { seen.mean_percent_of_max >= 75 };
            assert!(enough, "{noise:?} in batches of {batch}: {seen:?}");
        }
    });
}

#[test]
fn a_few_milliseconds_are_not_slow() {
    let mut simulation = Simulation::new(1, 64, Noise::Uniform, 1);
    for base_ms in [0, 1, 5, 8, 2] {
        simulation.base_ms = base_ms;
        assert_eq!(simulation.run(20_000), Seen { min: 64, max: 64, mean_percent_of_max: 100 });
    }
}

#[test]
fn an_overloaded_dependency_lowers_it_to_about_its_capacity_and_it_does_not_creep_up() {
    each_noise(|noise, seed| {
        for max in [64, 256] {
            let capacity = max / 4;
            let mut simulation = Simulation::new(1, max, noise, seed);
            simulation.run(20_000);
            simulation.capacity = capacity as u64;
            simulation.run(20_000);
            let seen = simulation.run(150_000);
            assert!(seen.min >= capacity / 2 && seen.max < max - capacity / 4, "{noise:?}, for {capacity}: {seen:?}");

            simulation.capacity = u64::MAX;
            let results = simulation.results_to_max();
            assert!(results <= max * max, "{noise:?}: back after {results}");
        }
    });
}

#[test]
fn p12_latency_that_is_not_our_doing_is_learnt_at_the_minimum_and_unlearnt_later() {
    each_noise(|noise, seed| {
        for min in [1, 8] {
            let mut simulation = Simulation::new(min, 64, noise, seed);
            simulation.run(20_000);
            simulation.base_ms = 500;
            assert_eq!(simulation.run(20_000).min, min, "{noise:?}: it tries whether less load helps");
            let seen = simulation.run(100_000);
            assert!(seen.mean_percent_of_max >= 80, "{noise:?}: {seen:?}");

            // Fast again, and then overloaded: still not as slow as it was, and all the same noticed.
            simulation.base_ms = 50;
            simulation.run(50_000);
            simulation.capacity = 16;
            simulation.run(20_000);
            let seen = simulation.run(50_000);
            assert!(seen.max < 60, "{noise:?}: {seen:?}");
        }
    });
}

#[test]
fn slowness_with_no_more_than_the_minimum_in_flight_does_not_lower_it() {
    let mut simulation = Simulation::new(4, 64, Noise::Exponential, 1);
    simulation.demand = 4;
    for base_ms in [50, 500, 5_000, 50] {
        simulation.base_ms = base_ms;
        assert_eq!(simulation.run(5_000).min, 64);
    }
}

#[test]
fn a_limit_that_is_not_used_does_not_rise() {
    let mut simulation = Simulation::new(1, 64, Noise::None, 1);
    simulation.limit.failed(simulation.limit.epoch());
    simulation.demand = 23;
    assert_eq!(simulation.run(5_000).max, 48);
    simulation.demand = 24;
    assert_eq!(simulation.run(5_000).max, 49, "half of 48 was used, half of 49 was not");
}

#[test]
fn extremes_are_harmless() {
    let mut limit = AdaptiveLimit::new(at_most(1), at_most(usize::MAX));
    for _ in 0..1_000 {
        limit.succeeded(limit.epoch(), u64::MAX, usize::MAX);
        limit.failed(limit.epoch());
        limit.succeeded(limit.epoch(), 0, 0);
    }
    assert!(limit.limit().get() <= 2, "usize::MAX falls to 1 in 155 steps, and the last success may raise it");
}
