#![expect(clippy::unwrap_used, reason = "tests")]

use quickcheck::quickcheck;

use super::*;

fn greedy() -> SamplerConfig {
    SamplerConfig { temperature: 0.0, ..SamplerConfig::default() }
}

/// Draws from `logits` at many positions; returns how often each token came.
fn counts(config: &SamplerConfig, logits: &[f32], draws: u32) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    for pos in 0..draws {
        counts[sample(config, &mut logits.to_vec(), &[], pos).token as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_lowest_of_equal_ids() {
    let check = |logits: &[f32], expected| {
        assert_eq!(sample(&greedy(), &mut logits.to_vec(), &[], 0).token, expected);
    };
    check(&[1.0, 3.0, 3.0, 2.0], 1);
    check(&[f32::NAN, -5.0, f32::NAN], 1);
    check(&[f32::NEG_INFINITY, f32::NEG_INFINITY], 0);
    check(&[f32::NAN], 0);
    let mut long = vec![0.0; 1000];
    (long[417], long[999]) = (1.0, 1.0);
    check(&long, 417);
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [0.0, 2.0, 1.0, -1.0];
    let config = SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..greedy() };
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    for (count, logit) in counts(&config, &logits, 20_000).iter().zip(logits) {
        let expected = f64::from(logit).exp() / sum;
        // Four standard deviations of 20,000 draws are at most 0.0142.
        assert!((f64::from(*count) / 20_000.0 - expected).abs() < 0.015, "{count} {expected}");
    }
}

#[test]
fn filters_keep_what_they_say() {
    let logits: Vec<f32> = (1..=10).map(|weight| (weight as f32).ln()).collect();
    let all = SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..greedy() };
    let check = |config: SamplerConfig, lowest: usize| {
        let counts = counts(&config, &logits, 3_000);
        let first = counts.iter().position(|count| *count > 0);
        assert_eq!(first, Some(lowest), "{config:?}");
    };
    check(all.clone(), 0);
    check(SamplerConfig { top_k: 3, ..all.clone() }, 7);
    check(SamplerConfig { top_k: 1, ..all.clone() }, 9);
    // 10 + 9 + 8 = 27 of 55 is below a half, 34 is above it.
    check(SamplerConfig { top_p: 0.5, ..all.clone() }, 6);
    check(SamplerConfig { min_p: 0.75, ..all.clone() }, 7);
    check(SamplerConfig { min_p: 1.0, top_p: 0.01, ..all }, 9);
}

#[test]
fn penalties_count_recent_tokens() {
    let penalized = |config: &SamplerConfig, recent: &[u32]| {
        let mut logits = vec![4.0, -4.0, 1.0];
        let _ = sample(config, &mut logits, recent, 0);
        logits
    };
    let config = SamplerConfig { repetition_penalty: 2.0, ..greedy() };
    assert_eq!(penalized(&config, &[0, 1, 0, 77]), [2.0, -8.0, 1.0]);
    let config = SamplerConfig { presence_penalty: 0.5, frequency_penalty: 0.25, ..greedy() };
    assert_eq!(penalized(&config, &[0, 0, 2]), [3.0, -4.0, 0.25]);
    let config = SamplerConfig { repeat_last_n: 1, ..config };
    assert_eq!(penalized(&config, &[0, 0, 2]), [4.0, -4.0, 0.25]);
    let config = SamplerConfig { repeat_last_n: 0, ..config };
    assert_eq!(penalized(&config, &[0, 0, 2]), [4.0, -4.0, 1.0]);
}

#[test]
fn logprobs_are_those_of_the_raw_logits() {
    let config = SamplerConfig { logprobs: 2, presence_penalty: 9.0, ..greedy() };
    let sampled = sample(&config, &mut [1.0, 3.0, 2.0], &[1], 0);
    assert_eq!(sampled.token, 2);
    let log_sum = 3.407_606_f32;
    let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-5, "{a} {b}");
    near(sampled.logprob.unwrap(), 2.0 - log_sum);
    assert_eq!(sampled.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    near(sampled.top[0].1, 3.0 - log_sum);
    let config = SamplerConfig { presence_penalty: 1.5, ..config };
    near(sample(&config, &mut [1.0, 9.0, 2.0], &[1], 0).logprob.unwrap(), -0.001_246);
    assert_eq!(sample(&greedy(), &mut [1.0], &[], 0).logprob, None);
}

#[test]
fn illegal_settings_are_named() {
    let check = |config: SamplerConfig, expected: &str| {
        assert_eq!(config.validate().unwrap_err().to_string(), expected);
    };
    assert!(SamplerConfig::default().validate().is_ok());
    check(
        SamplerConfig { temperature: -1.0, ..greedy() },
        "invalid temperature: -1 is not 0 or more",
    );
    check(
        SamplerConfig { temperature: f32::INFINITY, ..greedy() },
        "invalid temperature: inf is not 0 or more",
    );
    check(SamplerConfig { top_p: 0.0, ..greedy() }, "invalid top_p: 0 is not above 0, at most 1");
    check(
        SamplerConfig { logprobs: 21, ..greedy() },
        "invalid logprobs: 21 alternatives, the limit is 20",
    );
}

/// The draws are part of what a request promises: a change here changes every user's answers.
#[test]
fn generator_gives_the_golden_numbers() {
    let numbers: Vec<u64> =
        [(0, 0), (0, 1), (1, 0), (u64::MAX, u32::MAX)].map(|(s, p)| uniform(s, p).to_bits()).into();
    assert_eq!(numbers, GOLDEN);
}

const GOLDEN: [u64; 4] = [
    4_604_051_953_065_501_487,
    4_604_491_176_735_574_057,
    4_600_304_332_579_868_248,
    4_605_153_077_237_237_168,
];

quickcheck! {
    fn best_of_equals_the_sorted_logits(values: Vec<i8>, count: u8) -> bool {
        // Few values, so that many are equal; many more logits than are kept.
        let many = values.iter().cycle().take(values.len() * 20);
        let logits: Vec<f32> = many.map(|&x| x.into()).collect();
        let count = usize::from(count % 8);
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        sorted.truncate(count);
        best_of(&logits, count) == sorted
    }

    fn any_logits_give_a_token(logits: Vec<f32>, recent: Vec<u32>, seed: u64, pos: u32) -> bool {
        let mut logits = logits;
        logits.push(f32::NAN);
        let config = SamplerConfig {
            seed, frequency_penalty: 0.5, repetition_penalty: 1.1, logprobs: 3, ..Default::default()
        };
        let once = sample(&config, &mut logits.clone(), &recent, pos);
        let twice = sample(&config, &mut logits.clone(), &recent, pos);
        (once.token as usize) < logits.len() && once.token == twice.token && once.top.len() <= 3
    }
}
