//! What dealing work to threads costs: eight tasks of 2.5 µs, then 2 µs alone; medians of 9 rounds
//! of 2,000.

use std::hint::black_box;
use std::time::Instant;

use atoll_model::Pool;

fn steps(n: u64) {
    let mut x = 1_u64;
    for _ in 0..n {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn main() {
    let start = Instant::now();
    steps(20_000_000);
    let per_us = 20_000_000 / u64::try_from(start.elapsed().as_micros()).expect("a moment");
    for threads in [1, 2, 8] {
        let pool = Pool::exactly(threads).expect("threads start");
        let mut rounds = [0.0; 9];
        for round in &mut rounds {
            let start = Instant::now();
            for _ in 0..2000 {
                pool.for_each(&mut [5 * per_us / 2; 8], |n| steps(*n));
                steps(2 * per_us);
            }
            *round = start.elapsed().as_secs_f64() * 1e6 / 2000.0;
        }
        rounds.sort_by(f64::total_cmp);
        println!("{threads} threads: {:.2} us", rounds[4]);
    }
}
